//! Counters of a crawl.

/// Counts of URLs and attempts. At every moment `submitted = ok + error + skipped + cancelled + jobs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// URLs that the engine was given.
    pub submitted: u64,
    /// Settled well.
    pub ok: u64,
    /// Settled with an error.
    pub error: u64,
    /// Settled without a fetch, or with an answer that was not wanted.
    pub skipped: u64,
    /// Ended by the shutdown.
    pub cancelled: u64,
    /// Attempts and hops that were started.
    pub starts: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Fetches in flight now.
    pub in_flight: u32,
    /// Fetches that wait for a port or a descriptor, and that are not counted as in flight meanwhile.
    pub in_line: u32,
    /// Fetches in flight at most.
    pub in_flight_peak: u32,
    /// Jobs without a verdict now.
    pub jobs: u32,
    /// Of those, how many wait for their start: for their host, its gap, a permit, a retry.
    pub waiting: u32,
    /// Pages that wait for a parse permit now.
    pub parse_queued: u32,
    /// And at most.
    pub parse_queued_peak: u32,
    /// Pages that are parsed now.
    pub parsing: u32,
}
