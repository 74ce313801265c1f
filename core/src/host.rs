//! [`HostPolicy`]: the rules of an origin (robots.txt), asked before its first URL.

use std::time::Duration;

use async_trait::async_trait;
use url::Url;

use crate::rt::BoxFuture;
use crate::{Error, Page, Request};

/// Finds the rules of an origin. Asked once before the origin's first URL, and again when the rules are no longer
/// valid. An origin that is being prepared holds no permit.
///
/// # Cancel safety
/// `prepare` is dropped when the crawl stops; it must hold nothing that outlives it.
#[async_trait]
pub trait HostPolicy: Send + Sync + 'static {
    /// Finds the rules of the origin of `target`.
    ///
    /// # Errors
    /// Where no rules could be had, so that nothing is allowed for now; asked again after a back-off, and after the
    /// last attempt the waiting URLs settle with this error.
    async fn prepare(&self, target: &Url, cx: &HostCx) -> Result<Box<dyn HostRules>, Error>;
}

/// The rules of one origin. Pure and quick: asked on the loop for each URL.
pub trait HostRules: Send + Sync + 'static {
    /// Whether this URL of the origin may be fetched.
    fn allows(&self, target: &Url) -> bool;

    /// The least time between two starts that the origin asks for.
    fn crawl_delay(&self) -> Option<Duration> {
        None
    }

    /// How long the rules are valid; a day by default (RFC 9309, 2.4).
    fn valid_for(&self) -> Duration {
        Duration::from_secs(24 * 60 * 60)
    }
}

type FetchPage = Box<dyn Fn(Request) -> BoxFuture<'static, Result<Page, Error>> + Send + Sync>;

/// What a [`HostPolicy`] may use.
pub struct HostCx {
    user_agent: Box<str>,
    fetch: FetchPage,
}

impl HostCx {
    /// A context whose pages come from `fetch`; for tests of a policy.
    ///
    /// ```
    /// use tidegate::{HostCx, Page};
    /// let cx = HostCx::new("bot/1.0", |r| Box::pin(async move { Ok(Page::build(r.url()).status(404).body("")) }));
    /// assert_eq!(cx.user_agent(), "bot/1.0");
    /// ```
    pub fn new(
        user_agent: impl Into<Box<str>>,
        fetch: impl Fn(Request) -> BoxFuture<'static, Result<Page, Error>> + Send + Sync + 'static,
    ) -> Self {
        Self { user_agent: user_agent.into(), fetch: Box::new(fetch) }
    }

    /// The user agent that the crawl sends.
    pub fn user_agent(&self) -> &str {
        &self.user_agent
    }

    /// Fetches a page outside the queues, redirects followed, with the crawl's limits; any status is an answer.
    ///
    /// # Errors
    /// Those of the fetcher.
    pub async fn fetch(&self, request: Request) -> Result<Page, Error> {
        (self.fetch)(request).await
    }
}

impl std::fmt::Debug for HostCx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostCx").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}
