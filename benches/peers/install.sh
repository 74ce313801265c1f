#!/bin/sh
# Installs the clients that `compare` runs beside the rest and that are no part of it, below target/peers and nowhere else. One whose
# language is not there is left out.
set -eu
cd "$(dirname "$0")/../.."

into=target/peers
mkdir -p "$into"

if command -v python3 >/dev/null; then
    python3 -m venv "$into/venv"
    "$into/venv/bin/pip" install --quiet aiohttp==3.14.5 uvloop==0.23.0 scrapy==2.19.0
else
    echo "no python3: without aiohttp and Scrapy"
fi

if command -v npm >/dev/null; then
    npm install --silent --no-fund --no-audit --no-save --prefix "$into" undici@7.30.2 @crawlee/cheerio@3.18.1
else
    echo "no npm: without undici and Crawlee"
fi

if command -v go >/dev/null; then
    go build -o "$into/go-client" benches/peers/go_client.go
else
    echo "no go: without Go"
fi

# A package of its own: it would change the features of what others are measured with.
cargo build --quiet --release --locked --manifest-path benches/peers/spider/Cargo.toml --target-dir "$into/spider"
