#!/bin/sh
# Instructions that a crawl takes for each URL apart from its fetch, on both runtimes: the difference between two runs, so that
# what is done once does not count. The threads run one after the other under valgrind, so waiting costs nothing. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release --locked -p tidegate-benches --bin crawl-cost

instructions() {
    valgrind --tool=callgrind --callgrind-out-file="${OUT:-/dev/null}" target/release/crawl-cost --runtime "$1" --once "$2" 2>&1 >/dev/null |
        sed -n 's/.*Collected : //p'
}

few=${FEW:-10000}
many=${MANY:-30000}
printf '%10s %18s\n' runtime instructions/URL
for runtime in tokio smol; do
    printf '%10s %18d\n' "$runtime" $((($(instructions "$runtime" "$many") - $(instructions "$runtime" "$few")) / (many - few)))
done
