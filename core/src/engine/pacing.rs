//! When the next start is allowed: the gap of a host, and the rate of a whole crawl.

use std::time::{Duration, Instant};

use crate::time::later;

/// A gap that varies by `jitter` of itself either way.
pub(super) fn jittered(gap: Duration, jitter: f64, rng: &mut fastrand::Rng) -> Duration {
    if gap.is_zero() || jitter <= 0.0 {
        return gap;
    }
    gap.mul_f64(1.0 - jitter.min(1.0) + 2.0 * jitter.min(1.0) * rng.f64())
}

/// Starts a second, evenly: a generic cell rate algorithm with a burst of one hundredth of a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    interval: Duration,
    tolerance: Duration,
    /// When the next start would come if all came evenly.
    next: Option<Instant>,
}

impl Rate {
    pub(super) fn per_second(rate: f64) -> Self {
        // A start may come this much early, so that a late timer does not lower the rate.
        let mut new = Self { interval: Duration::MAX, tolerance: Duration::from_millis(10), next: None };
        new.set(rate);
        new
    }

    /// Another rate from the next start on.
    pub(super) fn set(&mut self, rate: f64) {
        self.interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
    }

    /// When the next start is allowed; `None` for now.
    pub(super) fn wait_until(&self, now: Instant) -> Option<Instant> {
        self.next_start().filter(|allowed| *allowed > now)
    }

    /// When it allows the next start, whatever the time is.
    pub(super) fn next_start(&self) -> Option<Instant> {
        self.next?.checked_sub(self.tolerance)
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.next = Some(later(self.next.map_or(now, |next| next.max(now)), self.interval));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_a_second_whenever_it_is_asked() {
        #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
        let origin = Instant::now();
        for step in [1, 7, 30] {
            let mut rate = Rate::per_second(200.0);
            let mut starts = 0;
            for millis in (0..1000).step_by(step) {
                let now = origin + Duration::from_millis(millis);
                while rate.wait_until(now).is_none() {
                    rate.start(now);
                    starts += 1;
                }
            }
            assert!((60..=204).contains(&starts), "{starts} starts asked every {step} ms");
        }
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let mut rng = fastrand::Rng::with_seed(1);
        let gap = Duration::from_millis(500);
        let drawn: Vec<_> = (0..1000).map(|_| jittered(gap, 0.5, &mut rng).as_millis()).collect();
        assert!(drawn.iter().all(|gap| (250..=750).contains(gap)), "{drawn:?}");
        assert!(drawn.iter().any(|gap| *gap < 260) && drawn.iter().any(|gap| *gap > 740), "all of it is used");
        assert_eq!(jittered(gap, 0.0, &mut rng), gap);
    }
}
