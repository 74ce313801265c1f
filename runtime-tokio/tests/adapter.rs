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
