//! What this machine gives a process: limits and counters of the system and of the container around it.

mod cgroup;

pub(crate) use self::cgroup::Cgroup;
