//! A runtime for unit tests: one thread, a clock that is moved by hand, no network.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use super::{
    Addrs, BoxFuture, Inline, Name, Resolve, ResolveError, Runtime, Sleep, Spawn, TcpConn, TcpConnect, TcpOptions,
    Timer,
};

/// The hand on the runtime.
#[derive(Clone)]
pub(crate) struct Manual(Arc<Shared>);

struct Shared {
    origin: Instant,
    state: Mutex<State>,
    lookups: AtomicUsize,
}

#[derive(Default)]
struct State {
    elapsed: Duration,
    sleeps: Vec<(Instant, Waker)>,
    ready: VecDeque<Arc<Task>>,
    /// Tasks that gave the thread back; they go on after timers were looked at.
    yielded: Vec<Waker>,
    answer: Option<Result<Addrs, ResolveError>>,
    asked: Vec<Waker>,
}

struct Task {
    shared: Arc<Shared>,
    future: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut state = self.shared.lock();
        if !state.ready.iter().any(|task| Arc::ptr_eq(task, &self)) {
            state.ready.push_back(Arc::clone(&self));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn now(&self) -> Instant {
        self.origin + self.lock().elapsed
    }
}

impl Manual {
    pub(crate) fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
        let origin = Instant::now();
        Self(Arc::new(Shared { origin, state: Mutex::default(), lookups: AtomicUsize::new(0) }))
    }

    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::new("manual", self.clone(), self.clone(), self.clone(), self.clone())
            .with_offload(Inline::new())
            .simulated()
            .without_watch()
    }

    /// Polls what is ready until nothing is, without moving the clock.
    pub(crate) fn settle(&self) {
        loop {
            let task = self.0.lock().ready.pop_front();
            let Some(task) = task else {
                let yielded = std::mem::take(&mut self.0.lock().yielded);
                if yielded.is_empty() {
                    return;
                }
                self.fire();
                yielded.into_iter().for_each(Waker::wake);
                continue;
            };
            let Some(mut future) = task.future.lock().unwrap().take() else { continue };
            let waker = Waker::from(Arc::clone(&task));
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                *task.future.lock().unwrap() = Some(future);
            }
        }
    }

    /// Moves the clock, fires timers, and polls what is ready.
    pub(crate) fn advance(&self, by: Duration) {
        self.pass(by);
        self.fire();
        self.settle();
    }

    /// Moves the clock as work does that takes this long: no timer fires meanwhile.
    pub(crate) fn pass(&self, by: Duration) {
        self.0.lock().elapsed += by;
    }

    fn fire(&self) {
        let now = self.0.now();
        let mut state = self.0.lock();
        let (due, rest) = std::mem::take(&mut state.sleeps).into_iter().partition(|(at, _)| *at <= now);
        state.sleeps = rest;
        drop(state);
        let due: Vec<(Instant, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Answers the lookups that wait and those that come.
    pub(crate) fn answer(&self, answer: Result<Addrs, ResolveError>) {
        let mut state = self.0.lock();
        state.answer = Some(answer);
        let asked = std::mem::take(&mut state.asked);
        drop(state);
        asked.into_iter().for_each(Waker::wake);
    }

    /// Lookups that were made.
    pub(crate) fn lookups(&self) -> usize {
        self.0.lookups.load(Ordering::Relaxed)
    }
}

struct ManualSleep {
    shared: Arc<Shared>,
    at: Instant,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.now() >= self.at {
            return Poll::Ready(());
        }
        self.shared.lock().sleeps.push((self.at, cx.waker().clone()));
        Poll::Pending
    }
}

impl Sleep for ManualSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.at = deadline;
    }
}

impl Timer for Manual {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.lock().elapsed
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(ManualSleep { shared: Arc::clone(&self.0), at: deadline })
    }
}

impl Spawn for Manual {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        Arc::new(Task { shared: Arc::clone(&self.0), future: Mutex::new(Some(task)) }).wake();
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&self.0);
        let mut yielded = false;
        Box::pin(std::future::poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            shared.lock().yielded.push(cx.waker().clone());
            Poll::Pending
        }))
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

impl TcpConnect for Manual {
    fn connect(&self, _: SocketAddr, _: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::NetworkUnreachable.into())))
    }
}

impl Resolve for Manual {
    fn resolve(&self, _: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        self.0.lookups.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&self.0);
        Box::pin(std::future::poll_fn(move |cx| {
            let mut state = shared.lock();
            if let Some(answer) = state.answer.clone() {
                return Poll::Ready(answer);
            }
            state.asked.push(cx.waker().clone());
            Poll::Pending
        }))
    }
}

/// One address.
pub(crate) fn one_address(ttl: Option<Duration>) -> Addrs {
    Addrs::new(vec![IpAddr::from([127, 0, 0, 1])], ttl)
}
