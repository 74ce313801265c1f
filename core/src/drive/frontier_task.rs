//! The task that owns the frontier, so that a slow disk or broker never holds up the driver.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::FutureExt;

use super::fetch_loop::SLICE;
use super::inbox::{Inbox, Message};
use super::lag_probe::Worker;
use crate::Request;
use crate::StallCause;
use crate::frontier::{Frontier, FrontierError, LeaseId, Leased, Verdict};
use crate::panics::panic_message;
use crate::rt::Runtime;
use crate::sync::{Mutex, MutexGuard, keep_waker};

/// The door to the frontier's task. Its queue is bounded by what the engine has under way.
pub(super) struct FrontierDoor {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    found: VecDeque<Vec<Request>>,
    done: Vec<(LeaseId, Verdict)>,
    want: Option<NonZeroU32>,
    /// The crawl ends: the question is answered with nothing.
    withdrawn: bool,
    closing: bool,
    abandoned: bool,
    waker: Option<Waker>,
    /// Wakes a call that is under way; apart from `waker`, which a call that is never dropped does not wait for.
    ender: Option<Waker>,
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FrontierDoor {
    /// Starts the task.
    pub(super) fn start(runtime: &Runtime, inbox: Arc<Inbox>, frontier: Box<dyn Frontier>, worker: Worker) -> Self {
        let shared = Arc::new(Mutex::new(State::default()));
        let task = Task {
            shared: Arc::clone(&shared),
            runtime: runtime.clone(),
            inbox,
            frontier,
            worker,
            spare: Vec::new(),
            ended: false,
        };
        runtime.spawn(task.run());
        Self { shared }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
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

    /// Asks for requests; the answer is one [`Message::Leased`].
    pub(super) fn lease(&self, want: NonZeroU32) {
        self.change(|state| state.want = Some(want));
    }

    /// Takes back what [`lease`](Self::lease) asked for. It is answered all the same.
    pub(super) fn withdraw(&self) {
        self.change(|state| state.withdrawn = true);
    }

    /// Adds requests; the answer is one [`Message::Added`] with those that were refused.
    pub(super) fn add(&self, found: Vec<Request>) {
        self.change(|state| state.found.push_back(found));
    }

    /// Ends a lease. What was added before it is added before it ends.
    pub(super) fn settle(&self, lease: LeaseId, verdict: Verdict) {
        self.change(|state| state.done.push((lease, verdict)));
    }

    /// Does what was asked for, then ends the task.
    pub(super) fn close(&self) {
        self.change(|state| state.closing = true);
    }

    /// Ends the task now: a call that is under way is dropped.
    pub(super) fn abandon(&self) {
        self.change(|state| state.abandoned = true);
    }
}

/// A frontier that panics has failed.
async fn contained(work: impl Future<Output = Result<(), FrontierError>>) -> Result<(), FrontierError> {
    let panicked =
        |panic| Err(FrontierError::new(format!("use the frontier, which panicked: {}", panic_message(panic))));
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}

struct Task {
    shared: Arc<Mutex<State>>,
    runtime: Runtime,
    inbox: Arc<Inbox>,
    frontier: Box<dyn Frontier>,
    worker: Worker,
    /// The list of what was settled last, for its room.
    spare: Vec<(LeaseId, Verdict)>,
    ended: bool,
}

enum Work {
    Add(Vec<Request>),
    Settle(Vec<(LeaseId, Verdict)>),
    Lease(NonZeroU32),
    /// A question that was taken back.
    Nothing,
    End,
}

impl Task {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut work = pin!(self.work());
        poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut state = lock(&shared);
            if state.abandoned {
                return Poll::Ready(());
            }
            let replaced = keep_waker(&mut state.ender, cx.waker());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await;
    }

    async fn work(&mut self) {
        let mut worked = Duration::ZERO;
        let worker = self.worker.share();
        loop {
            // A frontier in memory is never pending by itself, and many small additions are a long time together.
            if worked >= SLICE {
                self.runtime.spawner().yield_now().await;
                worked = Duration::ZERO;
            }
            let work = self.next().await;
            let began = self.runtime.now();
            let done = match work {
                Work::Add(found) => worker.watch(StallCause::Frontier, None, contained(self.add(found))).await,
                Work::Settle(done) => worker.watch(StallCause::Frontier, None, contained(self.settle(done))).await,
                Work::Lease(want) => worker.watch(StallCause::Frontier, None, contained(self.lease(want))).await,
                Work::Nothing => {
                    self.inbox.push(Message::Leased(Leased::default()));
                    Ok(())
                }
                Work::End => break,
            };
            worked += self.runtime.now().saturating_duration_since(began);
            if let Err(error) = done {
                self.inbox.push(Message::FrontierFailed(error));
                break;
            }
        }
        self.ended = true;
        self.inbox.push(Message::LaneClosed(Ok(())));
    }

    /// Additions before settlements: a lease ends once what came of it is safe. Both before the next lease.
    async fn next(&mut self) -> Work {
        poll_fn(|cx| {
            let mut state = lock(&self.shared);
            if let Some(found) = state.found.pop_front() {
                return Poll::Ready(Work::Add(found));
            }
            if !state.done.is_empty() {
                return Poll::Ready(Work::Settle(std::mem::replace(&mut state.done, std::mem::take(&mut self.spare))));
            }
            if state.closing {
                return Poll::Ready(Work::End);
            }
            if let Some(want) = state.want.take() {
                return Poll::Ready(if state.withdrawn { Work::Nothing } else { Work::Lease(want) });
            }
            let replaced = keep_waker(&mut state.waker, cx.waker());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await
    }

    async fn add(&mut self, mut found: Vec<Request>) -> Result<(), FrontierError> {
        self.frontier.add(&mut found).await?;
        self.inbox.push(Message::Added { refused: found });
        Ok(())
    }

    async fn settle(&mut self, mut done: Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        while !done.is_empty() {
            let before = done.len();
            self.frontier.settle(&mut done).await?;
            if done.len() == before {
                return Err(FrontierError::new("settle leases: the frontier took none of them"));
            }
        }
        self.spare = done;
        Ok(())
    }

    /// Leases, unless something else comes while the frontier has nothing: the lease is then dropped and asked again.
    async fn lease(&mut self, want: NonZeroU32) -> Result<(), FrontierError> {
        let now = self.runtime.wall_clock();
        let (frontier, shared) = (&mut self.frontier, &self.shared);
        let mut lease = frontier.lease(want, now);
        let leased: Option<Leased> = poll_fn(|cx| {
            if let Poll::Ready(leased) = lease.as_mut().poll(cx) {
                return Poll::Ready(leased.map(Some));
            }
            let mut state = lock(shared);
            if state.closing || state.withdrawn || !state.found.is_empty() || !state.done.is_empty() {
                state.want = state.want.or(Some(want));
                return Poll::Ready(Ok(None));
            }
            let replaced = keep_waker(&mut state.waker, cx.waker());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await?;
        if let Some(leased) = leased {
            self.inbox.push(Message::Leased(leased));
        }
        Ok(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.ended {
            self.inbox.push(Message::TaskLost);
        }
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;
    use crate::frontier::MemoryFrontier;
    use crate::rt::manual::Manual;

    /// Counts where it is dropped: all, and those under the lock.
    struct Witness {
        shared: Arc<Mutex<State>>,
        drops: Arc<AtomicUsize>,
        locked: Arc<AtomicUsize>,
    }

    impl Wake for Witness {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            self.drops.fetch_add(1, Ordering::Relaxed);
            self.locked.fetch_add(usize::from(self.shared.try_lock().is_err()), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waker_that_another_replaces_is_not_dropped_under_the_lock() {
        let (shared, drops, locked) = (Arc::new(Mutex::new(State::default())), Arc::default(), Arc::default());
        let task = Task {
            shared: Arc::clone(&shared),
            runtime: Manual::new().runtime(),
            inbox: Arc::new(Inbox::default()),
            frontier: Box::new(MemoryFrontier::new(1, 0)),
            worker: Worker::alone(&Manual::new().runtime(), &Arc::default()),
            spare: Vec::new(),
            ended: false,
        };
        let mut running = pin!(task.run());
        for polls in 0..3 {
            let (shared, drops, locked) = (Arc::clone(&shared), Arc::clone(&drops), Arc::clone(&locked));
            let witness =
                Waker::from(Arc::new(Witness { shared, drops: Arc::clone(&drops), locked: Arc::clone(&locked) }));
            assert!(running.as_mut().poll(&mut Context::from_waker(&witness)).is_pending());
            drop(witness);
            assert_eq!((drops.load(Ordering::Relaxed), locked.load(Ordering::Relaxed)), (polls, 0));
        }
    }
}
