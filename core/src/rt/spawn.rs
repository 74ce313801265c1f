//! Starting tasks, and giving the thread back.

use std::num::NonZeroUsize;
use std::panic::Location;

use super::BoxFuture;

/// Starts tasks on the executor.
///
/// # Contract
/// * A task runs although nobody keeps a handle to it. One that panics takes nothing else down.
/// * After the executor has shut down, a task is dropped, not leaked.
/// * [`yield_now`](Self::yield_now): I/O and timers are looked at before the caller goes on. A bare self-wake is not
///   enough on any executor known: Tokio polls it up to 61 times, async-executor 200 times, before it looks at a timer.
///   Nor does it end earlier where something else wakes the task meanwhile.
///
/// # Implementing
/// What wraps another runtime's implementation passes [`spawn_from`](Self::spawn_from) on too, so that a runtime which shows
/// its tasks shows who asked for them:
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::panic::Location;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use tidegate::rt::{BoxFuture, Runtime, Spawn};
///
/// /// Counts the tasks that it hands on.
/// struct Counted(Runtime, Arc<AtomicU64>);
///
/// impl Spawn for Counted {
///     fn spawn(&self, task: BoxFuture<'static, ()>) {
///         self.1.fetch_add(1, Ordering::Relaxed);
///         self.0.spawner().spawn(task);
///     }
///
///     fn spawn_from(&self, task: BoxFuture<'static, ()>, from: &'static Location<'static>) {
///         self.1.fetch_add(1, Ordering::Relaxed);
///         self.0.spawner().spawn_from(task, from);
///     }
///
///     fn yield_now(&self) -> BoxFuture<'static, ()> {
///         self.0.spawner().yield_now()
///     }
///
///     fn parallelism(&self) -> NonZeroUsize {
///         self.0.spawner().parallelism()
///     }
/// }
///
/// fn counted(runtime: Runtime, tasks: &Arc<AtomicU64>) -> Runtime {
///     let counted = Counted(runtime.clone(), Arc::clone(tasks));
///     runtime.with_spawn(counted)
/// }
/// ```
pub trait Spawn: Send + Sync + 'static {
    /// Starts a task and forgets it. Callable from any thread.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// The same, with the place in the source that asked for it: for runtimes that show their tasks. Forgets it by default.
    fn spawn_from(&self, task: BoxFuture<'static, ()>, from: &'static Location<'static>) {
        let _ = from;
        self.spawn(task);
    }

    /// A future that is ready after I/O and timers were looked at.
    fn yield_now(&self) -> BoxFuture<'static, ()>;

    /// How many threads poll tasks: the number of fetch loops that are worth having.
    fn parallelism(&self) -> NonZeroUsize;
}
