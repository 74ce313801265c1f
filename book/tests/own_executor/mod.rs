//! An adapter of about a page: async-executor driven by hand, timers in a map, sockets by poll(2). The book shows it.
#![expect(clippy::disallowed_methods, reason = "an adapter is where the time comes from")]

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};
use std::{ptr, thread};

use async_executor::Executor;
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidegate::rt::{self, BoxFuture, Runtime, Sleep, Spawn, TcpConn, TcpConnect, TcpOptions, Timer};

// ANCHOR: runtime
/// An executor on a thread of its own, which ends with the last clone of the runtime.
pub(crate) fn start() -> io::Result<Runtime> {
    let (bell, rings) = UnixStream::pair()?;
    rings.set_nonblocking(true)?;
    let reactor = Arc::new(Reactor { waits: Mutex::default(), rung: AtomicBool::new(false), bell });
    let (executor, alive) = (Arc::new(Executor::new()), Arc::new(Alive(Arc::clone(&reactor))));
    let (tasks, is_alive) = (Arc::downgrade(&executor), Arc::downgrade(&alive));
    let own = Own { reactor: Arc::clone(&reactor), executor: tasks, _alive: alive };
    // The thread owns the executor: tasks that are left are dropped with it.
    thread::Builder::new().spawn(move || drive(&reactor, &executor, &is_alive, &rings))?;
    Ok(Runtime::new("own", own.clone(), own.clone(), own, rt::SystemResolver::new()))
}

#[derive(Clone)]
struct Own {
    reactor: Arc<Reactor>,
    executor: Weak<Executor<'static>>,
    _alive: Arc<Alive>,
}

struct Alive(Arc<Reactor>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.ring();
    }
}
// ANCHOR_END: runtime

// ANCHOR: drive
struct Reactor {
    waits: Mutex<Waits>,
    rung: AtomicBool,
    bell: UnixStream,
}

#[derive(Default)]
struct Waits {
    /// By deadline, and by the place of the sleep in memory.
    sleeps: BTreeMap<(Instant, usize), Waker>,
    /// By descriptor and direction, so that the last waker wins.
    sockets: BTreeMap<(i32, bool), (Arc<TcpStream>, Waker)>,
    yielded: Vec<Waker>,
    turns: u64,
}

impl Reactor {
    /// Has the thread go round once more, whatever it is at: a byte makes its `poll` return.
    fn ring(&self) {
        if !self.rung.swap(true, SeqCst) {
            let _ = (&self.bell).write(&[0]);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waits) -> T) -> T {
        let changed = change(&mut self.waits.lock().expect("no panic while locked"));
        self.ring();
        changed
    }
}

impl Wake for Reactor {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}

/// Polls 64 tasks at most, then looks at timers and sockets, then wakes what has yielded, and so on.
fn drive(reactor: &Arc<Reactor>, executor: &Executor<'_>, is_alive: &Weak<Alive>, mut rings: &UnixStream) {
    let waker = Waker::from(Arc::clone(reactor));
    let mut next_task = Box::pin(executor.tick());
    while is_alive.strong_count() > 0 {
        reactor.rung.store(false, SeqCst);
        let mut polled = 0;
        while polled < 64 && next_task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            next_task = Box::pin(executor.tick());
            polled += 1;
        }
        let mut waits = reactor.waits.lock().expect("no panic while locked");
        let later = waits.sleeps.split_off(&(Instant::now(), usize::MAX));
        let mut wakers: Vec<_> = std::mem::replace(&mut waits.sleeps, later).into_values().collect();
        let yielded = std::mem::take(&mut waits.yielded);
        waits.turns += 1;
        let next_sleep = waits.sleeps.keys().next().map(|&(at, _)| at.saturating_duration_since(Instant::now()));
        let sockets: Vec<_> = waits.sockets.iter().map(|(&key, (socket, _))| (key, Arc::clone(socket))).collect();
        drop(waits);

        let is_busy = polled == 64 || !wakers.is_empty() || !yielded.is_empty();
        let wait = if is_busy { Some(Duration::ZERO) } else { next_sleep };
        let flags = |writes| if writes { PollFlags::OUT } else { PollFlags::IN };
        let mut all = vec![PollFd::new(rings, PollFlags::IN)];
        all.extend(sockets.iter().map(|((_, writes), socket)| PollFd::new(socket, flags(*writes))));
        // Where it fails, because a signal came or the wait is too long, it goes round once more.
        let _ = poll(&mut all, wait.and_then(|wait| Timespec::try_from(wait).ok()).as_ref());
        let mut waits = reactor.waits.lock().expect("no panic while locked");
        let found = all[1..].iter().zip(&sockets).filter(|(polled, _)| !polled.revents().is_empty());
        wakers.extend(found.filter_map(|(_, (key, _))| Some(waits.sockets.remove(key)?.1)));
        drop(waits);
        while rings.read(&mut [0; 64]).is_ok_and(|bytes| bytes == 64) {}
        wakers.into_iter().chain(yielded).for_each(Waker::wake);
    }
}
// ANCHOR_END: drive

// ANCHOR: timer
impl Timer for Own {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn resolution(&self) -> Duration {
        Duration::from_micros(200)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(OwnSleep(Arc::clone(&self.reactor), deadline))
    }
}

struct OwnSleep(Arc<Reactor>, Instant);

impl OwnSleep {
    fn forget(&self) {
        drop(self.0.change(|waits| waits.sleeps.remove(&(self.1, ptr::from_ref(self).addr()))));
    }
}

impl Future for OwnSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.1 {
            return Poll::Ready(());
        }
        self.0.change(|waits| waits.sleeps.insert((self.1, ptr::from_ref(&*self).addr()), cx.waker().clone()));
        Poll::Pending
    }
}

impl Sleep for OwnSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.forget();
        self.1 = deadline;
    }
}

impl Drop for OwnSleep {
    fn drop(&mut self) {
        self.forget();
    }
}
// ANCHOR_END: timer

// ANCHOR: spawn
impl Spawn for Own {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // After the end there is no executor, and the task is dropped here.
        if let Some(executor) = self.executor.upgrade() {
            executor.spawn(task).detach();
        }
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        let (reactor, mut since) = (Arc::clone(&self.reactor), None);
        Box::pin(poll_fn(move |cx| {
            reactor.change(|waits| {
                // Not before a turn is over, whatever else wakes the task meanwhile.
                if *since.get_or_insert(waits.turns) != waits.turns {
                    return Poll::Ready(());
                }
                waits.yielded.push(cx.waker().clone());
                Poll::Pending
            })
        }))
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}
// ANCHOR_END: spawn

// ANCHOR: tcp
impl TcpConnect for Own {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let (reactor, socket) = (Arc::clone(&self.reactor), rt::start_connect(addr, options));
        Box::pin(async move {
            let io = OwnIo { reactor, socket: Arc::new(socket?) };
            let is_connected = |socket: &TcpStream| match (socket.take_error()?, socket.peer_addr()) {
                (Some(error), _) => Err(error),
                (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                (None, peer) => peer,
            };
            poll_fn(|cx| io.attempt(cx, true, is_connected)).await?;
            let local = io.socket.local_addr()?;
            Ok(TcpConn::new(io, local, addr))
        })
    }
}

struct OwnIo {
    reactor: Arc<Reactor>,
    socket: Arc<TcpStream>,
}

impl OwnIo {
    /// Tries, and waits for the socket where it would have to block.
    fn attempt<T>(
        &self,
        cx: &Context<'_>,
        writes: bool,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match attempt(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let waiting = (Arc::clone(&self.socket), cx.waker().clone());
                drop(self.reactor.change(|waits| waits.sockets.insert((self.socket.as_raw_fd(), writes), waiting)));
                Poll::Pending
            }
            done => Poll::Ready(done),
        }
    }
}

impl Read for OwnIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 16 << 10];
        let most = buf.remaining().min(bytes.len());
        self.attempt(cx, false, |mut socket| socket.read(&mut bytes[..most]))
            .map_ok(|read| buf.put_slice(&bytes[..read]))
    }
}

impl Write for OwnIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt(cx, true, |mut socket| socket.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

impl Drop for OwnIo {
    fn drop(&mut self) {
        let key = |writes| (self.socket.as_raw_fd(), writes);
        drop(self.reactor.change(|waits| (waits.sockets.remove(&key(false)), waits.sockets.remove(&key(true)))));
    }
}
// ANCHOR_END: tcp
