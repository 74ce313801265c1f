//! The locks, atomics and threads of everything that tasks share: `std`'s, or loom's where the models are run.

use std::task::Waker;

#[cfg(not(all(test, tidegate_loom)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread::Builder as ThreadBuilder,
};

#[cfg(all(test, tidegate_loom))]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread::Builder as ThreadBuilder,
};

/// Keeps `waker` in `slot`. What it replaces is dropped by the caller, once no lock is held: it may be the last hold on a
/// task, and so on all that the task owns.
#[must_use]
pub(crate) fn keep_waker(slot: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match slot {
        Some(known) if known.will_wake(waker) => None,
        _ => slot.replace(waker.clone()),
    }
}
