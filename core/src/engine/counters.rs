//! Counters of a crawl, and what it was bound by.

use std::time::{Duration, Instant};

/// Counts of URLs and attempts. `submitted = ok + error + skipped + cancelled` once nothing is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// URLs that the engine was given.
    pub submitted: u64,
    /// Settled well.
    pub ok: u64,
    /// Settled with an error.
    pub error: u64,
    /// Settled without a fetch, or with an answer that was not wanted.
    pub skipped: u64,
    /// Ended by the shutdown.
    pub cancelled: u64,
    /// Attempts and hops that were started.
    pub starts: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Fetches in flight now.
    pub in_flight: u32,
    /// Fetches in flight at most.
    pub in_flight_peak: u32,
    /// Jobs that live now.
    pub jobs: u32,
    /// Pages that wait for a parse permit now.
    pub parse_queued: u32,
    /// And at most.
    pub parse_queued_peak: u32,
    /// Pages that are parsed now.
    pub parsing: u32,
}

/// What keeps a crawl from starting more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Bound {
    /// Nothing waits to be fetched.
    NoWork,
    /// Every host that has work must wait for its gap, its `Retry-After` or its rules.
    Politeness,
    /// Every host that has work is at its limit of connections.
    HostLimit,
    /// The limit over all hosts is reached, or still ramping up.
    GlobalLimit,
    /// The rate of the whole crawl.
    Rate,
    /// The loop lags.
    Lag,
    /// Pages wait for the parser.
    Parser,
    /// Items or outcomes wait for a sink.
    Sink,
    /// The frontier is behind with what the parsers found.
    Frontier,
    /// Bodies fill the byte budget.
    Bytes,
    /// Paused, or ending.
    Stopped,
}

impl Bound {
    /// All of them, in the order of this page.
    pub const ALL: [Self; 11] = [
        Self::NoWork,
        Self::Politeness,
        Self::HostLimit,
        Self::GlobalLimit,
        Self::Rate,
        Self::Lag,
        Self::Parser,
        Self::Sink,
        Self::Frontier,
        Self::Bytes,
        Self::Stopped,
    ];

    /// The name, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoWork => "no work",
            Self::Politeness => "politeness",
            Self::HostLimit => "host limit",
            Self::GlobalLimit => "global limit",
            Self::Rate => "rate",
            Self::Lag => "lag",
            Self::Parser => "parser",
            Self::Sink => "sink",
            Self::Frontier => "frontier",
            Self::Bytes => "bytes",
            Self::Stopped => "stopped",
        }
    }
}

/// The time spent under each bound, at a few instructions a change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BoundClock {
    now: Option<(Bound, Instant)>,
    spent: [Duration; Bound::ALL.len()],
}

impl BoundClock {
    pub(super) fn set(&mut self, bound: Bound, now: Instant) {
        if self.now.is_some_and(|(current, _)| current == bound) {
            return;
        }
        if let Some((current, since)) = self.now {
            self.spent[current as usize] += now.saturating_duration_since(since);
        }
        self.now = Some((bound, now));
    }

    pub(super) fn is(&self, bound: Bound) -> bool {
        self.now.is_some_and(|(current, _)| current == bound)
    }

    /// Counts no further.
    pub(crate) fn stop(&mut self, now: Instant) {
        if let Some((current, since)) = self.now.take() {
            self.spent[current as usize] += now.saturating_duration_since(since);
        }
    }

    /// Each bound with the time spent under it, the longest first.
    pub(crate) fn spent(&self, now: Instant) -> Vec<(Bound, Duration)> {
        let mut spent = self.spent;
        if let Some((current, since)) = self.now {
            spent[current as usize] += now.saturating_duration_since(since);
        }
        let mut list: Vec<_> = Bound::ALL.into_iter().zip(spent).filter(|(_, time)| !time.is_zero()).collect();
        list.sort_by_key(|(bound, time)| (std::cmp::Reverse(*time), *bound));
        list
    }
}
