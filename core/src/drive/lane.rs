//! A lane: the task that owns a sink, the queue before it, and the accounts of what it took.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::iter;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::FutureExt;

use super::inbox::{Inbox, LaneOf, Message};
use super::lag_probe::Worker;
use crate::StallCause;
use crate::engine::JobId;
use crate::panics::panic_message;
use crate::rt::Runtime;
use crate::sink::Taken;
use crate::sync::{Mutex, MutexGuard, keep_waker};
use crate::time::later;
use crate::{Batch, Close, Delivery, Error, ErrorKind, Sink, SinkAction, SinkError};

/// Deliveries that a sink is offered at a time.
const BATCH: usize = 1000;

/// Wait after the first failed delivery; doubled each time, up to `BACKOFF_CAP`.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(10);

/// The door to a lane, whatever its items are.
pub(super) trait Lane: Send {
    /// Queues a job's deliveries: a `Vec<Delivery<T>>` in a box. Bounded by the engine's deliver permits.
    fn enqueue(&self, job: JobId, deliveries: Box<dyn Any + Send>);

    /// No more will come: the sink is closed after what is queued, or at once where the crawl failed.
    fn close(&self, why: Close);

    /// Ends the lane now: a delivery that is under way is dropped.
    fn abandon(&self);
}

pub(super) struct SinkLane<T> {
    shared: Arc<Mutex<State<T>>>,
}

struct State<T> {
    queue: VecDeque<Delivery<T>>,
    /// Whose the deliveries in the queue are: so many of each job.
    accounts: VecDeque<Account>,
    waker: Option<Waker>,
    closing: Option<Close>,
    abandoned: bool,
    /// Wakes a delivery that is under way; apart from `waker`, so that new items do not poll the sink.
    ender: Option<Waker>,
}

impl<T: Send + 'static> SinkLane<T> {
    /// Starts the task.
    pub(super) fn start(
        runtime: &Runtime,
        inbox: Arc<Inbox>,
        sink: Box<dyn Sink<T>>,
        of: LaneOf,
        limit: Duration,
        worker: Worker,
    ) -> Self {
        let shared = Arc::new(Mutex::new(State {
            queue: VecDeque::new(),
            accounts: VecDeque::new(),
            waker: None,
            closing: None,
            abandoned: false,
            ender: None,
        }));
        let task = Task {
            shared: Arc::clone(&shared),
            runtime: runtime.clone(),
            inbox,
            sink,
            of,
            limit,
            worker,
            batch: Batch::default(),
            accounts: VecDeque::new(),
            backoff: Duration::ZERO,
            ended: false,
        };
        runtime.spawn(task.run());
        Self { shared }
    }

    /// Queues the only delivery of a job. `make` is called under the lock: it is large, and made where it stays.
    pub(super) fn push(&self, job: JobId, make: impl FnOnce() -> Delivery<T>) {
        self.change(|state| {
            state.accounts.push_back(Account::new(job, 1));
            state.queue.push_back(make());
        });
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = lock(&self.shared);
        change(&mut state);
        let ender = if state.abandoned { state.ender.take() } else { None };
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(ender) = ender {
            ender.wake();
        }
    }
}

impl<T: Send + 'static> Lane for SinkLane<T> {
    fn enqueue(&self, job: JobId, deliveries: Box<dyn Any + Send>) {
        let deliveries: Box<Vec<_>> = deliveries.downcast().expect("a lane is given deliveries of its own type");
        self.change(|state| {
            state.accounts.push_back(Account::new(job, deliveries.len()));
            state.queue.extend(*deliveries);
        });
    }

    fn close(&self, why: Close) {
        self.change(|state| {
            if state.closing.is_none() || why == Close::Failed {
                state.closing = Some(why);
            }
        });
    }

    fn abandon(&self) {
        self.change(|state| state.abandoned = true);
    }
}

fn lock<T>(shared: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` until the lane is abandoned.
async fn unless_abandoned<T, F: Future>(shared: &Mutex<State<T>>, work: F) -> Option<F::Output> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(out) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(out));
        }
        let mut state = lock(shared);
        if state.abandoned {
            return Poll::Ready(None);
        }
        let replaced = keep_waker(&mut state.ender, cx.waker());
        drop(state);
        drop(replaced);
        Poll::Pending
    })
    .await
}

/// Runs `work` until it has taken nothing for so long.
async fn unless_stuck<F: Future>(runtime: &Runtime, limit: Duration, taken: &Taken, work: F) -> Option<F::Output> {
    let mut work = std::pin::pin!(work);
    let (mut seen, mut until) = (taken.count(), later(runtime.now(), limit));
    let mut sleep = runtime.sleep_until(until);
    poll_fn(|cx| {
        if let Poll::Ready(out) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(out));
        }
        let before = std::mem::replace(&mut seen, taken.count());
        if before != seen {
            until = later(runtime.now(), limit);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if runtime.now() >= until {
                return Poll::Ready(None);
            }
            // It was set before something was taken.
            sleep.as_mut().reset(until);
        }
        Poll::Pending
    })
    .await
}

struct Task<T: Send + 'static> {
    shared: Arc<Mutex<State<T>>>,
    runtime: Runtime,
    inbox: Arc<Inbox>,
    sink: Box<dyn Sink<T>>,
    of: LaneOf,
    /// How long the sink may take nothing of what it is given.
    limit: Duration,
    worker: Worker,
    batch: Batch<T>,
    /// Whose deliveries the batch holds, in its order.
    accounts: VecDeque<Account>,
    backoff: Duration,
    ended: bool,
}

struct Account {
    job: JobId,
    open: usize,
    taken: u64,
    rejected: Option<Error>,
}

impl Account {
    fn new(job: JobId, deliveries: usize) -> Self {
        Self { job, open: deliveries, taken: 0, rejected: None }
    }
}

impl<T: Send + 'static> Task<T> {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        if unless_abandoned(&shared, self.work()).await.is_none() {
            self.ended = true;
        }
    }

    async fn work(&mut self) {
        let why = loop {
            if let Some(why) = self.fill().await {
                break why;
            }
            let before = self.batch.len();
            let first = self.accounts.front().map(|account| account.job.as_u64());
            let progress = self.batch.taken();
            let sink = &mut self.sink;
            let batch = &mut self.batch;
            let delivery = AssertUnwindSafe(async { sink.deliver(batch).await }).catch_unwind();
            let delivery = self.worker.watch(StallCause::Sink, first, delivery);
            let delivery = unless_stuck(&self.runtime, self.limit, &progress, delivery).await;
            let taken = before.saturating_sub(self.batch.len());
            self.acknowledge(taken);
            let Some(delivery) = delivery else {
                let limit = self.limit;
                self.fail("deliver to the sink", format!("it has taken nothing for {limit:?}").into());
                break Close::Failed;
            };
            match delivery {
                Ok(Ok(())) if taken > 0 => self.backoff = Duration::ZERO,
                Ok(Ok(())) => self.wait(None).await,
                Ok(Err(error)) => match error.action() {
                    SinkAction::Retry => self.wait(error.retry_after()).await,
                    SinkAction::Reject => self.reject(error),
                    SinkAction::Fatal => {
                        self.fail("deliver to the sink", error.into_source());
                        break Close::Failed;
                    }
                },
                Err(panic) => {
                    self.fail("deliver to the sink", format!("it panicked: {}", panic_message(panic)).into());
                    break Close::Failed;
                }
            }
        };
        let sink = &mut self.sink;
        let closed = AssertUnwindSafe(async { sink.close(why).await }).catch_unwind();
        let closed = self.worker.watch(StallCause::Sink, None, closed).await;
        let result = match closed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::new(ErrorKind::SinkFailed, "close the sink").with_source(error.into_source())),
            Err(panic) => Err(Error::new(ErrorKind::SinkFailed, "close the sink").with_source(panic_message(panic))),
        };
        self.ended = true;
        self.inbox.push(Message::LaneClosed(result));
    }

    /// Fills the batch and waits until there is something in it; `Some` when the lane is to close.
    async fn fill(&mut self) -> Option<Close> {
        let (shared, batch, accounts) = (&self.shared, &mut self.batch, &mut self.accounts);
        poll_fn(|cx| {
            let mut state = lock(shared);
            if let Some(why @ Close::Failed) = state.closing {
                return Poll::Ready(Some(why));
            }
            let (mut room, mut count) = (BATCH.saturating_sub(batch.len()), 0);
            while room > 0
                && let Some(account) = state.accounts.pop_front()
            {
                room = room.saturating_sub(account.open);
                count += account.open;
                accounts.push_back(account);
            }
            batch.fill(&mut state.queue, count);
            if !batch.is_empty() {
                return Poll::Ready(None);
            }
            if let Some(why) = state.closing {
                return Poll::Ready(Some(why));
            }
            let replaced = keep_waker(&mut state.waker, cx.waker());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await
    }

    /// The sink took this many from the front of the batch.
    fn acknowledge(&mut self, mut taken: usize) {
        let (of, accounts) = (self.of, &mut self.accounts);
        let settled = iter::from_fn(|| {
            let account = accounts.front_mut()?;
            let part = taken.min(account.open);
            account.open -= part;
            account.taken += part as u64;
            taken -= part;
            let settled = if account.open == 0 { accounts.pop_front()? } else { return None };
            Some(of.acknowledged(settled.job, settled.taken, settled.rejected))
        });
        let mut settled = settled.peekable();
        if settled.peek().is_some() {
            self.inbox.push_all(settled);
        }
    }

    /// Gives up the first delivery that is left.
    fn reject(&mut self, error: SinkError) {
        let Some(delivery) = self.batch.pop() else { return };
        if let Some(account) = self.accounts.front_mut() {
            account.open -= 1;
            if account.rejected.is_none() {
                let attempted = format!("deliver item {}", delivery.id);
                let rejected = Error::new(ErrorKind::SinkRejected, attempted).with_url(&delivery.url);
                account.rejected = Some(rejected.with_source(error.into_source()));
            }
        }
        self.acknowledge(0);
    }

    async fn wait(&mut self, asked: Option<Duration>) {
        self.backoff = (self.backoff * 2).clamp(BACKOFF, BACKOFF_CAP);
        let until = later(self.runtime.now(), asked.unwrap_or(self.backoff));
        let mut sleep = self.runtime.sleep_until(until);
        let shared = &self.shared;
        poll_fn(|cx| {
            let mut state = lock(shared);
            if state.closing == Some(Close::Failed) {
                return Poll::Ready(());
            }
            let replaced = keep_waker(&mut state.waker, cx.waker());
            drop(state);
            drop(replaced);
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    fn fail(&mut self, attempted: &str, source: Box<dyn std::error::Error + Send + Sync>) {
        let error = Error::new(ErrorKind::SinkFailed, attempted).with_source(source);
        self.inbox.push(Message::SinkFailed { of: self.of, error });
    }
}

impl<T: Send + 'static> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.ended {
            self.inbox.push(Message::TaskLost);
        }
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;
