//! How many fetches at a time a host can bear, by how long its answers take.

use std::time::{Duration, Instant};

use super::window::{Round, Window};

/// What is left of the limit after a failure.
const AFTER_FAILURE: f64 = 0.7;
/// Windows of growth in a row that make the next step larger, at most.
const FASTEST: u32 = 8;

/// A limit of concurrency that follows the gradient of latency: `limit * unloaded / measured + queue(limit)`, where the
/// queue is what may wait at the host. So it settles where one more fetch would only wait for the others, as TCP Vegas
/// does (Brakmo, O'Malley, Peterson, 1994) and Netflix' concurrency-limits.
///
/// It judges by windows, each of fetches that began after the limit was last changed: an old answer says nothing about the
/// new limit, and acting on it is what makes such controls swing. At first it doubles every round trip, until the fastest
/// answers of a round take longer than those of the rounds before, as HyStart++ does (RFC 9406).
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient {
    limit: f64,
    max: f64,
    /// While the limit doubles.
    round: Option<Round>,
    /// Seconds that an answer takes where nothing waits: the least mean of a window, as far as it still holds.
    unloaded: Option<f64>,
    window: Window,
    /// When a start last came near the limit.
    used: Option<Instant>,
    /// Windows of growth in a row.
    growing: u32,
    /// Where the limit began to fall, and the largest mean since.
    peak: Option<(f64, f64)>,
    /// Before this it was cut; what began earlier cuts no more.
    cut: Option<Instant>,
}

/// How many may wait at the host for the others: the root of the limit, and fewer where that is most of it.
fn queue(limit: f64) -> f64 {
    limit.sqrt().min(1.0 + limit / 8.0)
}

impl Gradient {
    pub(super) fn new(start: u32, max: u32, now: Instant) -> Self {
        let (max, limit) = (f64::from(max.max(1)), f64::from(start.clamp(1, max.max(1))));
        Self {
            limit,
            max,
            round: Some(Round::new(now, None)),
            unloaded: None,
            window: Window::new(now),
            used: None,
            growing: 0,
            peak: None,
            cut: None,
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// A fetch was started, so that this many are in flight.
    pub(super) fn started(&mut self, now: Instant, in_flight: u32) {
        if f64::from(in_flight) >= 0.9 * self.limit.floor() {
            self.used = Some(now);
        }
        self.window.started(now, self.limit());
        if let Some(round) = &mut self.round {
            round.started(now, in_flight);
        }
    }

    /// Takes an answer to a fetch that `started` then, with its time where that says something.
    pub(super) fn answered(&mut self, started: Instant, now: Instant, took: Option<Duration>) {
        // A limit that is not in use does not grow: what was not tried is not known to be borne (RFC 7661).
        let is_used = self.used.is_some_and(|used| used >= started);
        if let Some(round) = self.round.filter(|_| is_used) {
            self.set((self.limit + 1.0).min(round.highest().max(self.limit)));
        }
        let Some(took) = took else { return };
        self.window.answered(started, took);
        let Some(round) = &mut self.round else { return };
        if let Some(fastest) = round.answered(started, took) {
            match round.excess(fastest) {
                Some(excess) => {
                    let level = round.level();
                    self.unloaded.get_or_insert(fastest / excess);
                    self.settle_at(level / excess + queue(level), now);
                }
                None => *round = round.next(now, fastest),
            }
        }
    }

    /// A fetch that `started` then has ended, in whatever way.
    pub(super) fn left(&mut self, started: Instant, now: Instant) {
        if !self.window.left(started) {
            return;
        }
        let is_used = self.used.is_some_and(|used| used >= self.window.began());
        if let Some((mean, noise)) = self.window.judge() {
            self.judge(mean, noise, is_used);
        }
        self.window = Window::new(now);
    }

    fn judge(&mut self, mean: f64, noise: f64, is_used: bool) {
        let unloaded = self.unloaded.map_or(mean, |unloaded| unloaded.min(mean));
        self.unloaded = Some(unloaded);
        if self.round.is_some() {
            return;
        }
        let gradient = (unloaded * (1.0 + noise) / mean).clamp(0.5, 1.0);
        if gradient < 1.0 {
            self.growing = 0;
            let (peak, then) = self.peak.map_or((self.limit, mean), |(peak, then)| (peak, then.max(mean)));
            self.peak = Some((peak, then));
            // With far fewer at a time it takes as long as before: it was not us who waited for each other.
            if self.limit <= (0.6 * peak).max(2.0) && mean >= 0.8 * then {
                self.unloaded = Some(mean);
                self.peak = None;
                return;
            }
        } else {
            self.peak = None;
            if !is_used {
                return;
            }
            self.growing = (self.growing + 1).min(FASTEST);
        }
        self.set(self.limit * gradient + queue(self.limit) * f64::from(self.growing.max(1)));
    }

    /// The host failed, or asked for fewer: once for all that was in flight then.
    pub(super) fn overloaded(&mut self, started: Instant, now: Instant, in_flight: u32) {
        if self.cut.is_some_and(|cut| started < cut) {
            return;
        }
        self.cut = Some(now);
        self.settle_at(self.limit.min(f64::from(in_flight) + 1.0) * AFTER_FAILURE, now);
    }

    /// The host is back: from few on, so that what waited does not come as a burst.
    pub(super) fn resume(&mut self, start: u32, now: Instant) {
        self.settle_at(self.limit.min(f64::from(start)), now);
        self.round = Some(Round::new(now, self.unloaded));
    }

    fn settle_at(&mut self, limit: f64, now: Instant) {
        self.set(limit);
        (self.round, self.growing, self.peak) = (None, 0, None);
        self.window = Window::new(now);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, self.max);
    }
}
