//! [`Sink`]: where items and outcomes go. What a sink takes out of a [`Batch`] is durable; what it leaves comes again.

mod batch;
mod collect;
mod jsonl;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

pub(crate) use self::batch::Taken;
pub use self::batch::{Batch, Delivery, DeliveryId};
pub use self::collect::{Collect, Null, collect, null};
pub use self::jsonl::{Jsonl, jsonl, jsonl_stdout};

/// Takes deliveries in batches and acknowledges each by taking it out of the batch.
///
/// A closure `FnMut(&Delivery<T>) -> Result<(), SinkError>` is a sink that acknowledges one at a time.
///
/// # Contract
/// * Taken out ([`Batch::pop`], [`Batch::ack_all`]) means durable: it never comes again.
/// * Left in means that it comes again, with the same [`DeliveryId`], after `Ok` at once with what is new, after
///   [`SinkError::retry`] when the back-off is over.
/// * Awaiting is back-pressure: deliveries wait, then parsing, then fetching.
///
/// # Cancel safety
/// `deliver` is dropped only when the crawl is told to stop now, or when it has taken nothing for as long as
/// [`Builder::sink_limit`](crate::Builder::sink_limit) allows; what is in the batch then counts as not delivered.
#[async_trait]
pub trait Sink<T: Send + 'static>: Send + 'static {
    /// Delivers some of the batch, at least one or an error.
    ///
    /// # Errors
    /// See [`SinkError`].
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError>;

    /// Called once, after the last delivery.
    ///
    /// # Errors
    /// See [`SinkError`]; any error makes the run fail.
    async fn close(&mut self, _why: Close) -> Result<(), SinkError> {
        Ok(())
    }
}

#[async_trait]
impl<T, F> Sink<T> for F
where
    T: Send + 'static,
    F: FnMut(&Delivery<T>) -> Result<(), SinkError> + Send + 'static,
{
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        while let Some(delivery) = batch.first() {
            self(delivery)?;
            batch.pop();
        }
        Ok(())
    }
}

/// Why a sink is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Close {
    /// The crawl has done its work.
    Done,
    /// The crawl was stopped before that.
    Stopped,
    /// The crawl failed.
    Failed,
}

/// Why a sink did not take what is left in the batch.
///
/// ```
/// use std::time::Duration;
/// use tidegate::SinkError;
/// let error = SinkError::retry("database restarts").after(Duration::from_secs(2));
/// assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
/// ```
pub struct SinkError {
    action: SinkAction,
    retry_after: Option<Duration>,
    source: Box<dyn StdError + Send + Sync + 'static>,
}

/// What a [`SinkError`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkAction {
    /// Deliver what is left again, later.
    Retry,
    /// Never deliver the first of what is left again; its URL settles with `sink.rejected`. The rest comes again.
    Reject,
    /// Stop the crawl: leases return, the run fails.
    Fatal,
}

impl SinkError {
    fn new(action: SinkAction, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self { action, retry_after: None, source: source.into() }
    }

    /// A passing failure: what is left comes again after a back-off.
    pub fn retry(source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self::new(SinkAction::Retry, source)
    }

    /// The first delivery that is left can never be taken.
    pub fn reject(source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self::new(SinkAction::Reject, source)
    }

    /// The sink cannot go on.
    pub fn fatal(source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self::new(SinkAction::Fatal, source)
    }

    /// Sets the wait before the next delivery.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What is asked for.
    pub fn action(&self) -> SinkAction {
        self.action
    }

    /// The wait that was asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The cause.
    pub fn into_source(self) -> Box<dyn StdError + Send + Sync + 'static> {
        self.source
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for SinkError {
    /// An error of a library is taken for a passing one.
    fn from(source: E) -> Self {
        Self::retry(source)
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl fmt::Debug for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.action, self.source)
    }
}
