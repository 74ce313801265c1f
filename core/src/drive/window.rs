//! A distribution over the whole run, and over the last seconds of it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The last window is between this and twice as long.
const HALF: Duration = Duration::from_secs(5);

/// Where a distribution of times lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// Half of them were not longer than this.
    pub p50: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// 999 of 1,000.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

/// Counts times; what is older than two halves of a window is only in the total.
#[derive(Clone, Debug)]
pub(super) struct Window {
    total: Histogram<u64>,
    now: Histogram<u64>,
    before: Histogram<u64>,
    since: Instant,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        let empty = || Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("constant bounds are valid");
        Self { total: empty(), now: empty(), before: empty(), since: now }
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < HALF {
            return;
        }
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.reset();
        if passed >= 2 * HALF {
            self.before.reset();
        }
        self.since = now;
    }

    pub(super) fn record(&mut self, now: Instant, time: Duration) {
        self.turn(now);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        self.total.saturating_record(micros);
        self.now.saturating_record(micros);
    }

    /// The whole run.
    pub(super) fn total(&self) -> Quantiles {
        quantiles(&self.total)
    }

    /// The last 5 to 10 s up to `now`.
    pub(super) fn last(&self, now: Instant) -> Quantiles {
        let mut at = self.clone();
        at.turn(now);
        // Both have the same bounds.
        let _ = at.now.add(&at.before);
        quantiles(&at.now)
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let part = |part| Duration::from_micros(histogram.value_at_quantile(part));
    let max = Duration::from_micros(histogram.max());
    Quantiles { count: histogram.len(), p50: part(0.5), p99: part(0.99), p999: part(0.999), max }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    #[test]
    fn what_is_old_is_in_the_total_alone() {
        let start = Manual::new().runtime().now();
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let mut window = Window::new(start);
        window.record(start, ms(500));
        window.record(start + s(4), ms(1));
        assert!(window.last(start + s(4)).max >= ms(500));
        window.record(start + s(6), ms(1));
        assert!(window.last(start + s(9)).max >= ms(500), "the half before");
        window.record(start + s(12), ms(2));
        let last = window.last(start + s(12));
        assert!(last.max < ms(3) && last.count == 2, "{last:?}");
        assert_eq!(window.last(start + s(60)).count, 0, "nothing was measured since");
        let total = window.total();
        assert!(total.max >= ms(500) && total.count == 4, "{total:?}");
    }
}
