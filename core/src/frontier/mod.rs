//! [`Frontier`]: which URLs there are, and who has them. The engine's queues hold only what was leased from it.

mod leases;
mod memory;
mod recurring;
mod stream;

use std::num::NonZeroU32;
use std::time::SystemTime;

use async_trait::async_trait;

pub use self::memory::MemoryFrontier;
pub use self::recurring::Recurring;
pub use self::stream::StreamFrontier;
use crate::{Error, Request};

/// Holds the URLs that were discovered and not yet fetched, and knows which are known.
///
/// # Contract
/// * A leased request is the crawl's until it is settled; what was leased and never settled is given out again by a
///   frontier that outlives the process.
/// * `lease` gives at most `want` requests. It may wait until there is one, or answer at once with none; the crawl then
///   asks again after the next `add`, `settle` or `next_due`.
/// * Empty is not finished: only [`Leased::drained`] says that nothing more will come unless something is added.
///
/// # Cancel safety
/// `lease` may be dropped while it waits and must then not have leased anything. The others are never dropped before
/// they end, except when the crawl is dropped.
///
/// # Errors
/// Any error of a method ends the crawl with `frontier.failed`.
#[async_trait]
pub trait Frontier: Send + 'static {
    /// Leases up to `want` requests, highest priority first.
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError>;

    /// Ends leases. Takes what it has made durable out of `done`.
    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError>;

    /// Adds requests that are not known yet. What is left in `found` was refused because the frontier is full.
    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError>;
}

/// Names a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// What [`Frontier::lease`] gives.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Leased {
    /// The requests.
    pub requests: Vec<(LeaseId, Request)>,
    /// When the next request becomes due, where all that are left have a time.
    pub next_due: Option<SystemTime>,
    /// Nothing is left and nothing will come unless something is added.
    pub drained: bool,
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Its outcome is final: ok, error or skipped.
    Done,
    /// It was not finished: give it out again.
    Return,
}

/// What [`Frontier::add`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Added {
    /// Requests that were not known before.
    pub new: u64,
    /// Requests that were.
    pub known: u64,
}

impl Added {
    /// `new` requests were taken, `known` were known before.
    pub fn new(new: u64, known: u64) -> Self {
        Self { new, known }
    }
}

/// Why a frontier cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}")]
pub struct FrontierError {
    attempted: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl FrontierError {
    /// `attempted` says what was being done.
    pub fn new(attempted: impl Into<String>) -> Self {
        Self { attempted: attempted.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<FrontierError> for Error {
    fn from(error: FrontierError) -> Self {
        Self::new(crate::ErrorKind::FrontierFailed, error.attempted.clone()).with_source(error)
    }
}
