//! The first fetches of a host, of which nothing is known.

use std::time::{Duration, Instant};

use super::window::ENDED;

/// The slowest takes so many times as long as the fastest, where they waited for each other.
const WAITED: f64 = 1.8;

/// The fetches that were in flight when the first of them was answered. They began at about the same time, so that where
/// the slowest took much longer, it may have waited for the others: how long an answer takes is then measured anew, with
/// few in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// The last of them began before.
    until: Instant,
    in_flight: u32,
    /// In flight at a time so far, later ones too.
    most: u32,
    ended: u32,
    /// Fastest and slowest.
    took: Option<(Duration, Duration)>,
}

impl Opening {
    pub(super) fn new(in_flight: u32, now: Instant) -> Self {
        Self { until: now, in_flight, most: in_flight, ended: 0, took: None }
    }

    /// Another fetch was started, so that this many are in flight.
    pub(super) fn started(&mut self, in_flight: u32) {
        self.most = self.most.max(in_flight);
    }

    pub(super) fn most(&self) -> u32 {
        self.most
    }

    pub(super) fn answered(&mut self, started: Instant, took: Duration) {
        if started <= self.until {
            let (fastest, slowest) = self.took.unwrap_or((took, took));
            self.took = Some((fastest.min(took), slowest.max(took)));
        }
    }

    /// A fetch has ended. Whether it is over: one that hangs holds it not up.
    pub(super) fn left(&mut self, started: Instant) -> bool {
        self.ended += u32::from(started <= self.until);
        f64::from(self.ended) >= (ENDED * f64::from(self.in_flight)).floor()
    }

    /// Whether they may have waited for each other.
    pub(super) fn waited(&self) -> bool {
        self.took.is_none_or(|(fastest, slowest)| slowest > fastest.mul_f64(WAITED))
    }

    /// Seconds that the slowest took.
    pub(super) fn slowest(&self) -> Option<f64> {
        self.took.map(|(_, slowest)| slowest.as_secs_f64())
    }
}
