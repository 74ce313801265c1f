//! Runs [tidegate] on smol: async-io and async-executor.
//!
//! | where the crawl's I/O runs | |
//! |---|---|
//! | a thread of its own | [`dedicated`] |
//! | several such threads | [`runtime`] |
//! | an executor that somebody else drives | [`from_executor`] |
//!
//! Each gives a [`Runtime`], whose parts can be replaced one by one.
//!
//! There is no `current()`: a task on smol cannot ask which executor runs it. `smol::spawn` means a global executor whose
//! number of threads is read from the environment, and which nobody can end; pass the executor that you drive instead.
//!
//! # Threads
//! The thread of [`dedicated`] turns a reactor of its own on Linux: epoll, edge-triggered, with one system call a turn.
//! Everywhere else, several threads or somebody else's executor, I/O and timers are async-io's. That has one reactor a
//! process, and a thread named `async-io` that turns it when nobody else does, and that takes it from one that works for a
//! while: a crawl costs more there. It starts with the first socket, timer or lookup of a name, and
//! stays. The `blocking` crate and its pool are not used.
//!
//! # Features
//! * `hickory` (default): asynchronous DNS by hickory-resolver, with the system's name servers and hosts file. Without it
//!   [`SystemResolver`](tidegate::rt::SystemResolver) asks `getaddrinfo`.
//! * `http`, `tls` (default): those of tidegate.

#[cfg(feature = "hickory")]
mod dns;
mod io;
mod net;
#[cfg(target_os = "linux")]
mod reactor;
mod timer;

use std::convert::Infallible;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::thread;

use async_executor::Executor;
use async_io::Async;
pub use tidegate;
use tidegate::rt::{BoxFuture, Runtime, Spawn};

#[cfg(target_os = "linux")]
use crate::reactor::Reactor;

/// An executor on one thread of its own, named `tidegate-io`.
///
/// The thread ends when the last clone of the [`Runtime`] is dropped, and its tasks are dropped with it. Nobody waits for
/// that, so the last clone may be dropped anywhere, in a task too.
///
/// # Errors
/// Where the system gives no thread or no descriptor.
///
/// ```
/// let runtime = tidegate_smol::dedicated()?;
/// let (sender, receiver) = std::sync::mpsc::channel();
/// runtime.spawn(async move { sender.send(std::thread::current().name().map(String::from)).expect("receiver lives") });
/// assert_eq!(receiver.recv().expect("the task runs").as_deref(), Some("tidegate-io"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn dedicated() -> std::io::Result<Runtime> {
    runtime(NonZeroUsize::MIN)
}

/// An executor on so many threads of its own, named `tidegate-io`, that share their tasks. They end as the one of
/// [`dedicated`] does.
///
/// # Errors
/// Where the system gives no thread or no descriptor.
///
/// ```
/// let two = std::num::NonZeroUsize::MIN.saturating_add(1);
/// assert_eq!(tidegate_smol::runtime(two)?.spawner().parallelism(), two);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn runtime(threads: NonZeroUsize) -> std::io::Result<Runtime> {
    let executor = Arc::new(Executor::new());
    let driver = if threads.get() == 1 { Driver::of_one_thread()? } else { Driver::of_async_io()? };
    let (stop, stopped) = async_channel::bounded(1);
    let runtime = assemble(&executor, threads, driver.clone(), Some(Threads { _stop: stop }));
    for _ in 0..threads.get() {
        let (executor, driver, stopped) = (Arc::clone(&executor), driver.clone(), stopped.clone());
        // Nothing is ever sent: it ends when the sender is dropped. The last thread drops the executor, and its tasks.
        thread::Builder::new().name("tidegate-io".into()).spawn(move || {
            let _ = driver.block_on(executor.run(stopped.recv()));
        })?;
    }
    Ok(runtime)
}

/// An executor that somebody else drives, on so many threads.
///
/// The [`Runtime`] does not keep it: when the last `Arc` elsewhere is dropped, its tasks are dropped, and what is spawned
/// later is dropped too. Drive it with `async_io::block_on` or `smol::block_on`, which turn the reactor between tasks;
/// under another `block_on` each event costs a change of threads.
///
/// # Errors
/// Where the system gives no descriptor.
///
/// ```
/// use std::{num::NonZeroUsize, sync::Arc};
///
/// let executor = Arc::new(async_executor::Executor::new());
/// let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN)?;
/// let (sender, receiver) = async_channel::bounded(1);
/// runtime.spawn(async move { sender.try_send(6 * 7).expect("room for one") });
/// assert_eq!(async_io::block_on(executor.run(receiver.recv())), Ok(42));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn from_executor(executor: &Arc<Executor<'static>>, threads: NonZeroUsize) -> std::io::Result<Runtime> {
    Ok(assemble(executor, threads, Driver::of_async_io()?, None))
}

fn assemble(
    executor: &Arc<Executor<'static>>,
    parallelism: NonZeroUsize,
    driver: Driver,
    threads: Option<Threads>,
) -> Runtime {
    #[cfg(feature = "hickory")]
    let resolve = dns::Dns::new(Arc::downgrade(executor));
    #[cfg(not(feature = "hickory"))]
    let resolve = tidegate::rt::SystemResolver::new();
    let smol = Smol { executor: Arc::downgrade(executor), parallelism, driver, _threads: threads.map(Arc::new) };
    Runtime::new("smol", smol.clone(), smol.clone(), smol, resolve)
}

/// Three of the five parts. The executor is held weakly, so that tasks which hold a [`Runtime`] do not keep themselves.
#[derive(Clone)]
struct Smol {
    executor: Weak<Executor<'static>>,
    parallelism: NonZeroUsize,
    driver: Driver,
    _threads: Option<Arc<Threads>>,
}

/// Who looks at I/O and timers.
#[derive(Clone)]
enum Driver {
    AsyncIo(Arc<Readable>),
    #[cfg(target_os = "linux")]
    Own(Arc<Reactor>),
}

impl Driver {
    fn of_async_io() -> std::io::Result<Self> {
        Ok(Self::AsyncIo(Arc::new(Readable::new()?)))
    }

    fn of_one_thread() -> std::io::Result<Self> {
        #[cfg(target_os = "linux")]
        return Ok(Self::Own(Reactor::new()?));
        #[cfg(not(target_os = "linux"))]
        Self::of_async_io()
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::AsyncIo(_) => async_io::block_on(future),
            #[cfg(target_os = "linux")]
            Self::Own(reactor) => reactor.run(future),
        }
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        match self {
            Self::AsyncIo(readable) => {
                let readable = Arc::clone(readable);
                Box::pin(async move {
                    // An error means that the reactor is gone; there is nothing left to wait for then.
                    let _ = readable.socket.readable().await;
                })
            }
            #[cfg(target_os = "linux")]
            Self::Own(reactor) => reactor.yield_now(),
        }
    }
}

/// Threads that end when this is dropped.
struct Threads {
    _stop: async_channel::Sender<Infallible>,
}

impl Spawn for Smol {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if let Some(executor) = self.executor.upgrade() {
            // A panic is caught by the task, and dropped with its handle.
            executor.spawn(task).detach();
        }
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        self.driver.yield_now()
    }

    fn parallelism(&self) -> NonZeroUsize {
        self.parallelism
    }
}

/// A socket that is always readable. Whoever waits for it goes on only after the reactor has looked at timers and I/O;
/// a task that wakes itself is polled up to 200 times before.
struct Readable {
    socket: Async<Socket>,
    #[cfg(unix)]
    _peer: Socket,
}

#[cfg(unix)]
type Socket = std::os::unix::net::UnixStream;
#[cfg(not(unix))]
type Socket = std::net::UdpSocket;

impl Readable {
    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use std::io::Write;
        let (socket, mut peer) = Socket::pair()?;
        peer.write_all(&[0])?;
        Ok(Self { socket: Async::new(socket)?, _peer: peer })
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Self> {
        let socket = Socket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(socket.local_addr()?)?;
        socket.send(&[0])?;
        Ok(Self { socket: Async::new(socket)? })
    }
}
