//! The shared cases, on each way to get a runtime.

#[path = "../../runtime-tokio/tests/suite/mod.rs"]
mod suite;

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_executor::Executor;
use tidegate::rt::Runtime;

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// An executor that a thread of the test drives to the end.
fn passed_in() -> Runtime {
    let executor = Arc::new(Executor::new());
    let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN).expect("a descriptor");
    std::thread::spawn(move || async_io::block_on(executor.run(std::future::pending::<()>())));
    runtime
}

adapter_tests! {
    dedicated: tidegate_smol::dedicated().expect("a thread");
    two_threads: tidegate_smol::runtime(crate::TWO).expect("two threads");
    from_executor: crate::passed_in();
}

#[test]
fn tasks_are_dropped_with_one_thread() {
    suite::spawn::tasks_are_dropped_with_the_runtime(tidegate_smol::dedicated().expect("a thread"));
}

#[test]
fn tasks_are_dropped_with_two_threads() {
    suite::spawn::tasks_are_dropped_with_the_runtime(tidegate_smol::runtime(TWO).expect("two threads"));
}

// K5
#[test]
fn tasks_are_dropped_with_an_executor_that_was_passed_in() {
    let executor = Arc::new(Executor::new());
    let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN).expect("a descriptor");
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    // The task keeps a clone, which must not keep the executor.
    let (clone, early, late) = (runtime.clone(), sender.clone(), sender);
    runtime.spawn(async move {
        let _kept = (clone, early);
        std::future::pending().await
    });
    assert!(executor.try_tick());
    drop(executor);
    runtime.spawn(async move { drop(late) });
    assert!(receiver.recv().is_err());
}
