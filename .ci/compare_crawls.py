"""Compares the records of two runtimes with each other and with the independent crawler's.

usage: compare_crawls.py FOLDER  with tokio.jsonl tokio.json smol.jsonl smol.json independent.json
"""

import json
import sys
from collections import Counter
from pathlib import Path

OUTCOMES = ("ok", "error", "skipped", "cancelled")
SHOWN = 10


class Failures(list):
    def same(self, what, left, right):
        """Says which keys are missing on a side, and which values differ."""
        only_left, only_right = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
        differ = sorted(key for key in left.keys() & right.keys() if left[key] != right[key])
        for name, keys in (("only left", only_left), ("only right", only_right), ("differ", differ)):
            if keys:
                shown = "\n    ".join(f"{key}: {left.get(key)} / {right.get(key)}" for key in keys[:SHOWN])
                self.append(f"{what}: {len(keys)} {name}\n    {shown}")

    def equal(self, what, left, right):
        if left != right:
            self.append(f"{what}: {left} is not {right}")


def records(failures, folder, runtime):
    """The records of what was fetched, by URL; conservation is checked on the way."""
    lines = [json.loads(line) for line in (folder / f"{runtime}.jsonl").read_text("utf-8").splitlines()]
    stats = json.loads((folder / f"{runtime}.json").read_text("utf-8"))
    outcomes = Counter(line["outcome"] for line in lines)
    failures.equal(f"{runtime}: submitted and the sum of outcomes", stats["submitted"], sum(stats[o] for o in OUTCOMES))
    for outcome in OUTCOMES:
        failures.equal(f"{runtime}: {outcome} in stats and in records", stats[outcome], outcomes[outcome])
    failures.equal(f"{runtime}: finish_reason", stats["finish_reason"], "done")
    failures.equal(f"{runtime}: errors", stats["errors"], {})
    fetched = [line for line in lines if line["status"] is not None or line["outcome"] == "error"]
    repeated = [url for url, count in Counter(line["url"] for line in fetched).items() if count > 1]
    failures.equal(f"{runtime}: URLs with several records", repeated[:SHOWN], [])
    return {line["url"]: line for line in fetched}


def main(folder):
    folder, failures = Path(folder), Failures()
    tokio, smol = (records(failures, folder, runtime) for runtime in ("tokio", "smol"))
    independent = json.loads((folder / "independent.json").read_text("utf-8"))

    def part(lines, *keys):
        return {url: tuple(line[key] for key in keys) for url, line in lines.items()}

    def ok(lines):
        return {url: line for url, line in lines.items() if line["outcome"] == "ok"}

    failures.same("tokio / smol", part(ok(tokio), "status", "sha256"), part(ok(smol), "status", "sha256"))
    failures.same("tokio / independent, status", part(tokio, "status"), part(independent, "status"))
    hashed = {url: line for url, line in tokio.items() if line["sha256"]}
    theirs = {url: line for url, line in independent.items() if url in hashed}
    failures.same("tokio / independent, hash", part(hashed, "sha256"), part(theirs, "sha256"))
    # An empty crawl would pass all of the above.
    if len(ok(tokio)) < 100 or len(hashed) < 100:
        failures.append(f"only {len(ok(tokio))} pages, {len(hashed)} of them hashed")
    if failures:
        sys.exit("\n".join(failures))
    print(f"the same {len(independent)} URLs on tokio, smol and the independent crawler; {len(hashed)} hashes agree")


if __name__ == "__main__":
    main(sys.argv[1])
