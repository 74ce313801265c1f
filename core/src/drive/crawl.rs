//! A crawl that runs: a future of its report.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::channel::oneshot;

use super::Builder;
use super::handle::Handle;
use super::stats::Report;
use crate::engine::Shutdown;
use crate::rt::Runtime;
use crate::{Error, ErrorKind};

/// A running crawl. It is driven by its runtime; awaiting it gives the report.
///
/// Dropping it stops the crawl now: what is under way is dropped, leases go back to the frontier.
///
/// # Errors
/// Awaiting gives an error only where the run itself could not go on: a sink or frontier failed, or the runtime was shut
/// down. Failed URLs are data.
///
/// # Cancel safety
/// The future can be polled from anywhere, and awaited by reference.
#[must_use = "dropping a crawl stops it"]
#[derive(Debug)]
pub struct Crawl {
    handle: Handle,
    report: oneshot::Receiver<Result<Report, Error>>,
    ended: bool,
}

impl Crawl {
    /// Describes a crawl on `runtime`; the item type comes from the parser.
    ///
    /// ```
    /// use tidegate::{Crawl, Output, Page, ParseError};
    ///
    /// fn titles(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    ///     out.item(page.utf8().chars().take(80).collect());
    ///     Ok(())
    /// }
    ///
    /// async fn run(runtime: tidegate::rt::Runtime) -> Result<(), tidegate::Error> {
    ///     let report = Crawl::builder(runtime)
    ///         .user_agent("title-bot/0.1 (+mailto:me@example.org)")
    ///         .seed("https://example.org/")
    ///         .parse_with(titles)
    ///         .sink(tidegate::sink::jsonl_stdout())
    ///         .run()
    ///         .await?;
    ///     println!("{report}");
    ///     Ok(())
    /// }
    /// ```
    pub fn builder<I: Send + 'static>(runtime: Runtime) -> Builder<I> {
        Builder::new(runtime)
    }

    pub(super) fn new(handle: Handle, report: oneshot::Receiver<Result<Report, Error>>) -> Self {
        Self { handle, report, ended: false }
    }

    /// A handle, which outlives this future.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Future for Crawl {
    type Output = Result<Report, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let report = std::task::ready!(Pin::new(&mut self.report).poll(cx));
        self.ended = true;
        let lost = |_| Err(Error::new(ErrorKind::Shutdown, "end the crawl: its runtime has shut down"));
        Poll::Ready(report.unwrap_or_else(lost))
    }
}

impl Drop for Crawl {
    fn drop(&mut self) {
        if !self.ended {
            self.handle.shutdown(Shutdown::Now);
        }
    }
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Crawl>();
    send_sync::<Handle>();
};
