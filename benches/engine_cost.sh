#!/bin/sh
# Instructions that the engine takes for each URL, by the number of hosts: the difference between two runs, so that what is done
# once does not count. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release --locked -p tidegate-benches --bin engine-cost

instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/engine-cost --hosts "$1" --urls "$2" 2>&1 >/dev/null |
        sed -n 's/.*Collected : //p'
}

few=${FEW:-200000}
many=${MANY:-400000}
printf '%10s %18s\n' hosts instructions/URL
for hosts in 1000 10000 100000; do
    printf '%10d %18d\n' "$hosts" $((($(instructions "$hosts" "$many") - $(instructions "$hosts" "$few")) / (many - few)))
done
