//! The conformance suite, on each way to get a runtime.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use tidegate::conformance::{Capabilities, Harness, StdHarness};
use tokio::runtime::Builder;

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

fn several_threads(capabilities: &mut Capabilities) {
    capabilities.one_thread = false;
}

/// A runtime of two threads that the embedder keeps and ends.
fn from_handle() -> StdHarness {
    let tokio = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    StdHarness::new(tidegate_tokio::from_handle(tokio.handle().clone()))
        .lacking(several_threads)
        .ended_by(move || tokio.shutdown_background())
}

/// A runtime of the embedder's that runs while the embedder blocks on it, as `#[tokio::main]` does.
fn current_thread() -> StdHarness {
    let tokio = Arc::new(Builder::new_current_thread().enable_all().build().expect("descriptors"));
    let runtime = tidegate_tokio::from_handle(tokio.handle().clone());
    let tokio = Arc::new(Mutex::new(Some(tokio)));
    let drives = Arc::clone(&tokio);
    StdHarness::new(runtime)
        .driven_by(move |future| {
            let tokio = drives.lock().expect("no panic while locked").clone().expect("not ended");
            tokio.block_on(future);
        })
        .ended_by(move || drop(tokio.lock().expect("no panic while locked").take()))
}

/// No executor at all: tasks are polled beside the future that Tokio blocks on.
fn inline() -> StdHarness {
    let tokio = Builder::new_current_thread().enable_all().build().expect("descriptors");
    let runtime = tidegate_tokio::from_handle(tokio.handle().clone());
    StdHarness::inline(runtime, move |future| tokio.block_on(future))
}

/// The same where another thread turns Tokio's reactor, and this one knows nothing of it.
fn inline_elsewhere() -> StdHarness {
    StdHarness::inline(tidegate_tokio::dedicated().expect("a thread"), |future| block_on(future))
        .lacking(several_threads)
}

tidegate::conformance_tests! {
    dedicated: StdHarness::new(tidegate_tokio::dedicated().expect("a thread"));
    two_threads: StdHarness::new(tidegate_tokio::runtime(TWO).expect("two threads")).lacking(several_threads);
    from_handle: from_handle();
    current_thread: current_thread();
    inline: inline();
    inline_elsewhere: inline_elsewhere();
}

/// What is not asked of each, so that nothing stops being asked unseen.
#[test]
fn cases_that_do_not_apply() {
    let left_out = |harness: StdHarness| harness.capabilities().left_out();
    let counted = [
        "yield_now_lets_timers_run",
        "yield_now_lasts_though_the_task_is_woken",
        "a_ticker_keeps_its_time_beside_work",
    ];
    let owned = ["the_last_clone_may_be_dropped_in_a_task"];
    assert_eq!(left_out(StdHarness::new(tidegate_tokio::dedicated().expect("a thread"))), [""; 0]);
    let two_threads = StdHarness::new(tidegate_tokio::runtime(TWO).expect("two threads")).lacking(several_threads);
    assert_eq!(left_out(two_threads), counted);
    assert_eq!(left_out(from_handle()), [&counted[..], &owned].concat());
    assert_eq!(left_out(current_thread()), owned);
    assert_eq!(left_out(inline()), owned);
    assert_eq!(left_out(inline_elsewhere()), [&counted[..], &owned].concat());
}
