//! What is asked for: [`Request`], its identity for deduplication, and the canonical form of URLs.

mod origins;
mod target;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use url::{Position, Url};

use self::target::{Parsed, Target};
use crate::{Error, ErrorKind, Limits};

/// The largest [`Request::with_data`], in bytes of JSON, so that requests stay cheap on disk and in brokers.
pub const MAX_DATA: usize = 4096;

/// A request for one URL, and what the crawl knows about it.
///
/// Small: less than 200 bytes plus the URL until headers, a body or overrides are set. The URL is kept as text and
/// parsed late; a URL that cannot be parsed is not refused here but settles with
/// [`ErrorKind::UrlInvalid`], so that one bad line of a list is one failed record.
///
/// ```
/// use tidegate::Request;
///
/// let request = Request::get("https://shop.test/p/1").with_label("product").with_priority(10);
/// assert_eq!(request.label(), Some("product"));
/// ```
///
/// `Debug` shows no userinfo, no values of headers and no body.
#[derive(Clone)]
pub struct Request {
    method: Method,
    target: Target,
    id: Option<Box<str>>,
    label: Option<Arc<str>>,
    data: Option<Box<RawValue>>,
    parent: Option<Arc<str>>,
    not_before: Option<SystemTime>,
    priority: i32,
    depth: u32,
    /// A page of the public network led here: not to a private address, where the guard is on.
    guarded: bool,
    more: Option<Box<More>>,
}

/// The rare parts, apart so that the common request stays small.
#[derive(Clone, Default)]
struct More {
    headers: HeaderMap,
    body: Bytes,
    dedupe_key: Option<Box<str>>,
    overrides: Overrides,
}

/// Settings of one request that replace those of the crawl; `None` leaves the crawl's.
///
/// ```
/// use std::time::Duration;
/// use tidegate::{Overrides, Request};
///
/// let mut overrides = Overrides::default();
/// overrides.total_timeout = Some(Duration::from_secs(5));
/// let request = Request::get("http://a.test/").with_overrides(overrides);
/// assert_eq!(request.overrides().expect("just set").total_timeout, Some(Duration::from_secs(5)));
/// ```
///
/// `Debug` shows the proxy without its credentials.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Overrides {
    /// Deadline for the connection, over all addresses.
    pub connect_timeout: Option<std::time::Duration>,
    /// Deadline from the request being sent to the first byte of the answer.
    pub first_byte_timeout: Option<std::time::Duration>,
    /// Deadline between two bytes of the body.
    pub idle_timeout: Option<std::time::Duration>,
    /// Deadline for the attempt as a whole.
    pub total_timeout: Option<std::time::Duration>,
    /// URL of the proxy to use.
    pub proxy: Option<Box<str>>,
    /// Redirects to follow; 0 makes the redirect the answer.
    pub max_redirects: Option<u32>,
    /// Tries after the first.
    pub max_retries: Option<u32>,
    /// Largest body, decoded, in bytes.
    pub max_body: Option<u64>,
    /// Where the body goes instead of into memory.
    pub save_to: Option<std::path::PathBuf>,
}

impl Overrides {
    /// The limits of `base` with these settings laid over them.
    pub fn apply(&self, base: &Limits) -> Limits {
        let mut limits = base.clone();
        let d = &mut limits.deadlines;
        d.connect = self.connect_timeout.unwrap_or(d.connect);
        d.first_byte = self.first_byte_timeout.unwrap_or(d.first_byte);
        d.idle = self.idle_timeout.unwrap_or(d.idle);
        d.total = self.total_timeout.unwrap_or(d.total);
        limits.redirects = self.max_redirects.unwrap_or(limits.redirects);
        if let Some(max) = self.max_body {
            limits.body_wire = max;
            limits.body_decoded = max;
        }
        limits
    }
}

impl Request {
    /// A request with any method.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self::to(method, Target::Given(url.into().into_boxed_str()))
    }

    fn to(method: Method, target: Target) -> Self {
        Self {
            method,
            target,
            id: None,
            label: None,
            data: None,
            parent: None,
            not_before: None,
            priority: 0,
            depth: 0,
            guarded: false,
            more: None,
        }
    }

    /// A GET request.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// A HEAD request.
    pub fn head(url: impl Into<String>) -> Self {
        Self::new(Method::HEAD, url)
    }

    /// A POST request with a body; set its Content-Type with [`with_header`](Self::with_header).
    pub fn post(url: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, url).with_body(body)
    }

    /// Replaces the method.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Replaces the URL, which may be relative to the page where a parser follows it.
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        self.target = Target::Given(url.into().into_boxed_str());
        self
    }

    /// Replaces the URL by the text of one that [`canonical`] gave.
    #[must_use]
    pub(crate) fn with_canonical(mut self, url: &str) -> Self {
        self.target.become_canonical(url);
        self
    }

    #[must_use]
    pub(crate) fn with_guarded(mut self, guarded: bool) -> Self {
        self.guarded = guarded;
        self
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// A name of the caller's own, given back in [`Settled`](crate::Settled).
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into().into_boxed_str());
        self
    }

    /// The label that selects the parser (see [`Builder::route`](crate::Builder::route)).
    #[must_use]
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Data for the parser of the answer, serialised so that it survives a disk, a broker and a process.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] where it cannot be serialised or is larger than [`MAX_DATA`].
    ///
    /// ```
    /// # fn main() -> Result<(), tidegate::Error> {
    /// let request = tidegate::Request::get("http://a.test/").with_data(&("shoes", 3))?;
    /// assert_eq!(request.data::<(String, u32)>()?, ("shoes".into(), 3));
    /// # Ok(()) }
    /// ```
    pub fn with_data<T: Serialize + ?Sized>(mut self, data: &T) -> Result<Self, Error> {
        let raw = serde_json::value::to_raw_value(data)
            .map_err(|e| Error::new(ErrorKind::DataInvalid, "serialise request data").with_source(e))?;
        if raw.get().len() > MAX_DATA {
            let attempted = format!("carry {} bytes of request data, more than {MAX_DATA}", raw.get().len());
            return Err(Error::new(ErrorKind::DataInvalid, attempted));
        }
        self.data = Some(raw);
        Ok(self)
    }

    /// Higher goes first among the requests of one host; 0 by default.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Links between this URL and its seed; set by the crawl.
    #[must_use]
    pub fn with_depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// The URL of the page that led here; set by the crawl.
    #[must_use]
    pub fn with_parent(mut self, parent: impl Into<Arc<str>>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Not to be started before this time.
    #[must_use]
    pub fn with_not_before(mut self, time: SystemTime) -> Self {
        self.not_before = Some(time);
        self
    }

    /// Replaces the identity that deduplication uses; by default method, canonical URL and a hash of the body.
    #[must_use]
    pub fn with_dedupe_key(mut self, key: impl Into<String>) -> Self {
        self.more_mut().dedupe_key = Some(key.into().into_boxed_str());
        self
    }

    /// Adds a header; a second one of the same name is kept beside the first.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.more_mut().headers.append(name, value);
        self
    }

    /// Replaces the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.more_mut().body = body.into();
        self
    }

    /// Replaces the overrides.
    #[must_use]
    pub fn with_overrides(mut self, overrides: Overrides) -> Self {
        self.more_mut().overrides = overrides;
        self
    }

    /// The body of the answer goes to this file (written whole, then renamed) instead of into memory.
    #[must_use]
    pub fn save_to(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.more_mut().overrides.save_to = Some(path.into());
        self
    }

    /// Replaces all headers.
    #[must_use]
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        if self.more.is_some() || !headers.is_empty() {
            self.more_mut().headers = headers;
        }
        self
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The URL as it was given. It may contain userinfo; do not log it.
    pub fn url(&self) -> &str {
        self.target.text()
    }

    /// The caller's name for it.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The label that selects the parser.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The data that came with it.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] where there is none or it is of another shape.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let raw = self.data.as_deref().map_or("null", RawValue::get);
        serde_json::from_str(raw).map_err(|e| Error::new(ErrorKind::DataInvalid, "read request data").with_source(e))
    }

    /// The data as JSON text.
    pub fn raw_data(&self) -> Option<&RawValue> {
        self.data.as_deref()
    }

    /// The priority; higher goes first.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// Links between this URL and its seed.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The URL of the page that led here.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// The earliest start.
    pub fn not_before(&self) -> Option<SystemTime> {
        self.not_before
    }

    /// The headers that were set; `None` when there are none.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.more.as_ref().map(|m| &m.headers).filter(|h| !h.is_empty())
    }

    /// The body; empty when there is none.
    pub fn body(&self) -> Bytes {
        self.more.as_ref().map(|m| m.body.clone()).unwrap_or_default()
    }

    /// The overrides, where any were set.
    pub fn overrides(&self) -> Option<&Overrides> {
        self.more.as_ref().map(|m| &m.overrides)
    }

    /// The URL, parsed and in canonical form.
    ///
    /// # Errors
    /// [`ErrorKind::UrlInvalid`], [`ErrorKind::UrlScheme`].
    pub fn target(&self) -> Result<Url, Error> {
        self.target.url().map(Cow::into_owned)
    }

    /// As [`target`](Self::target), which costs nothing from then on.
    pub(crate) fn parse(&mut self) -> Result<Arc<Parsed>, Error> {
        self.target.parse()
    }

    /// Notes what [`target`](Self::target) gave, so that the text is not parsed for its identity.
    pub(crate) fn note_target(&mut self, url: &Url) {
        self.target.note(url);
    }

    /// The bytes whose hash is the identity of this request for deduplication.
    pub fn identity(&self) -> Vec<u8> {
        self.identity_bytes().into_owned()
    }

    /// The same, borrowed where it is a part of the request.
    pub(crate) fn identity_bytes(&self) -> Cow<'_, [u8]> {
        if let Some(key) = self.more.as_ref().and_then(|m| m.dedupe_key.as_deref()) {
            return key.as_bytes().into();
        }
        let url = self.target.canonical_text();
        let has_body = self.more.as_ref().is_some_and(|more| !more.body.is_empty());
        if self.method == Method::GET && !has_body {
            return match url {
                Cow::Borrowed(url) => url.as_bytes().into(),
                Cow::Owned(url) => url.into_bytes().into(),
            };
        }
        let mut identity = Vec::with_capacity(url.len() + 24);
        if self.method != Method::GET {
            identity.extend_from_slice(self.method.as_str().as_bytes());
            identity.push(b' ');
        }
        identity.extend_from_slice(url.as_bytes());
        if let Some(more) = self.more.as_ref().filter(|m| !m.body.is_empty()) {
            identity.push(b' ');
            identity.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(&more.body).to_le_bytes());
        }
        identity.into()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Request");
        shown
            .field("method", &self.method)
            .field("url", &without_userinfo(self.url()))
            .field("id", &self.id)
            .field("label", &self.label)
            .field("data", &self.data)
            .field("parent", &self.parent.as_deref().map(without_userinfo))
            .field("not_before", &self.not_before)
            .field("priority", &self.priority)
            .field("depth", &self.depth);
        if let Some(more) = &self.more {
            shown
                .field("headers", &more.headers.keys().collect::<Vec<_>>())
                .field("body_bytes", &more.body.len())
                .field("dedupe_key", &more.dedupe_key.as_deref().map(without_userinfo))
                .field("overrides", &more.overrides);
        }
        shown.finish()
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overrides")
            .field("connect_timeout", &self.connect_timeout)
            .field("first_byte_timeout", &self.first_byte_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("total_timeout", &self.total_timeout)
            .field("proxy", &self.proxy.as_deref().map(without_userinfo))
            .field("max_redirects", &self.max_redirects)
            .field("max_retries", &self.max_retries)
            .field("max_body", &self.max_body)
            .field("save_to", &self.save_to)
            .finish()
    }
}

impl From<&str> for Request {
    fn from(url: &str) -> Self {
        Self::get(url)
    }
}

impl From<String> for Request {
    fn from(url: String) -> Self {
        Self::get(url)
    }
}

impl From<&String> for Request {
    fn from(url: &String) -> Self {
        Self::get(url.as_str())
    }
}

impl From<Url> for Request {
    fn from(url: Url) -> Self {
        Self::to(Method::GET, Target::from(url))
    }
}

/// Parses a URL and brings it into canonical form: what the WHATWG parser does, without the fragment, with
/// percent-encodings in upper case and unreserved characters (RFC 3986, 6.2.2.2) decoded.
///
/// Idempotent, and never changes the origin.
///
/// # Errors
/// [`ErrorKind::UrlInvalid`] where it cannot be parsed, has no host or is longer than 16 KiB;
/// [`ErrorKind::UrlScheme`] for anything but http and https.
///
/// ```
/// let url = tidegate::parse_target("HTTP://Example.ORG:80/%7euser/a%2fb?q=1#top")?;
/// assert_eq!(url.as_str(), "http://example.org/~user/a%2Fb?q=1");
/// # Ok::<(), tidegate::Error>(())
/// ```
pub fn parse_target(text: &str) -> Result<Url, Error> {
    if text.len() > Limits::URL {
        return Err(Error::new(ErrorKind::UrlInvalid, format!("use a URL of {} bytes", text.len())));
    }
    let url = origins::parse(text).map_err(|e| {
        Error::new(ErrorKind::UrlInvalid, format!("parse the URL {:?}", shorten(without_userinfo(text).as_ref())))
            .with_source(e)
    })?;
    canonical(url)
}

/// What a reference on a page with this base means, in canonical form; `None` where it cannot be fetched.
pub(crate) fn resolve(base: &Url, reference: &str) -> Option<Url> {
    origins::join(base, reference).ok().and_then(|url| canonical(url).ok())
}

/// As [`parse_target`], for a URL that is parsed already.
///
/// # Errors
/// As [`parse_target`].
pub fn canonical(mut url: Url) -> Result<Url, Error> {
    if !matches!(url.scheme(), "http" | "https") {
        let attempted = format!("fetch a URL of scheme {:?}; only http and https are supported", url.scheme());
        return Err(Error::new(ErrorKind::UrlScheme, attempted).with_url(url.as_str()));
    }
    if url.fragment().is_some() {
        url.set_fragment(None);
    }
    if url.path().contains('%') {
        let path = normalise_percent(url.path());
        if path != url.path() {
            url.set_path(&path);
        }
    }
    if let Some(query) = url.query().filter(|q| q.contains('%')) {
        let normal = normalise_percent(query);
        if normal != query {
            url.set_query(Some(&normal));
        }
    }
    Ok(url)
}

/// The origin of a URL that [`canonical`] let through, as RFC 6454 writes it.
pub(crate) fn origin(url: &Url) -> Cow<'_, str> {
    if url.username().is_empty() && url.password().is_none() {
        return url[..Position::BeforePath].into();
    }
    url.origin().ascii_serialization().into()
}

fn normalise_percent(text: &str) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut rest = 0;
    let mut i = 0;
    while i < bytes.len() {
        let (b'%', Some(high), Some(low)) = (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) else {
            i += 1;
            continue;
        };
        out.push_str(&text[rest..i]);
        let byte = high * 16 + low;
        // A dot is left alone: decoding it could make a dot segment. So is a digit behind a bare percent sign, with which it
        // could make an encoding.
        let is_behind_percent = out.bytes().rev().take(2).any(|before| before == b'%');
        let is_safe = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        if is_safe && !(is_behind_percent && byte.is_ascii_hexdigit()) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&text[i + 1..i + 3].to_ascii_uppercase());
        }
        i += 3;
        rest = i;
    }
    out.push_str(&text[rest..]);
    out
}

/// `url` without `user:password@`, also where it cannot be parsed, has too few or too many slashes, or no scheme.
pub(crate) fn without_userinfo(url: &str) -> Cow<'_, str> {
    if !url.contains('@') {
        return url.into();
    }
    let start = authority_start(url);
    let end = url[start..].find(['/', '\\', '?', '#']).map_or(url.len(), |i| start + i);
    match url[start..end].rfind('@') {
        Some(at) => format!("{}{}", &url[..start], &url[start + at + 1..]).into(),
        None => url.into(),
    }
}

/// Where the authority begins, or would for a reader who is lenient: URL parsers skip white space, and any slashes.
fn authority_start(url: &str) -> usize {
    let slash = |c: char| matches!(c, '/' | '\\');
    let blank = |c: char| c <= ' ';
    let lenient = |from: usize| url.len() - url[from..].trim_start_matches(|c| slash(c) || blank(c)).len();
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') || blank(c);
    if let Some((scheme, rest)) = url.split_once(':').filter(|(scheme, _)| scheme.chars().all(in_scheme)) {
        let web = ["http", "https"].iter().any(|web| scheme.replace(blank, "").eq_ignore_ascii_case(web));
        // In `user:password@host` the user is no scheme.
        if web || rest.trim_start_matches(blank).starts_with(slash) {
            return lenient(scheme.len() + 1);
        }
    }
    // One slash begins a path on the same host.
    let path = url.trim_start_matches(blank);
    if path.starts_with(slash) && !path[1..].trim_start_matches(blank).starts_with(slash) {
        return url.len();
    }
    lenient(0)
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_until_headers_are_set() {
        assert!(size_of::<Request>() <= 200, "{} bytes", size_of::<Request>());
    }

    #[test]
    fn identity_tells_bodies_and_methods_apart() {
        let get = Request::get("http://a.test/#x");
        assert_eq!(get.identity(), Request::get("HTTP://A.test").identity());
        assert_ne!(get.identity(), Request::head("http://a.test/").identity());
        let post = |body: &'static str| Request::post("http://a.test/", body).identity();
        assert_ne!(post("page=1"), post("page=2"));
        assert_eq!(get.clone().with_dedupe_key("k").identity(), b"k");
    }

    #[test]
    fn data_larger_than_the_limit_is_refused() {
        let exact = "x".repeat(MAX_DATA - 2);
        assert!(Request::get("http://a.test/").with_data(&exact).is_ok());
        let over = Request::get("http://a.test/").with_data(&format!("{exact}x"));
        assert_eq!(over.expect_err("one byte too many").kind(), ErrorKind::DataInvalid);
    }

    // C7
    #[test]
    fn userinfo_is_removed_even_from_what_cannot_be_parsed() {
        assert_eq!(without_userinfo("http://u:p@ss@h/a@b"), "http://h/a@b");
        for (text, shown) in [
            ("user:pass@host:3128", "host:3128"),
            ("user:p:@ss@host:3128/x@y", "host:3128/x@y"),
            ("http:/u:p@a.test/", "http:/a.test/"),
            ("http:u:p@a.test/", "http:a.test/"),
            ("http:///u:p@a.test/", "http:///a.test/"),
            ("HTTPS:\\\\u:p@a.test\\x", "HTTPS:\\\\a.test\\x"),
            (" ht\ttp:\n/\t/u:p@a.test?q@r", " ht\ttp:\n/\t/a.test?q@r"),
            ("socks5://u:p@a.test:1", "socks5://a.test:1"),
            ("//u:p@a.test/x", "//a.test/x"),
            ("http://h/a@b", "http://h/a@b"),
            ("http:", "http:"),
            ("/a@b", "/a@b"),
            ("a/b@c", "a/b@c"),
            ("", ""),
            ("é", "é"),
        ] {
            assert_eq!(without_userinfo(text), shown, "{text:?}");
        }
        let error = parse_target("http://u:hunter2@[::/").expect_err("no such address");
        assert!(!format!("{error:?}{error}").contains("hunter2"));
    }

    // C7
    #[test]
    fn debug_shows_no_secret() {
        let proxy = Some("proxy-user:hunter2@proxy.test:3128".into());
        let overrides = Overrides { proxy, ..Overrides::default() };
        let request = Request::post("http://me:hunter2@a.test/x", "token=hunter2")
            .with_parent("http://me:hunter2@a.test/")
            .with_dedupe_key("http://me:hunter2@a.test/")
            .with_header(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer hunter2"))
            .with_overrides(overrides);
        for shown in [format!("{request:?}"), format!("{request:#?}"), format!("{:?}", request.overrides())] {
            assert!(!shown.contains("hunter2") && !shown.contains("me:"), "{shown}");
            assert!(shown.contains("proxy.test:3128"), "{shown}");
        }
        let shown = format!("{request:?}");
        for part in ["POST", "\"http://a.test/x\"", "\"authorization\"", "body_bytes: 13"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }

    // C11
    #[test]
    fn odd_targets_are_typed_errors() {
        for (text, kind) in [
            ("", ErrorKind::UrlInvalid),
            ("/relative", ErrorKind::UrlInvalid),
            ("http://", ErrorKind::UrlInvalid),
            ("http://a b/", ErrorKind::UrlInvalid),
            ("file:///etc/passwd", ErrorKind::UrlScheme),
            ("javascript:alert(1)", ErrorKind::UrlScheme),
        ] {
            assert_eq!(parse_target(text).expect_err(text).kind(), kind, "{text}");
        }
        assert!(parse_target(&format!("http://a.test/{}", "x".repeat(70_000))).is_err());
    }

    #[test]
    fn what_is_decoded_makes_no_new_encoding() {
        for query in ["%%61A", "%6%31", "%2%61", "a%%41%42"] {
            let once = parse_target(&format!("http://a.test/?{query}")).expect("a URL");
            assert_eq!(parse_target(once.as_str()).expect("canonical parses"), once, "{query}");
        }
    }

    proptest! {
        // C7: whatever is read as a URL with a password is shown without it.
        #[test]
        fn no_password_is_shown(
            before in "[ \\t]{0,2}", scheme in "(http|HTTPS|ftp|x)?:?", slashes in "[/\\\\\\t]{0,4}",
        ) {
            let text = format!("{before}{scheme}{slashes}user:hunter2@host.test/a");
            let base = Url::parse("http://base.test/").expect("literal");
            let has_password = |url: Url| url.password().is_some();
            if Url::parse(&text).is_ok_and(has_password) || base.join(&text).is_ok_and(has_password) {
                prop_assert!(!without_userinfo(&text).contains("hunter2"), "{text:?}");
            }
        }

        #[test]
        fn canonical_is_idempotent_and_keeps_the_origin(path in "[ -~é]{0,40}", query in "[ -~]{0,20}") {
            let text = format!("http://u@Host.test:8080/{path}?{query}");
            if let Ok(url) = parse_target(&text) {
                let again = parse_target(url.as_str()).expect("canonical parses");
                prop_assert_eq!(&again, &url);
                prop_assert_eq!(url.origin(), Url::parse("http://host.test:8080").expect("literal").origin());
            }
        }
    }
}
