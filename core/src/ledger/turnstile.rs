//! So many at a time, the others in the order of arrival.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard, keep_waker};

pub(super) struct Turnstile {
    state: Mutex<State>,
}

struct State {
    most: u32,
    inside: u32,
    next: u64,
    /// By arrival; `None` for who has not been polled yet.
    waiting: BTreeMap<u64, Option<Waker>>,
}

impl Turnstile {
    pub(super) fn new(most: u32) -> Self {
        let state = State { most: most.max(1), inside: 0, next: 0, waiting: BTreeMap::new() };
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inside(&self) -> u32 {
        self.lock().inside
    }

    pub(super) fn waiting(&self) -> u32 {
        self.lock().waiting.len() as u32
    }

    /// Gives a turn back; whoever waits longest has it.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.inside = state.inside.saturating_sub(1);
        let wake = state.first();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// The waker of who may enter. It keeps its place until it is polled or dropped, so that no turn is lost with it.
    fn first(&mut self) -> Option<Waker> {
        if self.inside >= self.most {
            return None;
        }
        self.waiting.values_mut().next()?.take()
    }
}

/// One that wants to enter.
pub(super) struct Pass<'a> {
    turnstile: &'a Turnstile,
    number: Option<u64>,
    inside: bool,
}

impl<'a> Pass<'a> {
    pub(super) fn new(turnstile: &'a Turnstile) -> Self {
        Self { turnstile, number: None, inside: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.turnstile.lock();
        let first = match (self.number, state.waiting.keys().next()) {
            (_, None) => true,
            (Some(own), Some(first)) => own == *first,
            (None, Some(_)) => false,
        };
        if first && state.inside < state.most {
            state.inside += 1;
            if let Some(number) = self.number.take() {
                state.waiting.remove(&number);
            }
            self.inside = true;
            // There may be room for the next one too.
            let wake = state.first();
            drop(state);
            wake.into_iter().for_each(Waker::wake);
            return Poll::Ready(());
        }
        let number = match self.number {
            Some(number) => number,
            None => {
                state.next += 1;
                *self.number.insert(state.next)
            }
        };
        let replaced = keep_waker(state.waiting.entry(number).or_default(), cx.waker());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Inside for good: who calls it gives the turn back.
    pub(super) fn keep(mut self) {
        self.inside = false;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.inside {
            self.turnstile.leave();
        }
        if let Some(number) = self.number {
            let mut state = self.turnstile.lock();
            let own = state.waiting.remove(&number);
            let wake = state.first();
            drop(state);
            drop(own);
            wake.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;
