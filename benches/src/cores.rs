//! Cores and CPU time: which ones a bench may use, and how much of them it took.

use std::io;
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

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

/// CPU time of this process until now, user's and system's.
pub fn process_cpu_time() -> Duration {
    time_of(ClockId::ProcessCPUTime)
}

/// CPU time of this thread until now, user's and system's.
pub fn thread_cpu_time() -> Duration {
    time_of(ClockId::ThreadCPUTime)
}

fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
