//! How long a quota of processor time kept this process from running.

use std::time::Duration;

use super::Cgroup;

/// The counter of the group that this process is in.
#[derive(Debug)]
pub(crate) struct Throttle(Cgroup);

impl Throttle {
    /// `None` where no group counts.
    pub(crate) fn of_this_process() -> Option<Self> {
        let found = Self(Cgroup::of_this_process("cpu")?);
        found.total().is_some().then_some(found)
    }

    /// The time in all.
    pub(crate) fn total(&self) -> Option<Duration> {
        parse(&self.0.read("cpu.stat")?)
    }
}

/// Version 1 counts nanoseconds, version 2 microseconds. The root of version 2 has no such line.
fn parse(stat: &str) -> Option<Duration> {
    stat.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_time", nanos) => nanos.trim().parse().ok().map(Duration::from_nanos),
        ("throttled_usec", micros) => micros.trim().parse().ok().map(Duration::from_micros),
        _ => None,
    })
}

/// Whether most of a stall was the quota's doing: `throttled` is what the counter grew by.
///
/// A quota stops a thread in the middle of whatever it does, so this is asked before anything else is blamed. Version 1 counts
/// each processor, so that the number may be larger than the stall.
pub(crate) fn explains(throttled: Duration, stall: Duration) -> bool {
    !throttled.is_zero() && throttled >= stall / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_version_is_read_and_nonsense_is_not() {
        let v1 = "nr_periods 10\nnr_throttled 4\nthrottled_time 120000000\n";
        let v2 = "usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 120000\nnr_bursts 0\n";
        assert_eq!((parse(v1), parse(v2)), (Some(Duration::from_millis(120)), Some(Duration::from_millis(120))));
        for none in ["", "usage_usec 5\n", "throttled_usec", "throttled_usec -1", "throttled_time x"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn half_of_a_stall_is_enough_and_less_is_not() {
        let ms = Duration::from_millis;
        assert!(explains(ms(50), ms(100)) && explains(ms(180), ms(100)));
        assert!(!explains(ms(49), ms(100)) && !explains(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_group_is_asked_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let throttle = Throttle(Cgroup::at(folder.path()));
        assert_eq!(throttle.total(), None);
        for micros in [7, 9] {
            std::fs::write(folder.path().join("cpu.stat"), format!("throttled_usec {micros}\n")).expect("a file");
            assert_eq!(throttle.total(), Some(Duration::from_micros(micros)));
        }
    }
}
