#!/bin/sh
# HTTP/2 with nginx, on both runtimes: 1,000 requests, 60 at a time, to a server that allows 10 streams and sends GOAWAY after
# every 100. Each must be answered, over HTTP/2, on few connections; and over HTTP/1.1 by a server without HTTP/2. Says how many took
# one attempt. Needs nginx and openssl.
# Usage: .ci/http2.sh [folder of the program tidegate]
# Covers E1 and E3 of book/src/faults.md.
set -eu
cd "$(dirname "$0")/.."

bin=${1:-target/release}
work=$(mktemp -d)
server=
end() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/key.pem" -out "$work/cert.pem" -days 2 -subj /CN=localhost \
    -addext "subjectAltName=DNS:localhost" 2>/dev/null
mkdir "$work/www"
head -c 3000 /dev/zero | tr '\0' x > "$work/www/page.html"
chmod -R a+rX "$work"
port=${PORT:-18443}
old_port=$((port + 1))
cat > "$work/nginx.conf" <<CONF
daemon off;
pid $work/pid;
error_log $work/error.log;
events { worker_connections 1024; }
http {
    log_format way '\$server_protocol \$connection \$status';
    access_log $work/access.log way;
    keepalive_requests 100;
    http2_max_concurrent_streams 10;
    ssl_certificate $work/cert.pem;
    ssl_certificate_key $work/key.pem;
    root $work/www;
    server { listen 127.0.0.1:$port ssl http2; }
    server { listen 127.0.0.1:$old_port ssl; }
}
CONF
nginx -c "$work/nginx.conf" -p "$work" -e "$work/error.log" &
server=$!
tries=0
until [ -f "$work/pid" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "nginx does not start"; cat "$work/error.log"; exit 1; }
    sleep 0.1
done

failed=0
# $1 is a runtime, $2 the port, $3 the version that is to be spoken.
ask() {
    : > "$work/access.log"
    seq 1000 | sed "s|.*|https://localhost:$2/page.html?&|" > "$work/urls"
    "$bin/tidegate" fetch --input "$work/urls" --runtime "$1" --insecure --per-host 60 --concurrency 200 > "$work/records" \
        2> "$work/said" || { cat "$work/said"; failed=1; }
    ok=$(grep -c '"outcome":"ok"' "$work/records" || true)
    first=$(grep -c '"attempts":1\>' "$work/records" || true)
    others=$(grep -cv "^$3 [0-9]* 200$" "$work/access.log" || true)
    connections=$(cut -d ' ' -f 2 "$work/access.log" | sort -u | wc -l)
    echo "$1, $3: $ok of 1000 answers, $first in one attempt, on $connections connections, $others in another way"
    [ "$ok" -eq 1000 ] && [ "$others" -eq 0 ] && [ "$connections" -le 80 ] || failed=1
    [ "$3" != HTTP/2.0 ] || [ "$connections" -le 30 ] || failed=1
}

for runtime in tokio smol; do
    ask "$runtime" "$port" HTTP/2.0
    ask "$runtime" "$old_port" HTTP/1.1
done
exit "$failed"
