//! [`Gate`]: requests of all threads that are answered together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mio::Waker;

/// Counts who waits, and tells the threads when it opens. A request that comes while it opens waits for the next time.
#[derive(Debug)]
pub(crate) struct Gate {
    size: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    opened: u64,
    threads: Vec<Waker>,
}

impl Gate {
    /// One that opens when `size` wait; 0 for one that is opened by hand.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, state: Mutex::default() }
    }

    /// A thread that is woken when it opens.
    pub(crate) fn add_thread(&self, waker: Waker) {
        self.state().threads.push(waker);
    }

    /// Wakes all threads for another reason.
    pub(crate) fn wake_all(&self) {
        self.state().wake_all();
    }

    /// Begins to wait; gives how often it had been opened before.
    pub(crate) fn enter(&self) -> u64 {
        let mut state = self.state();
        let before = state.opened;
        state.waiting += 1;
        if state.waiting == self.size {
            state.open();
        }
        before
    }

    /// Opens it; gives how many waited.
    pub(crate) fn open(&self) -> usize {
        self.state().open()
    }

    /// How many wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// How often it has been opened.
    pub(crate) fn opened(&self) -> u64 {
        self.state().opened
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self) -> usize {
        self.opened += 1;
        self.wake_all();
        std::mem::take(&mut self.waiting)
    }

    fn wake_all(&self) {
        for thread in &self.threads {
            // Fails only where the thread has ended.
            let _ = thread.wake();
        }
    }
}
