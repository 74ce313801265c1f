//! The shared cases, on each way to get a runtime.

mod suite;

use std::num::NonZeroUsize;
use std::sync::OnceLock;

use tidegate::rt::Runtime;

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// A runtime that outlives the tests.
fn kept() -> Runtime {
    static TOKIO: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let start = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads for a runtime")
    };
    tidegate_tokio::from_handle(TOKIO.get_or_init(start).handle().clone())
}

adapter_tests! {
    dedicated: tidegate_tokio::dedicated().expect("a thread");
    two_threads: tidegate_tokio::runtime(crate::TWO).expect("two threads");
    from_handle: crate::kept();
}

#[test]
fn tasks_are_dropped_with_one_thread() {
    suite::spawn::tasks_are_dropped_with_the_runtime(tidegate_tokio::dedicated().expect("a thread"));
}

#[test]
fn tasks_are_dropped_with_two_threads() {
    suite::spawn::tasks_are_dropped_with_the_runtime(tidegate_tokio::runtime(TWO).expect("two threads"));
}

// K5
#[test]
fn tasks_are_dropped_with_a_runtime_that_somebody_else_ended() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("descriptors");
    let runtime = tidegate_tokio::from_handle(tokio.handle().clone());
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (clone, early, late) = (runtime.clone(), sender.clone(), sender);
    runtime.spawn(async move {
        let _kept = (clone, early);
        std::future::pending().await
    });
    tokio.block_on(tokio::task::yield_now());
    drop(tokio);
    runtime.spawn(async move { drop(late) });
    assert!(receiver.recv().is_err());
    // What needs a reactor says so.
    let addr = suite::net::echo();
    assert!(futures::executor::block_on(runtime.tcp().connect(addr, &Default::default())).is_err());
}
