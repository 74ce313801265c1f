//! How many fetches at a time a host can bear, by how long its answers take.

use std::time::{Duration, Instant};

/// Samples in a window at least; half as many do while the limit doubles.
const SAMPLES: u32 = 16;
/// Seconds that an answer takes at least.
const SHORTEST: f64 = 1e-6;
/// Above this ratio to the unloaded time, doubling ends.
const DOUBLING_ENDS: f64 = 1.25;
/// What is left of the limit after a failure.
const AFTER_FAILURE: f64 = 0.7;
/// Windows of growth in a row that make the next step larger, at most.
const FASTEST: u32 = 8;

/// A limit of concurrency that follows the gradient of latency: `limit * unloaded / measured + queue(limit)`, where the
/// queue is what may wait at the host. So it settles where one more fetch would only wait for the others, as
/// TCP Vegas does (Brakmo, O'Malley, Peterson, 1994) and Netflix' concurrency-limits.
///
/// It judges by windows, each of fetches that began after the limit was last changed: an old answer says nothing about the
/// new limit, and acting on it is what makes such controls swing. At first it doubles every round trip, until answers take
/// longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient {
    limit: f64,
    max: f64,
    doubles: bool,
    /// Seconds that an answer takes where nothing waits: the least mean of a window, as far as it still holds.
    unloaded: Option<f64>,
    window: Window,
    /// When a start last came near the limit.
    used: Option<Instant>,
    /// Windows of growth in a row.
    growing: u32,
    /// Where the limit began to fall: limit and mean.
    peak: Option<(f64, f64)>,
    /// Before this it was cut; what began earlier cuts no more.
    cut: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    samples: u32,
    sum: f64,
    squares: f64,
}

/// How many may wait at the host for the others: the root of the limit, and fewer where that is most of it.
fn queue(limit: f64) -> f64 {
    limit.sqrt().min(1.0 + limit / 8.0)
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, samples: 0, sum: 0.0, squares: 0.0 }
    }

    fn mean(&self) -> f64 {
        // No answer takes no time, whatever a clock says.
        (self.sum / f64::from(self.samples)).max(SHORTEST)
    }

    /// Three standard errors of the mean, as a part of it.
    fn noise(&self) -> f64 {
        let (n, mean) = (f64::from(self.samples), self.mean());
        let variance = (self.squares / n - mean * mean).max(0.0);
        (3.0 * (variance / n).sqrt() / mean).min(1.0)
    }
}

impl Gradient {
    pub(super) fn new(start: u32, max: u32, now: Instant) -> Self {
        let (max, limit) = (f64::from(max.max(1)), f64::from(start.clamp(1, max.max(1))));
        Self {
            limit,
            max,
            doubles: true,
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
    }

    /// Takes an answer to a fetch that `started` then, with its time where that says something.
    pub(super) fn answered(&mut self, started: Instant, now: Instant, took: Option<Duration>) {
        // A limit that is not in use does not grow: what was not tried is not known to be borne (RFC 7661).
        let is_used = self.used.is_some_and(|used| used >= started);
        if self.doubles && is_used {
            self.set(self.limit + 1.0);
        }
        let Some(took) = took.filter(|_| self.doubles || started >= self.window.began) else { return };
        let seconds = took.as_secs_f64();
        self.window.samples += 1;
        self.window.sum += seconds;
        self.window.squares += seconds * seconds;
        let enough = if self.doubles { SAMPLES / 2 } else { SAMPLES.max(self.limit() / 2) };
        if self.window.samples >= enough {
            self.judge(is_used);
            self.window = Window::new(now);
        }
    }

    fn judge(&mut self, is_used: bool) {
        let (mean, noise) = (self.window.mean(), self.window.noise());
        let unloaded = self.unloaded.map_or(mean, |unloaded| unloaded.min(mean));
        self.unloaded = Some(unloaded);
        if self.doubles {
            if mean > unloaded * DOUBLING_ENDS.max(1.0 + noise) {
                self.doubles = false;
                // A round trip ago, when these began, it was half of what it is now.
                let then = self.limit / 2.0;
                self.set(then * unloaded / mean + queue(then));
            }
            return;
        }
        let gradient = (unloaded * (1.0 + noise) / mean).clamp(0.5, 1.0);
        if gradient < 1.0 {
            self.growing = 0;
            let (peak, then) = *self.peak.get_or_insert((self.limit, mean));
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
        (self.doubles, self.growing, self.peak) = (false, 0, None);
        self.set(self.limit.min(f64::from(in_flight) + 1.0) * AFTER_FAILURE);
        self.window = Window::new(now);
    }

    /// The host is back: from half of what it bore, so that what waited does not come as a burst.
    pub(super) fn resume(&mut self) {
        self.set(self.limit / 2.0);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, self.max);
    }
}
