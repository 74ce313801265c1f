//! Runs [tidegate] on Tokio: on the runtime that is there, or on one of its own.
//!
//! | where the crawl's I/O runs | |
//! |---|---|
//! | the runtime this code runs on | [`current`], [`try_current`] |
//! | a runtime that somebody else keeps | [`from_handle`] |
//! | a thread of its own, so that the embedder's tasks cannot hold the crawl up, nor the reverse | [`dedicated`] |
//! | several such threads | [`runtime`] |
//!
//! Each gives a [`Runtime`], whose parts can be replaced one by one. Tokio's timers are whole milliseconds, so one that
//! fires on an idle thread is up to 2 ms late; the adapter says so, and the lag monitor takes it off.
//!
//! Tasks are spawned without Tokio's cooperative budget: tidegate gives the thread back by time, and a budget counted in
//! reads would make sockets look empty that are not.
//!
//! # Features
//! * `hickory` (default): asynchronous DNS by hickory-resolver, with the system's name servers and hosts file. Without it
//!   [`SystemResolver`](tidegate::rt::SystemResolver) asks `getaddrinfo`.
//! * `http`, `tls` (default): those of tidegate.

#[cfg(feature = "hickory")]
mod dns;
mod net;
mod timer;
mod yielding;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use futures::channel::oneshot;
pub use tidegate;
use tidegate::rt::{BoxFuture, Runtime, Spawn};
use tokio::runtime::{Builder, Handle, TryCurrentError};

/// The Tokio runtime that this code runs on.
///
/// # Panics
/// Outside a Tokio runtime; [`try_current`] tells. See also [`from_handle`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(tidegate_tokio::current().name(), "tokio");
/// # }
/// ```
#[track_caller]
pub fn current() -> Runtime {
    from_handle(Handle::current())
}

/// The Tokio runtime that this code runs on.
///
/// # Errors
/// Outside a Tokio runtime.
///
/// ```
/// assert!(tidegate_tokio::try_current().is_err());
/// ```
pub fn try_current() -> Result<Runtime, TryCurrentError> {
    Handle::try_current().map(from_handle)
}

/// A Tokio runtime that somebody else keeps and ends.
///
/// # Panics
/// The first sleep or connection panics where the runtime was built without its time or I/O driver (`enable_all`), and
/// so does a sleep that is polled elsewhere after the runtime has ended.
///
/// ```
/// let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
/// let runtime = tidegate_tokio::from_handle(tokio.handle().clone());
/// assert_eq!(runtime.spawner().parallelism().get(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn from_handle(handle: Handle) -> Runtime {
    assemble(handle, None)
}

/// A Tokio runtime on one thread of its own, named `tidegate-io`.
///
/// The thread ends when the last clone of the [`Runtime`] is dropped, and its tasks are dropped with it. Nobody waits for
/// that, so the last clone may be dropped anywhere, in a task too.
///
/// # Errors
/// Where the system gives no thread or no descriptor.
///
/// ```
/// let runtime = tidegate_tokio::dedicated()?;
/// let (sender, receiver) = std::sync::mpsc::channel();
/// runtime.spawn(async move { sender.send(std::thread::current().name().map(String::from)).expect("receiver lives") });
/// assert_eq!(receiver.recv().expect("the task runs").as_deref(), Some("tidegate-io"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn dedicated() -> io::Result<Runtime> {
    let tokio = Builder::new_current_thread().enable_all().build()?;
    let handle = tokio.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::Builder::new().name(THREAD.into()).spawn(move || {
        // Nothing is ever sent: it ends when the sender is dropped.
        let _ = tokio.block_on(stopped);
        tokio.shutdown_background();
    })?;
    Ok(assemble(handle, Some(Threads::One { _stop: stop })))
}

/// A Tokio runtime on so many threads of its own, named `tidegate-io`. One is [`dedicated`]; above that they share their
/// tasks. They end as the one of [`dedicated`] does.
///
/// # Errors
/// Where the system gives no descriptor.
///
/// # Panics
/// Where the system gives no thread.
///
/// ```
/// let two = std::num::NonZeroUsize::MIN.saturating_add(1);
/// assert_eq!(tidegate_tokio::runtime(two)?.spawner().parallelism(), two);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn runtime(threads: NonZeroUsize) -> io::Result<Runtime> {
    if threads == NonZeroUsize::MIN {
        return dedicated();
    }
    let tokio = Builder::new_multi_thread().worker_threads(threads.get()).thread_name(THREAD).enable_all().build()?;
    Ok(assemble(tokio.handle().clone(), Some(Threads::Many(Some(tokio)))))
}

fn assemble(handle: Handle, threads: Option<Threads>) -> Runtime {
    #[cfg(feature = "hickory")]
    let resolve = dns::Dns::new(handle.clone());
    #[cfg(not(feature = "hickory"))]
    let resolve = tidegate::rt::SystemResolver::new();
    let tokio = Tokio { handle, _threads: threads.map(Arc::new) };
    Runtime::new("tokio", tokio.clone(), tokio.clone(), tokio, resolve)
}

/// Three of the five parts. Tasks and connections hold the bare handle, so that they do not keep their own threads alive.
#[derive(Clone)]
struct Tokio {
    handle: Handle,
    _threads: Option<Arc<Threads>>,
}

/// Threads that end when this is dropped.
enum Threads {
    One { _stop: oneshot::Sender<()> },
    Many(Option<tokio::runtime::Runtime>),
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Self::Many(tokio) = self
            && let Some(tokio) = tokio.take()
        {
            // A plain drop would wait for the threads, and panic in a task.
            tokio.shutdown_background();
        }
    }
}

impl Spawn for Tokio {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // Detached by dropping its handle; a panic ends in there.
        drop(self.handle.spawn(tokio::task::unconstrained(task)));
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        // Tokio wakes a yielded task only after the driver was polled, and polls it when nothing else is ready.
        Box::pin(yielding::yield_now())
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.handle.metrics().num_workers()).unwrap_or(NonZeroUsize::MIN)
    }
}

const THREAD: &str = "tidegate-io";
