#!/bin/sh
# The rows of book/src/faults.md with the tests that name them, `// A4`. Fails where a row has neither a test nor a reason (what the row's
# section says before its table, where what comes of it is `-`), where a test names a row that is none, and where the page
# is not up to date: `.ci/faults.sh write` writes its last column.
set -eu
cd "$(dirname "$0")/.."
page=book/src/faults.md

# Lines of row, runtimes, file and test. A comment of rows belongs to the function that follows, or else to the one that it is in.
tests=$(git ls-files --cached --others --exclude-standard 'core/tests/*.rs' 'core/src/*.rs' 'runtime-*/*.rs' 'parse/*.rs' \
    'examples/*.rs' | sort | xargs awk '
    function where() {
        if (FILENAME ~ /^core\/src\/conformance\//) return "Tokio, smol, simulated"
        if (FILENAME ~ /^runtime-tokio\/tests\/common\//) return "Tokio, smol"
        if (FILENAME ~ /^runtime-tokio\//) return "Tokio"
        if (FILENAME ~ /^runtime-smol\//) return "smol"
        if (FILENAME ~ /^examples\/tests\//) return "Tokio, smol"
        if (FILENAME ~ /^core\/tests\/http_/) return "Tokio"
        if (FILENAME ~ /^core\/tests\//) return "simulated"
        return "unit"
    }
    function give(name,   n, i, rows) {
        n = split(pending, rows, " ")
        for (i = 1; i <= n; i++) print rows[i] "|" where() "|" FILENAME "|" name
        pending = ""
    }
    FNR == 1 { current = ""; pending = "" }
    /^ *\/\/ [A-H][0-9]+([,:.; ]|$)/ {
        line = $0
        sub(/^ *\/\/ /, "", line)
        while (match(line, /^[A-H][0-9]+/)) {
            pending = pending " " substr(line, 1, RLENGTH)
            line = substr(line, RLENGTH + 1)
            if (!sub(/^(, and |, | and )/, "", line)) break
        }
        next
    }
    /^ *(pub(\([a-z]+\))? )?(async )?fn [a-z_0-9]+/ {
        name = $0
        sub(/.*fn /, "", name)
        sub(/[^a-z_0-9].*/, "", name)
        current = name
        give(name)
        next
    }
    pending != "" && !/^ *(\/\/|#\[|$)/ { give(current == "" ? "-" : current) }
'; for script in .ci/name-server.sh .ci/http2.sh; do
    sed -n 's/^# Covers \([A-H0-9, and]*\) of .*/\1/p' "$script" | grep -o '[A-H][0-9]*' | sed "s|\$|\|Tokio, smol\|$script\|expect|"
done)

written=$(printf '%s\n' "$tests" | awk -F '|' '
    NR == FNR { if ($1 != "") { count[$1]++; files[$1] = files[$1] (index(files[$1], "`" $3 "`") ? "" : ", `" $3 "`"); n = split($2, on, ", "); for (i = 1; i <= n; i++) runs[$1, on[i]] = 1 } next }
    /^\| [A-H][0-9]+ \|/ {
        split($0, cells, / \| /)
        row = cells[1]
        sub(/^\| /, "", row)
        list = ""
        split("Tokio,smol,simulated,unit", order, ",")
        for (i = 1; i <= 4; i++) if ((row, order[i]) in runs) list = list ", " order[i]
        $0 = "| " row " | " cells[2] " | " cells[3] " |" (list == "" ? "" : " " substr(list, 3) ": " substr(files[row], 3)) " |"
    }
    { print }
' - "$page")

if [ "${1:-}" = write ]; then
    printf '%s\n' "$written" > "$page"
    exit 0
fi

failed=0
rows=$(sed -n 's/^| \([A-H][0-9]*\) | .*/\1/p' "$page")
for row in $rows; do
    found=$(printf '%s\n' "$tests" | grep "^$row|" || true)
    if [ -n "$found" ]; then
        printf '%s\n' "$found" | awk -F '|' '{ printf "%-4s %-24s %s: %s\n", $1, $2, $3, $4 }'
        if ! printf '%s\n' "$found" | grep -qv '|unit|'; then
            echo "$row: units only"
        fi
    elif grep -q "^| $row | .* | - | |$" "$page"; then
        printf '%-4s no test: %s\n' "$row" "the page says why"
    else
        echo "$row has no test, and no reason"
        failed=1
    fi
done
strange=$(printf '%s\n' "$tests" | cut -d '|' -f 1 | sort -u | grep -vxF "$rows" || true)
if [ -n "$strange" ]; then
    echo "named by tests, and no rows:" $strange
    failed=1
fi
if [ "$written" != "$(cat "$page")" ]; then
    echo "$page is not up to date: .ci/faults.sh write"
    failed=1
fi
exit "$failed"
