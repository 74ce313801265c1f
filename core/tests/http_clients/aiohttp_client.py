"""Fetches what it is asked for, a line each (`GET http://..`), and answers with a line of JSON: the status and the body as
hexadecimal digits, or why there is none."""

import asyncio
import json
import sys

import aiohttp


async def fetch(method, url):
    # A session for each, so that no reply has to do with another.
    timeout = aiohttp.ClientTimeout(total=20)
    try:
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            async with session.request(method, url, allow_redirects=False) as response:
                body = await response.read()
                return {"status": response.status, "body": body.hex()}
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, OSError) as error:
        return {"error": repr(error)}


for line in sys.stdin:
    print(json.dumps(asyncio.run(fetch(*line.split()))), flush=True)
