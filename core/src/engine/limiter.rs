//! How many fetches may be in flight over all hosts: what this machine can bear.

use std::time::Instant;

use super::Bound;

/// Answers for each of which the limit grows by one, above what was too much before.
const SLOWLY: u32 = 32;

/// A limit that doubles every round trip up to where it was too much, grows by a part of itself every round trip above
/// that, and falls back once for each time that this machine had no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limiter {
    limit: u32,
    max: u32,
    floor: u32,
    /// Doubling ends there.
    threshold: u32,
    answers: u32,
    cut: Option<Instant>,
    /// What held the crawl back, and the limit that it had before.
    held: Option<(Bound, u32)>,
}

impl Limiter {
    pub(super) fn new(start: Option<u32>, max: u32, floor: u32) -> Self {
        let max = max.max(1);
        let limit = start.unwrap_or(max).clamp(1, max);
        Self { limit, max, floor: floor.clamp(1, max), threshold: max, answers: 0, cut: None, held: None }
    }

    pub(super) fn limit(self) -> u32 {
        self.limit
    }

    /// What the limit is so low for, where that is the reason.
    pub(super) fn held_by(self) -> Option<Bound> {
        self.held.map(|(bound, _)| bound)
    }

    pub(super) fn success(&mut self) {
        self.answers += 1;
        if self.limit < self.threshold || self.answers >= SLOWLY {
            self.answers = 0;
            self.limit = (self.limit + 1).min(self.max);
        }
        self.held = self.held.filter(|(_, before)| self.limit < *before);
    }

    /// This process or machine had no room for a fetch that began at `started` and one more than `in_flight`.
    pub(super) fn pressure(&mut self, started: Option<Instant>, now: Instant, in_flight: u32) {
        if self.cut.zip(started).is_some_and(|(cut, started)| started < cut) {
            return;
        }
        self.cut = Some(now);
        let lower = self.limit.min(in_flight) / 4 * 3;
        self.limit = self.limit.min(lower.max(self.floor));
        self.threshold = self.limit;
    }

    /// Begins again from what is in flight and the floor, so that what was held back does not come as a burst: and comes, where
    /// what is in flight does not end.
    pub(super) fn restart(&mut self, in_flight: u32, by: Option<Bound>) {
        let before = self.held.map_or(self.limit, |(_, before)| before);
        self.limit = self.limit.min(in_flight.saturating_add(self.floor));
        self.held = by.map(|by| (by, before)).filter(|_| self.limit < before);
    }
}
