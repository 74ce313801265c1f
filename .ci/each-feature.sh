#!/bin/sh
# Each feature of each library compiles alone: features are additive.
set -eu
cd "$(dirname "$0")/.."

for folder in core runtime-tokio runtime-smol parse; do
    name=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$folder/Cargo.toml" | head -n 1)
    features=$(awk '/^\[/ { on = ($0 == "[features]") } on && /^[a-z0-9_-]+ = / && $1 != "default" { print $1 }' \
        "$folder/Cargo.toml")
    for feature in "" $features; do
        echo "$name: ${feature:-no feature}"
        cargo check --quiet --locked -p "$name" --no-default-features --features "$feature"
    done
done
