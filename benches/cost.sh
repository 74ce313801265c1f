#!/bin/sh
# What a fetch costs, side by side: installs the peers, runs all that the page of the book shows, and writes its tables and its picture
# anew. Takes two hours, on a machine that does nothing else.
# Usage: benches/cost.sh [scenario ..]; PAIRS and PART as `compare run` has them.
set -eu
cd "$(dirname "$0")/.."

page=book/src/cost.md
cargo build --quiet --profile production --locked -p tidegate-benches --bin compare --bin load-server
[ -d target/peers ] || benches/peers/install.sh

[ $# -gt 0 ] || set -- keepalive waiting large fresh keepalive-tls waiting-tls large-tls handshakes tickets growth sockets sockets-lag \
    sockets-tls fifty node node-pages pages drip drip-proxies
for scenario in "$@"; do
    runs=target/cost-$scenario.json
    target/production/compare run "$scenario" --pairs "${PAIRS:-5}" --part "${PART:-1}" --json "$runs"
    target/production/compare page "$runs" "$page"
    [ "$scenario" != sockets ] || target/production/compare draw "$runs" book/src/images/sockets.svg
done
