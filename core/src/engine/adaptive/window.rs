//! What is measured between two changes of a limit.

use std::time::{Duration, Instant};

/// Fetches in a window at least.
const FETCHES: u32 = 16;
/// The part of a window's fetches whose ends are waited for. Who ends first says nothing about the others: the first 16
/// answers of 128 are the fastest. And one that hangs must not hold the rest up.
const ENDED: f64 = 0.9;
/// Answers of a round by which it is judged (RFC 9406 has 8).
const FIRST: u32 = 8;
/// A round whose fastest answer is slower by this part is loaded (RFC 9406 has an eighth).
const SLOWER: f64 = 1.25;
/// Seconds that an answer takes at least, whatever a clock says.
const SHORTEST: f64 = 1e-6;

/// A whole round of fetches, as many as the limit allows: how long they took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    began: Instant,
    starts: u32,
    /// The last start that counts.
    last: Option<Instant>,
    is_full: bool,
    ended: u32,
    samples: u32,
    sum: f64,
    squares: f64,
}

impl Window {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, starts: 0, last: None, is_full: false, ended: 0, samples: 0, sum: 0.0, squares: 0.0 }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn started(&mut self, now: Instant, limit: u32) {
        // What starts in the same instant cannot be told apart later.
        if !self.is_full || self.last == Some(now) {
            self.starts += 1;
            self.last = Some(now);
            self.is_full = self.starts >= limit.max(FETCHES);
        }
    }

    fn counts(&self, started: Instant) -> bool {
        started >= self.began && self.last.is_some_and(|last| started <= last)
    }

    pub(super) fn answered(&mut self, started: Instant, took: Duration) {
        if self.counts(started) {
            let seconds = took.as_secs_f64().max(SHORTEST);
            self.samples += 1;
            self.sum += seconds;
            self.squares += seconds * seconds;
        }
    }

    /// Whether it is over with the end of this fetch.
    pub(super) fn left(&mut self, started: Instant) -> bool {
        self.ended += u32::from(self.counts(started));
        self.is_full && f64::from(self.ended) >= ENDED * f64::from(self.starts)
    }

    /// The mean, and three standard errors of it as a part of it; nothing where too few were answered.
    pub(super) fn judge(&self) -> Option<(f64, f64)> {
        if self.samples < FIRST {
            return None;
        }
        let n = f64::from(self.samples);
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        Some((mean, (3.0 * (variance / n).sqrt() / mean).min(1.0)))
    }
}

/// The first fetches of a round while the limit doubles: how long the fastest of them took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    began: Instant,
    starts: u32,
    last: Option<Instant>,
    /// How many were in flight at a time when they began, and in the last round that was fast enough.
    level: u32,
    proven: u32,
    samples: u32,
    fastest: f64,
    /// The fastest answer of the rounds before.
    best: Option<f64>,
}

impl Round {
    pub(super) fn new(began: Instant, best: Option<f64>) -> Self {
        Self { began, starts: 0, last: None, level: 0, proven: 0, samples: 0, fastest: f64::INFINITY, best }
    }

    pub(super) fn started(&mut self, now: Instant, in_flight: u32) {
        if self.starts < FIRST || self.last == Some(now) {
            self.starts += 1;
            self.last = Some(now);
            self.level = self.level.max(in_flight);
        }
    }

    /// The fastest answer, once there are enough.
    pub(super) fn answered(&mut self, started: Instant, took: Duration) -> Option<f64> {
        if started < self.began || self.last.is_none_or(|last| started > last) {
            return None;
        }
        self.samples += 1;
        self.fastest = self.fastest.min(took.as_secs_f64().max(SHORTEST));
        (self.samples >= self.level.clamp(1, FIRST)).then_some(self.fastest)
    }

    /// How many times slower than before, where that is too much.
    pub(super) fn excess(&self, fastest: f64) -> Option<f64> {
        self.best.map(|best| fastest / best).filter(|excess| *excess > SLOWER)
    }

    pub(super) fn level(&self) -> f64 {
        f64::from(self.level.max(1))
    }

    /// The limit may be twice what is proven.
    pub(super) fn highest(&self) -> f64 {
        2.0 * f64::from(self.proven.max(1))
    }

    /// The round after one that was fast enough.
    pub(super) fn next(&self, now: Instant, fastest: f64) -> Self {
        let best = self.best.map_or(fastest, |best| best.min(fastest));
        Self { proven: self.level.max(self.proven), ..Self::new(now, Some(best)) }
    }
}
