//! The locks, atomics and threads of everything that tasks share: `std`'s, or loom's where the models are run.

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
