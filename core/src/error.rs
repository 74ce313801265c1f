//! The error of the whole library: opaque, with a kind that is stable and says what to do.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong with a URL, a crawl or a piece of configuration.
///
/// `Display` prints this level only; walk [`source`](StdError::source) for the rest. The URL is kept
/// apart, without its userinfo.
///
/// ```
/// use tidegate::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::ConnectRefused, "connect to 192.0.2.1:80").with_url("http://me:pw@a.test/");
/// assert_eq!(error.kind().code(), "connect.refused");
/// assert!(error.is_connect());
/// assert_eq!(error.url(), Some("http://a.test/"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    attempted: Box<str>,
    url: Option<Box<str>>,
    retry_after: Option<Duration>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`; `attempted` says what was being done, in the infinitive ("connect to ..").
    pub fn new(kind: ErrorKind, attempted: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            attempted: attempted.into().into_boxed_str(),
            url: None,
            retry_after: None,
            source: None,
        }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the URL, from which userinfo is removed.
    #[must_use]
    pub fn with_url(mut self, url: &str) -> Self {
        self.0.url = Some(crate::request::without_userinfo(url).into());
        self
    }

    /// Adds the time for which the other side asked us to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// A second error of the same kind and words, its source as text: one failure of a host fails many URLs.
    pub(crate) fn replicate(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            attempted: self.0.attempted.clone(),
            url: self.0.url.clone(),
            retry_after: self.0.retry_after,
            source: self.0.source.as_ref().map(|source| source.to_string().into()),
        }))
    }

    /// The kind: stable, documented, and what programs should branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The URL that failed, without userinfo, where there is one.
    pub fn url(&self) -> Option<&str> {
        self.0.url.as_deref()
    }

    /// When another try makes sense.
    pub fn retry_time(&self) -> RetryTime {
        match self.0.retry_after {
            Some(wait) => RetryTime::After(wait),
            None => self.0.kind.retry_time(),
        }
    }

    /// A deadline of the fetch was over; that of the parser is `parser.timeout`.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::TimeoutDns
                | ErrorKind::TimeoutConnect
                | ErrorKind::TimeoutProxy
                | ErrorKind::TimeoutTls
                | ErrorKind::TimeoutFirstByte
                | ErrorKind::TimeoutHead
                | ErrorKind::TimeoutIdle
                | ErrorKind::TimeoutTotal
                | ErrorKind::TimeoutWrite
        )
    }

    /// No connection could be made, or the peer reset the one that was in use: [`ErrorKind::ConnectReset`] is also an
    /// answer that broke off in its body.
    pub fn is_connect(&self) -> bool {
        self.0.kind.code().starts_with("connect.") || self.0.kind == ErrorKind::TimeoutConnect
    }

    /// This machine had no room for it: nobody else is to blame. The kind says what there was too little of:
    /// [`ErrorKind::LocalDescriptors`] keeps every host waiting, [`ErrorKind::LocalPorts`] only one.
    pub fn is_local(&self) -> bool {
        self.0.kind.code().starts_with("local.")
    }

    /// The name could not be resolved.
    pub fn is_dns(&self) -> bool {
        self.0.kind.code().starts_with("dns.") || self.0.kind == ErrorKind::TimeoutDns
    }

    /// TLS failed.
    pub fn is_tls(&self) -> bool {
        self.0.kind.code().starts_with("tls.") || self.0.kind == ErrorKind::TimeoutTls
    }

    /// The body was incomplete, too large or could not be decoded.
    pub fn is_body(&self) -> bool {
        self.0.kind.code().starts_with("body.")
    }

    /// The work was cancelled before it ended.
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == ErrorKind::Cancelled
    }

    /// The crawl, its runtime or one of its tasks has ended.
    pub fn is_shutdown(&self) -> bool {
        self.0.kind == ErrorKind::Shutdown
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.code(), self.0.attempted)?;
        match &self.0.url {
            Some(url) => write!(f, " ({url})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("attempted", &self.0.attempted)
            .field("url", &self.0.url)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

/// When another try of the same request makes sense; the answer of [`Error::retry_time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryTime {
    /// The same request would fail again.
    Never,
    /// After the usual back-off.
    AfterBackoff,
    /// Not before this long from now: the other side said so.
    After(Duration),
    /// The request never left this machine: at once, when there is room, and not counted as an attempt.
    WhenRoom,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $retry:ident;)*) => {
        /// What went wrong, and where. Each kind has a stable dotted [`code`](ErrorKind::code) for records and logs.
        ///
        /// ```
        /// use tidegate::{ErrorKind, RetryTime};
        /// assert_eq!(ErrorKind::DnsNotFound.code(), "dns.not_found");
        /// assert_eq!(ErrorKind::DnsNotFound.retry_time(), RetryTime::Never);
        /// assert!(ErrorKind::all().contains(&ErrorKind::TimeoutIdle));
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* #[doc = concat!("\n\nCode `", $code, "`.")] $name,)*
        }

        impl ErrorKind {
            /// The stable name: lower case, dotted, the place before the dot.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// When another try makes sense, as far as the kind alone can tell.
            pub fn retry_time(self) -> RetryTime {
                match self { $(Self::$name => RetryTime::$retry,)* }
            }

            /// Every kind, in the order of this page.
            pub fn all() -> &'static [Self] {
                &[$(Self::$name,)*]
            }
        }
    };
}

kinds! {
    /// The URL cannot be parsed or is longer than the limit. Mend the URL.
    UrlInvalid = "url.invalid", Never;
    /// The scheme is not `http` or `https`, or `https` was asked of a build without `tls`. Mend the URL or the features.
    UrlScheme = "url.scheme", Never;
    /// A header, method or body of the request cannot be sent. Nothing went on the wire. Mend the request.
    RequestInvalid = "request.invalid", Never;
    /// A page of the public network led to a private address, and the guard is on. Turn the guard off where that is meant.
    GuardBlocked = "guard.blocked", Never;
    /// The name does not exist. Kept as a negative cache entry for a while.
    DnsNotFound = "dns.not_found", Never;
    /// The name servers failed or refused. Retried.
    DnsFailed = "dns.failed", AfterBackoff;
    /// No answer from the name servers within the `dns` deadline. Retried.
    TimeoutDns = "timeout.dns", AfterBackoff;
    /// Nobody listens on the port. Retried.
    ConnectRefused = "connect.refused", AfterBackoff;
    /// The peer reset the connection, or closed it without a word, while it was being made or used. Retried.
    ConnectReset = "connect.reset", AfterBackoff;
    /// No route to the host or the network. Retried.
    ConnectUnreachable = "connect.unreachable", AfterBackoff;
    /// The connection failed otherwise; the source says how. Retried.
    ConnectFailed = "connect.failed", AfterBackoff;
    /// No connection within the `connect` deadline, over all addresses. Retried.
    TimeoutConnect = "timeout.connect", AfterBackoff;
    /// This process or machine has no descriptor, or no memory, for another socket, wherever it leads. The URL goes back to
    /// its queue. Raise the limit of descriptors or lower that of sockets in flight.
    LocalDescriptors = "local.descriptors", WhenRoom;
    /// All ports from our addresses to this one are in use; other destinations are free. The URL goes back to its queue. Add
    /// source addresses, or widen the system's range of ports.
    LocalPorts = "local.ports", WhenRoom;
    /// The byte budget had no room for the whole body before the `total` deadline. Retried. Raise the budget, or make the
    /// parser faster.
    LocalBytes = "local.bytes", AfterBackoff;
    /// This process is out of something else: more bodies wait for the disk than may, or there were too many lookups or
    /// handshakes before this one. The URL goes back to its queue.
    LocalResource = "local.resource", WhenRoom;
    /// The proxy could not be reached. Not held against the target. Retried.
    ProxyConnect = "proxy.connect", AfterBackoff;
    /// The proxy asks for other credentials (407 from one that speaks HTTP). Mend the proxy's URL.
    ProxyAuth = "proxy.auth_required", Never;
    /// The proxy refused the target; the message has its status or reason. Retried.
    ProxyRefused = "proxy.refused", AfterBackoff;
    /// The proxy's answer is not one. Retried.
    ProxyReply = "proxy.bad_reply", AfterBackoff;
    /// TLS with the proxy itself failed; the source says how. Not held against the target. Retried.
    ProxyTls = "proxy.tls", AfterBackoff;
    /// The proxy did not open the tunnel within the `proxy` deadline. Retried.
    TimeoutProxy = "timeout.proxy", AfterBackoff;
    /// The certificate is not valid for this name, time or set of roots. Not retried.
    TlsCertificate = "tls.certificate", Never;
    /// The peer does not speak TLS on this port. Not retried.
    TlsNotTls = "tls.not_tls", Never;
    /// The handshake failed otherwise: an alert, no common version or cipher. Not retried.
    TlsHandshake = "tls.handshake", Never;
    /// The handshake did not end within the `tls` deadline. Retried.
    TimeoutTls = "timeout.tls", AfterBackoff;
    /// The peer took no more bytes of the request within the `idle` deadline. Retried.
    TimeoutWrite = "timeout.write", AfterBackoff;
    /// No byte of an answer within the `first_byte` deadline. Retried.
    TimeoutFirstByte = "timeout.first_byte", AfterBackoff;
    /// The head was not complete within the `head` deadline. Retried.
    TimeoutHead = "timeout.head", AfterBackoff;
    /// No byte of the body for the length of the `idle` deadline. Retried.
    TimeoutIdle = "timeout.idle", AfterBackoff;
    /// The attempt took longer than the `total` deadline. Retried.
    TimeoutTotal = "timeout.total", AfterBackoff;
    /// The connection was closed before any byte of an answer. Retried.
    HttpEmptyReply = "http.empty_reply", AfterBackoff;
    /// The first line is not a status line of HTTP/1. Not retried.
    HttpStatusLine = "http.status_line", Never;
    /// A header field cannot be parsed. Not retried.
    HttpHeader = "http.header", Never;
    /// The head is larger than `head_bytes` or has more fields than `headers`. Not retried.
    HttpHeadTooLarge = "http.head_too_large", Never;
    /// Content-Length and Transfer-Encoding contradict each other or themselves. Not retried.
    HttpFraming = "http.framing", Never;
    /// Another violation of the protocol; the source says which. Retried.
    HttpProtocol = "http.protocol", AfterBackoff;
    /// The status is one that the crawl does not accept as an answer. Retried where the retry policy lists the status.
    HttpStatus = "http.status", Never;
    /// The body ended before its announced length, or in the middle of a chunk or of a compressed stream. Retried.
    BodyIncomplete = "body.incomplete", AfterBackoff;
    /// The body, on the wire or decoded, is larger than its limit. Not retried.
    BodyTooLarge = "body.too_large", Never;
    /// The Content-Encoding is unknown, nested too deeply or corrupt. Not retried.
    BodyEncoding = "body.encoding", Never;
    /// Location cannot be parsed, is too long or has a scheme that is not followed. Not retried.
    RedirectInvalid = "redirect.invalid", Never;
    /// More hops than `redirects`. Not retried.
    RedirectTooMany = "redirect.too_many", Never;
    /// The rules of the host (robots.txt) could not be had, so that nothing is allowed for now. Retried.
    RobotsUnavailable = "robots.unavailable", AfterBackoff;
    /// The host has failed for as long as `breaker` allows, so that this URL was not asked for.
    /// Not retried in this crawl; give it to a later one.
    HostUnavailable = "host.unavailable", Never;
    /// The parser returned an error: the page is not what it expects. Not retried.
    ParserFailed = "parser.failed", Never;
    /// The parser says the page is damaged and no retry will help.
    ParserBroken = "parser.broken", Never;
    /// The parser asked for another fetch of the page. Retried.
    ParserRetry = "parser.retry", AfterBackoff;
    /// The parser recognised a soft block. Retried.
    ParserBlocked = "parser.blocked", AfterBackoff;
    /// The parser found the session expired. Retried.
    ParserExpired = "parser.expired", AfterBackoff;
    /// The parser panicked; the message is its payload. Fails its URL only.
    ParserPanic = "parser.panic", Never;
    /// The parser did not end within the parse limit. Its thread is given up and replaced. Not retried.
    ParserTimeout = "parser.timeout", Never;
    /// The fetcher panicked; the message is its payload. Fails its URL only.
    FetcherPanic = "fetcher.panic", Never;
    /// The sink rejected items of the page for good.
    SinkRejected = "sink.rejected", Never;
    /// The sink cannot go on. Ends the crawl.
    SinkFailed = "sink.failed", Never;
    /// The frontier cannot go on. Ends the crawl.
    FrontierFailed = "frontier.failed", Never;
    /// A setting is missing or contradicts another; the message says which.
    ConfigInvalid = "config.invalid", Never;
    /// Data carried with a request cannot be serialised, parsed, or is larger than 4 KiB.
    DataInvalid = "data.invalid", Never;
    /// The work was cancelled.
    Cancelled = "cancelled", Never;
    /// The crawl has ended, or its runtime dropped one of its tasks.
    Shutdown = "shutdown", Never;
    /// None of the above; the source says what.
    Other = "other", AfterBackoff;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_one_level_and_no_password() {
        let error = Error::new(ErrorKind::ProxyConnect, "connect to the proxy")
            .with_source("inner")
            .with_url("http://u:secret@h.test/a");
        let shown = format!("{error} {error:?}");
        assert!(shown.starts_with("proxy.connect: connect to the proxy (http://h.test/a)"));
        assert!(!shown.contains("secret"));
        assert_eq!(error.source().expect("given above").to_string(), "inner");
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = ErrorKind::all().iter().map(|k| k.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::all().len());
    }
}
