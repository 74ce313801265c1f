//! What is at an address, and the path to it.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::peer::Answer;
use super::{PeerRequest, Reply};

/// The path between the crawl's machine and a host, the same in both directions. Each connection has it to itself.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::Link;
/// let far = Link::new().latency(Duration::from_millis(150)).jitter(Duration::from_millis(20));
/// let dripping = Link::new().chunk(1..=1);
/// # let _ = (far, dripping);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    pub(super) bandwidth: Option<NonZeroU64>,
    pub(super) chunk: RangeInclusive<usize>,
    pub(super) window: usize,
}

impl Link {
    /// A path of 1 ms in each direction, without jitter or a limit of its rate.
    pub fn new() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            bandwidth: None,
            chunk: 16 << 10..=16 << 10,
            window: 64 << 10,
        }
    }

    /// Time of a byte in one direction: 1 ms by default.
    #[must_use]
    pub fn latency(mut self, time: Duration) -> Self {
        self.latency = time;
        self
    }

    /// What is added to it at most, drawn for each segment; segments keep their order. None by default.
    #[must_use]
    pub fn jitter(mut self, most: Duration) -> Self {
        self.jitter = most;
        self
    }

    /// Bytes a second; without limit by default.
    #[must_use]
    pub fn bandwidth(mut self, bytes: NonZeroU64) -> Self {
        self.bandwidth = Some(bytes);
        self
    }

    /// Bytes of a segment, drawn from this range; a read gets one segment at most. 16 KiB by default.
    ///
    /// # Panics
    /// Where the range is empty or begins with 0.
    #[must_use]
    pub fn chunk(mut self, bytes: RangeInclusive<usize>) -> Self {
        assert!(*bytes.start() > 0 && bytes.start() <= bytes.end(), "a segment has at least a byte: {bytes:?}");
        self.chunk = bytes;
        self
    }

    /// Bytes that may be on their way or unread before a write must wait: 64 KiB by default.
    ///
    /// # Panics
    /// Where that is none.
    #[must_use]
    pub fn window(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "nothing can be sent through a window of nothing");
        self.window = bytes;
        self
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

/// What is at an address.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::{Host, Link, Reply};
///
/// let slow = Host::http(|_| Reply::ok("hello").after(Duration::from_secs(2)));
/// let small = Host::http(|_| Reply::ok("hello")).with_connections(2).with_link(Link::new().chunk(1..=9));
/// # let _ = (slow, small);
/// ```
#[derive(Clone)]
pub struct Host {
    pub(super) link: Link,
    pub(super) connections: Option<u32>,
    pub(super) answers: Answers,
}

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
