//! The memory of this process, and what there is of it.

use std::fs;

use super::Cgroup;

/// Bytes of this process that are in memory; `None` where the system does not say.
pub(crate) fn resident() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that the container may have, or else the machine has.
pub(crate) fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    let group = Cgroup::of_this_process("memory")
        .and_then(|group| group.least(if group.is_unified() { "memory.max" } else { "memory.limit_in_bytes" }));
    // Version 1 writes "no limit" as a number larger than any memory.
    [machine, group].into_iter().flatten().min()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_or_none() {
        let text = "Name:\tx\nVmRSS:\t    5124 kB\nVmHWM: nothing\n";
        assert_eq!(kilobytes(text, "VmRSS:"), Some(5124 << 10));
        assert_eq!((kilobytes(text, "VmHWM:"), kilobytes(text, "VmSize:")), (None, None));
    }
}
