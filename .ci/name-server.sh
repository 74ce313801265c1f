#!/bin/sh
# What the program makes of a real name server, dnsmasq, on both runtimes: names that do not exist, failures, delays, silence, answers
# that are too long for UDP, and a system without a name server. In a network and with an /etc/resolv.conf of its own; needs
# root, iproute2, dnsmasq and python3. Ends with 77 where the machine cannot make a namespace.
# Usage: .ci/name-server.sh [folder of the program tidegate]
# Covers G1, G2 and G7 of book/src/faults.md.
set -eu

if [ "${TIDEGATE_NAMES_INSIDE:-}" != 1 ]; then
    if ! unshare -nm true 2>/dev/null || ! command -v ip >/dev/null; then
        echo "SKIPPED, this machine cannot show it: no namespaces can be made, or iproute2 is missing"
        exit 77
    fi
    TIDEGATE_NAMES_INSIDE=1 exec unshare -nm "$0" "$@"
fi

here=$(dirname "$0")
bin=${1:-target/release}
work=$(mktemp -d)
servers=
end() {
    for one in $servers; do kill "$one" 2>/dev/null || true; done
    umount /etc/resolv.conf 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

ip link set lo up
echo "nameserver 127.0.0.1" > "$work/resolv.conf"
mount --bind "$work/resolv.conf" /etc/resolv.conf

# 200 addresses do not fit into a packet.
{
    echo "no-resolv"
    echo "no-hosts"
    echo "listen-address=127.0.0.1"
    echo "bind-interfaces"
    echo "cache-size=0"
    echo "local=/gone.test/"
    echo "address=/good.test/127.0.0.1"
    for name in slow broken refused empty mute; do echo "server=/$name.test/127.0.0.1#5353"; done
    for n in $(seq 1 200); do echo "host-record=many.test,127.0.1.$n"; done
} > "$work/dnsmasq.conf"
dnsmasq --keep-in-foreground --conf-file="$work/dnsmasq.conf" --pid-file= --user=root 2> "$work/dnsmasq.err" &
dnsmasq=$!
python3 "$here/odd_name_server.py" 5353 &
odd=$!
mkdir "$work/site"
echo "hello" > "$work/site/index.html"
python3 -m http.server 8080 --directory "$work/site" > "$work/site.log" 2>&1 &
servers="$dnsmasq $odd $!"
tries=0
until ss -ltn | grep -q ":8080" && ss -lun | grep -q ":53 " && ss -lun | grep -q ":5353"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { cat "$work/dnsmasq.err"; echo "a server does not listen"; exit 1; }
    sleep 0.1
done

failed=0
# expect <outcome or kind> <name>: one fetch, on each runtime, without a second attempt.
expect() {
    for runtime in tokio smol; do
        "$bin/tidegate" fetch "http://$2:8080/" --runtime "$runtime" --retries 0 --quiet > "$work/out" 2> "$work/err" || true
        got=$(python3 -c 'import json, sys
record = json.loads(sys.stdin.readline())
print((record["error"] or {}).get("kind") or record["outcome"])' < "$work/out")
        if [ "$got" = "$1" ]; then
            echo "ok: $2 on $runtime: $got"
        else
            echo "FAILED: $2 on $runtime: $got, not $1"
            cat "$work/out" "$work/err"
            failed=1
        fi
    done
}

expect ok good.test
expect ok many.test
expect ok slow.test
expect dns.not_found gone.test
expect dns.not_found empty.test
expect dns.failed broken.test
expect dns.failed refused.test
expect timeout.dns mute.test

# Nobody listens where the name server was; then there is none; then it is back.
kill "$dnsmasq"
wait "$dnsmasq" || true
expect timeout.dns good.test
: > "$work/resolv.conf"
expect dns.failed good.test
echo "nameserver 127.0.0.1" > "$work/resolv.conf"
dnsmasq --keep-in-foreground --conf-file="$work/dnsmasq.conf" --pid-file= --user=root 2> "$work/dnsmasq.err" &
servers="$! $odd $servers"
until ss -lun | grep -q ":53 "; do sleep 0.1; done
expect ok good.test
exit "$failed"
