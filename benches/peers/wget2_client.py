"""Wget2 as a client of `compare`: follows the links of a site into a folder that is removed, and says what it took, as JSON."""

import json
import os
import resource
import subprocess
import tempfile
import time

from measure import arguments, cpu_seconds

args = arguments()
print("begin", flush=True)
# In memory, where there is such a folder: what is measured is no disk.
with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
    since = time.perf_counter()
    ended = subprocess.run(
        ["wget2", "--quiet", "--recursive", "--level=inf", "--no-parent", "--no-robots", "--follow-tags=a,area",
         f"--max-threads={args.concurrency}", f"http://127.0.0.1:{args.port}{args.path}"],
        cwd=folder, check=False)
    seconds = time.perf_counter() - since
    pages = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    measured = {
        # Pages that are not there are answered by 404, which it reports as a failure.
        "requests": len(pages),
        "errors": 0 if ended.returncode in (0, 8) else 1,
        "error": f"it ended with {ended.returncode}",
        "bytes": sum(os.path.getsize(page) for page in pages),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds(resource.RUSAGE_CHILDREN),
        "rss_peak_kb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    }
print(json.dumps(measured), flush=True)
