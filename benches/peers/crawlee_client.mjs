// Crawlee's CheerioCrawler as a client of `compare`: follows the links of a site, and says what it took, as JSON.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { parseArgs } from "node:util";

// Modules are found through NODE_PATH by `require` only.
const { CheerioCrawler, Configuration, log, LogLevel } = createRequire(import.meta.url)("@crawlee/cheerio");

const { values: args } = parseArgs({
  strict: false,
  options: { port: { type: "string" }, path: { type: "string" }, concurrency: { type: "string" } },
});
const origin = `http://127.0.0.1:${args.port}`;
const scope = `${origin}${args.path.slice(0, args.path.lastIndexOf("/") + 1)}`;
const memory = (name) => Number(readFileSync("/proc/self/status", "utf8").match(new RegExp(`${name}:\\s+(\\d+)`))[1]);

log.setLevel(LogLevel.OFF);
let requests = 0;
let errors = 0;
let error = null;
let bytes = 0;
const crawler = new CheerioCrawler(
  {
    // From the first request on: the site bears it, and nothing is scaled.
    minConcurrency: Number(args.concurrency),
    maxConcurrency: Number(args.concurrency),
    maxRequestRetries: 0,
    useSessionPool: false,
    persistCookiesPerSession: false,
    respectRobotsTxtFile: false,
    async requestHandler({ body, enqueueLinks }) {
      requests += 1;
      bytes += Buffer.byteLength(body);
      await enqueueLinks({ selector: "a[href], area[href]", globs: [`${scope}**`] });
    },
    failedRequestHandler({ request }, why) {
      errors += 1;
      error ??= `${request.url}: ${why}`;
    },
  },
  new Configuration({ persistStorage: false, availableMemoryRatio: 1 }),
);

const before = memory("VmRSS");
console.log("begin");
const since = performance.now();
const cpu = process.cpuUsage();
await crawler.run([`${origin}${args.path}`]);
const seconds = (performance.now() - since) / 1e3;
const { user, system } = process.cpuUsage(cpu);
const measured = {
  requests,
  errors,
  error,
  bytes,
  seconds,
  cpu_seconds: (user + system) / 1e6,
  rss_before_kb: before,
  rss_idle_kb: memory("VmRSS"),
  rss_peak_kb: memory("VmHWM"),
};
console.log(JSON.stringify(measured));
process.exit(0);
