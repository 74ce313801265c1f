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
