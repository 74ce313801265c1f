//! [`Descriptor`]: what Linux tells of the descriptors of this process, through `/proc`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::rt::TcpConn;

const O_CLOEXEC: u32 = 0o2_000_000;

/// Times that the table of connections is read: one that changes meanwhile may leave a line out.
const READS: usize = 100;

/// An open descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    number: RawFd,
    flags: u32,
    /// What it leads to: `socket:[4711]`.
    target: String,
}

impl Descriptor {
    /// All of this process. Other threads open and close theirs meanwhile.
    pub(super) fn all() -> Vec<Self> {
        let descriptor = |entry: io::Result<fs::DirEntry>| {
            let number = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?.to_string_lossy().into_owned();
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            Some(Self { number, flags: u32::from_str_radix(flags.trim(), 8).ok()?, target })
        };
        fs::read_dir("/proc/self/fd").expect("a list of the descriptors").filter_map(descriptor).collect()
    }

    /// That of a connection, which is open. None where it is no connection over IPv4.
    pub(super) fn of(conn: &TcpConn) -> Option<Self> {
        let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (conn.local, conn.peer) else { return None };
        let hex = |addr: std::net::SocketAddrV4| {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port())
        };
        let (local, peer) = (hex(local), hex(peer));
        let find = |_| {
            let table = fs::read_to_string("/proc/self/net/tcp").expect("a table of the connections");
            let inode = table.lines().find_map(|line| {
                let columns: Vec<_> = line.split_whitespace().collect();
                let is_it = columns.get(1..3) == Some(&[local.as_str(), peer.as_str()]);
                columns.get(9).filter(|_| is_it).map(|inode| format!("socket:[{inode}]"))
            })?;
            Self::all().into_iter().find(|descriptor| descriptor.target == inode)
        };
        let found = (0..READS).find_map(find);
        assert!(found.is_some(), "{conn:?} is over no socket of this process");
        found
    }

    /// Whether a program that this process starts does not inherit it.
    pub(super) fn closes_on_exec(&self) -> bool {
        self.flags & O_CLOEXEC != 0
    }

    /// The same socket once more. None where the system does not let a process do that to itself: a sandbox may not, nor do
    /// kernels before 5.6.
    pub(super) fn duplicate(&self) -> Option<socket2::Socket> {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
        let own = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
        Some(pidfd_getfd(own, self.number, PidfdGetfdFlags::empty()).ok()?.into())
    }
}
