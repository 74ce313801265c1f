//! Deadlines that cannot overflow: `Duration::MAX` is how people write "never".

use std::time::{Duration, Instant};

/// Far enough to be never, near enough for every clock and timer.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `wait` after `now`, or about 30 years after it where that is sooner.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}

/// A duration as seconds, for machines.
#[cfg(feature = "serde")]
pub(crate) fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
