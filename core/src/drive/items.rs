//! The items of a crawl as a stream, for consumers that are not [`Send`] or want to pull.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;

use super::inbox::{Inbox, LaneOf, Message};
use super::lane::Lane;
use crate::engine::JobId;
use crate::hash::KeyedState;
use crate::sync::{Mutex, MutexGuard, keep_waker};
use crate::{Close, Delivery, Error, ErrorKind};

/// A stream of the crawl's items, made by [`Builder::items`](super::Builder::items).
///
/// Not consuming it is back-pressure: the items of 256 pages wait at most, those that were taken and not acknowledged
/// included. They may be acknowledged in any order, and in batches. Dropping it before its end makes the crawl fail with
/// `sink.failed`.
///
/// ```
/// use futures::StreamExt;
/// use tidegate::{Builder, Error};
///
/// async fn print(crawl: Builder<String>) -> Result<(), Error> {
///     let (crawl, mut items) = crawl.items()?;
///     while let Some(item) = items.next().await {
///         println!("{}", item.ack().item);
///     }
///     crawl.await.map(|report| println!("{report}"))
/// }
/// ```
pub struct Items<I> {
    shared: Arc<Shared<I>>,
}

/// An item that is not durable yet.
pub struct Item<I> {
    delivery: Option<Delivery<I>>,
    job: JobId,
    shared: Arc<Shared<I>>,
}

struct Shared<I> {
    state: Mutex<State<I>>,
    inbox: Arc<Inbox>,
}

struct State<I> {
    /// Bounded by the engine's deliver permits.
    queue: VecDeque<(JobId, Delivery<I>)>,
    accounts: HashMap<JobId, Account, KeyedState>,
    waker: Option<Waker>,
    closed: bool,
}

/// What is left of a job's items, and what was acknowledged.
struct Account {
    open: usize,
    taken: u64,
}

impl<I> Shared<I> {
    fn lock(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<I>)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream; `true` where it had not ended.
    fn end(&self) -> bool {
        let (mut was_open, mut dropped) = (false, VecDeque::new());
        self.change(|state| {
            was_open = !std::mem::replace(&mut state.closed, true);
            dropped = std::mem::take(&mut state.queue);
            state.accounts.clear();
        });
        was_open
    }

    fn acknowledge(&self, job: JobId) {
        let mut state = self.lock();
        let Some(account) = state.accounts.get_mut(&job) else { return };
        account.open -= 1;
        account.taken += 1;
        if account.open > 0 {
            return;
        }
        let items = account.taken;
        state.accounts.remove(&job);
        drop(state);
        self.inbox.push(Message::Delivered { job, items, rejected: None });
    }
}

impl<I> Item<I> {
    /// The delivery.
    pub fn delivery(&self) -> &Delivery<I> {
        self.delivery.as_ref().expect("taken by ack only, which consumes the item")
    }

    /// Says that it is durable, and gives it away. Without this it comes again when the item is dropped.
    pub fn ack(mut self) -> Delivery<I> {
        let delivery = self.delivery.take().expect("taken by ack only, which consumes the item");
        self.shared.acknowledge(self.job);
        delivery
    }
}

impl<I> Drop for Item<I> {
    fn drop(&mut self) {
        let mut delivery = self.delivery.take();
        if delivery.is_some() {
            let job = self.job;
            // Where the stream has ended it is dropped here: what users drop may come back to the stream's lock.
            self.shared.change(|state| {
                if !state.closed
                    && let Some(delivery) = delivery.take()
                {
                    state.queue.push_front((job, delivery));
                }
            });
        }
    }
}

impl<I> Stream for Items<I> {
    type Item = Item<I>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item<I>>> {
        let mut state = self.shared.lock();
        if let Some((job, delivery)) = state.queue.pop_front() {
            return Poll::Ready(Some(Item { delivery: Some(delivery), job, shared: Arc::clone(&self.shared) }));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        let replaced = keep_waker(&mut state.waker, cx.waker());
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl<I> Drop for Items<I> {
    fn drop(&mut self) {
        if self.shared.end() {
            let error = Error::new(ErrorKind::SinkFailed, "deliver to the stream of items, which was dropped");
            self.shared.inbox.push_all([Message::SinkFailed { of: LaneOf::Items, error }, Message::LaneClosed(Ok(()))]);
        }
    }
}

impl<I> fmt::Debug for Items<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

impl<I: fmt::Debug> fmt::Debug for Item<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

/// The driver's side of the stream: a lane without a task.
pub(super) struct StreamLane<I>(Arc<Shared<I>>);

pub(super) fn items<I>(inbox: Arc<Inbox>) -> (StreamLane<I>, Items<I>) {
    let state = State {
        queue: VecDeque::new(),
        accounts: HashMap::with_hasher(KeyedState::new(0)),
        waker: None,
        closed: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), inbox });
    (StreamLane(Arc::clone(&shared)), Items { shared })
}

impl<I: Send + 'static> Lane for StreamLane<I> {
    fn enqueue(&self, job: JobId, deliveries: Box<dyn Any + Send>) {
        let mut deliveries: Box<Vec<Delivery<I>>> =
            deliveries.downcast().expect("a lane is given deliveries of its own type");
        self.0.change(|state| {
            if !state.closed {
                state.accounts.insert(job, Account { open: deliveries.len(), taken: 0 });
                state.queue.extend(deliveries.drain(..).map(|delivery| (job, delivery)));
            }
        });
    }

    fn close(&self, _why: Close) {
        if self.0.end() {
            self.0.inbox.push(Message::LaneClosed(Ok(())));
        }
    }

    fn abandon(&self) {
        self.0.end();
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;
