//! [`Booked`]: what is booked of each thing of which a process has only so much, for a snapshot.

use super::{BodyBytes, Ledger};

/// What a crawl's fetcher and its bodies have of what this process may have. Fetchers that share a ledger are counted
/// together; sockets, ports, handshakes and lookups are all 0 where the fetcher keeps none.
///
/// ```
/// # fn example(crawl: &tidegate::Crawl) {
/// let booked = crawl.handle().snapshot().booked;
/// println!("{} sockets of {}, {} fetches wait", booked.sockets.now, booked.sockets.most, booked.waiting);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Booked {
    /// Sockets that are open or being opened, idle ones too; at most the limit, or what the system has had of late.
    pub sockets: Share,
    /// Connections among them that are parked.
    pub idle: u32,
    /// Fetches that wait for a socket or a port.
    pub waiting: u32,
    /// Ports from one source address to one destination, where most are in use.
    pub ports: Share,
    /// TLS handshakes under way.
    pub handshakes: Share,
    /// Lookups of names under way.
    pub lookups: Share,
    /// Bytes of bodies: [`Builder::byte_budget`](crate::Builder::byte_budget).
    pub body_bytes: Share,
    /// Fetches that wait for room for more of their bodies.
    pub waiting_for_bytes: u32,
}

/// So much of so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Share {
    /// What is booked.
    pub now: u64,
    /// What may be.
    pub most: u64,
}

impl Share {
    pub(super) fn new(now: u32, most: u32) -> Self {
        Self { now: now.into(), most: most.into() }
    }
}

impl Booked {
    pub(crate) fn read(ledger: Option<&Ledger>, bodies: &BodyBytes) -> Self {
        let mut booked = ledger.map_or_else(Self::default, |ledger| {
            let (usage, limits) = (ledger.usage(), ledger.limits());
            Self {
                sockets: Share::new(usage.sockets, usage.socket_cap),
                idle: usage.idle,
                waiting: usage.waiting,
                ports: Share::new(usage.ports_of_fullest, usage.port_cap),
                handshakes: Share::new(usage.handshakes, limits.handshakes.max(1)),
                lookups: Share::new(usage.lookups, limits.lookups.max(1)),
                ..Self::default()
            }
        });
        (booked.body_bytes, booked.waiting_for_bytes) = bodies.share();
        booked
    }
}
