#!/bin/sh
# What a request may cost, in instructions and allocations: 1 KB over kept connections, 256 at a time, on Tokio. Needs valgrind.
# `BUILT=1` takes the builds of compare, fetch-cost and load-server, of the profile `production`, as they are.
set -eu
cd "$(dirname "$0")/.."

# The bare fetcher, where the caller gives parsed URLs.
most_of_fetch=14500
# The bare fetcher, where it parses them.
most_of_fetcher=16000
most_blocks_of_fetcher=11
# The whole crawl, with requests from a stream and a sink that counts.
most_of_crawl=29500
most_blocks_of_crawl=21

command -v valgrind >/dev/null || { echo "valgrind is not installed (Debian: apt-get install valgrind)"; exit 1; }

export FEW="${FEW:-1000}" MANY="${MANY:-4000}"
failed=0

# $1 is what was measured, $2 the unit, $3 the figure, $4 the most it may be, $5 the command that shows where it goes.
at_most() {
    if within "$3" "$4"; then
        echo "ok: $1: $3 $2 a request, at most $4"
    else
        echo "FAILED: $1: $3 $2 a request, at most $4; to see where they go: $5"
        failed=1
    fi
}

# A crawl beats by the clock, so a machine that is busy makes it dearer and nothing makes it cheaper: the least of three
# counts. $1 is a client, $2 the most instructions, $3 the most allocations.
client() {
    instructions= blocks=
    for _ in 1 2 3; do
        row=$(benches/request_cost.sh "$1" | grep "^| $1 |")
        instructions=$(least "$instructions" "$(echo "$row" | cut -d '|' -f 3)")
        blocks=$(least "$blocks" "$(echo "$row" | cut -d '|' -f 4)")
        ! { within "$instructions" "$2" && within "$blocks" "$3"; } || break
    done
    at_most "$1" instructions "$instructions" "$2" \
        "OUT=target/callgrind.out benches/request_cost.sh $1 && callgrind_annotate target/callgrind.out"
    at_most "$1" allocations "$blocks" "$3" \
        "BLOCKS=target/dhat.out benches/request_cost.sh $1, and open target/dhat.out in valgrind's dh_view.html"
}

# No figure at all is not within it.
within() {
    awk -v is="$1" -v most="$2" 'BEGIN {exit !(is != "" && is + 0 <= most + 0)}'
}

least() {
    echo "$1 $2" | awk '{print (NF > 1 && $1 < $2 ? $1 : $NF)}'
}

fetch=$(benches/fetch_cost.sh)
at_most "fetcher with parsed URLs" instructions "${fetch%% *}" "$most_of_fetch" \
    "OUT=target/callgrind.out benches/fetch_cost.sh && callgrind_annotate target/callgrind.out"
client tidegate-fetcher "$most_of_fetcher" "$most_blocks_of_fetcher"
client tidegate-crawl "$most_of_crawl" "$most_blocks_of_crawl"
exit "$failed"
