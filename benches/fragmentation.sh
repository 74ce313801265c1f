#!/bin/sh
# What is resident while bodies come and go, beside the bytes that are held: the allocator of the system, mimalloc and jemalloc, and
# the first and the last told to give back what is freed. Arguments go to each program: --bodies, say. `BUILT=1` takes the
# programs as they are.
set -eu
cd "$(dirname "$0")/.."

[ -n "${BUILT:-}" ] || cargo build --quiet --release --locked -p tidegate-benches --features mimalloc,jemalloc \
    --bin load-server --bin fragmentation-system --bin fragmentation-mimalloc --bin fragmentation-jemalloc
release=${CARGO_TARGET_DIR:-target}/release

"$release/fragmentation-system" "$@"
# What is larger has pages of its own, which go back when it is freed; without them set both thresholds grow.
MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=65536 "$release/fragmentation-system" --bare "$@" |
    sed 's/system/system, thresholds of 64 KiB/'
"$release/fragmentation-mimalloc" --bare "$@"
"$release/fragmentation-jemalloc" --bare "$@"
_RJEM_MALLOC_CONF=dirty_decay_ms:0 "$release/fragmentation-jemalloc" --bare "$@" | sed 's/jemalloc/jemalloc, dirty_decay_ms:0/'
