#!/bin/sh
# The core brings no reactor, and the smol adapter not Tokio's: read from the tree that cargo resolves, with all
# features, on all platforms.
set -eu
cd "$(dirname "$0")/.."

tokio_reactor='(mio |tokio feature "(rt|rt-multi-thread|net|time|fs|process|signal)")'
any_reactor="($tokio_reactor|(async-io|async-executor|async-global-executor|blocking|polling|smol) )"

# Prints what of the tree of package $1 matches $2; fails where cargo does.
found() {
    tree=$(cargo tree --locked -p "$1" -e features,no-dev --all-features --target all --prefix none)
    printf '%s\n' "$tree" | grep -E "^$2" | sort -u || true
}

must_be_pure() {
    impure=$(found "$1" "$2")
    if [ -n "$impure" ]; then
        printf '%s must not have:\n%s\n' "$1" "$impure" >&2
        exit 1
    fi
    echo "$1: pure"
}

# A check that cannot fail proves nothing.
must_complain() {
    if [ -z "$(found "$1" "$2")" ]; then
        echo "$1 has what is looked for, but it is not found: the check is broken" >&2
        exit 1
    fi
}

must_complain tidegate-tokio "$tokio_reactor"
must_complain tidegate-smol "$any_reactor"
must_be_pure tidegate "$any_reactor"
must_be_pure tidegate-parse "$any_reactor"
must_be_pure tidegate-smol "$tokio_reactor"
