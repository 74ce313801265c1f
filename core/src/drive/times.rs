//! Times that are measured now and then, over the whole run and over the last seconds of it.

use std::time::{Duration, Instant};

use super::latency::{Quantiles, Track};

/// The last window is between this and twice as long.
const HALF: Duration = Duration::from_secs(5);

/// Counts times; what is older than two halves of a window is only in the total.
#[derive(Clone, Debug)]
pub(super) struct Times {
    track: Track,
    since: Instant,
}

impl Times {
    pub(super) fn new(now: Instant) -> Self {
        Self { track: Track::new(), since: now }
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < HALF {
            return;
        }
        self.track.turn();
        if passed >= 2 * HALF {
            self.track.turn();
        }
        self.since = now;
    }

    pub(super) fn record(&mut self, now: Instant, time: Duration) {
        self.turn(now);
        self.track.record(time);
    }

    /// The whole run.
    pub(super) fn total(&self) -> Quantiles {
        self.track.latency().run
    }

    /// The last 5 to 10 s up to `now`.
    pub(super) fn last(&self, now: Instant) -> Quantiles {
        let mut at = self.clone();
        at.turn(now);
        at.track.latency().window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    #[test]
    fn what_is_old_is_in_the_total_alone() {
        let start = Manual::new().runtime().now();
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let mut times = Times::new(start);
        times.record(start, ms(500));
        times.record(start + s(4), ms(1));
        assert!(times.last(start + s(4)).max >= ms(500));
        times.record(start + s(6), ms(1));
        assert!(times.last(start + s(9)).max >= ms(500), "the half before");
        times.record(start + s(12), ms(2));
        let last = times.last(start + s(12));
        assert!(last.max < ms(3) && last.count == 2, "{last:?}");
        assert_eq!(times.last(start + s(60)).count, 0, "nothing was measured since");
        let total = times.total();
        assert!(total.max >= ms(500) && total.count == 4, "{total:?}");
    }
}
