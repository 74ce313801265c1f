//! [`LedgerLimits`]: how much of each thing a ledger books.

use crate::Machine;

/// Sockets at most where the machine has more descriptors.
const MOST_SOCKETS: u32 = 15_000;

/// Descriptors kept free for files, pipes and name servers.
const RESERVE: u64 = 64;

/// Bytes of bodies at most where the machine has more memory.
const MOST_BODY_BYTES: u64 = 256 << 20;

/// Limits of a [`Ledger`](super::Ledger), and of a crawl that books there. The default knows nothing of the machine.
///
/// ```
/// let limits = tidegate::LedgerLimits::default();
/// assert_eq!((limits.sockets, limits.ports), (15_000, 28_232));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerLimits {
    /// Sockets that may be open, idle ones too: 15,000; of a machine, three quarters of its soft limit of descriptors at
    /// most, and 64 fewer than it.
    pub sockets: u32,
    /// Connections from one source address to one destination: 28,232; of a machine, its range of ephemeral ports.
    pub ports: u32,
    /// TLS handshakes under way: 64. Each is about a millisecond of CPU on the loop.
    pub handshakes: u32,
    /// Lookups of names under way: 256.
    pub lookups: u32,
    /// Bytes of bodies that a crawl has in memory, where it is not told another
    /// [`byte_budget`](crate::Builder::byte_budget): 256 MiB; of a machine, an eighth of its memory at most.
    pub body_bytes: u64,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self { sockets: MOST_SOCKETS, ports: 28_232, handshakes: 64, lookups: 256, body_bytes: MOST_BODY_BYTES }
    }
}

impl LedgerLimits {
    /// What a machine allows.
    pub fn of(machine: &Machine) -> Self {
        let mut limits = Self::default();
        if let Some(soft) = machine.descriptors_soft {
            let cap = (soft / 4 * 3).min(soft.saturating_sub(RESERVE)).max(1);
            limits.sockets = u32::try_from(cap).unwrap_or(u32::MAX).min(MOST_SOCKETS);
        }
        if let Some(memory) = machine.memory {
            limits.body_bytes = (memory / 8).clamp(1, MOST_BODY_BYTES);
        }
        limits.ports = machine.ports.unwrap_or(limits.ports).max(1);
        limits
    }

    /// What this machine allows now.
    pub fn of_this_machine() -> Self {
        Self::of(&Machine::read())
    }
}
