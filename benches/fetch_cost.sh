#!/bin/sh
# Instructions that a bare HttpFetcher takes for each request (1 KB, kept alive, 256 at a time) on a current-thread runtime: the
# difference between two runs, so that what is done once does not count. `RUNTIME=smol` for the other one; `OUT` is a file for the
# profile; `BUILT=1` takes the programs as they are. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."

[ -n "${BUILT:-}" ] || cargo build --quiet --profile production --locked -p tidegate-benches --bin fetch-cost --bin load-server
built=${CARGO_TARGET_DIR:-target}/production

said=$(mktemp)
served=$(mktemp)
"$built/load-server" >"$served" &
server=$!
trap 'kill "$server"; rm -f "$said" "$served"' EXIT
until grep -q listening "$served"; do sleep 0.1; done
url=http://$(sed -n 's/listening on //p' "$served")${TARGET:-/}

instructions() {
    # One that ended early counts for nothing.
    valgrind --tool=callgrind --callgrind-out-file="${OUT:-/dev/null}" --log-file="$said" \
        "$built/fetch-cost" "$url" --runtime "${RUNTIME:-tokio}" --requests "$1" --unmeasured >/dev/null || return
    sed -n 's/.*Collected : //p' "$said"
}

few=${FEW:-5000}
many=${MANY:-15000}
first=$(instructions "$few")
second=$(instructions "$many")
echo "$(((second - first) / (many - few))) instructions/request"
