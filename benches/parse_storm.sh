#!/bin/sh
# The whole of parse-storm in one table of medians: 1,000 pages that come together, the whole program on one core and on two, with
# its server on the same ones; and on one with the server on another, whose turns on the core are then in no figure. What the crawl
# does on its own runtime is run PAIRS times (3), also with all answers in one instant (`gate`); its peers, a task a fetch, and the
# crawl on other people's runtimes PEERS times (1). About fifteen minutes on a quiet machine.
set -eu
cd "$(dirname "$0")/.."

pairs=${PAIRS:-3}
peers=${PEERS:-1}
pages=${PAGES:-1000}

cargo build --quiet --release --locked -p tidegate-benches --bin parse-storm --bin load-server

said=$(mktemp)
trap 'rm -f "$said"' EXIT

# $1 is the set-up, $2 the number of cores, $3 those of the server, $4 the number of runs, the rest options.
rows() {
    setup=$1 cores=$2 servers=$3 runs=$4
    shift 4
    target/release/parse-storm --setup "$setup" --cores "$cores" --server-cores "$servers" --pairs "$runs" --pages "$pages" "$@" \
        > "$said"
    gate=
    case " $* " in *" --gate "*) gate=gate ;; esac
    [ -n "$headed" ] || sed -n "2s/^/$(printf '%-10s %5s %6s %4s %4s ' set-up cores server runs '')/p" "$said"
    headed=yes
    sed -n "3,\$s/^/$(printf '%-10s %5s %6s %4s %4s ' "$setup" "$cores" "$servers" "$runs" "$gate")/p" "$said"
}

headed=
for placed in "1 0" "2 0,1"; do
    # shellcheck disable=SC2086 # two words
    set -- $placed
    rows dedicated "$@" "$pairs" --way loop --parse none,thread,niced
    rows dedicated "$@" "$pairs" --way loop --parse none,thread,niced --gate
    for setup in plain default; do
        rows "$setup" "$@" "$peers" --way loop --parse none,thread,niced
    done
    rows plain "$@" "$peers" --way tasks --parse none,inline,blocking,thread,rayon
done
rows dedicated 1 1 "$pairs" --way loop --parse none,thread,niced
rows dedicated 1 1 "$pairs" --way loop --parse none,thread,niced --gate
