#!/bin/sh
# Instructions that the engine takes for each URL, by the number of hosts: the difference between two runs, so that what is done
# once does not count. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release --locked -p tidegate-benches --bin engine-cost

said=$(mktemp)
trap 'rm -f "$said"' EXIT

instructions() {
    # One that ended early counts for nothing.
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --log-file="$said" target/release/engine-cost --hosts "$1" --urls "$2" \
        >/dev/null || return
    sed -n 's/.*Collected : //p' "$said"
}

few=${FEW:-200000}
many=${MANY:-400000}
printf '%10s %18s\n' hosts instructions/URL
for hosts in 1000 10000 100000; do
    first=$(instructions "$hosts" "$few")
    second=$(instructions "$hosts" "$many")
    printf '%10d %18d\n' "$hosts" $(((second - first) / (many - few)))
done
