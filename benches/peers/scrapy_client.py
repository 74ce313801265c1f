"""Scrapy as a client of `compare`: follows the links of a site, with its own link extractor, and says what it took, as JSON."""

import json
import time

from scrapy.crawler import CrawlerProcess
from scrapy.linkextractors import LinkExtractor
from scrapy.spiders import CrawlSpider, Rule

from measure import arguments, cpu_seconds, memory

args = arguments()
scope = f"http://127.0.0.1:{args.port}{args.path.rsplit('/', 1)[0]}/"
counted = {"requests": 0, "errors": 0, "bytes": 0}


class Site(CrawlSpider):
    name = "site"
    start_urls = [f"http://127.0.0.1:{args.port}{args.path}"]
    rules = [Rule(LinkExtractor(allow=f"^{scope}"), callback="count", follow=True)]

    def count(self, response):
        # The first page is not counted until a link leads to it: it is fetched again then.
        counted["requests"] += 1
        counted["bytes"] += len(response.body)


settings = {
    "CONCURRENT_REQUESTS": args.concurrency,
    "CONCURRENT_REQUESTS_PER_DOMAIN": args.concurrency,
    "DOWNLOAD_DELAY": 0,
    "ROBOTSTXT_OBEY": False,
    "LOG_LEVEL": "ERROR",
    "COOKIES_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False,
}
process = CrawlerProcess(settings)
crawler = process.create_crawler(Site)
counted["rss_before_kb"] = memory("VmRSS")
print("begin", flush=True)
since, cpu = time.perf_counter(), cpu_seconds()
process.crawl(crawler)
process.start()
counted["seconds"] = time.perf_counter() - since
counted["cpu_seconds"] = cpu_seconds() - cpu
counted["rss_idle_kb"] = memory("VmRSS")
counted["rss_peak_kb"] = memory("VmHWM")
print(json.dumps(counted), flush=True)
