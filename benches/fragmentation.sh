#!/bin/sh
# What is resident after a churn of bodies, beside the bytes that are held, with the allocator of the system as it is and as it
# can be set, with mimalloc and with jemalloc: a table. Arguments go to each program: --bodies, say.
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release --locked -p tidegate-benches --features mimalloc,jemalloc --bin load-server \
    --bin fragmentation-system --bin fragmentation-mimalloc --bin fragmentation-jemalloc
release=${CARGO_TARGET_DIR:-target}/release

"$release/fragmentation-system" "$@"
# A threshold that is set does not move: what is as large goes back to the system when it is freed.
MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072 "$release/fragmentation-system" --bare "$@" |
    sed 's/system/system, thresholds of 128 KiB/'
"$release/fragmentation-mimalloc" --bare "$@"
"$release/fragmentation-jemalloc" --bare "$@"
