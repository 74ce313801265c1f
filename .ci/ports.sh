#!/bin/sh
# What the ledger does about ports, on real sockets, in a network of its own with 5,000 ports. Needs root and the
# commands of iproute2; ends with 77 where the machine cannot make a network.
# Usage: .ci/ports.sh [folder of the programs tidegate and load-server]
set -eu

if [ "${TIDEGATE_PORTS_INSIDE:-}" != 1 ]; then
    if ! unshare -n true 2>/dev/null || ! command -v ip >/dev/null || ! command -v ss >/dev/null; then
        echo "SKIPPED, this machine cannot show it: no network namespace can be made, or iproute2 is missing"
        exit 77
    fi
    TIDEGATE_PORTS_INSIDE=1 exec unshare -n "$0" "$@"
fi

bin=${1:-target/release}
work=$(mktemp -d)
servers=
end() {
    for one in $servers; do kill "$one" 2>/dev/null || true; done
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

ip link set lo up
# A source for each run: a connection that was closed keeps its port for a minute.
for n in 2 3 4 5 6; do ip addr add "127.0.1.$n/32" dev lo; done
echo "20000 24999" > /proc/sys/net/ipv4/ip_local_port_range
ulimit -n 20000

for port in 8080 8081; do
    "$bin/load-server" --port "$port" --delay-ms 4000 > "$work/server$port" 2>&1 &
    servers="$servers $!"
    tries=0
    until ss -ltn | grep -q ":$port"; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { echo "the server does not listen"; exit 1; }
        sleep 0.1
    done
done

# The largest number of established connections until there is a file $1.
most() {
    most=0
    until [ -s "$1" ]; do
        now=$(ss -tnH state established "( dport = :8080 or dport = :8081 )" | wc -l)
        [ "$now" -le "$most" ] || most=$now
        sleep 0.2
    done
    echo "$most"
}

# Fetches what is in $work/urls with the options given; leaves $ok, $shown (errors) and $peak.
fetch() {
    rm -f "$work/rc"
    {
        rc=0
        "$bin/tidegate" fetch --input "$work/urls" --concurrency 12000 --per-host 12000 --no-adaptive --delay 0ms \
            --first-byte-timeout 60s --total-timeout 120s "$@" > "$work/out" 2> "$work/err" || rc=$?
        echo "$rc" > "$work/rc"
    } &
    peak=$(most "$work/rc")
    [ "$(cat "$work/rc")" = 0 ] || { cat "$work/err"; echo "the run failed"; exit 1; }
    ok=$(grep -c '"outcome":"ok"' "$work/out" || true)
    shown=$(grep -c 'local\.\|EADDRNOTAVAIL\|os error 99' "$work/out" "$work/err" | awk -F: '{n += $2} END {print n}')
}

# $1 is what is claimed, the rest a test.
holds() {
    what=$1
    shift
    if "$@"; then echo "ok: $what"; else echo "FAILED: $what"; exit 1; fi
}

seq 12000 | sed 's|.*|http://127.0.0.1:8080/&|' > "$work/urls"
fetch --local-address 127.0.1.2
echo "one source: $ok of 12000 fetched, $peak connections at most, $shown errors of ports"
holds "all are fetched over 5,000 ports" [ "$ok" -eq 12000 ]
holds "no want of ports is shown" [ "$shown" -eq 0 ]
holds "the ports are used and no more" [ "$peak" -le 5000 ]
holds "nearly all ports are used" [ "$peak" -ge 4900 ]

fetch --local-address 127.0.1.3 --local-address 127.0.1.4 --local-address 127.0.1.5
echo "three sources: $ok of 12000 fetched, $peak connections at most, $shown errors of ports"
holds "all are fetched" [ "$ok" -eq 12000 ]
holds "no want of ports is shown" [ "$shown" -eq 0 ]
holds "12,000 are open at once" [ "$peak" -ge 11900 ]

{ seq 4000 | sed 's|.*|http://127.0.0.1:8080/&|'; seq 4000 | sed 's|.*|http://127.0.0.1:8081/&|'; } > "$work/urls"
fetch --local-address 127.0.1.6
echo "two destinations: $ok of 8000 fetched, $peak connections at most, $shown errors of ports"
holds "all are fetched" [ "$ok" -eq 8000 ]
holds "one source uses its ports for each destination" [ "$peak" -ge 7900 ]
