//! [`Measured`]: what a run of a client gave, as it goes from process to process and into the JSON file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run of a client. Memory is in KB of 1,024 bytes, time in the unit of its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Measured {
    /// Requests that were answered whole.
    pub(crate) requests: u64,
    /// Requests that were not; a run with one is void.
    pub(crate) errors: u64,
    /// One of them.
    pub(crate) error: Option<String>,
    /// Bytes of bodies.
    pub(crate) bytes: u64,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// CPU time of the process meanwhile, user's and system's.
    pub(crate) cpu_seconds: f64,
    /// Resident memory before the first connection.
    pub(crate) rss_before_kb: u64,
    /// The most there was.
    pub(crate) rss_peak_kb: u64,
    /// When all was done, with the connections still there.
    pub(crate) rss_idle_kb: u64,
    /// Latencies, from the start of a request to its last byte.
    pub(crate) p50_ms: f64,
    /// 99 of 100.
    pub(crate) p99_ms: f64,
    /// 999 of 1,000.
    pub(crate) p999_ms: f64,
    /// How late a ticker of 2 ms on the thread of the client was, where there was one.
    pub(crate) lag: Option<Lag>,
    /// What was seen from outside, by name: `waiting_kb`, `open_seconds`, `server_cpu_share` ..
    pub(crate) seen: BTreeMap<String, f64>,
}

/// Lateness in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lag {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Measured {
    /// CPU time a request, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.requests.max(1) as f64
    }

    /// Memory that its connections took while they waited, all together.
    pub(crate) fn waiting_kb(&self) -> Option<f64> {
        self.seen.get("waiting_kb").copied()
    }
}

impl Measured {
    /// Processes that worked at the same time, as one: sums of what is used, the worst of what is late.
    pub(crate) fn together(runs: Vec<Self>) -> Self {
        let mut runs = runs.into_iter();
        let first = runs.next().unwrap_or_default();
        runs.fold(first, |mut all, run| {
            all.requests += run.requests;
            all.errors += run.errors;
            all.error = all.error.or(run.error);
            all.bytes += run.bytes;
            all.seconds = all.seconds.max(run.seconds);
            all.cpu_seconds += run.cpu_seconds;
            all.rss_before_kb += run.rss_before_kb;
            all.rss_peak_kb += run.rss_peak_kb;
            all.rss_idle_kb += run.rss_idle_kb;
            all.p50_ms = all.p50_ms.max(run.p50_ms);
            all.p99_ms = all.p99_ms.max(run.p99_ms);
            all.p999_ms = all.p999_ms.max(run.p999_ms);
            all.lag = match (all.lag, run.lag) {
                (Some(a), Some(b)) => Some(a.worse_of(b)),
                (a, b) => a.or(b),
            };
            for (name, value) in run.seen {
                let seen = all.seen.entry(name.clone()).or_default();
                // What belongs to the machine, and what goes on at the same time, is no sum.
                *seen = if WORST.contains(&name.as_str()) { seen.max(value) } else { *seen + value };
            }
            all
        })
    }
}

const WORST: [&str; 3] = ["kernel_kb", "littles_law", "open_seconds"];

impl Lag {
    fn worse_of(self, other: Self) -> Self {
        Self {
            p50_ms: self.p50_ms.max(other.p50_ms),
            p99_ms: self.p99_ms.max(other.p99_ms),
            p999_ms: self.p999_ms.max(other.p999_ms),
            max_ms: self.max_ms.max(other.max_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_at_the_same_time_are_summed_where_that_makes_sense() {
        let run = |seconds, open| Measured {
            requests: 10,
            seconds,
            cpu_seconds: 1.0,
            lag: Some(Lag { max_ms: seconds, ..Lag::default() }),
            seen: [("waiting_kb".to_owned(), 5.0), ("open_seconds".to_owned(), open)].into(),
            ..Measured::default()
        };
        let all = Measured::together(vec![run(2.0, 7.0), run(3.0, 4.0)]);
        assert_eq!((all.requests, all.seconds, all.cpu_seconds), (20, 3.0, 2.0));
        assert_eq!(all.lag.map(|lag| lag.max_ms), Some(3.0));
        assert_eq!((all.seen["waiting_kb"], all.seen["open_seconds"]), (10.0, 7.0));
        assert_eq!(all.cpu_us(), 1e5);
    }

    #[test]
    fn a_program_in_another_language_may_leave_out_what_it_does_not_know() {
        let run: Measured = serde_json::from_str(r#"{"requests": 3, "cpu_seconds": 0.5}"#).expect("JSON");
        assert_eq!((run.requests, run.cpu_seconds, run.lag), (3, 0.5, None));
    }
}
