#!/usr/bin/env bash
# Applies each fault of .ci/mutants in a scratch worktree, one at a time, and requires that the suites find it.
# `.ci/mutants.sh NAME..` takes only these; `TESTS="--lib"` is what is run of the core.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$PWD
tree=$PWD/target/mutants/tree
tests=${TESTS:---lib --tests}
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in .ci/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi

git worktree remove --force "$tree" 2>/dev/null || true
git worktree add --quiet --detach "$tree" HEAD
trap 'git -C "$here" worktree remove --force "$tree"' EXIT
export CARGO_TARGET_DIR=$here/target/mutants/build CARGO_TERM_COLOR=never
cd "$tree"

# A fault may make a suite slow that finds it; what was found until then is told.
# shellcheck disable=SC2086 # the words of the option
run() { timeout "${LIMIT:-300}" cargo test --quiet --locked -p tidegate $tests --no-fail-fast; }

echo "without a fault"
run >/dev/null

missed=0
for name in "${names[@]}"; do
    git apply "$here/.ci/mutants/$name.patch"
    started=$SECONDS
    out=$(run 2>&1 || true)
    if ! grep -q 'test result: FAILED' <<<"$out"; then
        echo "$name: NOT FOUND ($((SECONDS - started)) s)"
        missed=1
    else
        echo "$name: found in $((SECONDS - started)) s, with compiling, by"
        { grep -E '^    [a-z_:0-9]+$' || true; } <<<"$out" | sort -u
        { grep -oE 'seed [0-9]+, [a-z]+: .*' || true; } <<<"$out" | cut -c1-160 | sort -u | sed 's/^/    /'
    fi
    git checkout --quiet -- .
done
exit $missed
