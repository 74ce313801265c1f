// undici as a client of `compare`: does the work of its arguments and says what it took, as JSON.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

// Modules are found through NODE_PATH by `require` only.
const { Agent, request } = createRequire(import.meta.url)("undici");

const names = ["port", "addresses", "path", "requests", "concurrency", "rate", "certificate", "dripping", "settle-ms"];
const options = Object.fromEntries(names.map((name) => [name, { type: "string" }]));
options.fresh = { type: "boolean" };
options.ticker = { type: "boolean" };
const { values: args } = parseArgs({ options });
if (args.rate || args.certificate || Number(args.dripping) || args.ticker) {
  throw new Error("it takes part in plain work only");
}

const memory = (name) => Number(readFileSync("/proc/self/status", "utf8").match(new RegExp(`${name}:\\s+(\\d+)`))[1]);
const requests = Number(args.requests);
const concurrency = Math.min(requests, Number(args.concurrency));
const urls = Array.from({ length: 4096 }, (_, n) => {
  const number = args.path.endsWith("/") ? n : "";
  return `http://127.0.0.${1 + (n % Number(args.addresses))}:${args.port}${args.path}${number}`;
});
// A pool for each address, without pipelining, as large as it must be.
const dispatcher = new Agent({ connections: concurrency, pipelining: args.fresh ? 0 : 1, headersTimeout: 0, bodyTimeout: 0 });
const latencies = [];
const errors = [];
let bytes = 0;
let next = 0;

async function work() {
  while (next < requests) {
    const url = urls[next++ % urls.length];
    const since = performance.now();
    try {
      const { body } = await request(url, { dispatcher });
      bytes += (await body.arrayBuffer()).byteLength;
      latencies.push(performance.now() - since);
    } catch (error) {
      errors.push(String(error));
    }
  }
}

const before = memory("VmRSS");
console.log("begin");
const since = performance.now();
const cpu = process.cpuUsage();
await Promise.all(Array.from({ length: concurrency }, work));
const seconds = (performance.now() - since) / 1e3;
const { user, system } = process.cpuUsage(cpu);
latencies.sort((a, b) => a - b);
const at = (part) => latencies[Math.min(Math.floor(latencies.length * part), latencies.length - 1)] ?? 0;
const measured = {
  requests: latencies.length,
  errors: errors.length,
  error: errors[0] ?? null,
  bytes,
  seconds,
  cpu_seconds: (user + system) / 1e6,
  rss_before_kb: before,
  p50_ms: at(0.5),
  p99_ms: at(0.99),
  p999_ms: at(0.999),
};
await sleep(Number(args["settle-ms"]));
measured.rss_idle_kb = memory("VmRSS");
measured.rss_peak_kb = memory("VmHWM");
console.log(JSON.stringify(measured));
process.exit(0);
