//! What a crawl counts, as the driver writes it and everybody else reads it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::lag_probe::LagSnapshot;
use super::stall::{GateEvent, Stall, StallCause, push_bounded};
use crate::engine::{Bound, BoundClock, Counters};
use crate::{Outcome, Settled};

/// Counters that only grow, kept by the driver.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    pub(super) counters: Counters,
    pub(super) status: BTreeMap<u16, u64>,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) skipped: BTreeMap<&'static str, u64>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) items: u64,
    pub(super) links: u64,
    pub(super) bytes: u64,
    pub(super) bytes_wire: u64,
    pub(super) bytes_in_memory_peak: u64,
    pub(super) parse: Histogram<u64>,
    pub(super) bound: BoundClock,
    stalls: BTreeMap<&'static str, u64>,
    stalls_untold: u64,
    recent_stalls: VecDeque<Stall>,
    recent_gates: VecDeque<GateEvent>,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            counters: Counters::default(),
            status: BTreeMap::new(),
            errors: BTreeMap::new(),
            skipped: BTreeMap::new(),
            counts: BTreeMap::new(),
            items: 0,
            links: 0,
            bytes: 0,
            bytes_wire: 0,
            bytes_in_memory_peak: 0,
            parse: Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds are valid"),
            bound: BoundClock::default(),
            stalls: BTreeMap::new(),
            stalls_untold: 0,
            recent_stalls: VecDeque::new(),
            recent_gates: VecDeque::new(),
        }
    }

    pub(super) fn settled(&mut self, settled: &Settled) {
        match &settled.outcome {
            Outcome::Error(error) => *self.errors.entry(error.kind().code()).or_default() += 1,
            Outcome::Skipped(reason) => *self.skipped.entry(reason.code()).or_default() += 1,
            Outcome::Ok | Outcome::Cancelled => {}
        }
        if let Some(status) = settled.status {
            *self.status.entry(status.as_u16()).or_default() += 1;
        }
        self.items += settled.items;
        self.links += settled.links;
        self.bytes += settled.bytes;
        self.bytes_wire += settled.bytes_wire;
    }

    pub(super) fn stall(&mut self, cause: StallCause, untold: bool) {
        *self.stalls.entry(cause.code()).or_default() += 1;
        self.stalls_untold += u64::from(untold);
    }

    pub(super) fn keep_stall(&mut self, stall: Stall) {
        push_bounded(&mut self.recent_stalls, stall);
    }

    pub(super) fn keep_gate(&mut self, event: GateEvent) {
        push_bounded(&mut self.recent_gates, event);
    }

    /// `bytes_in_memory` is given, because bodies are given back on the parsers' threads.
    pub(super) fn snapshot(&self, now: Instant, elapsed: Duration, lag: LagSnapshot, bytes_in_memory: u64) -> Snapshot {
        let parse = |part| Duration::from_micros(self.parse.value_at_quantile(part));
        Snapshot {
            elapsed,
            counters: self.counters,
            status: self.status.clone(),
            errors: self.errors.clone(),
            skipped: self.skipped.clone(),
            counts: self.counts.clone(),
            items: self.items,
            links: self.links,
            bytes: self.bytes,
            bytes_wire: self.bytes_wire,
            bytes_in_memory,
            bytes_in_memory_peak: self.bytes_in_memory_peak,
            parse_p50: parse(0.5),
            parse_p99: parse(0.99),
            lag,
            bound_by: self.bound.spent(now),
            stalls: self.stalls.clone(),
            stalls_untold: self.stalls_untold,
            recent_stalls: self.recent_stalls.iter().cloned().collect(),
            recent_gates: self.recent_gates.iter().cloned().collect(),
        }
    }
}

/// The state of a crawl at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Since the start.
    pub elapsed: Duration,
    /// URLs by outcome, attempts, what is in flight.
    pub counters: Counters,
    /// Settled URLs by the status of their last answer.
    pub status: BTreeMap<u16, u64>,
    /// Failed URLs by the code of their error.
    pub errors: BTreeMap<&'static str, u64>,
    /// Skipped URLs by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Counters of the parsers' own.
    pub counts: BTreeMap<&'static str, u64>,
    /// Items that the sink took.
    pub items: u64,
    /// Links that the parsers found.
    pub links: u64,
    /// Bytes of decoded bodies.
    pub bytes: u64,
    /// Bytes of bodies on the wire.
    pub bytes_wire: u64,
    /// Bytes of bodies that are booked now, in steps of 64 KiB a body: what the byte budget is compared with. 0 once
    /// the crawl has ended and its last parser has.
    pub bytes_in_memory: u64,
    /// Bytes of bodies in memory at most.
    pub bytes_in_memory_peak: u64,
    /// Half of the pages took no longer to decode and parse.
    pub parse_p50: Duration,
    /// 99 of 100.
    pub parse_p99: Duration,
    /// Lag of the loop.
    pub lag: LagSnapshot,
    /// What kept the crawl from starting more, and for how long; the longest first.
    pub bound_by: Vec<(Bound, Duration)>,
    /// Times in which the loop stood still for longer than the limit of lag, by the code of their cause.
    pub stalls: BTreeMap<&'static str, u64>,
    /// Of those, the ones that were not told, since there were too many a second.
    pub stalls_untold: u64,
    /// The last 16 that were told, the oldest first.
    pub recent_stalls: Vec<Stall>,
    /// The last 16 times that a signal shut the gate or opened it, the oldest first.
    pub recent_gates: Vec<GateEvent>,
}

/// What a host has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostSnapshot {
    /// Its origin.
    pub origin: String,
    /// URLs of it that are under way, waiting ones included.
    pub jobs: u32,
    /// Of those, in flight.
    pub in_flight: u32,
    /// How long it must wait before the next start.
    pub wait: Duration,
}

/// Why a crawl ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// Nothing was left to do.
    Done,
    /// As many pages as allowed were started.
    MaxPages,
    /// The time was over.
    MaxTime,
    /// A parser asked for the end.
    Stopped,
    /// The embedder asked for the end.
    Shutdown,
}

impl FinishReason {
    /// The stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::MaxPages => "max_pages",
            Self::MaxTime => "max_time",
            Self::Stopped => "stopped",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What became of a crawl; prints as a few lines for a human.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The name of the set of defaults.
    pub profile: &'static str,
    /// The name of the runtime.
    pub runtime: &'static str,
    /// Everything that was counted.
    pub totals: Snapshot,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (t, c) = (&self.totals, &self.totals.counters);
        let seconds = t.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { (c.ok + c.error) as f64 / seconds } else { 0.0 };
        writeln!(
            f,
            "{}: {} URLs in {seconds:.1} s ({rate:.0}/s, profile {}, {}): {} ok, {} error, {} skipped, {} cancelled",
            self.finish_reason.code(),
            c.submitted,
            self.profile,
            self.runtime,
            c.ok,
            c.error,
            c.skipped,
            c.cancelled
        )?;
        writeln!(f, "items {}, links {}, bytes {}, retries {}", t.items, t.links, t.bytes, c.retries)?;
        for (name, map) in [("errors", &t.errors), ("skipped", &t.skipped), ("counts", &t.counts)] {
            if !map.is_empty() {
                let list: Vec<_> = map.iter().map(|(key, n)| format!("{key} {n}")).collect();
                writeln!(f, "{name}: {}", list.join(", "))?;
            }
        }
        write!(f, "lag p99 {:.1} ms, max {:.1} ms", ms(t.lag.p99), ms(t.lag.max))?;
        let bound = t.bound_by.iter().find(|(bound, _)| *bound != Bound::Stopped);
        if let Some((bound, time)) = bound {
            write!(f, "; bound by {} for {:.1} s", bound.name(), time.as_secs_f64())?;
        }
        Ok(())
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
