//! [`LoadOptions`]: what a load server is told, and [`LoadStats`]: what it tells.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

/// What a [`LoadServer`](super::LoadServer) answers by default; the path of a request can ask for something else.
///
/// ```
/// use tidegate_benches::LoadOptions;
///
/// let mut options = LoadOptions::default();
/// options.body_bytes = 142 * 1024;
/// assert_eq!(options.threads, 1);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Port to listen on; 0, the default, takes a free one.
    pub port: u16,
    /// Addresses to listen on, from 127.0.0.1 upwards, all with the same port; 1 by default, 254 at most. A client has one
    /// range of ports for each.
    pub addresses: u8,
    /// Length of the body, 1,024 by default: lines of HTML.
    pub body_bytes: usize,
    /// A body to use instead of made-up lines.
    pub body: Option<Bytes>,
    /// A folder whose HTML files it serves under their paths in it, from memory; what is not there is 404. None by default.
    pub site: Option<PathBuf>,
    /// How long each answer is held back; not at all by default.
    pub delay: Duration,
    /// Requests that a thread holds back at a time; further ones stand in line. 0, the default: all of them.
    pub slots: usize,
    /// Part of itself by which an answer is held back longer for each further `slots` requests that are open. 0, the
    /// default: none.
    pub slowdown: f64,
    /// Requests a second that are answered, by a bucket that holds a second's worth; further ones get a 429. 0, the default:
    /// all.
    pub per_second: u32,
    /// From when until when it answers 503 to all, from its first request on; never by default.
    pub down: Range<Duration>,
    /// Seconds in the `Retry-After` of what it refuses; none by default.
    pub retry_after: Option<u32>,
    /// Requests to `/gate` that are answered together, as soon as so many have come; 0, the default, waits for
    /// [`LoadServer::release`](super::LoadServer::release).
    pub gate: usize,
    /// Time between two bytes of an answer to `/drip/<n>` or CONNECT; 1 s by default. The second comes sooner, by another part of
    /// it for each connection, so that they drip evenly.
    pub drip: Duration,
    /// Threads that serve; 1 by default.
    pub threads: usize,
    /// Connections a thread holds; further ones wait in the backlog. 50,000 by default.
    pub max_connections: usize,
    /// Whether it speaks TLS, with a certificate of its own making; off by default. A request without TLS is answered too.
    pub tls: bool,
    /// Tickets that a TLS 1.3 handshake gives, so that a later one can resume; 0, the default: every handshake is a full one.
    pub tickets: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            port: 0,
            addresses: 1,
            body_bytes: 1024,
            body: None,
            site: None,
            delay: Duration::ZERO,
            slots: 0,
            slowdown: 0.0,
            per_second: 0,
            down: Duration::ZERO..Duration::ZERO,
            retry_after: None,
            gate: 0,
            drip: Duration::from_secs(1),
            threads: 1,
            max_connections: 50_000,
            tls: false,
            tickets: 0,
        }
    }
}

/// What a [`LoadServer`](super::LoadServer) has counted.
///
/// ```
/// assert_eq!(tidegate_benches::LoadStats::default().requests, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadStats {
    /// Requests read.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// The most connections that were open at once.
    pub peak: u64,
    /// Requests that wait at the gate now.
    pub at_gate: usize,
    /// CPU time of the process that it runs in, whole microseconds.
    pub cpu: Duration,
}

impl LoadStats {
    /// The body of an answer to `/stats`.
    pub(crate) fn text(&self) -> String {
        let Self { requests, connections, open, peak, at_gate, cpu } = self;
        format!("{requests} {connections} {open} {peak} {at_gate} {}", cpu.as_micros())
    }

    /// Reads what [`text`](Self::text) gives, and takes off the connection that asked.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            requests: next()?,
            connections: next()?.checked_sub(1)?,
            open: next()?.checked_sub(1)?,
            peak: next()?.checked_sub(1)?,
            at_gate: usize::try_from(next()?).ok()?,
            cpu: Duration::from_micros(next()?),
        })
    }
}
