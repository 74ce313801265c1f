#!/bin/sh
# Instructions that a crawl takes for each URL apart from its fetch, on a current-thread Tokio runtime: the difference between two
# runs, so that what is done once does not count. Arguments go to the program: --stream, say. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release --locked -p tidegate-benches --bin crawl-cost

said=$(mktemp)
trap 'rm -f "$said"' EXIT

instructions() {
    urls=$1
    shift
    # One that ended early counts for nothing.
    valgrind --tool=callgrind --callgrind-out-file="${OUT:-/dev/null}" --log-file="$said" target/release/crawl-cost --once "$urls" "$@" || return
    sed -n 's/.*Collected : //p' "$said"
}

few=${FEW:-10000}
many=${MANY:-30000}
first=$(instructions "$few" "$@")
second=$(instructions "$many" "$@")
echo "$(((second - first) / (many - few))) instructions/URL"
