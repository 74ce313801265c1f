//! How many fetches at a time a host can bear, by how long its answers take.

use std::time::{Duration, Instant};

use super::opening::Opening;
use super::window::{FETCHES, ROUND, Round, Spread, Window};

/// What is left of the limit after a failure.
const AFTER_FAILURE: f64 = 0.7;
/// Failures in a window that make one, and a tenth of the limit at least.
const FAULTS: u32 = 3;
/// From this part of the limit on it is in use.
const NEAR: f64 = 0.9;
/// Of the limit at which the host refused, up to where it doubles again; beyond, it grows the more slowly the more often the
/// host has refused there. Refusals below [`LOWER`] of it are about something else, and far above nothing is left of it.
const BEFORE_WALL: f64 = 0.8;
const LOWER: f64 = 0.5;
const BEYOND_WALL: f64 = 1.5;
const HALVINGS: u32 = 4;
/// Fetches in flight where the first ones waited for each other.
const FEW: f64 = 2.0;
/// Windows of growth in a row that make the next step larger, at most.
const FASTEST: u32 = 8;

/// A limit of concurrency that follows the gradient of latency: `limit * unloaded / measured + queue(limit)`, where the
/// queue is what may wait at the host. So it settles where one more fetch would only wait for the others, as TCP Vegas
/// does (Brakmo, O'Malley, Peterson, 1994) and Netflix' concurrency-limits.
///
/// It judges by windows, each of fetches that began after the limit was last changed: an old answer says nothing about the
/// new limit, and acting on it is what makes such controls swing. At first it doubles every round trip, until the first
/// fetches of a round take longer than those of the rounds before, as HyStart++ does (RFC 9406).
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient {
    limit: f64,
    max: f64,
    /// Whether latency says anything: a limit that somebody has set and that is small is lowered by failures only.
    follows_latency: bool,
    /// While nothing is known of the host.
    opening: Option<Opening>,
    /// While the limit doubles.
    round: Option<Round>,
    /// Seconds that an answer takes where nothing waits: the least mean of a window and its error, as far as it holds.
    unloaded: Option<f64>,
    window: Window,
    spread: Spread,
    /// When a start last came near the limit.
    used: Option<Instant>,
    /// Windows of growth in a row.
    growing: u32,
    /// Where the limit began to fall, and the largest mean since, which is forgotten slowly: one slow answer can make it.
    peak: Option<(f64, f64)>,
    /// Failures in this window.
    faults: u32,
    /// Where the host refused.
    wall: Option<Wall>,
    /// Before this it was cut; what began earlier cuts no more.
    cut: Option<Instant>,
}

/// How many were in flight when the host refused, and how often it did so there again.
#[derive(Clone, Copy, Debug)]
struct Wall {
    level: f64,
    again: u32,
}

/// How many may wait at the host for the others: the root of the limit, and fewer where that is most of it.
fn queue(limit: f64) -> f64 {
    limit.sqrt().min(0.25 + limit / 16.0)
}

impl Gradient {
    pub(super) fn new(start: u32, max: u32, now: Instant) -> Self {
        let follows_latency = start < max;
        let (max, limit) = (f64::from(max.max(1)), f64::from(start.clamp(1, max.max(1))));
        Self {
            limit,
            max,
            follows_latency,
            opening: None,
            round: Some(Round::new(now, None)),
            unloaded: None,
            window: Window::new(now),
            spread: Spread::default(),
            used: None,
            growing: 0,
            peak: None,
            faults: 0,
            wall: None,
            cut: None,
        }
    }

    /// That of a host of which so many fetches are in flight, the first of which is answered now.
    pub(super) fn open(in_flight: u32, start: u32, max: u32, now: Instant) -> Self {
        Self {
            follows_latency: true,
            opening: Some(Opening::new(in_flight, now)),
            round: None,
            ..Self::new(start.max(in_flight), max, now)
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// A fetch was started, so that this many are in flight.
    pub(super) fn started(&mut self, now: Instant, in_flight: u32) {
        let limit = self.limit();
        if let Some(opening) = &mut self.opening {
            opening.started(in_flight);
        }
        self.window.started(now, limit.max(FETCHES));
        // The last ones up to the limit, and a whole round at least.
        let near = ((NEAR * f64::from(limit)) as u32).min(limit.saturating_sub(ROUND - 1)).max(1);
        let is_near = in_flight >= near;
        if is_near {
            self.used = Some(now);
        }
        if let Some(round) = &mut self.round {
            round.started(now, in_flight, limit, is_near);
        }
    }

    /// Takes an answer to a fetch that `started` then, with its time where that says something.
    pub(super) fn answered(&mut self, started: Instant, took: Option<Duration>) {
        let Some(took) = took else { return };
        if let Some(opening) = &mut self.opening {
            opening.answered(started, took);
        }
        self.window.answered(started, took);
        if let Some(round) = &mut self.round {
            round.answered(started, took);
        }
    }

    /// A fetch that `started` then has ended, in whatever way.
    pub(super) fn left(&mut self, started: Instant, now: Instant) {
        if let Some(opening) = &mut self.opening
            && opening.left(started)
        {
            let (waited, most, slowest) = (opening.waited(), opening.most(), opening.slowest());
            self.opening = None;
            self.round = Some(if waited { Round::patient(now) } else { Round::new(now, slowest) });
            // What was not tried is not known to be borne.
            self.set(if waited { FEW } else { 2.0 * f64::from(most) });
            self.window = Window::new(now);
        }
        if let Some(round) = &mut self.round
            && round.left(started)
        {
            let excess = round.excess(&mut self.spread).filter(|_| self.follows_latency);
            self.unloaded = self.unloaded.into_iter().chain(round.best()).min_by(f64::total_cmp);
            match excess {
                Some(excess) => {
                    let level = round.level();
                    self.settle_at(level / excess + queue(level), now);
                }
                // A limit that is not in use grows no further (RFC 7661): what was not tried is not known to be borne.
                None => {
                    let doubled = self.limit.max(2.0 * round.level());
                    *round = round.next(now);
                    match self.wall.map(|wall| BEFORE_WALL * wall.level).filter(|most| *most <= doubled) {
                        Some(most) => self.settle_at(most.max(self.limit), now),
                        None => self.set(doubled),
                    }
                }
            }
        }
        if !self.window.left(started) {
            return;
        }
        let is_used = self.used.is_some_and(|used| used >= self.window.began());
        if let Some(measured) = self.window.measured(FETCHES / 2) {
            let noise = self.spread.noise(measured);
            self.judge(measured.mean, noise, is_used);
        }
        self.faults = 0;
        self.window = Window::new(now);
    }

    fn judge(&mut self, mean: f64, noise: f64, is_used: bool) {
        let bound = mean * (1.0 + noise);
        let unloaded = self.unloaded.map_or(bound, |unloaded| unloaded.min(bound));
        self.unloaded = Some(unloaded);
        if self.round.is_some() || self.opening.is_some() {
            return;
        }
        let gradient = if self.follows_latency { (unloaded / mean).clamp(0.5, 1.0) } else { 1.0 };
        if gradient < 1.0 {
            self.growing = 0;
            let (peak, then) = self.peak.map_or((self.limit, mean), |(peak, then)| (peak, mean.max(0.98 * then)));
            self.peak = Some((peak, then));
            // A third of them take as long as all did, by two windows at least: we did not wait for each other.
            if self.limit <= (0.35 * peak).max(2.0) && bound >= 0.8 * then {
                self.unloaded = Some(bound);
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
        self.wall = self.wall.filter(|wall| self.limit < BEYOND_WALL * wall.level);
        let wall = self.wall.filter(|wall| self.limit >= BEFORE_WALL * wall.level);
        let steps = match wall.map_or(0, |wall| wall.again) {
            0 => f64::from(self.growing.max(1)),
            again if gradient == 1.0 => 0.5_f64.powi(again as i32),
            _ => 1.0,
        };
        self.set(self.limit * gradient + queue(self.limit) * steps);
    }

    /// The host failed, or asked for fewer: once for all that was in flight then.
    pub(super) fn overloaded(&mut self, started: Instant, now: Instant, in_flight: u32) {
        if self.cut.is_some_and(|cut| started < cut) {
            return;
        }
        // Every site has a page that is broken.
        self.faults += 1;
        if self.faults < (self.limit() / 10).max(FAULTS) {
            return;
        }
        self.cut = Some(now);
        self.settle_at(self.limit.min(f64::from(in_flight) + 1.0) * AFTER_FAILURE, now);
    }

    /// The host refused what came beside so many.
    pub(super) fn refused(&mut self, in_flight: u32) {
        let level = f64::from(in_flight.max(1));
        let again = self.wall.filter(|wall| level >= LOWER * wall.level).map_or(0, |wall| wall.again + 1);
        self.wall = Some(Wall { level, again: again.min(HALVINGS) });
    }

    /// The host is back: from few on, so that what waited does not come as a burst.
    pub(super) fn resume(&mut self, start: u32, now: Instant) {
        self.settle_at(self.limit.min(f64::from(start)), now);
        self.round = Some(Round::new(now, self.unloaded));
    }

    fn settle_at(&mut self, limit: f64, now: Instant) {
        self.set(limit);
        (self.opening, self.round, self.growing, self.peak, self.faults) = (None, None, 0, None, 0);
        self.window = Window::new(now);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, self.max);
    }
}
