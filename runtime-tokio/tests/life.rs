//! Starting and stopping leaves nothing behind. A process of its own, because it counts what the process has.
#![cfg(target_os = "linux")]

#[path = "common/life.rs"]
mod life;

const TWO: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(1);

// K7
#[test]
fn a_hundred_starts_and_stops_leave_nothing() {
    life::starts_and_stops(50, || tidegate_tokio::dedicated().expect("a thread"));
    life::starts_and_stops(50, || tidegate_tokio::runtime(TWO).expect("two threads"));
}
