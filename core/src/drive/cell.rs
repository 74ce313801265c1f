//! What a task of the crawl does now, readable from outside while it does.

use crate::StallCause;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Written by the one task that owns it, with stores only; read by the watchdog.
pub(super) struct Cell {
    /// Odd while a poll is under way.
    epoch: AtomicU64,
    cause: AtomicU8,
    /// A job, and one more so that 0 is none.
    job: AtomicU64,
}

/// What a cell showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) epoch: u64,
    /// `None` between two polls, or where it changed while it was read.
    pub(super) busy: Option<(StallCause, Option<u64>)>,
}

impl Cell {
    pub(super) fn new() -> Self {
        Self { epoch: AtomicU64::new(0), cause: AtomicU8::new(0), job: AtomicU64::new(0) }
    }

    /// A poll begins. What it is about is stored with `Release`, so that who sees it sees the end of the poll before too.
    pub(super) fn enter(&self, cause: StallCause, job: Option<u64>) {
        self.cause.store(cause as u8, Ordering::Release);
        self.job.store(job.map_or(0, |job| job.wrapping_add(1)), Ordering::Release);
        self.epoch.store(self.epoch.load(Ordering::Relaxed) | 1, Ordering::Release);
    }

    /// It is over.
    pub(super) fn leave(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store((epoch | 1).wrapping_add(1), Ordering::Release);
    }

    /// The poll under way does this now.
    pub(super) fn set_cause(&self, cause: StallCause) {
        self.cause.store(cause as u8, Ordering::Release);
    }

    pub(super) fn cause(&self) -> StallCause {
        StallCause::of(self.cause.load(Ordering::Acquire))
    }

    pub(super) fn show(&self) -> Shown {
        let epoch = self.epoch.load(Ordering::Acquire);
        let (cause, job) = (self.cause(), self.job.load(Ordering::Acquire));
        let is_whole = epoch % 2 == 1 && self.epoch.load(Ordering::Acquire) == epoch;
        Shown { epoch, busy: is_whole.then(|| (cause, job.checked_sub(1))) }
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_a_poll_while_it_lasts() {
        let cell = Cell::new();
        assert_eq!(cell.show(), Shown::default());
        cell.enter(StallCause::Fetch, Some(0));
        let first = cell.show();
        assert_eq!(first.busy, Some((StallCause::Fetch, Some(0))));
        cell.set_cause(StallCause::Hook);
        assert_eq!(cell.show(), Shown { busy: Some((StallCause::Hook, Some(0))), ..first });
        cell.leave();
        assert_eq!(cell.show().busy, None);
        cell.enter(StallCause::Sink, None);
        assert_eq!(cell.show(), Shown { epoch: first.epoch + 2, busy: Some((StallCause::Sink, None)) });
    }
}
