//! What is at an address, and the path to it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::peer::{PeerRequest, Reply};

/// The path between the crawl's machine and a host, the same in both directions.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::Link;
/// let far = Link { latency: Duration::from_millis(150), jitter: Duration::from_millis(20), ..Link::default() };
/// let dripping = Link { chunk: 1..=1, ..Link::default() };
/// # let _ = (far, dripping);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Time of a byte in one direction: 1 ms.
    pub latency: Duration,
    /// What is added to it at most, drawn for each segment; segments keep their order. None by default.
    pub jitter: Duration,
    /// Bytes a second; without limit by default.
    pub bandwidth: Option<u64>,
    /// Bytes of a segment, drawn from this range; a read gets one segment at most. 16 KiB by default.
    pub chunk: RangeInclusive<usize>,
    /// Bytes that may be on their way or unread before a write must wait: 64 KiB.
    pub window: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            bandwidth: None,
            chunk: 16 << 10..=16 << 10,
            window: 64 << 10,
        }
    }
}

/// What is at an address.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::{Host, Link, Reply};
///
/// let slow = Host::http(|_| Reply::ok("hello").after(Duration::from_secs(2)));
/// let small = Host::http(|_| Reply::ok("hello")).with_connections(2).with_link(Link { chunk: 1..=9, ..Link::default() });
/// # let _ = (slow, small);
/// ```
#[derive(Clone)]
pub struct Host {
    pub(super) link: Link,
    pub(super) connections: Option<u32>,
    pub(super) answers: Answers,
}

type Answer = dyn Fn(&PeerRequest) -> Reply + Send + Sync;

#[derive(Clone)]
pub(super) enum Answers {
    Refuses,
    Nothing,
    Unreachable,
    Listener,
    Http(Arc<Answer>),
}

impl Host {
    fn new(answers: Answers) -> Self {
        Self { link: Link::default(), connections: None, answers }
    }

    /// A host that is there but listens to nobody: connections are refused.
    pub fn refuses() -> Self {
        Self::new(Answers::Refuses)
    }

    /// Nobody ever answers: no connection, no refusal.
    pub fn black_hole() -> Self {
        Self::new(Answers::Nothing)
    }

    /// The network says that there is no way.
    pub fn unreachable() -> Self {
        Self::new(Answers::Unreachable)
    }

    /// An HTTP/1.1 server at every port, which answers each request as `answer` says.
    pub fn http(answer: impl Fn(&PeerRequest) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(Answers::Http(Arc::new(answer)))
    }

    /// Replaces the path to it.
    #[must_use]
    pub fn with_link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// Connections that it has at a time; further ones are refused. Without limit by default.
    #[must_use]
    pub fn with_connections(mut self, most: u32) -> Self {
        self.connections = Some(most);
        self
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("link", &self.link).finish_non_exhaustive()
    }
}
