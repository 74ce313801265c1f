//! [`Meter`]: what a client writes down of itself.

use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tidegate_benches::{Lateness, now, process_cpu_time, thread_cpu_time};

use crate::measured::{Lag, Measured};
use crate::process::Process;

/// What a client says on a line of its own when it is ready and the clock runs.
pub(crate) const BEGIN: &str = "begin";

/// Counts requests from [`begin`](Self::begin) on. One lock, which nobody else wants.
pub(crate) struct Meter {
    begun: Instant,
    cpu: Duration,
    thread_cpu: Duration,
    rss_before_kb: u64,
    counted: Mutex<Counted>,
}

struct Counted {
    latencies: Histogram<u64>,
    bytes: u64,
    errors: u64,
    error: Option<String>,
}

impl Meter {
    /// The client is made and has not connected yet.
    pub(crate) fn begin() -> io::Result<Self> {
        // From a microsecond to five minutes.
        let latencies = Histogram::new_with_bounds(1, 300_000_000, 3).map_err(io::Error::other)?;
        let rss_before_kb = Process::this().memory()?.now_kb;
        let mut out = io::stdout().lock();
        writeln!(out, "{BEGIN}")?;
        out.flush()?;
        let counted = Mutex::new(Counted { latencies, bytes: 0, errors: 0, error: None });
        let (cpu, thread_cpu) = (process_cpu_time(), thread_cpu_time());
        Ok(Self { begun: now(), cpu, thread_cpu, rss_before_kb, counted })
    }

    /// A request that was begun at `since` is answered with a body of so many bytes.
    pub(crate) fn answered(&self, since: Instant, bytes: usize) {
        self.took(now().saturating_duration_since(since), bytes as u64);
    }

    /// A request was answered after so long.
    pub(crate) fn took(&self, time: Duration, bytes: u64) {
        let mut counted = self.counted();
        counted.latencies.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        counted.bytes += bytes;
    }

    /// A request was not answered; the first one is told at once.
    pub(crate) fn failed(&self, why: impl ToString) {
        let mut counted = self.counted();
        counted.errors += 1;
        counted.error.get_or_insert_with(|| {
            let why = why.to_string();
            // At once: whoever waits for all requests at the gate waits no longer. Where nobody listens it is in the report.
            let _ = writeln!(io::stdout().lock(), "failed: {why}");
            why
        });
    }

    /// The last request has ended. To be called on the thread that began.
    pub(crate) fn end(&self) -> Measured {
        let (seconds, cpu) = (now().saturating_duration_since(self.begun), process_cpu_time().saturating_sub(self.cpu));
        let thread = thread_cpu_time().saturating_sub(self.thread_cpu);
        let counted = self.counted();
        let at = |quantile| counted.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Measured {
            requests: counted.latencies.len(),
            errors: counted.errors,
            error: counted.error.clone(),
            bytes: counted.bytes,
            seconds: seconds.as_secs_f64(),
            cpu_seconds: cpu.as_secs_f64(),
            rss_before_kb: self.rss_before_kb,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            seen: [("thread_cpu_seconds".to_owned(), thread.as_secs_f64())].into(),
            ..Measured::default()
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down the memory that is left when all is done, and says all of it.
pub(crate) fn report(mut measured: Measured) -> io::Result<()> {
    let memory = Process::this().memory()?;
    measured.rss_idle_kb = memory.now_kb;
    measured.rss_peak_kb = memory.peak_kb;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&measured)?)?;
    out.flush()
}

impl From<Lateness> for Lag {
    fn from(lateness: Lateness) -> Self {
        let Lateness { p50, p99, p999, max, .. } = lateness;
        Self { p50_ms: p50, p99_ms: p99, p999_ms: p999, max_ms: max }
    }
}
