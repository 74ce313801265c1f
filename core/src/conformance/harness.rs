//! [`Harness`]: what the suite asks of whoever runs it, and [`Capabilities`]: what a runtime cannot be asked for.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::{Script, Served, cases, server};
use crate::rt::Runtime;

/// Brings a runtime to the cases.
///
/// Each case gets a harness of its own. [`StdHarness`](super::StdHarness) is the one for runtimes on sockets and threads of
/// the system; a simulated runtime implements this and replaces `block_on`, `serve`, `work` and `unused_addr`, so that
/// nothing in a case touches the system.
///
/// # Implementing
/// The default bodies are for runtimes whose tasks run on threads of their own, with sockets of the system:
///
/// ```
/// use tidegate::conformance::{Capabilities, Harness};
/// use tidegate::rt::Runtime;
///
/// struct OneThread(Runtime);
///
/// impl Harness for OneThread {
///     fn runtime(&self) -> Runtime {
///         self.0.clone()
///     }
///
///     fn capabilities(&self) -> Capabilities {
///         let mut capabilities = Capabilities::all();
///         // This clone would have to be dropped, too.
///         (capabilities.ends, capabilities.owned) = (false, false);
///         capabilities
///     }
/// }
/// ```
pub trait Harness: Send + Sync + 'static {
    /// The runtime of this case: the same each time.
    fn runtime(&self) -> Runtime;

    /// What this runtime can be asked for. Cases that need more return without doing anything; each says in
    /// [`cases`](super::cases) what it needs.
    fn capabilities(&self) -> Capabilities;

    /// Runs a future to its end, on the thread of the case. By default it is polled there, and the thread parked meanwhile.
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }

    /// Starts a server that plays `script`; by default on threads, over loopback.
    ///
    /// # Panics
    /// Where there is no port or thread.
    fn serve(&self, script: Script) -> Served {
        server::start(script)
    }

    /// An address where nobody listens.
    ///
    /// # Panics
    /// Where there is no port.
    fn unused_addr(&self) -> SocketAddr {
        // An address that no server here binds, so that the port stays free; others have the whole of 127/8 on Linux only.
        let host = if cfg!(target_os = "linux") { [127, 0, 0, 3] } else { [127, 0, 0, 1] };
        TcpListener::bind(SocketAddr::from((host, 0))).and_then(|listener| listener.local_addr()).expect("a free port")
    }

    /// Keeps the CPU busy for so long, by the runtime's clock, on the thread that calls: a task of the runtime, or a job of
    /// its offload. By default it spins.
    fn work(&self, time: Duration) {
        let runtime = self.runtime();
        let until = runtime.now() + time;
        while runtime.now() < until {
            std::hint::spin_loop();
        }
    }

    /// Ends the runtime, as far as the harness keeps it: it is not asked for anything afterwards but `block_on`. A runtime
    /// that ends with its last clone ends when the case has dropped its own.
    fn end(&self) {}
}

/// What a runtime can be asked for. All that a case does not need is asked of every runtime.
///
/// A minor version may add cases, and a capability with them: it is `true` in [`all`](Self::all), so that the new cases are
/// asked of every runtime that does not take it away. Neither is a breaking change, though the tests of an adapter may fail
/// then: they found something.
///
/// ```
/// use tidegate::conformance::Capabilities;
/// let mut capabilities = Capabilities::all();
/// capabilities.threads = false;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// There are other threads than the runtime's, which may use what it gave, and on which jobs may wait. A simulated
    /// runtime has one.
    pub threads: bool,
    /// One thread polls tasks, timers and I/O, so that it can be counted how often a task yields until a timer fires. With
    /// several threads that is up to the system.
    pub one_thread: bool,
    /// Sockets are the system's: they are connected before anybody accepts them, bind source addresses, and are descriptors.
    pub sockets: bool,
    /// Several slices are written at once (`is_write_vectored`).
    pub vectored: bool,
    /// CPU work leaves the thread that submits it: the offload is not inline.
    pub offload: bool,
    /// [`Harness::end`] ends the runtime.
    pub ends: bool,
    /// The runtime ends with its last clone, wherever that is dropped.
    pub owned: bool,
}

impl Capabilities {
    /// All of them.
    pub fn all() -> Self {
        Self { threads: true, one_thread: true, sockets: true, vectored: true, offload: true, ends: true, owned: true }
    }

    /// The names of the cases that a runtime of these is not asked for, in their order: for a test that names them, so that
    /// nothing stops being asked unseen.
    ///
    /// ```
    /// use tidegate::conformance::Capabilities;
    /// let mut capabilities = Capabilities::all();
    /// assert_eq!(capabilities.left_out(), [""; 0]);
    /// capabilities.owned = false;
    /// assert_eq!(capabilities.left_out(), ["the_last_clone_may_be_dropped_in_a_task"]);
    /// ```
    pub fn left_out(&self) -> Vec<&'static str> {
        cases().filter(|case| !case.applies_to(self)).map(|case| case.name).collect()
    }
}

/// Runs `future` on this thread, which is parked while it waits.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unparks(Thread);
    impl Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
