//! A decoded answer together with the request that led to it: what a parser is given.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::IntoHeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::cache::FromCache;
use crate::{Error, Head, Request};

/// A decoded answer: head, body without content encodings, and the request.
///
/// `tidegate-parse` turns the body into text (`text`), a document (`html`) or a value (`json`).
/// A page for a test is built by hand:
///
/// ```
/// use tidegate::Page;
///
/// let page = Page::build("http://shop.test/p/1").status(200).header("content-type", "text/html").body("<h1>Shoes</h1>");
/// assert_eq!(page.url().path(), "/p/1");
/// assert_eq!(&page.body()[..4], b"<h1>");
/// ```
#[derive(Clone)]
pub struct Page {
    request: Arc<Request>,
    head: Arc<Head>,
    body: Bytes,
    attempt: u32,
    remote: Option<SocketAddr>,
    from_cache: Option<FromCache>,
    fetched_at: SystemTime,
}

impl Page {
    /// A page of these parts. `attempt` counts from 1.
    pub fn new(
        request: impl Into<Arc<Request>>,
        head: impl Into<Arc<Head>>,
        body: Bytes,
        attempt: u32,
        fetched_at: SystemTime,
    ) -> Self {
        Self { request: request.into(), head: head.into(), body, attempt, remote: None, from_cache: None, fetched_at }
    }

    /// Starts a page for a test; `body` ends it.
    ///
    /// # Panics
    /// Where `url` is not an absolute http or https URL.
    pub fn build(url: &str) -> PageBuilder {
        let target = crate::parse_target(url).expect("Page::build needs an absolute http or https URL");
        PageBuilder {
            request: Request::get(url),
            head: Head::new(target, StatusCode::OK),
            attempt: 1,
            fetched_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// The head, shared.
    pub(crate) fn shared_head(&self) -> Arc<Head> {
        Arc::clone(&self.head)
    }

    #[must_use]
    pub(crate) fn with_remote(mut self, remote: Option<SocketAddr>) -> Self {
        self.remote = remote;
        self
    }

    #[must_use]
    pub(crate) fn with_from_cache(mut self, from_cache: Option<FromCache>) -> Self {
        self.from_cache = from_cache;
        self
    }

    /// The URL of the answer, after redirects; relative links are relative to it.
    pub fn url(&self) -> &Url {
        &self.head.url
    }

    /// The request as it was submitted.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Status, version, fields and URL together.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Content-Type as text.
    pub fn content_type(&self) -> Option<&str> {
        self.head.content_type()
    }

    /// The decoded body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as UTF-8, with replacement characters where it is not; `tidegate_parse::text` heeds the charset.
    pub fn utf8(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The label of the request.
    pub fn label(&self) -> Option<&str> {
        self.request.label()
    }

    /// The data that the request carried.
    ///
    /// # Errors
    /// As [`Request::data`].
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.request.data()
    }

    /// Links between this page and its seed.
    pub fn depth(&self) -> u32 {
        self.request.depth()
    }

    /// The attempt that brought it, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The address that answered.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// How it came from a [cache](crate::cache); `None`: it came over the wire.
    ///
    /// ```
    /// assert_eq!(tidegate::Page::build("http://a.test/").body("").from_cache(), None);
    /// ```
    pub fn from_cache(&self) -> Option<FromCache> {
        self.from_cache
    }

    /// When the answer was complete, by the clock on the wall.
    pub fn fetched_at(&self) -> SystemTime {
        self.fetched_at
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("url", &crate::request::without_userinfo(self.head.url.as_str()))
            .field("status", &self.head.status)
            .field("label", &self.label())
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

/// Builds a [`Page`] for a test.
#[derive(Debug)]
pub struct PageBuilder {
    request: Request,
    head: Head,
    attempt: u32,
    fetched_at: SystemTime,
}

impl PageBuilder {
    /// Sets the status; 200 by default.
    ///
    /// # Panics
    /// Where it is not between 100 and 999.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.head.status = StatusCode::from_u16(status).expect("a status is between 100 and 999");
        self
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: impl IntoHeaderName, value: &'static str) -> Self {
        self.head.headers.append(name, HeaderValue::from_static(value));
        self
    }

    /// Sets the label.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.request = self.request.with_label(label);
        self
    }

    /// Sets the data of the request.
    ///
    /// # Panics
    /// Where it cannot be serialised into 4 KiB.
    #[must_use]
    pub fn data<T: Serialize + ?Sized>(mut self, data: &T) -> Self {
        self.request = self.request.with_data(data).expect("data of a test page fits");
        self
    }

    /// Sets the attempt, from 1.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Ends the page with its body.
    pub fn body(self, body: impl Into<Bytes>) -> Page {
        Page::new(self.request, self.head, body.into(), self.attempt, self.fetched_at)
    }
}
