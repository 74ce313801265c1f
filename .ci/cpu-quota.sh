#!/bin/sh
# What a crawl does with half a core: in a cgroup of its own that may have 50 ms of CPU time in each 100 ms, with its server
# outside. Needs root, two cores, and a cgroup with a cpu controller, of version 1 or 2; ends with 77 where one is missing.
# Usage: .ci/cpu-quota.sh [folder of the programs quota and load-server]
set -eu

bin=${1:-target/release}

cannot() {
    echo "SKIPPED, this machine cannot show it: $1"
    exit 77
}

[ "$(id -u)" -eq 0 ] || cannot "a cgroup needs root"
# On one core it is stopped for half of each period, which is the limit of lag and not above it.
[ "$(nproc)" -ge 2 ] || cannot "there is one core"
# Below the group that this runs in, as a container gives it.
v1=$(sed -n 's/^[0-9]*:\([^:]*,\)*cpu\(,[^:]*\)*:\(.*\)$/\3/p' /proc/self/cgroup)
top=$(awk '$3 == "cgroup" && $4 ~ /(^|,)cpu(,|$)/ {print $2; exit}' /proc/mounts)
if [ -n "$top" ]; then
    group=$top${v1%/}/tidegate-quota-$$
    # Inside a container the mount may show the container's own group as its root.
    [ -d "$top$v1" ] || group=$top/tidegate-quota-$$
else
    top=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
    [ -n "$top" ] || cannot "no cgroup is mounted"
    group=$top/tidegate-quota-$$
    grep -qw cpu "$top/cgroup.subtree_control" || echo +cpu > "$top/cgroup.subtree_control" ||
        cannot "the cpu controller cannot be switched on"
fi

work=$(mktemp -d)
server=
end() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    # Whoever is still in it leaves it first.
    if [ -d "$group" ]; then
        while read -r one; do kill -KILL "$one" 2>/dev/null || true; done < "$group/cgroup.procs"
        tries=0
        until rmdir "$group" 2>/dev/null; do
            tries=$((tries + 1))
            [ "$tries" -lt 50 ] || { echo "$group is left"; break; }
            sleep 0.1
        done
    fi
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

mkdir "$group" || cannot "no group can be made in $top"
if [ -e "$group/cpu.cfs_quota_us" ]; then
    echo 100000 > "$group/cpu.cfs_period_us"
    echo 50000 > "$group/cpu.cfs_quota_us"
elif [ -e "$group/cpu.max" ]; then
    echo "50000 100000" > "$group/cpu.max"
else
    cannot "the group has no quota"
fi

touch "$work/server"
"$bin/load-server" --bytes 4096 > "$work/server" 2>&1 &
server=$!
tries=0
until grep -q "^listening on" "$work/server"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { cat "$work/server"; echo "the server does not listen"; exit 1; }
    sleep 0.1
done
addr=$(sed -n 's/^listening on //p' "$work/server")

timeout 30 "$bin/quota" "$addr" > "$work/outside"
# The shell enters the group and becomes the crawl, so that the server stays outside.
timeout 30 sh -c 'echo $$ > "$1/cgroup.procs" && exec "$2" "$3"' sh "$group" "$bin/quota" "$addr" > "$work/inside"

for where in outside inside; do
    echo "$where:"
    sed 's/^/  /' "$work/$where"
done
grep '^nr_\|^throttled' "$group/cpu.stat"

of() {
    awk -v name="$2" '$1 == name {print $2}' "$work/$1"
}

# $1 is what is claimed, the rest numbers and a condition over a, b and c.
holds() {
    if awk -v a="$2" -v b="$3" "BEGIN {exit !($4)}"; then
        echo "ok: $1"
    else
        echo "FAILED: $1 ($2, $3)"
        exit 1
    fi
}

# Who else runs may leave it less than its quota.
awk -v a="$(of inside cpu_per_second)" 'BEGIN {exit !(a >= 0.4)}' || cannot "it is too busy to give the crawl half a core"
holds "the crawl had half a core" "$(of inside cpu_per_second)" 0 "a < 0.65"
holds "it went on at the rate that half a core gives" \
    "$(of inside pages_per_second)" "$(of outside pages_per_cpu_second)" "a > 0.7 * b / 2"
holds "nothing failed" "$(of inside errors)" 0 "a == b"
holds "the quota is named" "$(of inside stalls_by_quota)" "$(of inside stalls)" "a > 0 && a >= 0.9 * b"
holds "no URL is blamed" "$(of inside stalls_with_url)" 0 "a == b"
holds "the gate was shut for less than a tenth of the time" "$(of inside gate_shut_percent)" 10 "a < b"
