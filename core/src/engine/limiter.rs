//! How many fetches may be in flight over all hosts: what this machine can bear.

use std::time::{Duration, Instant};

use super::Bound;

/// Answers for each of which the limit grows by one, above what was too much before.
const SLOWLY: u32 = 32;

/// How often the limit grows after a restart, whatever is answered.
pub(super) const RAMP: Duration = Duration::from_millis(100);

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
    held: Option<Held>,
}

/// A limit that a restart has lowered.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// What held the crawl back.
    by: Option<Bound>,
    /// The limit that it had before.
    before: u32,
    /// By how much it grows, and when: what is in flight may wait for long, and answers would not raise it.
    step: u32,
    grows_at: Instant,
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
        self.held.and_then(|held| held.by)
    }

    pub(super) fn success(&mut self) {
        self.answers += 1;
        if self.limit < self.threshold || self.answers >= SLOWLY {
            self.answers = 0;
            self.limit = (self.limit + 1).min(self.max);
        }
        self.held = self.held.filter(|held| self.limit < held.before);
    }

    /// When the limit grows by itself.
    pub(super) fn grows_at(self) -> Option<Instant> {
        self.held.map(|held| held.grows_at)
    }

    pub(super) fn grow(&mut self, now: Instant) {
        if let Some(held) = self.held.as_mut().filter(|held| held.grows_at <= now) {
            self.limit = self.limit.saturating_add(held.step).min(held.before);
            (held.step, held.grows_at) = (held.step.saturating_mul(2), now + RAMP);
            self.held = self.held.filter(|held| self.limit < held.before);
        }
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
        self.held = None;
    }

    /// Begins again from what is in flight and the floor, so that what was held back does not come as a burst: and comes, where
    /// what is in flight does not end.
    pub(super) fn restart(&mut self, now: Instant, in_flight: u32, by: Option<Bound>) {
        let before = self.held.map_or(self.limit, |held| held.before);
        self.limit = self.limit.min(in_flight.saturating_add(self.floor));
        let held = Held { by, before, step: self.floor, grows_at: now + RAMP };
        self.held = Some(held).filter(|_| self.limit < before);
    }
}
