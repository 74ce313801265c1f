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
