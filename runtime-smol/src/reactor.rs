//! The reactor of a thread of our own: epoll, edge-triggered, one system call a turn.
//!
//! async-io's arms a socket anew for each wait, makes five calls a turn, and shares the turns with a thread of its own, which
//! takes them over whenever this one works for longer than that one sleeps.

mod timers;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;
use tidegate::rt::BoxFuture;

use self::timers::{OwnSleep, Timers};
use crate::timer::now;

/// How late a sleep may be: what is finer asks for a system call that some containers do not allow.
pub(crate) const RESOLUTION: Duration = Duration::from_millis(1);

/// Events that one turn takes in.
const EVENTS: usize = 1024;

/// No socket has it.
const WAKE_UP: u64 = u64::MAX;

pub(crate) struct Reactor {
    epoll: OwnedFd,
    thread: Arc<Sleeper>,
    timers: Arc<Timers>,
    sources: Mutex<Sources>,
    yielding: Mutex<Yielding>,
}

#[derive(Default)]
struct Sources {
    list: Slab<Arc<Source>>,
    /// How many there were, so that an event for one that is gone is not taken for its successor's.
    numbers: u32,
}

#[derive(Default)]
struct Yielding {
    turns: u64,
    wakers: VecDeque<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reactor {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let thread = Arc::new(Sleeper::new()?);
        // Each write is an edge, so that nothing need be read.
        epoll::add(&epoll, &thread.wake_up, EventData::new_u64(WAKE_UP), EventFlags::IN | EventFlags::ET)?;
        let timers = Arc::new(Timers::new(Arc::clone(&thread)));
        Ok(Arc::new(Self { epoll, thread, timers, sources: Mutex::default(), yielding: Mutex::default() }))
    }

    pub(crate) fn sleep_until(&self, deadline: Instant) -> OwnSleep {
        self.timers.sleep_until(deadline)
    }

    /// Takes a socket in, which must not block.
    pub(crate) fn register(self: &Arc<Self>, stream: TcpStream) -> io::Result<OwnTcp> {
        let mut sources = lock(&self.sources);
        sources.numbers = sources.numbers.wrapping_add(1);
        let number = sources.numbers;
        let entry = sources.list.vacant_entry();
        let index = entry.key();
        let id = u64::from(number) << 32 | u64::try_from(index).unwrap_or(u64::MAX) & u64::from(u32::MAX);
        let source = Arc::new(Source { id, state: Mutex::default() });
        entry.insert(Arc::clone(&source));
        drop(sources);
        // Made first, so that it is taken out where the system refuses.
        let own = OwnTcp { stream, source, index, reactor: Arc::clone(self) };
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &own.stream, EventData::new_u64(id), wanted)?;
        Ok(own)
    }

    /// A future that is ready after a turn which began later than its first poll.
    pub(crate) fn yield_now(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        let reactor = Arc::clone(self);
        let mut asked = None;
        Box::pin(poll_fn(move |cx| {
            let mut yielding = lock(&reactor.yielding);
            let asked = *asked.get_or_insert(yielding.turns);
            if yielding.turns != asked {
                return Poll::Ready(());
            }
            yielding.wakers.push_back(cx.waker().clone());
            drop(yielding);
            reactor.thread.wake_by_ref();
            Poll::Pending
        }))
    }

    /// Polls `future` on this thread, and turns in between. Only one thread may.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let waker = Waker::from(Arc::clone(&self.thread));
        let mut future = pin!(future);
        let mut turn = Turn { events: Vec::with_capacity(EVENTS), wakers: Vec::new() };
        loop {
            self.thread.awake();
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            self.turn(&mut turn);
        }
    }

    fn turn(&self, turn: &mut Turn) {
        // A timer that is set from now on wakes the thread up.
        let timeout = match self.thread.falls_asleep() {
            true => self.timers.looks_at().map(|at| rounded_up(at.saturating_duration_since(now()))),
            false => Some(Timespec::default()),
        };
        turn.events.clear();
        // Where the wait fails, it was interrupted: the loop comes back.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut turn.events), timeout.as_ref());
        self.thread.awake();
        let sources = lock(&self.sources);
        for event in &turn.events {
            let id = event.data.u64();
            let found = sources.list.get((id & u64::from(u32::MAX)) as usize).filter(|source| source.id == id);
            if let Some(source) = found {
                source.note(event.flags, &mut turn.wakers);
            }
        }
        drop(sources);
        turn.wakers.drain(..).for_each(Waker::wake);
        self.timers.wake_due();
        let mut yielding = lock(&self.yielding);
        yielding.turns += 1;
        let yielded = std::mem::take(&mut yielding.wakers);
        drop(yielding);
        yielded.into_iter().for_each(Waker::wake);
    }
}

/// What a turn needs room for.
struct Turn {
    events: Vec<epoll::Event>,
    wakers: Vec<Waker>,
}

/// In whole milliseconds, as many as a wait may have.
fn rounded_up(left: Duration) -> Timespec {
    let millis = left.as_nanos().div_ceil(RESOLUTION.as_nanos()).min(i32::MAX as u128);
    let left = RESOLUTION.saturating_mul(u32::try_from(millis).unwrap_or(u32::MAX));
    Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
}

const AWAKE: u8 = 0;
/// It is awake, and shall look again before it sleeps.
const NOTIFIED: u8 = 1;
const ASLEEP: u8 = 2;

/// The thread, as those who wake it see it.
struct Sleeper {
    state: AtomicU8,
    wake_up: OwnedFd,
}

impl Sleeper {
    fn new() -> io::Result<Self> {
        let wake_up = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { state: AtomicU8::new(AWAKE), wake_up })
    }

    /// Whatever woke it before is seen by what it does next. `true` where nobody did, and it slept.
    fn awake(&self) -> bool {
        self.state.swap(AWAKE, Ordering::AcqRel) == ASLEEP
    }

    /// `false` where it was woken meanwhile.
    fn falls_asleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Wakes it where it sleeps; awake it looks at the timers by itself, once it has begun to fall asleep.
    fn rouse(&self) {
        if self.state.compare_exchange(ASLEEP, NOTIFIED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.write();
        }
    }

    fn write(&self) {
        // It fails only where the counter is full, and then the edge is there already.
        let _ = rustix::io::write(&self.wake_up, &1_u64.to_ne_bytes());
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP {
            self.write();
        }
    }
}

/// What is known of a socket.
struct Source {
    id: u64,
    state: Mutex<Readiness>,
}

#[derive(Default)]
struct Readiness {
    read: Direction,
    write: Direction,
}

#[derive(Default)]
struct Direction {
    /// An edge came that nobody has taken.
    edge: bool,
    /// The other end is done: no edge comes any more, and what is asked is answered at once.
    closed: bool,
    waker: Option<Waker>,
}

impl Direction {
    fn note(&mut self, edge: bool, closed: bool, wakers: &mut Vec<Waker>) {
        if edge {
            self.edge = true;
            self.closed |= closed;
            wakers.extend(self.waker.take());
        }
    }
}

impl Source {
    fn note(&self, flags: EventFlags, wakers: &mut Vec<Waker>) {
        let broken = EventFlags::HUP | EventFlags::ERR;
        let ended = broken | EventFlags::RDHUP;
        let mut state = lock(&self.state);
        state.read.note(flags.intersects(EventFlags::IN | ended), flags.intersects(ended), wakers);
        state.write.note(flags.intersects(EventFlags::OUT | broken), flags.intersects(broken), wakers);
    }

    fn poll(&self, cx: &Context<'_>, direction: impl FnOnce(&mut Readiness) -> &mut Direction) -> Poll<()> {
        let mut state = lock(&self.state);
        let direction = direction(&mut state);
        if std::mem::take(&mut direction.edge) || direction.closed {
            return Poll::Ready(());
        }
        let replaced = match &direction.waker {
            Some(known) if known.will_wake(cx.waker()) => None,
            _ => direction.waker.replace(cx.waker().clone()),
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

/// A TCP stream of a [`Reactor`].
pub(crate) struct OwnTcp {
    stream: TcpStream,
    source: Arc<Source>,
    index: usize,
    reactor: Arc<Reactor>,
}

impl OwnTcp {
    pub(crate) fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    /// Ready where something may have come since it was ready before: taken, so that what comes later is not missed.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.source.poll(cx, |state| &mut state.read)
    }

    /// The same for room to write.
    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.source.poll(cx, |state| &mut state.write)
    }
}

impl Drop for OwnTcp {
    fn drop(&mut self) {
        // The system forgets a descriptor that is closed. The source and its wakers are dropped with this, without the lock.
        let source = lock(&self.reactor.sources).list.try_remove(self.index);
        drop(source);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};
    use std::pin::Pin;

    use hyper::rt::{Read, ReadBuf};

    use super::*;
    use crate::io::SmolIo;
    use crate::net::Socket;

    fn pair(reactor: &Arc<Reactor>) -> (OwnTcp, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        near.set_nonblocking(true).expect("a socket");
        let (far, _) = listener.accept().expect("it connected");
        (reactor.register(near).expect("room"), far)
    }

    /// What one read gives.
    async fn read(io: &mut SmolIo) -> Vec<u8> {
        let mut room = [0; 64];
        let mut buffer = ReadBuf::new(&mut room);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, buffer.unfilled())).await.expect("no error");
        buffer.filled().to_vec()
    }

    #[test]
    fn an_end_that_came_with_the_bytes_is_seen_after_a_short_read() {
        let reactor = Reactor::new().expect("descriptors");
        let (near, mut far) = pair(&reactor);
        far.write_all(b"all").expect("room");
        drop(far);
        let mut io = SmolIo::new(Socket::Own(near));
        let seen = reactor.run(async { [read(&mut io).await, read(&mut io).await, read(&mut io).await] });
        assert_eq!(seen, [&b"all"[..], b"", b""]);
    }

    #[test]
    fn each_edge_is_taken_once_and_the_next_wakes() {
        let reactor = Reactor::new().expect("descriptors");
        let (near, mut far) = pair(&reactor);
        let mut io = SmolIo::new(Socket::Own(near));
        let mut got = Vec::new();
        reactor.run(async {
            for byte in 0..100_u8 {
                far.write_all(&[byte]).expect("room");
                got.extend(read(&mut io).await);
                assert!(futures::poll!(std::pin::pin!(read(&mut io))).is_pending());
            }
        });
        assert_eq!(got, Vec::from_iter(0..100));
    }

    #[test]
    fn a_full_socket_is_written_on_when_the_other_end_reads() {
        let reactor = Reactor::new().expect("descriptors");
        let (near, mut far) = pair(&reactor);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).map(|_| all.len())
        });
        let mut io = SmolIo::new(Socket::Own(near));
        let bytes = vec![7; 8 << 20];
        reactor.run(async {
            let mut sent = 0;
            while sent < bytes.len() {
                sent += poll_fn(|cx| hyper::rt::Write::poll_write(Pin::new(&mut io), cx, &bytes[sent..]))
                    .await
                    .expect("it is read");
            }
        });
        drop(io);
        assert_eq!(reader.join().expect("no panic").expect("no error"), bytes.len());
    }

    #[test]
    fn an_event_of_one_that_is_gone_is_not_its_successors() {
        let reactor = Reactor::new().expect("descriptors");
        let (first, _far) = pair(&reactor);
        let (index, id) = (first.index, first.source.id);
        drop(first);
        let (second, _far) = pair(&reactor);
        assert_eq!(second.index, index);
        assert_ne!(second.source.id, id);
        drop(second);
        assert!(lock(&reactor.sources).list.is_empty());
    }

    #[test]
    fn a_wait_is_never_too_short() {
        let millis = |left| {
            let Timespec { tv_sec, tv_nsec } = rounded_up(left);
            (tv_sec, tv_nsec)
        };
        assert_eq!(millis(Duration::ZERO), (0, 0));
        assert_eq!(millis(Duration::from_nanos(1)), (0, 1_000_000));
        assert_eq!(millis(Duration::from_micros(1_999_001)), (2, 0));
        assert_eq!(millis(Duration::MAX), (i64::from(i32::MAX) / 1000, i64::from(i32::MAX) % 1000 * 1_000_000));
    }
}
