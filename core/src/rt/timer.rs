//! Clock and sleep.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

/// The clock of a runtime, and sleeping by it.
///
/// # Contract
/// * `now` is monotonic; `wall_clock` moves with it.
/// * A sleep is never ready before its deadline by `now`. One whose deadline is past is ready without waiting.
/// * No method has a default body: an adapter must not fake sleep and forget the clock.
///
/// # Panics
/// Never, also when called from a thread that is not the runtime's.
///
/// # Implementing
/// `resolution` is how late a timer may be on an idle executor (Tokio: 1 ms); the lag monitor takes it off.
pub trait Timer: Send + Sync + 'static {
    /// The time by the monotonic clock.
    fn now(&self) -> Instant;

    /// The time by the clock on the wall.
    fn wall_clock(&self) -> SystemTime;

    /// How late a timer may be when nothing else runs.
    fn resolution(&self) -> Duration;

    /// A future that is ready at `deadline`.
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>>;
}

/// A sleep that can be set anew.
///
/// # Cancel safety
/// Dropping it is free.
pub trait Sleep: Future<Output = ()> + Send + 'static {
    /// Sets another deadline, earlier or later, also after it was ready.
    fn reset(self: Pin<&mut Self>, deadline: Instant);
}
