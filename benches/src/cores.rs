//! Cores and CPU time: which ones a bench may use, and how much of them it took.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::thread::available_parallelism;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this thread, and those that it starts from now on, to these cores. Nothing on other systems than Linux.
///
/// # Errors
/// Where the system has none of them.
///
/// ```
/// tidegate_benches::keep_to_cores(0..1)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn keep_to_cores(cores: impl IntoIterator<Item = usize>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let mut set = CpuSet::new();
        cores.into_iter().for_each(|core| set.set(core));
        sched_setaffinity(None, &set)?;
    }
    #[cfg(not(target_os = "linux"))]
    drop(cores);
    Ok(())
}

/// Which cores a client and its server, a process of its own, keep to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The cores of the client.
    pub client: Range<usize>,
    /// Those of the server, as it takes them: `1,2`.
    pub server: String,
}

impl Layout {
    /// The first `cores` cores for the client. The server gets `server`; where that is empty the others, or all where none is
    /// left.
    ///
    /// # Errors
    /// Where the system does not say how many there are.
    ///
    /// ```
    /// use tidegate_benches::Layout;
    /// let layout = Layout::new(1, &[0])?;
    /// assert_eq!(layout.to_string(), "client on cores 0..1, server on 0");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(cores: usize, server: &[usize]) -> io::Result<Self> {
        let there = available_parallelism()?.get();
        let cores = cores.clamp(1, there);
        let others = if cores < there { cores..there } else { 0..there };
        let server: Vec<_> = if server.is_empty() { others.collect() } else { server.to_vec() };
        let server = server.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        Ok(Self { client: 0..cores, server })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client on cores {:?}, server on {}", self.client, self.server)
    }
}

/// CPU time of this process until now, user's and system's.
pub fn process_cpu_time() -> Duration {
    time_of(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of this thread until now, user's and system's.
pub fn thread_cpu_time() -> Duration {
    time_of(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Reads the page again and again until this thread has spent so much CPU time on it, as a parser would.
pub fn spend(page: &[u8], time: Duration) {
    let end = thread_cpu_time() + time;
    loop {
        let mut hasher = DefaultHasher::new();
        hasher.write(page);
        black_box(hasher.finish());
        if thread_cpu_time() >= end {
            return;
        }
    }
}

/// By the C library: rustix reads the vDSO by itself, which crashes under valgrind.
fn time_of(clock: ClockId) -> Duration {
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}
