//! Every bound on what a server can make us do, in one place, with its unit and its reason.

use std::time::Duration;

/// Bounds of one fetch. All sizes in bytes, all bounds inclusive.
///
/// ```
/// use tidegate::Limits;
///
/// let mut limits = Limits::discovered();
/// limits.body_decoded = 1 << 20;
/// assert_eq!(limits.redirects, 10);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Head of an answer, status line and all fields together, with the interim ones before it: 64 KiB. Real heads are under
    /// 20 KiB.
    pub head_bytes: usize,
    /// Header fields of an answer: 256. Sites with 101 exist.
    pub headers: usize,
    /// Body as it comes over the wire: 8 MiB for discovered pages, 32 MiB for listed URLs.
    pub body_wire: u64,
    /// Body after decompression; bounds what a gzip bomb can take. As `body_wire`.
    pub body_decoded: u64,
    /// Decoded bytes for a byte on the wire, judged above [`Self::RATIO_FROM`] decoded bytes: 200.
    pub ratio: u64,
    /// Content encodings on one body: 3.
    pub encodings: usize,
    /// Hops of one URL: 10.
    pub redirects: u32,
    /// Links that one page may give: 100,000.
    pub links: usize,
    /// The deadlines of the phases.
    pub deadlines: Deadlines,
}

/// How long each phase of a fetch may take.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(tidegate::Deadlines::default().first_byte, Duration::from_secs(30));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Deadlines {
    /// Name to addresses: 5 s.
    pub dns: Duration,
    /// TCP connection, over all addresses: 10 s.
    pub connect: Duration,
    /// The proxy's part of opening a tunnel: 10 s.
    pub proxy: Duration,
    /// TLS handshake: 10 s.
    pub tls: Duration,
    /// From the request being sent to the first byte of the answer: 30 s.
    pub first_byte: Duration,
    /// From the first byte of the head to its last, whatever drips in between: 30 s.
    pub head: Duration,
    /// Between two bytes of the body: 15 s.
    pub idle: Duration,
    /// The attempt as a whole: 120 s. Never extended.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            dns: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            proxy: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(15),
            total: Duration::from_secs(120),
        }
    }
}

impl Limits {
    /// Longest URL that is fetched, in bytes: 16 KiB.
    pub const URL: usize = 16 << 10;
    /// Decoded bytes below which [`ratio`](Self::ratio) is not judged: 1 MiB. Small pages of blanks compress well.
    pub const RATIO_FROM: u64 = 1 << 20;

    /// Interim answers (1xx) before an answer: 16. Servers send one or two.
    pub const INTERIM: u8 = 16;
    /// Bytes of the trailer of a chunked body, which is read and dropped, and bytes of its chunk extensions: 16 KiB each. Hardly
    /// any server sends either.
    pub const TRAILERS: u16 = 16 << 10;

    /// The bounds for URLs that a crawl finds by itself.
    pub fn discovered() -> Self {
        Self {
            head_bytes: 64 << 10,
            headers: 256,
            body_wire: 8 << 20,
            body_decoded: 8 << 20,
            ratio: 200,
            encodings: 3,
            redirects: 10,
            links: 100_000,
            deadlines: Deadlines::default(),
        }
    }

    /// The bounds for URLs that somebody chose: as [`discovered`](Self::discovered), with bodies up to 32 MiB.
    pub fn listed() -> Self {
        Self { body_wire: 32 << 20, body_decoded: 32 << 20, ..Self::discovered() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::discovered()
    }
}
