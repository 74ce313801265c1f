//! Whether a host answers at all.

use std::time::{Duration, Instant};

use crate::time::later;

/// A circuit breaker: closed while the host answers, open while it is left alone but for a probe now and then (Nygard,
/// "Release It!", 2007). Another probe does not wait for the end of the one before, which may hang.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circuit {
    is_open: bool,
    /// No further probe before.
    next_probe: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// Since when, and how many of them were probes.
    since: Option<Instant>,
    probes: u32,
    backoff: Duration,
    /// What was started before the last opening says nothing new.
    opened: Option<Instant>,
    /// Opened by failures, and not by what the host asked for.
    tripped: bool,
}

impl Circuit {
    pub(super) fn is_closed(&self) -> bool {
        !self.is_open
    }

    /// Not closed, because of failures.
    pub(super) fn is_tripped(&self) -> bool {
        !self.is_closed() && self.tripped
    }

    /// Whether a fetch may start beside so many in flight: `limit` of them while closed; while open a probe, beside what
    /// is left from before, of which there are fewer than `most`.
    pub(super) fn admits(&self, in_flight: u32, limit: u32, most: u32) -> bool {
        in_flight < if self.is_closed() { limit } else { most }
    }

    /// A fetch was started.
    pub(super) fn started(&mut self, now: Instant) {
        if self.is_open {
            self.next_probe = Some(later(now, self.backoff));
        }
    }

    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.next_probe
    }

    /// The host has answered a fetch that started then. Whether that closed it: what began before it was opened says
    /// nothing about the host as it is now.
    pub(super) fn answered(&mut self, started: Instant) -> bool {
        let closes = self.is_probe(started);
        if closes || self.is_closed() {
            *self = Self { opened: self.opened, ..Self::default() };
        }
        closes
    }

    /// Whether a fetch that was started then is a probe.
    pub(super) fn is_probe(&self, started: Instant) -> bool {
        self.is_open && self.is_after_last(started)
    }

    pub(super) fn failed(&mut self, now: Instant, was_probe: bool) {
        self.failures = self.failures.saturating_add(1);
        self.since.get_or_insert(now);
        self.probes += u32::from(was_probe);
    }

    pub(super) fn open(&mut self, now: Instant, backoff: Duration, tripped: bool) {
        // A host that was dead and now asks for a pause is alive; and the other way round.
        *self = Self { is_open: true, next_probe: None, backoff, opened: Some(now), tripped, ..*self };
    }

    /// Whether a fetch was started since it was opened last.
    pub(super) fn is_after_last(&self, started: Instant) -> bool {
        self.opened.is_none_or(|opened| started >= opened)
    }

    /// Whether these failures are more than a few pages that are broken: so many in a row, over some time.
    pub(super) fn trips(&self, now: Instant, failures: u32, time: Duration) -> bool {
        self.failures >= failures.max(1) && self.lasts(now) >= time
    }

    /// Whether it has failed this often, its first failure and probes, and for this long.
    pub(super) fn is_over(&self, now: Instant, tries: u32, patience: Duration) -> bool {
        self.probes.saturating_add(1) >= tries && self.lasts(now) >= patience
    }

    fn lasts(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(super) fn backoff(&self) -> Duration {
        self.backoff
    }
}
