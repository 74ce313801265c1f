//! [`Process`]: memory and CPU time of a process, as the kernel tells them.

use std::fs;
use std::io;
use std::time::Duration;

/// A process by its number, or this one. Linux only: elsewhere every question is an error.
#[derive(Clone, Debug)]
pub(crate) struct Process(String);

/// Resident memory, in KB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) now_kb: u64,
    pub(crate) peak_kb: u64,
}

impl Process {
    pub(crate) fn this() -> Self {
        Self("self".into())
    }

    pub(crate) fn of(id: u32) -> Self {
        Self(id.to_string())
    }

    pub(crate) fn memory(&self) -> io::Result<Memory> {
        memory(&fs::read_to_string(format!("/proc/{}/status", self.0))?)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// CPU time of all its threads until now.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let mut time = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            time += schedstat(&text).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(time)
    }
}

/// Bytes that the sockets of this machine have in the kernel, as it counts them: whole pages.
pub(crate) fn kernel_socket_kb() -> io::Result<u64> {
    const PAGE_KB: u64 = 4;
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).ok_or(io::ErrorKind::InvalidData)?;
    let pages =
        line.split_whitespace().skip_while(|word| *word != "mem").nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.map(|pages| pages * PAGE_KB).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn memory(status: &str) -> Option<Memory> {
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Memory { now_kb: of("VmRSS:")?, peak_kb: of("VmHWM:")? })
}

/// Nanoseconds on a core are the first number.
fn schedstat(text: &str) -> Option<Duration> {
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let status = "Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    8000 kB\nThreads:\t1\n";
        assert_eq!(memory(status), Some(Memory { now_kb: 8000, peak_kb: 9000 }));
        assert_eq!(memory("Name:\tx\n"), None);
        assert_eq!(schedstat("12345 6 7\n"), Some(Duration::from_nanos(12_345)));
        assert_eq!(schedstat("\n"), None);
    }
}
