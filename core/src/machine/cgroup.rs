//! Where the kernel keeps the limits of the container around this process: cgroups, version 1 and 2.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of one controller, for the group that this process is in.
///
/// (`man 7 cgroups`; `/proc/self/cgroup` names the group, `/proc/self/mountinfo` says where it is mounted.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    /// The mount, where the root group is.
    top: PathBuf,
    /// Whether it is of the one hierarchy of version 2.
    unified: bool,
}

impl Cgroup {
    /// The group of this process under `controller` (`cpu`, `memory`, `pids`); `None` where there is none.
    pub(crate) fn of_this_process(controller: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find(controller, &groups, &mounts).filter(|found| found.folder.is_dir())
    }

    /// A group of this folder and nothing above it.
    #[cfg(test)]
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.into(), top: folder.into(), unified: true }
    }

    fn find(controller: &str, groups: &str, mounts: &str) -> Option<Self> {
        let group = |wanted: &dyn Fn(&str) -> bool| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                wanted(controllers).then(|| path.to_owned())
            })
        };
        let mount = |kind: &str, option: Option<&str>| {
            mounts.lines().find_map(|line| {
                let (own, system) = line.split_once(" - ")?;
                let mut system = system.split(' ');
                let (is, options) = (system.next()?, system.nth(1)?);
                let fits = is == kind && option.is_none_or(|option| options.split(',').any(|o| o == option));
                let mut own = own.split(' ');
                let (root, point) = (own.nth(3)?, own.next()?);
                fits.then(|| (root.to_owned(), unescaped(point)))
            })
        };
        let first = group(&|names| names.split(',').any(|name| name == controller))
            .zip(mount("cgroup", Some(controller)))
            .map(|found| (found, false));
        let ((path, (root, point)), unified) =
            first.or_else(|| Some((group(&str::is_empty)?, mount("cgroup2", None)?)).map(|found| (found, true)))?;
        // Inside a container the mount may show the container's own group as its root.
        let below = if root == "/" { Some(path.as_str()) } else { path.strip_prefix(root.as_str()) };
        let top = PathBuf::from(point);
        let folder = top.join(below.unwrap_or("").trim_start_matches('/'));
        Some(Self { folder, top, unified })
    }

    /// Whether the names of its files are those of version 2.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// The text of one of its files.
    pub(crate) fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    /// The smallest number in `file` of this group and of those above it; a word (`max`) is no limit.
    pub(crate) fn least(&self, file: &str) -> Option<u64> {
        let groups = self.folder.ancestors().take_while(|folder| folder.starts_with(&self.top));
        groups.filter_map(|folder| number(&folder.join(file))).min()
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Spaces and the like are written as octal numbers.
fn unescaped(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "4:memory:/pod/a\n2:cpuacct,cpu:/docker/abc\n0::/user.slice\n";
    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/all\\040of rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_folder_of_a_controller_is_found_in_either_version() {
        let folder = |controller| Cgroup::find(controller, GROUPS, MOUNTS).map(|found| (found.folder, found.unified));
        assert_eq!(folder("cpu"), Some(("/sys/fs/cgroup/cpu,cpuacct".into(), false)), "the container's own root");
        assert_eq!(folder("memory"), Some(("/sys/fs/cgroup/memory/pod/a".into(), false)));
        assert_eq!(folder("pids"), Some(("/sys/fs/cgroup/all of/user.slice".into(), true)));
        assert_eq!(Cgroup::find("cpu", "", MOUNTS), None);
        assert_eq!(Cgroup::find("cpu", GROUPS, ""), None);
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let top = tempfile::tempdir().expect("a folder");
        let folder = top.path().join("a/b");
        fs::create_dir_all(&folder).expect("folders");
        fs::write(top.path().join("memory.max"), "700\n").expect("a file");
        fs::write(top.path().join("a/memory.max"), "500\n").expect("a file");
        fs::write(folder.join("memory.max"), "max\n").expect("a file");
        let group = Cgroup { folder, top: top.path().into(), unified: true };
        assert_eq!(group.least("memory.max"), Some(500));
        assert_eq!(group.least("pids.max"), None);
    }
}
