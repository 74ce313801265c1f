//! The figures of a run, as one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;
use tidegate::Snapshot;

use super::time::millis;
use super::watch::Peaks;

/// Always `submitted = ok + error + skipped + cancelled` at the end of a run.
#[derive(Debug, Serialize)]
pub(super) struct Stats<'a> {
    v: u8,
    runtime: &'a str,
    io_threads: usize,
    finish_reason: &'a str,
    submitted: u64,
    ok: u64,
    error: u64,
    skipped: u64,
    cancelled: u64,
    retries: u64,
    status: &'a BTreeMap<u16, u64>,
    errors: &'a BTreeMap<&'static str, u64>,
    elapsed_s: f64,
    requests_per_second: f64,
    bytes: u64,
    in_flight_peak: u32,
    sockets_peak: u64,
    lag_ms: Lag,
    gate: Gate,
    parse: Parse,
    rss_bytes: u64,
    rss_peak_bytes: u64,
    fds_peak: u64,
    cpu_user_s: f64,
    cpu_system_s: f64,
    cpu_cores: f64,
    bound_by: Vec<Bound>,
    littles_law: Law,
    latency_ms: BTreeMap<&'static str, Quantiles>,
}

/// What kept the crawl from starting more: its code, its part of the run, and the time.
#[derive(Debug, Serialize)]
struct Bound {
    bound: &'static str,
    share: f64,
    seconds: f64,
}

/// L against lambda x W over the whole run.
#[derive(Debug, Serialize)]
struct Law {
    l: f64,
    lambda: f64,
    w_ms: f64,
    ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    count: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl From<tidegate::Latency> for Quantiles {
    fn from(latency: tidegate::Latency) -> Self {
        let of = latency.run;
        let (p50, p99, p999, max) = (millis(of.p50), millis(of.p99), millis(of.p999), millis(of.max));
        Self { count: of.count, p50, p99, p999, max }
    }
}

#[derive(Debug, Serialize)]
struct Lag {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Gate {
    closed_count: u64,
    closed_ms: f64,
}

#[derive(Debug, Serialize)]
struct Parse {
    queued_peak: u32,
    ms_p50: f64,
    ms_p99: f64,
}

impl<'a> Stats<'a> {
    pub(super) fn new(
        runtime: &'a str,
        io_threads: usize,
        finish_reason: &'a str,
        totals: &'a Snapshot,
        peaks: Peaks,
    ) -> Self {
        let counters = &totals.counters;
        let elapsed_s = totals.elapsed.as_secs_f64();
        let process = Process::read();
        Self {
            v: 1,
            runtime,
            io_threads,
            finish_reason,
            submitted: counters.submitted,
            ok: counters.ok,
            error: counters.error,
            skipped: counters.skipped,
            cancelled: counters.cancelled,
            retries: counters.retries,
            status: &totals.status,
            errors: &totals.errors,
            elapsed_s,
            requests_per_second: if elapsed_s > 0.0 { counters.starts as f64 / elapsed_s } else { 0.0 },
            bytes: totals.bytes,
            in_flight_peak: counters.in_flight_peak,
            sockets_peak: peaks.sockets,
            lag_ms: Lag {
                p50: millis(totals.lag.p50),
                p99: millis(totals.lag.p99),
                p999: millis(totals.lag.p999),
                max: millis(totals.lag.max),
            },
            gate: Gate { closed_count: totals.lag.gate_closed_count, closed_ms: millis(totals.lag.gate_closed) },
            parse: Parse {
                queued_peak: counters.parse_queued_peak,
                ms_p50: millis(totals.latency.parse.run.p50),
                ms_p99: millis(totals.latency.parse.run.p99),
            },
            rss_bytes: process.rss,
            rss_peak_bytes: process.rss_peak,
            fds_peak: peaks.descriptors,
            cpu_user_s: process.user_s,
            cpu_system_s: process.system_s,
            cpu_cores: if elapsed_s > 0.0 { (process.user_s + process.system_s) / elapsed_s } else { 0.0 },
            bound_by: totals
                .bounds
                .iter()
                .map(|of| Bound { bound: of.bound.code(), share: of.share, seconds: of.time.as_secs_f64() })
                .collect(),
            littles_law: Law {
                l: totals.littles_law.l,
                lambda: totals.littles_law.lambda,
                w_ms: millis(totals.littles_law.w),
                ratio: totals.littles_law.ratio,
            },
            latency_ms: latencies(&totals.latency),
        }
    }
}

fn latencies(of: &tidegate::Latencies) -> BTreeMap<&'static str, Quantiles> {
    let list = [
        ("queue", of.queue),
        ("local", of.local),
        ("dns", of.dns),
        ("connect", of.connect),
        ("tls", of.tls),
        ("first_byte", of.first_byte),
        ("body", of.body),
        ("total", of.total),
        ("parse", of.parse),
    ];
    list.into_iter().map(|(name, latency)| (name, latency.into())).collect()
}

/// What the kernel says about this process; zeros where there is no `/proc`.
#[derive(Debug, Default)]
struct Process {
    rss: u64,
    rss_peak: u64,
    user_s: f64,
    system_s: f64,
}

impl Process {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self::of(&status, &stat, rustix::param::clock_ticks_per_second())
    }

    fn of(status: &str, stat: &str, ticks_per_second: u64) -> Self {
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
        };
        // The second field is the name in parentheses, which may hold spaces; user and system time are 14 and 15.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_ascii_whitespace().collect();
        let seconds = |field: usize| {
            let ticks = fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            ticks / ticks_per_second.max(1) as f64
        };
        Self {
            rss: kilobytes("VmRSS") * 1024,
            rss_peak: kilobytes("VmHWM") * 1024,
            user_s: seconds(14),
            system_s: seconds(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let process = Process::of(status, stat, 100);
        assert_eq!((process.rss, process.rss_peak), (1 << 20, 2 << 20));
        assert_eq!((process.user_s, process.system_s), (2.5, 0.5));
        let nothing = Process::of("", "", 0);
        assert_eq!((nothing.rss, nothing.user_s), (0, 0.0));
    }
}
