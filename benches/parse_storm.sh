#!/bin/sh
# The whole of parse-storm in one table of medians: 1,000 pages that come together, the whole program with its server on one core
# and on two. What the crawl does on its own runtime is run PAIRS times (3), also with all answers in one instant (`gate`); its
# peers, a task a fetch, and the crawl on other people's runtimes PEERS times (1). About ten minutes on a quiet machine.
set -eu
cd "$(dirname "$0")/.."

pairs=${PAIRS:-3}
peers=${PEERS:-1}
pages=${PAGES:-1000}

cargo build --quiet --release --locked -p tidegate-benches --bin parse-storm --bin load-server

said=$(mktemp)
trap 'rm -f "$said"' EXIT

# $1 is the set-up, $2 the number of cores, $3 that of runs, the rest options.
rows() {
    setup=$1 cores=$2 runs=$3
    shift 3
    servers=0
    [ "$cores" = 1 ] || servers=0,1
    target/release/parse-storm --setup "$setup" --cores "$cores" --server-cores "$servers" --pairs "$runs" --pages "$pages" "$@" \
        > "$said"
    gate=
    case " $* " in *" --gate "*) gate=gate ;; esac
    [ -n "$headed" ] || sed -n "2s/^/$(printf '%-10s %5s %4s %4s ' set-up cores runs '')/p" "$said"
    headed=yes
    sed -n "3,\$s/^/$(printf '%-10s %5s %4s %4s ' "$setup" "$cores" "$runs" "$gate")/p" "$said"
}

headed=
for cores in 1 2; do
    rows dedicated "$cores" "$pairs" --way loop --parse none,thread,niced
    rows dedicated "$cores" "$pairs" --way loop --parse none,thread,niced --gate
    for setup in plain default; do
        rows "$setup" "$cores" "$peers" --way loop --parse none,thread,niced
    done
    rows plain "$cores" "$peers" --way tasks --parse none,inline,blocking,thread,rayon
done
