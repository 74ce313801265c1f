//! The conformance suite, on each way to get a runtime.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use async_executor::Executor;
use futures::executor::block_on;
use tidegate::conformance::{Capabilities, Harness, StdHarness};
use tidegate::rt::SystemResolver;

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

fn several_threads(capabilities: &mut Capabilities) {
    capabilities.one_thread = false;
}

/// An executor that a thread of the test drives until the end.
fn passed_in() -> StdHarness {
    let executor = Arc::new(Executor::new());
    let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN).expect("a descriptor");
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let drives = std::thread::spawn(move || {
        let _ = async_io::block_on(executor.run(stopped.recv()));
    });
    StdHarness::new(runtime).ended_by(move || {
        drop(stop);
        drives.join().expect("no panic");
    })
}

/// An executor that runs while the embedder blocks on it.
fn current_thread() -> StdHarness {
    let executor = Arc::new(Executor::new());
    let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN).expect("a descriptor");
    let executor = Arc::new(Mutex::new(Some(executor)));
    let drives = Arc::clone(&executor);
    StdHarness::new(runtime)
        .driven_by(move |future| {
            let executor = drives.lock().expect("no panic while locked").clone().expect("not ended");
            async_io::block_on(executor.run(future));
        })
        .ended_by(move || drop(executor.lock().expect("no panic while locked").take()))
}

/// No executor at all: tasks are polled beside the future that async-io blocks on. Names are looked up by threads, because
/// the asynchronous resolver has tasks on the executor.
fn inline() -> StdHarness {
    let nobody_drives = Arc::new(Executor::new());
    let runtime = tidegate_smol::from_executor(&nobody_drives, NonZeroUsize::MIN).expect("a descriptor");
    StdHarness::inline(runtime.with_resolve(SystemResolver::new()), |future| async_io::block_on(future))
}

/// The same where another thread turns the reactor, and this one knows nothing of it.
fn inline_elsewhere() -> StdHarness {
    StdHarness::inline(tidegate_smol::dedicated().expect("a thread"), |future| block_on(future))
        .lacking(several_threads)
}

tidegate::conformance_tests! {
    dedicated: StdHarness::new(tidegate_smol::dedicated().expect("a thread"));
    two_threads: StdHarness::new(tidegate_smol::runtime(TWO).expect("two threads")).lacking(several_threads);
    passed_in: passed_in();
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
    let two_threads = StdHarness::new(tidegate_smol::runtime(TWO).expect("two threads")).lacking(several_threads);
    assert_eq!(left_out(StdHarness::new(tidegate_smol::dedicated().expect("a thread"))), [""; 0]);
    assert_eq!(left_out(two_threads), counted);
    assert_eq!(left_out(passed_in()), owned);
    assert_eq!(left_out(current_thread()), owned);
    assert_eq!(left_out(inline()), owned);
    assert_eq!(left_out(inline_elsewhere()), [&counted[..], &owned].concat());
}
