"""aiohttp on uvloop, as a client of `compare`: does the work of its arguments and says what it took, as JSON."""

import asyncio
import json
import resource
import time

import aiohttp
import uvloop

from measure import arguments, cpu_seconds, memory


async def main():
    args = arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    urls = []
    for n in range(4096):
        number = n if args.path.endswith("/") else ""
        urls.append(f"http://127.0.0.{1 + n % args.addresses}:{args.port}{args.path}{number}")
    latencies, errors, length = [], [], 0
    left = iter(range(args.requests))
    connector = aiohttp.TCPConnector(limit=0, force_close=args.fresh)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def work():
            nonlocal length
            for n in left:
                since = time.perf_counter()
                try:
                    async with session.get(urls[n % len(urls)]) as response:
                        length += len(await response.read())
                    latencies.append(time.perf_counter() - since)
                except Exception as error:
                    errors.append(repr(error))

        before = memory("VmRSS")
        print("begin", flush=True)
        since, cpu = time.perf_counter(), cpu_seconds()
        await asyncio.gather(*(work() for _ in range(min(args.requests, args.concurrency))))
        seconds, cpu = time.perf_counter() - since, cpu_seconds() - cpu
        latencies.sort()

        def at(part):
            return latencies[min(int(len(latencies) * part), len(latencies) - 1)] * 1e3 if latencies else 0

        measured = {
            "requests": len(latencies),
            "errors": len(errors),
            "error": errors[0] if errors else None,
            "bytes": length,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "rss_before_kb": before,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
        }
        await asyncio.sleep(args.settle_ms / 1e3)
        measured["rss_idle_kb"] = memory("VmRSS")
        measured["rss_peak_kb"] = memory("VmHWM")
        print(json.dumps(measured), flush=True)


uvloop.run(main())
