//! What a crawl is bound by, and for how long.

use std::time::{Duration, Instant};

/// What keeps a crawl from starting more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Bound {
    /// Nothing waits to be fetched.
    NoWork,
    /// Every host that has work must wait for its gap, its `Retry-After`, its rules or its address.
    Politeness,
    /// Every host that has work is at its limit of connections.
    HostLimit,
    /// Hosts that have work fail, and are left alone but for a probe now and then.
    Breaker,
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
    /// The memory of this process or of its container is nearly used up.
    Memory,
    /// No descriptor is free for another socket.
    Descriptors,
    /// Fetches wait for a port: all those from our addresses to their destinations are in use.
    Ports,
    /// Hosts wait for their lookup.
    Dns,
    /// A load signal of the embedder's own.
    Signal,
    /// Paused, or ending.
    Stopped,
}

impl Bound {
    /// All of them, in the order of this page.
    pub const ALL: [Self; 17] = [
        Self::NoWork,
        Self::Politeness,
        Self::HostLimit,
        Self::Breaker,
        Self::GlobalLimit,
        Self::Rate,
        Self::Lag,
        Self::Parser,
        Self::Sink,
        Self::Frontier,
        Self::Bytes,
        Self::Memory,
        Self::Descriptors,
        Self::Ports,
        Self::Dns,
        Self::Signal,
        Self::Stopped,
    ];

    /// The name, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoWork => "no work",
            Self::Politeness => "politeness",
            Self::HostLimit => "host limit",
            Self::Breaker => "breaker",
            Self::GlobalLimit => "global limit",
            Self::Rate => "rate",
            Self::Lag => "lag",
            Self::Parser => "parser",
            Self::Sink => "sink",
            Self::Frontier => "frontier",
            Self::Bytes => "bytes",
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
            Self::Ports => "ports",
            Self::Dns => "dns",
            Self::Signal => "signal",
            Self::Stopped => "stopped",
        }
    }

    /// The stable name, for machines: the one in words, in lower case and with underscores.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoWork => "no_work",
            Self::HostLimit => "host_limit",
            Self::GlobalLimit => "global_limit",
            other => other.name(),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Bound {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// A set of bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BoundSet(u32);

impl BoundSet {
    pub(crate) fn set(&mut self, bound: Bound, member: bool) {
        let bit = 1 << bound as u32;
        self.0 = if member { self.0 | bit } else { self.0 & !bit };
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first in the order of [`Bound::ALL`].
    pub(crate) fn first(self) -> Option<Bound> {
        Bound::ALL.get(self.0.trailing_zeros() as usize).copied()
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

    /// The bound of this moment.
    pub(crate) fn current(&self) -> Option<Bound> {
        self.now.map(|(bound, _)| bound)
    }

    /// The time spent under each bound, in the order of [`Bound::ALL`].
    pub(crate) fn totals(&self, now: Instant) -> [Duration; Bound::ALL.len()] {
        let mut spent = self.spent;
        if let Some((current, since)) = self.now {
            spent[current as usize] += now.saturating_duration_since(since);
        }
        spent
    }

    /// Each bound with the time spent under it, the longest first.
    pub(crate) fn spent(&self, now: Instant) -> Vec<(Bound, Duration)> {
        let mut list: Vec<_> =
            Bound::ALL.into_iter().zip(self.totals(now)).filter(|(_, time)| !time.is_zero()).collect();
        list.sort_by_key(|(bound, time)| (std::cmp::Reverse(*time), *bound));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_for_machines() {
        for bound in Bound::ALL {
            assert_eq!(bound.code(), bound.name().to_lowercase().replace(' ', "_"));
        }
    }
}
