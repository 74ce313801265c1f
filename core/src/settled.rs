//! [`Settled`]: what became of a URL. Every URL that was submitted gets exactly one.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode, Version};

use crate::cache::FromCache;
use crate::request::without_userinfo;
use crate::{Error, Head, Hop, Page, Request, Timings};

/// The end of a URL's life.
#[non_exhaustive]
pub struct Settled {
    /// Number of the URL in its crawl, from 1, in the order of submission.
    pub job: u64,
    /// The request.
    pub request: Arc<Request>,
    /// What became of it.
    pub outcome: Outcome,
    /// Head of the answer to the last attempt, shared with its page.
    pub head: Option<Arc<Head>>,
    /// That of the last hop that answered, in whatever attempt.
    pub(crate) answered: Option<Arc<Head>>,
    /// Redirects that were followed.
    pub redirects: Vec<Hop>,
    /// Attempts that were started; local pressure is not counted.
    pub attempts: u32,
    /// How long each phase of the last attempt took.
    pub timings: Timings,
    /// Bytes of the decoded body.
    pub bytes: u64,
    /// Bytes of the body on the wire.
    pub bytes_wire: u64,
    /// The address that answered.
    pub remote: Option<SocketAddr>,
    /// The proxy, without credentials.
    pub proxy: Option<Arc<str>>,
    /// How the answer came from a cache; `None`: it came over the wire.
    pub from_cache: Option<FromCache>,
    /// When the answer was complete.
    pub fetched_at: Option<SystemTime>,
    /// When the certificate of the server ends.
    pub certificate_expiry: Option<SystemTime>,
    /// Items that the sink took.
    pub items: u64,
    /// Links that the parser found, duplicates on the page included.
    pub links: u64,
    /// The page that a parser refused by an error.
    pub page: Option<Box<Page>>,
    /// What the parser attached.
    pub attachment: Option<Box<dyn Any + Send>>,
}

impl Settled {
    pub(crate) fn new(job: u64, request: Arc<Request>, outcome: Outcome) -> Self {
        Self {
            job,
            request,
            outcome,
            head: None,
            answered: None,
            redirects: Vec::new(),
            attempts: 0,
            timings: Timings::default(),
            bytes: 0,
            bytes_wire: 0,
            remote: None,
            proxy: None,
            from_cache: None,
            fetched_at: None,
            certificate_expiry: None,
            items: 0,
            links: 0,
            page: None,
            attachment: None,
        }
    }

    /// The URL that was asked for, without userinfo.
    pub fn url(&self) -> Cow<'_, str> {
        without_userinfo(self.request.url())
    }

    /// The URL of the last hop that answered, without userinfo.
    ///
    /// ```
    /// # fn example(settled: &tidegate::Settled) {
    /// println!("{} led to {:?}", settled.url(), settled.final_url());
    /// # }
    /// ```
    pub fn final_url(&self) -> Option<Cow<'_, str>> {
        self.answered.as_ref().map(|head| without_userinfo(head.url.as_str()))
    }

    /// The status of the last answer.
    ///
    /// ```
    /// # fn example(settled: &tidegate::Settled) {
    /// let is_gone = settled.status() == Some(http::StatusCode::GONE);
    /// # }
    /// ```
    pub fn status(&self) -> Option<StatusCode> {
        self.head.as_ref().map(|head| head.status)
    }

    /// The version of the last answer.
    ///
    /// ```
    /// # fn example(settled: &tidegate::Settled) {
    /// let is_old = settled.version() == Some(http::Version::HTTP_10);
    /// # }
    /// ```
    pub fn version(&self) -> Option<Version> {
        self.head.as_ref().map(|head| head.version)
    }

    /// The header fields of the last answer.
    ///
    /// ```
    /// # fn example(settled: &tidegate::Settled) {
    /// let kind = settled.headers().and_then(|headers| headers.get("content-type"));
    /// # }
    /// ```
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.head.as_ref().map(|head| &head.headers)
    }

    /// The attached value, where it is of this type.
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        self.attachment.as_deref()?.downcast_ref()
    }
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settled")
            .field("job", &self.job)
            .field("url", &self.url())
            .field("outcome", &self.outcome)
            .field("status", &self.status())
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// What became of a URL.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// A complete answer, parsed, its items taken by the sink.
    Ok,
    /// It failed, after all attempts.
    Error(Error),
    /// It was not fetched, or its body was not wanted, for a reason that is no failure.
    Skipped(SkipReason),
    /// The crawl ended before it did, and its lease went back to the frontier; or it was cancelled by
    /// [`Handle::cancel`](crate::Handle::cancel).
    Cancelled,
}

impl Outcome {
    /// `ok`, `error`, `skipped` or `cancelled`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error(_) => "error",
            Self::Skipped(_) => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a URL was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SkipReason {
    /// The rules of the host (robots.txt) disallow it.
    Robots,
    /// Outside the scope of the crawl.
    Scope,
    /// More links away from its seed than allowed.
    Depth,
    /// The answer is of a type that the parser does not want.
    Type,
    /// Submitted before.
    Duplicate,
    /// The frontier had no room for it.
    FrontierFull,
}

impl SkipReason {
    /// The stable name: `robots`, `scope`, `depth`, `type`, `duplicate`, `frontier.full`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Robots => "robots",
            Self::Scope => "scope",
            Self::Depth => "depth",
            Self::Type => "type",
            Self::Duplicate => "duplicate",
            Self::FrontierFull => "frontier.full",
        }
    }
}
