//! [`Machine`]: the limits of this process and of the container around it, as plain data.

use std::fs;
use std::io;

use super::{Cgroup, memory};

/// What a machine gives this process. `None` where there is no limit or it is not known.
///
/// ```
/// let machine = tidegate::Machine::read();
/// assert!(machine.cores >= 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Machine {
    /// Descriptors that the process may have now (`ulimit -Sn`).
    pub descriptors_soft: Option<u64>,
    /// Descriptors to which it may raise that by itself (`ulimit -Hn`).
    pub descriptors_hard: Option<u64>,
    /// Ephemeral ports: connections from one source address to one destination.
    pub ports: Option<u32>,
    /// Source addresses that connections are spread over; 1 unless told.
    pub source_addresses: u32,
    /// Memory in bytes: the container's limit or, where it has none, all there is.
    pub memory: Option<u64>,
    /// Tasks (threads and processes) in the container.
    pub pids: Option<u64>,
    /// Cores that the process may run on.
    pub cores: u32,
    /// CPU time a second of wall time, in cores, where the container limits it.
    pub cpu_quota: Option<f64>,
}

impl Default for Machine {
    /// One core and nothing known.
    fn default() -> Self {
        Self {
            descriptors_soft: None,
            descriptors_hard: None,
            ports: None,
            source_addresses: 1,
            memory: None,
            pids: None,
            cores: 1,
            cpu_quota: None,
        }
    }
}

impl Machine {
    /// Reads the limits in force now.
    pub fn read() -> Self {
        let (descriptors_soft, descriptors_hard) = descriptors();
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            descriptors_soft,
            descriptors_hard,
            ports: read_ports(),
            source_addresses: 1,
            memory: memory(),
            pids: Cgroup::of_this_process("pids").and_then(|group| group.least("pids.max")),
            cores,
            cpu_quota: Cgroup::of_this_process("cpu").and_then(|group| {
                if group.is_unified() {
                    quota(&group.read("cpu.max")?)
                } else {
                    let period = group.read("cpu.cfs_period_us")?;
                    quota(&format!("{} {}", group.read("cpu.cfs_quota_us")?.trim(), period.trim()))
                }
            }),
        }
    }
}

fn read_ports() -> Option<u32> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    ports(&range, &reserved)
}

/// The size of a range `low high` without what `reserved` (`a,b-c`) takes out of it.
fn ports(range: &str, reserved: &str) -> Option<u32> {
    let mut bounds = range.split_whitespace().map(str::parse::<u32>);
    let (low, high) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    let taken = reserved.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<u32>().ok()?.max(low), to.parse::<u32>().ok()?.min(high));
        (to + 1).checked_sub(from)
    });
    (high + 1).checked_sub(low)?.checked_sub(taken.sum())
}

/// `quota period` in microseconds; `max` or -1 is no limit.
fn quota(text: &str) -> Option<f64> {
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(unix)]
fn descriptors() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current, limit.maximum)
}

#[cfg(not(unix))]
fn descriptors() -> (Option<u64>, Option<u64>) {
    (None, None)
}

/// Raises the soft limit of descriptors to `most` or to the hard limit, whichever is lower, and makes the table of
/// descriptors as large as `table` at once: growing it later stops a thread for milliseconds. Gives the limit in force,
/// `None` where there is none. To be called before the first thread starts. It never lowers the limit.
///
/// # Errors
/// Where the system refuses to raise the limit.
///
/// ```
/// let limit = tidegate::raise_descriptor_limit(1 << 20, 1_024)?;
/// assert!(limit.is_none_or(|limit| limit > 0));
/// # Ok::<(), std::io::Error>(())
/// ```
#[cfg(unix)]
pub fn raise_descriptor_limit(most: u64, table: u32) -> io::Result<Option<u64>> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(most).min(most);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        setrlimit(Resource::Nofile, limit)?;
    }
    let highest = limit.current.unwrap_or(u64::MAX).min(u64::from(table)).saturating_sub(1);
    // A duplicate at the end of the table, closed at once; without one it grows as it is needed.
    let _ = rustix::io::fcntl_dupfd_cloexec(io::stderr(), i32::try_from(highest).unwrap_or(0));
    Ok(limit.current)
}

/// There is no such limit on this system.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn raise_descriptor_limit(_most: u64, _table: u32) -> io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    // H2
    #[test]
    fn ports_are_the_range_without_the_reserved() {
        assert_eq!(ports("32768\t60999\n", ""), Some(28_232));
        assert_eq!(ports("10000 10099", "9000-10009,10050,20000\n"), Some(89));
        assert_eq!(ports("10000 10099", "10000-10099"), Some(0));
        assert_eq!(ports("10000", ""), None);
    }

    #[test]
    fn a_quota_is_read() {
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        assert_eq!(quota("max 100000"), None);
        assert_eq!(quota("-1 100000"), None);
    }
}
