//! When the current slice of a fetch loop ends, readable by the fetches that it polls.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU64, Ordering};

/// The end of the slice that a fetch loop is in.
///
/// ```
/// use std::time::Duration;
/// # fn example(now: std::time::Instant) {
/// let clock = tidegate::rt::SliceClock::new(now);
/// assert!(clock.is_over(now), "outside of any");
/// clock.begin(now, Duration::from_micros(500));
/// assert!(!clock.is_over(now));
/// assert!(clock.is_over(now + Duration::from_micros(500)));
/// # }
/// # example(tidegate::sim::Sim::new(1).runtime().now());
/// ```
#[derive(Debug)]
pub struct SliceClock {
    origin: Instant,
    /// Nanoseconds after `origin`; 0 outside a slice.
    end: AtomicU64,
}

impl SliceClock {
    /// A clock outside any slice.
    pub fn new(origin: Instant) -> Self {
        Self { origin, end: AtomicU64::new(0) }
    }

    /// Begins a slice of this length.
    pub fn begin(&self, now: Instant, length: Duration) {
        let end = now.saturating_duration_since(self.origin) + length;
        self.end.store(u64::try_from(end.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the slice is over.
    pub fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.origin).as_nanos() >= u128::from(self.end.load(Ordering::Relaxed))
    }
}
