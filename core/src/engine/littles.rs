//! Little's law: what is in flight on average is what ends a second times how long each takes.

use std::time::{Duration, Instant};

/// The integral of the fetches in flight over time, at a few instructions a change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InFlight {
    fetches: u32,
    since: Option<Instant>,
    /// Nanoseconds, each counted once for each fetch that was in flight.
    area: u128,
}

impl InFlight {
    /// From now on so many are in flight.
    pub(super) fn set(&mut self, fetches: u32, now: Instant) {
        self.area = self.area(now);
        self.since = Some(now);
        self.fetches = fetches;
    }

    /// Nanoseconds times fetches until `now`.
    pub(crate) fn area(&self, now: Instant) -> u128 {
        let since = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.area + since.as_nanos() * u128::from(self.fetches)
    }
}

/// Little's law over a time: `l = lambda * w` where as much begins as ends.
///
/// `l` is what the crawl counts as in flight, `w` what the fetches measure of themselves. So a ratio that stays above 1
/// says that permits are held for longer than fetches take: their ends wait for the driver, or many are cancelled. While
/// the crawl ramps up it is above 1 too, since what began has not ended; while it runs dry it is below.
///
/// ```
/// use std::time::Duration;
/// use tidegate::engine::LittlesLaw;
///
/// // In ten seconds 500 fetches ended, which had taken 100 s together; on average 10 were in flight.
/// let law = LittlesLaw::over(Duration::from_secs(10), Duration::from_secs(100), 500, Duration::from_secs(100));
/// assert_eq!((law.l, law.lambda, law.w, law.ratio), (10.0, 50.0, Duration::from_millis(200), Some(1.0)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LittlesLaw {
    /// Fetches in flight, averaged over the time; those too that wait for a port or a descriptor.
    pub l: f64,
    /// Fetches that ended, a second.
    pub lambda: f64,
    /// How long those took, on average, by their own measure.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub w: Duration,
    /// `l / (lambda * w)`; nothing where no fetch ended.
    pub ratio: Option<f64>,
}

impl LittlesLaw {
    /// The law over `time`, in which `in_flight` was spent in flight by all fetches together, and `ended` fetches ended
    /// that had taken `took` together.
    pub fn over(time: Duration, in_flight: Duration, ended: u64, took: Duration) -> Self {
        let seconds = time.as_secs_f64();
        if seconds <= 0.0 {
            return Self::default();
        }
        let (l, lambda) = (in_flight.as_secs_f64() / seconds, ended as f64 / seconds);
        let w = if ended > 0 { took.as_secs_f64() / ended as f64 } else { 0.0 };
        let product = lambda * w;
        Self { l, lambda, w: Duration::from_secs_f64(w), ratio: (product > 0.0).then(|| l / product) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_integral_counts_each_fetch_for_as_long_as_it_is_there() {
        let start = Manual::new().runtime().now();
        let mut meter = InFlight::default();
        assert_eq!(meter.area(start), 0);
        meter.set(1, start);
        meter.set(3, start + SECOND);
        assert_eq!(meter.area(start + 3 * SECOND), 7_000_000_000, "1 x 1 s, 3 x 2 s");
        meter.set(0, start + 3 * SECOND);
        assert_eq!(meter.area(start + 100 * SECOND), 7_000_000_000);
        // A month with 50,000 in flight is more than 64 bits hold.
        meter.set(50_000, start + 100 * SECOND);
        let month = 30 * 86_400 * SECOND;
        let expected = 7_000_000_000 + month.as_nanos() * 50_000;
        assert_eq!(meter.area(start + 100 * SECOND + month), expected);
    }

    /// One begins every 5 ms and takes 100 ms, so that 20 are in flight; where each end is seen 10 ms late, 22 are.
    #[test]
    fn a_steady_state_keeps_the_law_and_late_ends_do_not() {
        let start = Manual::new().runtime().now();
        let ms = Duration::from_millis;
        for (late, expected) in [(0, 1.0), (10, 1.1)] {
            let mut meter = InFlight::default();
            let mut areas = Vec::new();
            for step in 0..4_000_u64 {
                let now = start + ms(5 * step);
                // What ends at this moment does so before the next begins.
                let in_flight = step.min((100 + late) / 5 - 1) as u32;
                meter.set(in_flight, now);
                meter.set(in_flight + 1, now);
                areas.push(meter.area(now));
            }
            let area = u64::try_from(areas[3_000] - areas[1_000]).expect("minutes");
            let law = LittlesLaw::over(ms(10_000), Duration::from_nanos(area), 2_000, ms(100) * 2_000);
            assert!((law.ratio.expect("fetches ended") - expected).abs() < 1e-9, "{law:?}");
        }
        assert_eq!(LittlesLaw::over(SECOND, SECOND, 0, Duration::ZERO).ratio, None);
        assert_eq!(LittlesLaw::over(Duration::ZERO, SECOND, 1, SECOND), LittlesLaw::default());
    }
}
