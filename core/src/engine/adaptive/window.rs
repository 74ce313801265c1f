//! What is measured between two changes of a limit.

use std::time::{Duration, Instant};

/// Fetches in a window at least.
pub(super) const FETCHES: u32 = 16;
/// The part of a window's fetches whose ends are waited for. Who ends first says nothing about the others: the first 16
/// answers of 128 are the fastest. And one that hangs must not hold the rest up.
pub(super) const ENDED: f64 = 0.9;
/// Fetches of a round by which it is judged, as in HyStart++ (RFC 9406).
pub(super) const ROUND: u32 = 8;
/// A round that is slower by this part is loaded.
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
    /// Of the logarithms of the seconds.
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

    /// Whether this start counts, where so many are wanted.
    pub(super) fn started(&mut self, now: Instant, wanted: u32) -> bool {
        // What starts in the same instant cannot be told apart later.
        let counts = !self.is_full || self.last == Some(now);
        if counts {
            self.starts += 1;
            self.last = Some(now);
            self.is_full = self.starts >= wanted;
        }
        counts
    }

    fn counts(&self, started: Instant) -> bool {
        started >= self.began && self.last.is_some_and(|last| started <= last)
    }

    pub(super) fn answered(&mut self, started: Instant, took: Duration) {
        if self.counts(started) {
            let log = took.as_secs_f64().max(SHORTEST).ln();
            self.samples += 1;
            self.sum += log;
            self.squares += log * log;
        }
    }

    /// Whether it is over with the end of this fetch.
    pub(super) fn left(&mut self, started: Instant) -> bool {
        self.ended += u32::from(self.counts(started));
        self.is_full && f64::from(self.ended) >= (ENDED * f64::from(self.starts)).floor().max(1.0)
    }

    /// What it measured; nothing where fewer were answered.
    pub(super) fn measured(&self, least: u32) -> Option<Measured> {
        let n = f64::from(self.samples);
        let mean = self.sum / n;
        let spread = (self.squares / n - mean * mean).max(0.0).sqrt();
        (self.samples >= least.max(1)).then_some(Measured { n, mean: mean.exp(), spread })
    }
}

/// How long the answers of a window took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    n: f64,
    /// The geometric mean, in seconds: an answer that takes ten times as long as usual says little, and a queue is felt by
    /// the short ones most.
    pub(super) mean: f64,
    /// The standard deviation of the logarithm.
    spread: f64,
}

/// How much the time of answers varies, over windows: a window that missed the slow ones has a low mean and sees little
/// spread, so that its own spread says nothing about how far off it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(f64);

impl Default for Spread {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Spread {
    /// Takes a window; gives three standard errors of its mean, as a part of it.
    pub(super) fn noise(&mut self, measured: Measured) -> f64 {
        self.0 += (measured.spread - self.0) * measured.n / (measured.n + 8.0);
        3.0 * self.0 / measured.n.sqrt()
    }
}

/// The first fetches near the limit while the limit doubles: how long they took, against those of the rounds before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    window: Window,
    /// The last instant in which any fetch started, and how many did.
    instant: Option<(Instant, u32)>,
    /// How many were in flight when they began.
    level: u32,
    /// Fetches that are wanted at least.
    least: u32,
    /// Seconds that an answer takes where nothing waits.
    best: Option<f64>,
}

impl Round {
    pub(super) fn new(began: Instant, best: Option<f64>) -> Self {
        Self { window: Window::new(began), instant: None, level: 0, least: 1, best }
    }

    /// A round of several round trips where few are in flight, which can tell little.
    pub(super) fn patient(began: Instant) -> Self {
        Self { least: ROUND, ..Self::new(began, None) }
    }

    /// The round after this.
    pub(super) fn next(&self, began: Instant) -> Self {
        Self { least: self.least, ..Self::new(began, self.best) }
    }

    /// A fetch was started. Those near the limit count, from the first of them on, and what starts in the same instant
    /// as that.
    pub(super) fn started(&mut self, now: Instant, in_flight: u32, limit: u32, is_near: bool) {
        self.instant = match self.instant {
            Some((at, starts)) if at == now => Some((at, starts + 1)),
            _ => Some((now, 1)),
        };
        if !is_near {
            return;
        }
        if let (0, Some((_, starts))) = (self.window.starts, self.instant) {
            self.window = Window { starts: starts - 1, ..Window::new(now) };
        }
        if self.window.started(now, limit.clamp(self.least, ROUND)) {
            self.level = self.level.max(in_flight);
        }
    }

    pub(super) fn answered(&mut self, started: Instant, took: Duration) {
        self.window.answered(started, took);
    }

    pub(super) fn left(&mut self, started: Instant) -> bool {
        self.window.left(started)
    }

    /// Once it is over: how many times slower than before it was, where that is too much.
    pub(super) fn excess(&mut self, spread: &mut Spread) -> Option<f64> {
        let measured = self.window.measured(1)?;
        let (mean, noise) = (measured.mean, spread.noise(measured));
        let bound = mean * (1.0 + noise);
        let best = *self.best.get_or_insert(bound);
        self.best = Some(best.min(bound));
        Some(mean / best).filter(|excess| *excess > SLOWER.max(1.0 + noise.min(1.0)))
    }

    pub(super) fn best(&self) -> Option<f64> {
        self.best
    }

    pub(super) fn level(&self) -> f64 {
        f64::from(self.level.max(1))
    }
}
