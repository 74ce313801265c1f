#!/bin/sh
# Installs the clients in other languages that `compare` runs beside the rest, below target/peers and nowhere else. One whose
# language is not there is left out.
set -eu
cd "$(dirname "$0")/../.."

into=target/peers
mkdir -p "$into"

if command -v python3 >/dev/null; then
    python3 -m venv "$into/venv"
    "$into/venv/bin/pip" install --quiet aiohttp==3.14.5 uvloop==0.23.0
else
    echo "no python3: without aiohttp"
fi

if command -v npm >/dev/null; then
    npm install --silent --no-fund --no-audit --no-save --prefix "$into" undici@7.30.2
else
    echo "no npm: without undici"
fi
