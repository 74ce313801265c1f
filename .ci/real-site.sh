#!/usr/bin/env bash
# Crawls a real site, the documentation of Rust that rustup installs, from Debian's nginx on loopback: on Tokio and on
# smol, and compares both with each other and with an independent crawler.
#
#   PREFIX   the part to crawl: std (the default), alloc, core, std/collections ..
#   PORT     of nginx; a free one by default
#   KEEP     a folder for the records, which are otherwise removed
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${PREFIX:-std}
site=$(rustc --print sysroot)/share/doc/rust/html
if [ ! -f "$site/$prefix/index.html" ]; then
    echo "no $site/$prefix/index.html: run \`rustup component add rust-docs\`" >&2
    exit 1
fi
for program in nginx python3; do
    if ! command -v "$program" >/dev/null; then
        echo "$program is not installed (Debian: apt-get install $program)" >&2
        exit 1
    fi
done

work=$(mktemp -d)
nginx_pid=
clean_up() {
    if [ -n "$nginx_pid" ]; then
        kill "$nginx_pid" 2>/dev/null || true
        wait "$nginx_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
out=${KEEP:-$work}
mkdir -p "$out"

port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
# The folder of rustup may be readable by its owner only.
user=
[ "$(id -u)" -ne 0 ] || user="user root;"
cat >"$work/nginx.conf" <<CONF
$user
daemon off;
worker_processes 1;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 4096; }
http {
    access_log off;
    types { text/html html; text/css css; text/javascript js; image/svg+xml svg; image/png png; font/woff2 woff2; }
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000;
    # Our side asks for it, the independent crawler does not: so that the hashes compare the decoders, too.
    gzip on;
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    server {
        listen 127.0.0.1:$port backlog=4096;
        root $site;
        absolute_redirect off;
    }
}
CONF
nginx -e "$work/error.log" -p "$work" -c "$work/nginx.conf" &
nginx_pid=$!

scope=http://127.0.0.1:$port/$prefix/
start=${scope}index.html
python3 - "$port" <<'PY'
import socket, sys, time
for _ in range(200):
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()
        break
    except OSError:
        time.sleep(0.05)
else:
    sys.exit("nginx does not listen")
PY

cargo build --release --locked -p tidegate-examples --bin tidegate
for runtime in tokio smol; do
    SECONDS=0
    "${CARGO_TARGET_DIR:-target}/release/tidegate" crawl "$start" --scope "prefix:$scope" --runtime "$runtime" \
        --per-host 256 --delay 0ms --max-pages unlimited --no-robots --user-agent tidegate-ci --body hash --quiet \
        --out "$out/$runtime.jsonl" --stats "$out/$runtime.json" --force
    echo "$runtime: $(wc -l <"$out/$runtime.jsonl") records in $SECONDS s"
done
SECONDS=0
python3 .ci/independent_crawl.py "$start" "$scope" "$out/independent.json"
echo "independent crawler: $SECONDS s"
python3 .ci/compare_crawls.py "$out"
