#!/bin/sh
# Instructions and allocations that a request takes in each client: 1 KB bodies, 256 connections that are kept. Each is the
# difference between two runs, so that what is done once does not count. Needs valgrind. `OUT` and `BLOCKS` are files for the
# profiles of callgrind and dhat; `BUILT=1` takes the programs as they are.
# Usage: benches/request_cost.sh [client ..]
set -eu
cd "$(dirname "$0")/.."

[ -n "${BUILT:-}" ] || cargo build --quiet --profile production --locked -p tidegate-benches --bin compare --bin load-server
built=${CARGO_TARGET_DIR:-target}/production

work=$(mktemp -d)
server=
end() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

touch "$work/server"
"$built/load-server" > "$work/server" &
server=$!
tries=0
until grep -q "^listening on" "$work/server"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "the server does not listen"; exit 1; }
    sleep 0.1
done
port=$(sed -n 's/^listening on .*://p' "$work/server")

# $1 is a tool of valgrind and what it is told, $2 a client, $3 how many requests. A run that lost one counts for nothing.
# All is fifty times slower, so a crawl, which beats by the clock, does so more often a request.
run() {
    # shellcheck disable=SC2086 # the words of a command
    valgrind $1 --log-file="$work/said" "$built/compare" client "$2" --port "$port" --requests "$3" \
        --concurrency "${CONCURRENCY:-256}" --settle-ms 0 > "$work/out"
    grep -q '"errors":0' "$work/out"
}

instructions() {
    run "--tool=callgrind --callgrind-out-file=${OUT:-/dev/null}" "$1" "$2"
    sed -n 's/.*Collected : //p' "$work/said"
}

allocations() {
    run "--tool=dhat --dhat-out-file=${BLOCKS:-/dev/null}" "$1" "$2"
    sed -n 's/.*Total: .* bytes in \([0-9,]*\) blocks.*/\1/p' "$work/said" | tr -d ,
}

few=${FEW:-5000}
many=${MANY:-15000}
# What a request costs in thousandths of a unit, so that a shell can divide.
each() {
    first=$("$1" "$2" "$few")
    second=$("$1" "$2" "$many")
    echo $(((second - first) * 1000 / (many - few)))
}

[ $# -gt 0 ] || set -- raw hyper hyper-util reqwest tidegate-fetcher tidegate-fetcher-smol tidegate-crawl tidegate-crawl-smol
echo "| client | instructions | allocations |"
echo "| --- | --- | --- |"
for client in "$@"; do
    cost=$(each instructions "$client")
    blocks=$(each allocations "$client")
    awk -v c="$client" -v i="$cost" -v b="$blocks" 'BEGIN {printf "| %s | %.0f | %.1f |\n", c, i / 1000, b / 1000}'
done
