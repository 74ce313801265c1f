//! The adapter that the book shows passes the suite.
#![cfg(unix)]

mod own_executor;

// ANCHOR: suite
use tidegate::conformance::StdHarness;

tidegate::conformance_tests! {
    own: StdHarness::new(own_executor::start().expect("a thread")).lacking(|can| can.vectored = false);
}
// ANCHOR_END: suite
