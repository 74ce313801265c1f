//! How long the loop stood still in all, readable at any time, also before the beat that comes late was polled.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{Mutex, MutexGuard};

/// What the heartbeat publishes: when it is expected next, and the time of the stalls that are over.
///
/// After a stall a single-threaded executor polls its timers in any order, so whoever judges a deadline asks here and not
/// whether the late beat was seen: what has passed since it was due counts already. Nothing counts while nothing beats.
#[derive(Debug)]
pub(crate) struct StallClock {
    /// How late a beat may be before it counts.
    slack: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    expected: Option<Instant>,
    total: Duration,
}

impl State {
    fn running(&self, now: Instant, slack: Duration) -> Duration {
        // Compared first: it is asked several times a fetch, and nearly always on time.
        let Some(expected) = self.expected.filter(|expected| now > *expected) else { return Duration::ZERO };
        now.saturating_duration_since(expected).saturating_sub(slack)
    }
}

impl StallClock {
    /// A clock by beats of a timer that may be so late by itself.
    pub(crate) fn new(slack: Duration) -> Self {
        Self { slack, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of all stalls up to `now`, that which lasts included. Never less than what was said before.
    pub(crate) fn stalled(&self, now: Instant) -> Duration {
        let state = self.lock();
        state.total + state.running(now, self.slack)
    }

    /// When the beat under way is due; `None` where none is.
    pub(crate) fn expected(&self) -> Option<Instant> {
        self.lock().expected
    }

    /// A beat is due at `at`, unless one is due already; gives which.
    pub(crate) fn begin(&self, at: Instant) -> Instant {
        *self.lock().expected.get_or_insert(at)
    }

    /// The beat came.
    pub(crate) fn end(&self, now: Instant) {
        let mut state = self.lock();
        let running = state.running(now, self.slack);
        state.total += running;
        state.expected = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stall_counts_while_it_lasts_and_once() {
        let start = Manual::new().runtime().now();
        let clock = StallClock::new(2 * MS);
        assert_eq!(clock.stalled(start + 100 * MS), Duration::ZERO, "nothing beats");
        assert_eq!(clock.begin(start + 5 * MS), start + 5 * MS);
        assert_eq!(clock.begin(start + 50 * MS), start + 5 * MS, "one is due already");
        assert_eq!(clock.stalled(start + 7 * MS), Duration::ZERO, "no later than it may be");
        assert_eq!(clock.stalled(start + 8 * MS), MS);
        assert_eq!(clock.stalled(start + 107 * MS), 100 * MS);
        clock.end(start + 107 * MS);
        assert_eq!((clock.stalled(start + 500 * MS), clock.expected()), (100 * MS, None));
        clock.begin(start + 500 * MS);
        clock.end(start + 502 * MS);
        assert_eq!(clock.stalled(start + 502 * MS), 100 * MS, "on time");
    }
}
