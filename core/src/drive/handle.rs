//! The embedder's hand on a running crawl.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;

use super::inbox::{Command, Inbox, Message};
use super::lag_probe::LagProbe;
use super::stats::{HostSnapshot, Snapshot, Stats};
use crate::engine::Shutdown;
use crate::rt::Runtime;
use crate::{BodyBytes, Booked, Error, ErrorKind, Ledger, Page, Request};

/// Steers a crawl from anywhere. Cheap to clone; does not keep the crawl alive.
#[derive(Clone)]
pub struct Handle {
    pub(super) inbox: Arc<Inbox>,
    pub(super) stats: Arc<Mutex<Stats>>,
    pub(super) probe: Arc<LagProbe>,
    pub(super) runtime: Runtime,
    pub(super) ledger: Arc<BodyBytes>,
    /// That of the fetcher.
    pub(super) sockets: Option<Ledger>,
}

impl Handle {
    fn send(&self, command: Command) {
        self.inbox.push(Message::Command(Box::new(command)));
    }

    /// Fetches a page through the crawl's admission, before what waits: logins, tokens, enrichment. The host's gap, rules
    /// and limits hold; the scope does not. Any status is an answer. The URL is counted like any other.
    ///
    /// A sink may wait for it: neither pages that wait for a parser or a sink nor the byte budget hold it up. Pages that wait
    /// for their parser like this are bounded by [`Config::backlog`](crate::engine::Config::backlog), like others; their
    /// outcomes only by how many are asked for.
    ///
    /// # Errors
    /// Those of the fetch after all its attempts; `cancelled` where the rules of the host disallow it or the crawl ends;
    /// `shutdown` when it has ended.
    ///
    /// # Cancel safety
    /// Dropping the future forgets the page; the fetch goes on.
    ///
    /// ```no_run
    /// # async fn example(crawl: tidegate::Crawl) -> Result<(), tidegate::Error> {
    /// use tidegate::Request;
    /// let token = crawl.handle().fetch(Request::get("https://shop.test/token")).await?;
    /// println!("{}", token.utf8());
    /// # Ok(()) }
    /// ```
    pub async fn fetch(&self, request: impl Into<Request>) -> Result<Page, Error> {
        let (reply, page) = oneshot::channel();
        self.send(Command::Fetch { request: request.into(), reply });
        page.await.map_err(|_| Self::ended("fetch a page"))?
    }

    fn ended(attempted: &str) -> Error {
        Error::new(ErrorKind::Shutdown, format!("{attempted}: the crawl has ended"))
    }

    /// Adds requests to the frontier, which knows what it had before.
    ///
    /// # Errors
    /// `shutdown` when the crawl has ended.
    ///
    /// ```
    /// # fn example(crawl: &tidegate::Crawl) -> Result<(), tidegate::Error> {
    /// crawl.handle().submit([tidegate::Request::get("https://example.org/new")])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit(&self, requests: impl IntoIterator<Item = Request>) -> Result<(), Error> {
        if self.inbox.is_closed() {
            return Err(Self::ended("submit requests"));
        }
        self.send(Command::Submit(requests.into_iter().collect()));
        Ok(())
    }

    /// Starts no fetch until [`resume`](Self::resume).
    ///
    /// ```
    /// # fn example(crawl: &tidegate::Crawl) {
    /// crawl.handle().pause();
    /// # }
    /// ```
    pub fn pause(&self) {
        self.send(Command::Pause);
    }

    /// Ends a pause.
    ///
    /// ```
    /// # fn example(crawl: &tidegate::Crawl) {
    /// crawl.handle().resume();
    /// # }
    /// ```
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Ends the crawl. A second call can only be stricter; after the end it does nothing.
    ///
    /// ```no_run
    /// # fn example(crawl: &tidegate::Crawl) {
    /// use std::time::Duration;
    /// use tidegate::Shutdown;
    /// crawl.handle().shutdown(Shutdown::Graceful { within: Duration::from_secs(30) });
    /// # }
    /// ```
    pub fn shutdown(&self, how: Shutdown) {
        self.send(Command::Shutdown(how));
    }

    /// Cancels the URLs that are under way and for which `which` says yes; gives their number.
    ///
    /// # Errors
    /// `shutdown` when the crawl has ended.
    ///
    /// ```
    /// # async fn example(crawl: &tidegate::Crawl) -> Result<(), tidegate::Error> {
    /// let cancelled = crawl.handle().cancel(|request| request.url().starts_with("https://a.test/")).await?;
    /// println!("{cancelled} URLs of a.test");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(&self, which: impl Fn(&Request) -> bool + Send + 'static) -> Result<u64, Error> {
        let (reply, cancelled) = oneshot::channel();
        self.send(Command::Cancel { which: Box::new(which), reply });
        cancelled.await.map_err(|_| Self::ended("cancel requests"))
    }

    /// The hosts with the most URLs under way.
    ///
    /// # Errors
    /// `shutdown` when the crawl has ended.
    ///
    /// ```
    /// # async fn example(crawl: &tidegate::Crawl) -> Result<(), tidegate::Error> {
    /// for host in crawl.handle().hosts(10).await? {
    ///     println!("{} {} in flight of {}", host.origin, host.in_flight, host.jobs);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn hosts(&self, top: usize) -> Result<Vec<HostSnapshot>, Error> {
        let (reply, hosts) = oneshot::channel();
        self.send(Command::Hosts { top, reply });
        hosts.await.map_err(|_| Self::ended("list the hosts"))
    }

    /// Everything that is counted, at this moment; after the end, how it ended. It makes the quantiles of all histograms,
    /// and holds up the driver where that would publish meanwhile: for a few looks a second, not for each page.
    ///
    /// ```no_run
    /// # fn example(crawl: &tidegate::Crawl) {
    /// let now = crawl.handle().snapshot();
    /// if let Some(bound) = now.bound_by() {
    ///     let share = bound.recent * 100.0;
    ///     println!("{:.0} starts a second; {} for {share:.0} %", now.recent.starts_per_second, bound.bound.name());
    /// }
    /// # }
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        let now = self.runtime.now();
        let lag = self.probe.snapshot(now);
        let booked = Booked::read(self.sockets.as_ref(), &self.ledger);
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.snapshot(now, lag, booked, || self.runtime.cpu_time())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}
