//! Work that several tasks wait for: whoever is there polls it, and all of them are given its answer.
//!
//! `futures::future::Shared` does this too, but loses a wake-up: one that comes while a task polls the work is given to
//! that task alone, and when that task is dropped before its next poll, nobody polls for the others.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use super::BoxFuture;
use crate::sync::{Mutex, MutexGuard, keep_waker};

/// The work. It is polled by those who [`join`](Self::join) it, and dropped with the last of them and this.
pub(super) struct Flight<T>(Arc<Shared<T>>);

/// One who waits for the answer.
pub(super) struct Passenger<T> {
    shared: Arc<Shared<T>>,
    place: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    stage: Stage<T>,
    /// One place a passenger; empty where it was woken and not polled since.
    wakers: Slab<Option<Waker>>,
    /// A wake-up that came while the work was polled.
    woken: bool,
}

enum Stage<T> {
    Waiting(BoxFuture<'static, T>),
    /// A passenger has it in hand; or had it, and it panicked.
    Polled,
    Ended(T),
}

impl<T: Clone + Send + 'static> Flight<T> {
    pub(super) fn new(work: BoxFuture<'static, T>) -> Self {
        let state = State { stage: Stage::Waiting(work), wakers: Slab::new(), woken: false };
        Self(Arc::new(Shared { state: Mutex::new(state) }))
    }

    pub(super) fn join(&self) -> Passenger<T> {
        let place = self.0.lock().wakers.insert(None);
        Passenger { shared: Arc::clone(&self.0), place }
    }

    /// Whether anybody waits for the answer, or has not gone with it yet.
    pub(super) fn is_awaited(&self) -> bool {
        !self.0.lock().wakers.is_empty()
    }

    /// Whether this is what `passenger` waits for.
    pub(super) fn carries(&self, passenger: &Passenger<T>) -> bool {
        Arc::ptr_eq(&self.0, &passenger.shared)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn take_wakers(&mut self) -> Vec<Waker> {
        self.wakers.iter_mut().filter_map(|(_, waker)| waker.take()).collect()
    }
}

impl<T: Send> Wake for Shared<T> {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        if matches!(state.stage, Stage::Polled) {
            // All are woken after that poll: those who come meanwhile too.
            state.woken = true;
            return;
        }
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T: Clone + Send + 'static> Future for Passenger<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.shared.lock();
        if let Stage::Ended(answer) = &state.stage {
            return Poll::Ready(answer.clone());
        }
        let replaced = keep_waker(&mut state.wakers[self.place], cx.waker());
        let Stage::Waiting(mut work) = std::mem::replace(&mut state.stage, Stage::Polled) else {
            drop(state);
            drop(replaced);
            return Poll::Pending;
        };
        drop(state);
        drop(replaced);
        let waker = Waker::from(Arc::clone(&self.shared));
        let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = self.shared.lock();
        let wakers = match &polled {
            Poll::Ready(answer) => {
                state.stage = Stage::Ended(answer.clone());
                state.take_wakers()
            }
            Poll::Pending => {
                state.stage = Stage::Waiting(work);
                if std::mem::take(&mut state.woken) { state.take_wakers() } else { Vec::new() }
            }
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        polled
    }
}

impl<T> Drop for Passenger<T> {
    fn drop(&mut self) {
        let waker = self.shared.lock().wakers.remove(self.place);
        drop(waker);
    }
}
