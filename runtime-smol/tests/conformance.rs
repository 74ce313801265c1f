//! The conformance suite, on each way to get a runtime.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_executor::Executor;
use tidegate::conformance::{Capabilities, Harness, StdHarness, cases};
use tidegate::rt;

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
    let (runtime, tasks) = rt::inline(runtime.with_resolve(rt::SystemResolver::new()));
    let tasks = Arc::new(Mutex::new(Some(tasks)));
    let runs = Arc::clone(&tasks);
    StdHarness::new(runtime)
        .driven_by(move |future| {
            // A case that fails panics in here.
            let mut tasks = runs.lock().unwrap_or_else(PoisonError::into_inner);
            async_io::block_on(tasks.as_mut().expect("not ended").run(future));
        })
        .ended_by(move || drop(tasks.lock().unwrap_or_else(PoisonError::into_inner).take()))
}

tidegate::conformance_tests! {
    dedicated: StdHarness::new(tidegate_smol::dedicated().expect("a thread"));
    two_threads: StdHarness::new(tidegate_smol::runtime(TWO).expect("two threads")).lacking(several_threads);
    passed_in: passed_in();
    current_thread: current_thread();
    inline: inline();
}

/// What is not asked of each, so that nothing stops being asked unseen.
#[test]
fn cases_that_do_not_apply() {
    let left_out = |harness: StdHarness| {
        let capabilities = harness.capabilities();
        cases().filter(move |case| !case.applies_to(&capabilities)).map(|case| case.name).collect::<Vec<_>>()
    };
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
}
