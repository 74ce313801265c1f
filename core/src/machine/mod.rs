//! What this machine gives a process: limits and counters of the system and of the container around it.

mod cgroup;
mod limits;
mod memory;
mod throttle;

pub(crate) use self::cgroup::Cgroup;
pub use self::limits::{Machine, raise_descriptor_limit};
pub(crate) use self::memory::{memory, resident};
pub(crate) use self::throttle::{Throttle, explains};
