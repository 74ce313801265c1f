//! The moment at which the poll that is under way on this thread began, so that what a fetch measures of itself reads no clock:
//! a fetch of a kilobyte would read it eight times, and its poll takes 10 us.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static MOMENT: Cell<Option<Moment>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
pub(crate) struct Moment {
    now: Instant,
    /// How long the loop stood still until then, once somebody has asked.
    stalled: Option<Duration>,
}

/// Restores the moment of the poll that this one is nested in.
struct Nested(Option<Moment>);

impl Drop for Nested {
    fn drop(&mut self) {
        MOMENT.set(self.0);
    }
}

impl Moment {
    /// Runs `poll`, which began at `now`.
    pub(crate) fn during<T>(now: Instant, poll: impl FnOnce() -> T) -> T {
        let _nested = Nested(MOMENT.replace(Some(Self { now, stalled: None })));
        poll()
    }

    /// That of the poll under way.
    pub(crate) fn now() -> Option<Instant> {
        MOMENT.get().map(|moment| moment.now)
    }

    /// What `stalled` says of the moment of the poll under way; it is asked once.
    pub(crate) fn stalled(stalled: impl FnOnce(Instant) -> Duration) -> Option<Duration> {
        let mut moment = MOMENT.get()?;
        if let Some(known) = moment.stalled {
            return Some(known);
        }
        let known = stalled(moment.now);
        moment.stalled = Some(known);
        MOMENT.set(Some(moment));
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    #[test]
    fn a_poll_inside_another_has_a_moment_of_its_own() {
        let (first, ms) = (Manual::new().runtime().now(), Duration::from_millis(1));
        let second = first + ms;
        assert_eq!(Moment::now(), None);
        Moment::during(first, || {
            assert_eq!(Moment::stalled(|now| now - first + ms), Some(ms));
            Moment::during(second, || {
                assert_eq!(Moment::now(), Some(second));
                assert_eq!(Moment::stalled(|now| now - first), Some(ms));
            });
            assert_eq!(Moment::now(), Some(first));
            assert_eq!(Moment::stalled(|_| panic!("known")), Some(ms));
        });
        assert_eq!((Moment::now(), Moment::stalled(|_| panic!("of nothing"))), (None, None));
    }

    #[test]
    fn a_poll_that_panics_leaves_none_behind() {
        let now = Manual::new().runtime().now();
        let panicked = std::panic::catch_unwind(|| Moment::during(now, || panic!("in the poll")));
        assert!(panicked.is_err() && Moment::now().is_none());
    }
}
