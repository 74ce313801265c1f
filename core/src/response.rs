//! What came over the wire: [`Head`] and [`Response`], and how its body is to be decoded.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use url::Url;

use crate::{Error, Limits};

/// Status, version and header fields of an answer, and the URL that gave it.
///
/// ```
/// use tidegate::Head;
/// let head = Head::new("http://a.test/".parse()?, http::StatusCode::OK);
/// assert!(head.content_type().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Head {
    /// The URL of this answer: that of the last hop.
    pub url: Url,
    /// The status.
    pub status: StatusCode,
    /// The version that the server spoke.
    pub version: Version,
    /// The header fields, in the order of the wire for each name.
    pub headers: HeaderMap,
}

impl Head {
    /// A head without fields, HTTP/1.1.
    pub fn new(url: Url, status: StatusCode) -> Self {
        Self { url, status, version: Version::HTTP_11, headers: HeaderMap::new() }
    }

    /// Content-Type as text, where there is one that is text.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()
    }

    /// The target of a redirect to follow: 301, 302, 303, 307 and 308 with a Location.
    pub fn location(&self) -> Option<&http::HeaderValue> {
        matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308)
            .then(|| self.headers.get(http::header::LOCATION))
            .flatten()
    }
}

/// One hop that was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hop {
    /// The URL that answered with a redirect.
    pub url: Box<str>,
    /// The status of the redirect.
    pub status: StatusCode,
}

impl Hop {
    /// A hop.
    pub fn new(url: impl Into<Box<str>>, status: StatusCode) -> Self {
        Self { url: url.into(), status }
    }
}

/// Undoes the content encodings of a body. CPU work: it runs in the parse stage, never on the loop.
pub trait Decode: Send + Sync + 'static {
    /// The decoded body.
    ///
    /// # Errors
    /// `body.incomplete` for a truncated stream (a transport error, retried), `body.too_large` when a limit is passed,
    /// `body.encoding` when it cannot be decoded.
    fn decode(&self, head: &Head, wire: Bytes, limits: &Limits) -> Result<Bytes, Error>;
}

/// A complete answer as it came over the wire, not yet decoded.
///
/// ```
/// use tidegate::{Head, Response};
/// let head = Head::new("http://a.test/".parse()?, http::StatusCode::OK);
/// let response = Response::new(head, "hello");
/// assert_eq!(response.body.len(), 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct Response {
    /// Status and header fields; shared with the [`Page`](crate::Page) and the [`Settled`](crate::Settled) of a crawl.
    pub head: Arc<Head>,
    /// The body as it came; complete, or empty where the parser asked for the head only.
    pub body: Bytes,
    /// The address that answered.
    pub remote: Option<SocketAddr>,
    /// The proxy it came through, without credentials.
    pub proxy: Option<Arc<str>>,
    /// When the certificate of the server ends, for https.
    pub certificate_expiry: Option<SystemTime>,
    /// Redirects that the fetcher followed by itself.
    pub redirects: Vec<Hop>,
    /// How to decode the body; `None` means that it is not encoded.
    pub decoder: Option<Arc<dyn Decode>>,
    /// Whether the parser wanted the body ([`Accept`](crate::Accept)); `Body` unless it was asked.
    pub accepted: crate::Accept,
    /// Bytes of the body that came over the wire.
    pub bytes_wire: u64,
    /// How it came from a cache; `None`: it came over the wire.
    pub from_cache: Option<crate::cache::FromCache>,
}

impl Response {
    /// An answer with a body that is not encoded.
    pub fn new(head: impl Into<Arc<Head>>, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            head: head.into(),
            bytes_wire: body.len() as u64,
            body,
            remote: None,
            proxy: None,
            certificate_expiry: None,
            redirects: Vec::new(),
            decoder: None,
            accepted: crate::Accept::Body,
            from_cache: None,
        }
    }

    /// The decoded body.
    ///
    /// # Errors
    /// As [`Decode::decode`].
    pub fn decoded(&self, limits: &Limits) -> Result<Bytes, Error> {
        match &self.decoder {
            Some(decoder) => decoder.decode(&self.head, self.body.clone(), limits),
            None => Ok(self.body.clone()),
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("head", &self.head)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("remote", &self.remote)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}
