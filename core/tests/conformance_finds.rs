//! Runtimes that break one rule each, and the case of the conformance suite that finds them.

mod common;

use std::future::{Future, ready};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tidegate::conformance::{Capabilities, Harness, StdHarness, dns, net, spawn};
use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError, Runtime, Spawn};

/// The tasks of one future over the runtime of the tests, whose work takes no time.
struct OneThread(StdHarness);

impl Harness for OneThread {
    fn runtime(&self) -> Runtime {
        self.0.runtime()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn work(&self, _: std::time::Duration) {}
}

fn on(change: impl FnOnce(Runtime) -> Runtime) -> Arc<OneThread> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Arc::new(OneThread(StdHarness::inline(change(common::runtime()), move |future| tokio.block_on(future))))
}

#[test]
fn one_that_breaks_none_passes() {
    dns::timers_fire_during_a_lookup(&on(|runtime| runtime));
    net::options_are_set(&on(|runtime| runtime));
    spawn::yield_now_lets_io_run(&on(|runtime| runtime));
}

/// Has asked when it gives the future.
struct Blocks;

impl Resolve for Blocks {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        Box::pin(ready(Err(ResolveError::NotFound(name.clone()))))
    }
}

#[test]
#[should_panic(expected = "each lookup was over in its first poll")]
fn a_resolver_that_blocks() {
    dns::timers_fire_during_a_lookup(&on(|runtime| runtime.with_resolve(Blocks)));
}

/// Yields nothing.
struct GoesOn;

impl Spawn for GoesOn {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(task);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

#[test]
#[should_panic(expected = "the bytes have not come")]
fn a_yield_that_goes_on_at_once() {
    spawn::yield_now_lets_io_run(&on(|runtime| runtime.with_spawn(GoesOn)));
}

/// What is seen of a socket, on Linux.
#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::{SocketAddr, TcpStream};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::io::{FdFlags, fcntl_setfd};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    use tidegate::rt::{TcpConn, TcpConnect, TcpOptions, start_connect};

    use super::*;

    type Change = fn(&mut TcpOptions);

    /// Connects with other options than it was given, and does something to the socket.
    struct Connects(Change, fn(&TcpStream));

    impl TcpConnect for Connects {
        fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
            let mut options = options.clone();
            self.0(&mut options);
            Box::pin(common::connected(start_connect(addr, &options).inspect(self.1)))
        }
    }

    /// Whether this process may look at its own descriptors.
    fn is_seen() -> bool {
        let own = pidfd_open(getpid(), PidfdFlags::empty());
        own.and_then(|own| pidfd_getfd(own, 0, PidfdGetfdFlags::empty())).is_ok()
    }

    #[test]
    fn an_option_that_is_forgotten() {
        if !is_seen() {
            return;
        }
        let forgets: [(&str, Change); 5] = [
            ("TCP_NODELAY", |options| options.nodelay = true),
            ("SO_KEEPALIVE", |options| options.keepalive = None),
            ("TCP_USER_TIMEOUT", |options| options.user_timeout = None),
            ("a buffer of", |options| options.send_buffer = None),
            ("a buffer of", |options| options.recv_buffer = None),
        ];
        for (told, forget) in forgets {
            let harness = on(|runtime| runtime.with_tcp(Connects(forget, |_| {})));
            let found = catch_unwind(AssertUnwindSafe(|| net::options_are_set(&harness)));
            let panic = found.expect_err(told);
            let message = panic.downcast_ref::<String>().expect("a message with what was found");
            assert!(message.contains(told), "{message}");
        }
    }

    #[test]
    #[should_panic(expected = "Descriptor")]
    fn a_descriptor_that_is_inherited() {
        let inherits = |socket: &TcpStream| fcntl_setfd(socket, FdFlags::empty()).expect("it is open");
        net::descriptors_close_on_exec(&on(|runtime| runtime.with_tcp(Connects(|_| {}, inherits))));
    }
}
