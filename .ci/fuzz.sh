#!/bin/sh
# Each target of libFuzzer for so many seconds (20), two at a time, beginning with the seeds. Needs the nightly compiler, a C++
# compiler and cargo-fuzz. Fails where one finds something, and shows it; says how many inputs each has tried.
# Usage: .ci/fuzz.sh [seconds]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-20}
# The same inputs each time, so that a change is judged by what it changes; 0 draws others.
seed=${SEED:-1}

cargo run --quiet --manifest-path fuzz/Cargo.toml --example seeds
# Without a sanitizer: they look for what unsafe code does wrong, and there is none of ours.
cargo +nightly fuzz build -s none

# run <target>: what it said goes into a file, and its end too.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
run() {
    code=0
    cargo +nightly fuzz run -s none "$1" -- -seed="$seed" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 > "$logs/$1" 2>&1 || code=$?
    echo "$code" > "$logs/$1.code"
}

set -- $(cargo +nightly fuzz list)
while [ $# -gt 0 ]; do
    run "$1" &
    if [ $# -gt 1 ]; then
        run "$2" &
        shift
    fi
    shift
    wait
done

failed=0
for log in "$logs"/*.code; do
    target=$(basename "$log" .code)
    tried=$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$target")
    echo "$target: ${tried:-0} inputs, ended with $(cat "$log")"
    if [ "$(cat "$log")" != 0 ]; then
        tail -n 40 "$logs/$target"
        failed=1
    fi
done
exit "$failed"
