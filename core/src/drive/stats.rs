//! What a crawl counts, as the driver writes it and everybody else reads it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use super::lag_probe::LagSnapshot;
use super::latency::{Latencies, Tracks};
use super::stall::push_bounded;
use super::tally::{Ended, Tally};
use super::window::{HALF, Recent, Sums, Window};
use crate::Booked;
use crate::engine::{Bound, BoundClock, Counters, Engine, InFlight, LittlesLaw};
use crate::{GateEvent, Stall, StallCause};

/// What is published: written by the driver at the end of each of its turns, in one piece, and read by everybody.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    totals: Totals,
    status: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    skipped: BTreeMap<&'static str, u64>,
    counts: BTreeMap<&'static str, u64>,
    items: u64,
    links: u64,
    bytes: u64,
    bytes_in_memory_peak: u64,
    started: Instant,
    /// When the run ended; its figures stand still then.
    stopped: Option<Instant>,
    tracks: Box<Tracks>,
    window: Window,
    /// Marks since half of a window was over.
    marks: u32,
    stalls: BTreeMap<&'static str, u64>,
    stalls_untold: u64,
    recent_stalls: VecDeque<Stall>,
    recent_gates: VecDeque<GateEvent>,
}

/// What the last window needs at each of its marks.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    counters: Counters,
    bytes_wire: u64,
    /// Fetches that ended, and how long they took together.
    ended: u64,
    took: Duration,
    bound: BoundClock,
    in_flight: InFlight,
}

impl Totals {
    /// The sums at a time since which, or until which, nothing happened but what was published.
    fn sums(&self, at: Instant, cpu: Option<(Instant, Duration)>) -> Sums {
        let c = &self.counters;
        Sums {
            at,
            starts: c.starts,
            settled: c.ok + c.error + c.skipped + c.cancelled,
            bytes_wire: self.bytes_wire,
            ended: self.ended,
            took: self.took,
            area: self.in_flight.area(at),
            bounds: self.bound.totals(at),
            cpu,
        }
    }

    /// Little's law from the start to `now`.
    fn law(&self, now: Instant, started: Instant) -> LittlesLaw {
        let in_flight = u64::try_from(self.in_flight.area(now)).unwrap_or(u64::MAX);
        let time = now.saturating_duration_since(started);
        LittlesLaw::over(time, Duration::from_nanos(in_flight), self.ended, self.took)
    }
}

impl Stats {
    /// `cpu` is the CPU time of the process until now.
    pub(super) fn new(now: Instant, window: Duration, cpu: Option<Duration>) -> Self {
        let totals = Totals::default();
        let start = totals.sums(now, cpu.map(|cpu| (now, cpu)));
        Self {
            totals,
            status: BTreeMap::new(),
            errors: BTreeMap::new(),
            skipped: BTreeMap::new(),
            counts: BTreeMap::new(),
            items: 0,
            links: 0,
            bytes: 0,
            bytes_in_memory_peak: 0,
            started: now,
            stopped: None,
            tracks: Box::new(Tracks::new()),
            window: Window::new(window, start),
            marks: 0,
            stalls: BTreeMap::new(),
            stalls_untold: 0,
            recent_stalls: VecDeque::new(),
            recent_gates: VecDeque::new(),
        }
    }

    /// Takes in what happened in a turn that ends now.
    pub(super) fn publish(
        &mut self,
        now: Instant,
        engine: &Engine,
        tally: &mut Tally,
        bytes_in_memory: u64,
        cpu: impl FnOnce() -> Option<Duration>,
    ) {
        self.pass(now, cpu);
        for timings in tally.fetched.drain(..) {
            self.tracks.fetched(&timings);
            self.totals.ended += 1;
            self.totals.took += timings.total.unwrap_or_default();
        }
        for took in tally.parsed.drain(..) {
            self.tracks.parsed(took);
        }
        for ended in tally.settled.drain(..) {
            self.settled(&ended);
        }
        for (name, n) in tally.counts.drain(..) {
            *self.counts.entry(name).or_default() += n;
        }
        self.totals.counters = engine.counters();
        self.totals.bound = engine.bound_clock();
        self.totals.in_flight = engine.in_flight();
        self.bytes_in_memory_peak = self.bytes_in_memory_peak.max(bytes_in_memory);
    }

    fn settled(&mut self, ended: &Ended) {
        if let Some(code) = ended.error {
            *self.errors.entry(code).or_default() += 1;
        }
        if let Some(code) = ended.skipped {
            *self.skipped.entry(code).or_default() += 1;
        }
        if let Some(status) = ended.status {
            *self.status.entry(status).or_default() += 1;
        }
        self.items += ended.items;
        self.links += ended.links;
        self.bytes += ended.bytes;
        self.totals.bytes_wire += ended.bytes_wire;
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

    /// The run has ended.
    pub(super) fn stop(&mut self, now: Instant) {
        self.totals.bound.stop(now);
        self.stopped.get_or_insert(now);
    }

    /// Time passed, and nothing else.
    fn pass(&mut self, now: Instant, cpu: impl FnOnce() -> Option<Duration>) {
        if !self.window.is_due(now) {
            return;
        }
        let cpu = cpu().map(|cpu| (now, cpu));
        let passed = self.window.mark(now, |at| self.totals.sums(at, cpu));
        self.marks = self.marks.saturating_add(passed);
        // Two halves are all that is kept.
        for _ in 0..(self.marks / HALF).min(2) {
            self.tracks.turn();
        }
        self.marks %= HALF;
    }

    /// What there is to say at `now`. `booked` is given, because it changes on other threads too.
    pub(super) fn snapshot(
        &mut self,
        now: Instant,
        lag: LagSnapshot,
        booked: Booked,
        cpu: impl Fn() -> Option<Duration>,
    ) -> Snapshot {
        let now = self.stopped.unwrap_or(now);
        self.pass(now, &cpu);
        let sums = self.totals.sums(now, cpu().map(|cpu| (now, cpu)));
        let latency = self.tracks.latencies();
        Snapshot {
            elapsed: now.saturating_duration_since(self.started),
            counters: self.totals.counters,
            status: self.status.clone(),
            errors: self.errors.clone(),
            skipped: self.skipped.clone(),
            counts: self.counts.clone(),
            items: self.items,
            links: self.links,
            bytes: self.bytes,
            bytes_wire: self.totals.bytes_wire,
            bytes_in_memory: booked.body_bytes.now,
            bytes_in_memory_peak: self.bytes_in_memory_peak,
            booked,
            latency,
            lag,
            bounds: BoundShare::list(sums.bounds, self.window.bounds(&sums)),
            bound_now: self.totals.bound.current(),
            recent: self.window.recent(&sums),
            littles_law: self.totals.law(now, self.started),
            stalls: self.stalls.clone(),
            stalls_untold: self.stalls_untold,
            recent_stalls: self.recent_stalls.iter().cloned().collect(),
            recent_gates: self.recent_gates.iter().cloned().collect(),
        }
    }
}

/// For how long something kept the crawl from starting more.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BoundShare {
    /// What it was.
    pub bound: Bound,
    /// For how long in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub time: Duration,
    /// Its part of the whole run, from 0 to 1.
    pub share: f64,
    /// Its part of the last window, from 0 to 1.
    pub recent: f64,
}

impl BoundShare {
    /// Those with any time, the longest first.
    fn list(run: [Duration; Bound::ALL.len()], recent: [Duration; Bound::ALL.len()]) -> Vec<Self> {
        let part = |of: Duration, all: Duration| if all.is_zero() { 0.0 } else { of.as_secs_f64() / all.as_secs_f64() };
        let (all, all_recent) = (run.iter().sum(), recent.iter().sum());
        let shares = Bound::ALL.into_iter().zip(run).zip(recent).filter(|((_, time), _)| !time.is_zero());
        let mut list: Vec<_> = shares
            .map(|((bound, time), recent)| Self {
                bound,
                time,
                share: part(time, all),
                recent: part(recent, all_recent),
            })
            .collect();
        list.sort_by_key(|share| (std::cmp::Reverse(share.time), share.bound));
        list
    }
}

/// The state of a crawl at a moment.
///
/// All of it but `lag`, `booked` and `bytes_in_memory` is of one publication of the driver, which publishes at the end of each of
/// its turns, every 500 us while it has work: at every moment
/// `submitted = ok + error + skipped + cancelled + jobs`.
///
/// With the feature `serde` it can be serialised: durations are seconds as floating-point numbers, bounds are their
/// [codes](Bound::code), and the names are those of the fields.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// Since the start, or from the start to the end.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
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
    /// Sockets, ports, handshakes, lookups and bytes of bodies that are booked now, each with its limit.
    pub booked: Booked,
    /// How long each part of an attempt took, and decoding and parsing.
    pub latency: Latencies,
    /// Lag of the loop.
    pub lag: LagSnapshot,
    /// What kept the crawl from starting more, and for how long; the longest over the whole run first.
    pub bounds: Vec<BoundShare>,
    /// What keeps it from starting more at this moment. It may change a thousand times a second: see
    /// [`bound_by`](Self::bound_by).
    pub bound_now: Option<Bound>,
    /// Rates and more of the last window.
    pub recent: Recent,
    /// Whether over the whole run what was in flight is what ended times how long it took.
    pub littles_law: LittlesLaw,
    /// Times in which the loop stood still for longer than the limit of lag, by the code of their cause.
    pub stalls: BTreeMap<&'static str, u64>,
    /// Of those, the ones that were not told, since there were too many a second.
    pub stalls_untold: u64,
    /// The last 16 that were told, the oldest first.
    pub recent_stalls: Vec<Stall>,
    /// The last 16 times that a signal shut the gate or opened it, the oldest first.
    pub recent_gates: Vec<GateEvent>,
}

impl Snapshot {
    /// Why the crawl is not faster: what kept it from starting more for the largest part of the last window. Nothing before
    /// the first turn.
    pub fn bound_by(&self) -> Option<BoundShare> {
        let recent = |share: &&BoundShare| share.recent > 0.0;
        self.bounds
            .iter()
            .filter(recent)
            .max_by(|a, b| a.recent.total_cmp(&b.recent))
            .or_else(|| self.bounds.first())
            .copied()
    }
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

/// Bounds that a report names.
const BOUNDS_TOLD: usize = 3;

/// As in `host limit 82 %`: its part of the whole run.
impl fmt::Display for BoundShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.0} %", self.bound.name(), self.share * 100.0)
    }
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
        // What is below a hundredth would not help anybody.
        let told = |share: &&BoundShare| share.bound != Bound::Stopped && share.share >= 0.01;
        let bounds: Vec<_> = t.bounds.iter().filter(told).take(BOUNDS_TOLD).map(ToString::to_string).collect();
        if !bounds.is_empty() {
            write!(f, "; bound by {}", bounds.join(", "))?;
        }
        Ok(())
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
