//! The monotonic clock, for what runs on no runtime of tidegate: the load server, and the peers.

use std::time::Instant;

/// The time now.
///
/// ```
/// let before = tidegate_benches::now();
/// assert!(tidegate_benches::now() >= before);
/// ```
#[expect(clippy::disallowed_methods, reason = "a server and a peer of other people have no Timer to ask")]
pub fn now() -> Instant {
    Instant::now()
}
