//! [`Figure`]: a column of a table, and where its number comes from.

use crate::case::Case;
use crate::measured::{Lag, Measured};

/// What is told of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// CPU time a request.
    CpuUs,
    /// CPU time of the run, of the time it took.
    CpuShare,
    /// Memory of a connection while all wait.
    WaitingKb,
    /// The most memory there was, for each connection.
    PeakKb,
    /// Memory of a connection that is idle afterwards.
    IdleKb,
    /// The most memory of the process.
    PeakMb,
    P50,
    P99,
    P999,
    LagP50,
    LagP99,
    LagP999,
    LagMax,
    /// Requests a second.
    Rate,
    /// Seconds from when the last request was due, at the rate, to the last answer.
    Behind,
    /// CPU time of the fetch thread, of the time it took.
    ThreadShare,
    /// Answers.
    Pages,
    /// Bytes of bodies.
    Megabytes,
    /// CPU time of the server, of the time it took: at 100 % it is the server that is measured.
    ServerShare,
    /// What somebody else has seen, by its name in [`Measured::seen`].
    Seen(&'static str),
}

impl Figure {
    /// The head of its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuUs => "CPU us/request",
            Self::CpuShare => "CPU %",
            Self::WaitingKb => "KB each, waiting",
            Self::PeakKb => "KB each, peak",
            Self::IdleKb => "KB each, idle",
            Self::PeakMb => "peak MB",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::P999 => "p99.9 ms",
            Self::LagP50 => "lag p50 ms",
            Self::LagP99 => "lag p99 ms",
            Self::LagP999 => "lag p99.9 ms",
            Self::LagMax => "lag max ms",
            Self::Rate => "requests/s",
            Self::Behind => "s after the last was due",
            Self::ThreadShare => "fetch thread CPU %",
            Self::Pages => "pages",
            Self::Megabytes => "MB",
            Self::ServerShare => "server CPU %",
            Self::Seen("waiting_cpu_share") => "CPU %, waiting",
            Self::Seen("open_seconds") => "s to open",
            Self::Seen("kernel_kb") => "kernel KB each",
            Self::Seen("in_flight") => "in flight",
            Self::Seen("littles_law") => "in flight / (rate x time)",
            Self::Seen("gate_closed") => "gate closed",
            Self::Seen(name) => name,
        }
    }

    /// The number of a run; `None` where it has none.
    pub(crate) fn of(self, run: &Measured, case: &Case) -> Option<f64> {
        let connections = f64::from(case.work.concurrency.max(1) * case.processes.max(1));
        let above = |kb: u64| kb.saturating_sub(run.rss_before_kb) as f64 / connections;
        let lag = |of: fn(&Lag) -> f64| run.lag.as_ref().map(of);
        let worked = run.requests > 0;
        match self {
            Self::CpuUs => worked.then(|| run.cpu_us()),
            Self::CpuShare => Some(run.cpu_seconds / run.seconds * 100.0),
            Self::WaitingKb => run.waiting_kb().map(|kb| kb / connections),
            Self::PeakKb => worked.then(|| above(run.rss_peak_kb)),
            Self::IdleKb => worked.then(|| above(run.rss_idle_kb)),
            Self::PeakMb => Some(run.rss_peak_kb as f64 / 1024.0),
            Self::P50 => worked.then_some(run.p50_ms),
            Self::P99 => worked.then_some(run.p99_ms),
            Self::P999 => worked.then_some(run.p999_ms),
            Self::LagP50 => lag(|lag| lag.p50_ms),
            Self::LagP99 => lag(|lag| lag.p99_ms),
            Self::LagP999 => lag(|lag| lag.p999_ms),
            Self::LagMax => lag(|lag| lag.max_ms),
            Self::Rate => worked.then(|| run.requests as f64 / run.seconds),
            Self::Behind => {
                case.work.rate.map(|rate| run.seconds - case.work.requests as f64 / rate).filter(|_| worked)
            }
            Self::ThreadShare => run.seen.get("thread_cpu_seconds").map(|cpu| cpu / run.seconds * 100.0),
            Self::Pages => Some(run.requests as f64),
            Self::Megabytes => worked.then(|| run.bytes as f64 / 1e6),
            Self::ServerShare => run.seen.get("server_cpu_seconds").map(|cpu| cpu / run.seconds * 100.0),
            Self::Seen(name) => run.seen.get(name).copied(),
        }
    }
}
