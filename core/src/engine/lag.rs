//! Lag: how late the loop is. Closes the gate above a limit and opens it again with hysteresis.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Beats that decide about opening.
const WINDOW: usize = 20;

/// Judges samples of lag (actual minus expected time of a timer, above the timer's resolution).
///
/// One sample above the limit closes the gate; it opens when nine tenths of the last 20 samples are below half the limit,
/// the one that closed it being the first of them: after 95 ms of beats on time at the least, where one comes each 5 ms.
///
/// ```
/// use std::time::Duration;
/// use tidegate::engine::LagMonitor;
///
/// let mut lag = LagMonitor::new(Duration::from_millis(50));
/// assert_eq!(lag.record(Duration::from_millis(51)), Some(false));
/// assert!(lag.is_overloaded());
/// let opened = (0..20).filter_map(|_| lag.record(Duration::from_millis(1))).count();
/// assert_eq!(opened, 1);
/// ```
#[derive(Clone, Debug)]
pub struct LagMonitor {
    limit: Duration,
    overloaded: bool,
    recent: VecDeque<Duration>,
    histogram: Histogram<u64>,
    closed_count: u64,
}

impl LagMonitor {
    /// A monitor with this limit.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            overloaded: false,
            recent: VecDeque::with_capacity(WINDOW),
            histogram: Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds are valid"),
            closed_count: 0,
        }
    }

    /// Takes a sample. `Some(open)` when the gate is to change.
    pub fn record(&mut self, lag: Duration) -> Option<bool> {
        self.observe(lag);
        self.press(lag)
    }

    /// Takes a sample that is no reason to close the gate or to keep it closed: the machine stopped us, and not the load.
    pub fn observe(&mut self, lag: Duration) {
        self.histogram.saturating_record(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Takes a sign of lag that is no sample of the same kind: it counts for the gate alone.
    pub fn press(&mut self, lag: Duration) -> Option<bool> {
        let closes = lag > self.limit && !self.overloaded;
        if closes {
            // What was on time before the stall says nothing about its end.
            self.recent.clear();
        } else if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(lag);
        if closes {
            self.overloaded = true;
            self.closed_count += 1;
            return Some(false);
        }
        let low = self.recent.iter().filter(|lag| **lag < self.limit / 2).count();
        if self.overloaded && self.recent.len() == WINDOW && low * 10 >= WINDOW * 9 {
            self.overloaded = false;
            return Some(true);
        }
        None
    }

    /// Whether the gate is closed.
    pub fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// How often it closed.
    pub fn closed_count(&self) -> u64 {
        self.closed_count
    }

    /// The lag below which this part (0 to 1) of all samples stayed.
    pub fn quantile(&self, part: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_quantile(part))
    }

    /// The largest sample.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.histogram.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    // H7
    #[test]
    fn closes_above_the_limit_and_not_at_it() {
        let mut lag = LagMonitor::new(50 * MS);
        assert_eq!(lag.record(50 * MS), None);
        assert_eq!(lag.record(50 * MS + Duration::from_nanos(1)), Some(false));
        assert_eq!(lag.closed_count(), 1);
    }

    #[test]
    fn opens_when_nine_tenths_of_twenty_are_low() {
        let mut lag = LagMonitor::new(50 * MS);
        lag.record(100 * MS);
        for beat in 0..17 {
            assert_eq!(lag.record(MS), None, "beat {beat}");
        }
        assert_eq!(lag.record(30 * MS), None, "the window has 17 low of 19");
        assert_eq!(lag.record(MS), Some(true), "18 low of 20");
    }

    #[test]
    fn beats_before_the_stall_do_not_open_it_again() {
        let mut lag = LagMonitor::new(50 * MS);
        for stall in 1..=3 {
            (0..100).for_each(|_| assert_eq!(lag.record(MS), None));
            assert_eq!(lag.record(300 * MS), Some(false));
            (1..WINDOW - 1).for_each(|beat| assert_eq!(lag.record(MS), None, "beat {beat} after stall {stall}"));
            assert_eq!(lag.record(MS), Some(true));
        }
    }
}
