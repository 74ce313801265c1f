//! What hyper's client needs of the runtime: a clock, a way to start tasks, and a stream that is booked.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Executor, Read, ReadBufCursor, Sleep, Timer, Write};

use crate::ledger::Socket;
use crate::rt::{self, Io, Runtime};
use crate::time::later;

/// Starts hyper's tasks.
#[derive(Clone)]
pub(super) struct Tasks(pub(super) Runtime);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The time for hyper's pings.
pub(super) struct Clock(pub(super) Runtime);

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(later(self.0.now(), duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Slept(Mutex::new(self.0.sleep_until(deadline))))
    }

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Slept>() {
            Some(slept) => slept.get_mut().get().as_mut().reset(deadline),
            None => *sleep = self.sleep_until(deadline),
        }
    }
}

/// Behind a lock only because hyper asks for `Sync`.
struct Slept(Mutex<Pin<Box<dyn rt::Sleep>>>);

impl Slept {
    fn get(&mut self) -> &mut Pin<Box<dyn rt::Sleep>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Slept {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        self.get().as_mut().poll(task)
    }
}

impl Sleep for Slept {}

/// A stream with its booking, which can be closed while hyper owns the connection.
pub(super) struct Line {
    /// The booking goes after the stream.
    open: Mutex<Option<(Box<dyn Io>, Socket)>>,
    to: SocketAddr,
    /// Streams that the server allows at a time, as far as hyper looked.
    allowed: AtomicUsize,
}

impl Line {
    pub(super) fn new(io: Box<dyn Io>, socket: Socket) -> Arc<Self> {
        let to = socket.to();
        Arc::new(Self { open: Mutex::new(Some((io, socket))), to, allowed: AtomicUsize::new(usize::MAX) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Box<dyn Io>, Socket)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn to(&self) -> SocketAddr {
        self.to
    }

    pub(super) fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    pub(super) fn allow(&self, streams: usize) {
        self.allowed.store(streams, Ordering::Relaxed);
    }

    pub(super) fn set_idle(&self, idle: bool) {
        if let Some((_, socket)) = self.lock().as_mut() {
            socket.set_idle(idle);
        }
    }

    pub(super) fn close(&self) {
        let open = self.lock().take();
        drop(open);
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut Box<dyn Io>>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.lock().as_mut() {
            Some((io, _)) => act(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// The end of a [`Line`] that hyper owns: it closes the stream when it goes.
pub(super) struct Wired(pub(super) Arc<Line>);

impl Drop for Wired {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Read for Wired {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.0.with(|io| io.poll_read(task, buf))
    }
}

impl Write for Wired {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.with(|io| io.poll_write(task, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|io| io.poll_flush(task))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|io| io.poll_shutdown(task))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|(io, _)| io.is_write_vectored())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.with(|io| io.poll_write_vectored(task, bytes))
    }
}
