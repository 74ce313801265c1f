//! [`BodyBytes`]: the byte budget as the fetches of a crawl share it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Share;
use super::bytes::Bytes;
use crate::hash::KeyedState;
use crate::sync::{Mutex, MutexGuard};

/// The bytes of bodies that are in memory now, over the whole crawl, and who waits for more.
pub(crate) struct BodyBytes {
    state: Mutex<State>,
}

struct State {
    book: Bytes,
    /// Of those that wait and were polled.
    wakers: HashMap<u64, Waker, KeyedState>,
}

impl State {
    /// The wakers of those that were granted something.
    fn woken(&mut self, granted: Vec<u64>) -> Vec<Waker> {
        granted.into_iter().filter_map(|body| self.wakers.remove(&body)).collect()
    }
}

impl BodyBytes {
    /// `reserve` is the most that one body may have.
    pub(crate) fn new(budget: u64, reserve: u64) -> Self {
        let wakers = HashMap::with_hasher(KeyedState::new(0));
        Self { state: Mutex::new(State { book: Bytes::new(budget, reserve), wakers }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes booked now.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().book.booked()
    }

    /// Bytes that are booked of those that may be, and how many fetches wait for some.
    pub(super) fn share(&self) -> (Share, u32) {
        let state = self.lock();
        let share = Share { now: state.book.booked(), most: state.book.budget() };
        (share, u32::try_from(state.book.waiting()).unwrap_or(u32::MAX))
    }

    /// Whether a fetch waits for bytes.
    pub(crate) fn is_short(&self) -> bool {
        self.lock().book.waiting() > 0
    }

    /// Changes the book, and wakes whom that grants something.
    fn change<T>(&self, change: impl FnOnce(&mut Bytes) -> (T, Vec<u64>)) -> T {
        let mut state = self.lock();
        let (result, granted) = change(&mut state.book);
        let wake = state.woken(granted);
        drop(state);
        wake.into_iter().for_each(Waker::wake);
        result
    }
}

impl Default for BodyBytes {
    /// Without a limit.
    fn default() -> Self {
        Self::new(u64::MAX, 0)
    }
}

/// What one fetch has booked of a [`BodyBytes`]; given back on drop.
pub(crate) struct Booking {
    ledger: Arc<BodyBytes>,
    /// 0 before its first byte.
    body: u64,
}

impl Booking {
    pub(crate) fn new(ledger: Arc<BodyBytes>) -> Self {
        Self { ledger, body: 0 }
    }

    /// Gets all that it asks for at once; to be called before it asks.
    pub(crate) fn never_waits(&mut self) {
        self.body = self.ledger.lock().book.enter(false);
    }

    /// Who asks for it.
    pub(crate) fn reader(&mut self) -> Reader {
        if self.body == 0 {
            self.body = self.ledger.lock().book.enter(true);
        }
        Reader { ledger: Arc::clone(&self.ledger), body: self.body }
    }

    /// The body was read: what it has booked it keeps, and is in nobody's way.
    pub(crate) fn end(&mut self) {
        if self.body != 0 {
            self.ledger.change(|book| ((), book.end(self.body)));
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        if self.body != 0 {
            self.ledger.change(|book| ((), book.leave(self.body)));
        }
    }
}

/// Asks for bytes. It does not keep them: its [`Booking`] does.
pub(crate) struct Reader {
    ledger: Arc<BodyBytes>,
    body: u64,
}

impl Reader {
    /// Books `more` where that need not wait, or else takes a place among those that do.
    pub(crate) fn book(self, more: u64) -> Option<Growth> {
        let body = self.body;
        if self.ledger.lock().book.book_at_once(body, more) {
            return None;
        }
        let waits = self.ledger.change(|book| {
            let granted = book.book(body, more);
            (book.is_waiting(body), granted)
        });
        waits.then_some(Growth(self))
    }
}

/// A place among those that wait for bytes; given up on drop.
pub(crate) struct Growth(Reader);

impl Growth {
    /// Waits until the bytes are booked.
    pub(crate) async fn granted(&mut self) {
        poll_fn(|task| self.poll(task)).await;
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Reader { ledger, body } = &self.0;
        let mut state = ledger.lock();
        if !state.book.is_waiting(*body) {
            return Poll::Ready(());
        }
        let replaced = match state.wakers.get(body) {
            Some(known) if known.will_wake(task.waker()) => None,
            _ => state.wakers.insert(*body, task.waker().clone()),
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let Reader { ledger, body } = &self.0;
        let mut state = ledger.lock();
        let own = state.wakers.remove(body);
        let granted = state.book.withdraw(*body);
        let wake = state.woken(granted);
        drop(state);
        drop(own);
        wake.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    // H5, H10
    #[test]
    fn who_is_dropped_while_it_waits_gives_its_place_on() {
        let ledger = Arc::new(BodyBytes::new(10, 5));
        let [mut a, mut b, mut c] = [(); 3].map(|()| Booking::new(Arc::clone(&ledger)));
        assert!(a.reader().book(5).is_none() && b.reader().book(5).is_none(), "the second has the reserve");
        let mut first = a.reader().book(5).expect("it waits");
        let mut second = c.reader().book(5).expect("it waits too");
        assert!(first.granted().now_or_never().is_none() && ledger.is_short());
        drop(first);
        assert!(second.granted().now_or_never().is_none());
        b.end();
        assert!(second.granted().now_or_never().is_none(), "the body is still there");
        drop(b);
        assert!(second.granted().now_or_never().is_some());
        drop((second, a, c));
        assert!(ledger.bytes() == 0 && !ledger.is_short());
    }

    #[test]
    fn one_that_never_waits_is_counted_all_the_same() {
        let ledger = Arc::new(BodyBytes::new(10, 5));
        let mut own = Booking::new(Arc::clone(&ledger));
        own.never_waits();
        assert!(own.reader().book(100).is_none());
        let mut other = Booking::new(Arc::clone(&ledger));
        assert!(other.reader().book(5).is_none(), "nothing is held, so one may go on");
        own.end();
        assert_eq!((ledger.bytes(), other.reader().book(5).is_some()), (105, true));
        drop((own, other));
        assert_eq!(ledger.bytes(), 0);
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;
