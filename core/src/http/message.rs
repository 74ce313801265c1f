//! The message that goes on the wire for a [`Request`].

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST,
    PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::{Position, Url};

use super::h1::HeadWriter;
use super::proxy::{Proxy, basic};
use crate::{Error, ErrorKind, Request};

static IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, deflate, br, zstd");

/// Fields that are set where the request has none of that name.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    fields: HeaderMap,
    /// The same as they go on the wire: most requests have no fields of their own.
    block: Box<[u8]>,
    /// They ask for the connection to be closed.
    close: bool,
    pub(super) decompress: bool,
}

impl Defaults {
    /// `others` have none of the names before them.
    pub(super) fn new(
        user_agent: Option<HeaderValue>,
        accept: Option<HeaderValue>,
        accept_language: Option<HeaderValue>,
        decompress: bool,
        others: &HeaderMap,
    ) -> Result<Self, Error> {
        if let Some(name) = [TRANSFER_ENCODING, CONTENT_LENGTH, UPGRADE].iter().find(|name| others.contains_key(*name))
        {
            return Err(Error::new(ErrorKind::ConfigInvalid, format!("send {name} with every request")));
        }
        let mut fields = HeaderMap::new();
        let first = [(USER_AGENT, user_agent), (ACCEPT, accept), (ACCEPT_LANGUAGE, accept_language)];
        for (name, value) in first {
            fields.extend(value.map(|value| (name, value)));
        }
        if decompress {
            fields.insert(ACCEPT_ENCODING, ENCODINGS);
        }
        for name in others.keys().filter(|name| **name != HOST) {
            if !fields.contains_key(name) {
                for value in others.get_all(name) {
                    fields.append(name, value.clone());
                }
            }
        }
        let mut block = Vec::new();
        HeadWriter::fields(&mut block, &fields);
        let close = asks_to_close(&fields);
        Ok(Self { fields, block: block.into(), close, decompress })
    }
}

/// A request that can be sent, as often as it takes: its head is written anew each time, and kept nowhere.
#[derive(Debug)]
pub(super) struct Message<'a> {
    request: &'a Request,
    url: &'a Url,
    /// The proxy that reads this message: that of a plain http target.
    proxy: Option<&'a Proxy>,
    defaults: &'a Defaults,
    /// Of the jar, where the request has none of its own.
    cookie: Option<&'a HeaderValue>,
}

impl<'a> Message<'a> {
    /// Judges whether the request can be sent.
    pub(super) fn new(
        request: &'a Request,
        url: &'a Url,
        proxy: Option<&'a Proxy>,
        defaults: &'a Defaults,
    ) -> Result<Self, Error> {
        let invalid = |why: &str| Error::new(ErrorKind::RequestInvalid, format!("send a request {why}"));
        let upgrades = request.headers().is_some_and(|own| own.contains_key(UPGRADE));
        if *request.method() == Method::CONNECT || upgrades {
            return Err(invalid("that turns the connection into something else"));
        }
        if let Some(own) = request.headers()
            && (own.contains_key(TRANSFER_ENCODING) || lies_about_length(own, request.body().len()))
        {
            return Err(invalid("whose framing fields contradict its body"));
        }
        Ok(Self { request, url, proxy, defaults, cookie: None })
    }

    pub(super) fn with_cookie(self, cookie: Option<&'a HeaderValue>) -> Self {
        Self { cookie, ..self }
    }

    pub(super) fn method(&self) -> &Method {
        self.request.method()
    }

    pub(super) fn body(&self) -> Bytes {
        self.request.body()
    }

    /// Whether it lets the connection be used again.
    pub(super) fn stays(&self) -> bool {
        match self.request.headers().filter(|own| own.contains_key(CONNECTION)) {
            Some(own) => !asks_to_close(own),
            None => !self.defaults.close,
        }
    }

    /// Appends the head to `out`.
    pub(super) fn write_head(&self, out: &mut Vec<u8>) {
        let Self { request, url, proxy, defaults, cookie } = self;
        let target = &url[Position::BeforePath..Position::AfterQuery];
        // The port only where it is not that of the scheme; userinfo never.
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let mut head = match proxy {
            None => HeadWriter::begin(out, request.method(), &[target]),
            Some(_) => HeadWriter::begin(out, request.method(), &[url.scheme(), "://", host, target]),
        };
        let own = request.headers();
        match own.and_then(|own| own.get_all(HOST).iter().next_back()) {
            Some(host) => head.field(&HOST, host),
            None => head.part(&HOST, host),
        }
        let body = request.body().len();
        if body > 0 || expects_body(request.method()) || own.is_some_and(|own| own.contains_key(CONTENT_LENGTH)) {
            head.field(&CONTENT_LENGTH, &HeaderValue::from(body));
        }
        let credentials = basic(url);
        let saves = request.overrides().is_some_and(|o| o.save_to.is_some());
        if let Some(cookie) = cookie.filter(|_| own.is_none_or(|own| !own.contains_key(COOKIE))) {
            head.field(&COOKIE, cookie);
        }
        if own.is_none() && credentials.is_none() && proxy.is_none() && !saves {
            head.block(&defaults.block);
            return head.end();
        }
        self.rest(credentials.as_ref(), |name, value| head.field(name, value));
        head.end();
    }

    /// The fields that neither say where the message goes nor how long it is.
    fn rest(&self, credentials: Option<&HeaderValue>, mut put: impl FnMut(&HeaderName, &HeaderValue)) {
        let Self { request, proxy, defaults, .. } = self;
        let own = request.headers();
        let saves = request.overrides().is_some_and(|o| o.save_to.is_some());
        let empty = HeaderMap::new();
        let own = own.unwrap_or(&empty);
        // Never to an origin; to the proxy that reads this message its own, and else the caller's.
        let for_proxy = proxy.and_then(Proxy::authorization);
        let goes = |name: &HeaderName| match *name {
            HOST | CONTENT_LENGTH => false,
            PROXY_AUTHORIZATION => proxy.is_some() && for_proxy.is_none(),
            // The file is to hold the bytes that the URL stands for.
            ACCEPT_ENCODING => !saves,
            _ => true,
        };
        for (name, value) in own.iter().filter(|(name, _)| goes(name)) {
            put(name, value);
        }
        let credentials = credentials.filter(|_| !own.contains_key(AUTHORIZATION));
        let ours = [
            (AUTHORIZATION, credentials),
            (PROXY_AUTHORIZATION, for_proxy),
            (ACCEPT_ENCODING, saves.then_some(&IDENTITY)),
        ];
        for (name, value) in &ours {
            if let Some(value) = value {
                put(name, value);
            }
        }
        let is_set = |name: &HeaderName| own.contains_key(name) || ours.iter().any(|(n, v)| n == name && v.is_some());
        for (name, value) in defaults.fields.iter().filter(|(name, _)| goes(name) && !is_set(name)) {
            put(name, value);
        }
    }

    /// The same request for HTTP/2 (RFC 9113, 8.2 and 8.3): no fields of a connection, and the host as its authority.
    #[cfg(feature = "tls")]
    pub(super) fn to_http2(&self) -> Result<http::Request<http_body_util::Full<Bytes>>, Error> {
        let Self { request, url, cookie, .. } = self;
        let own = request.headers();
        let authority = match own.and_then(|own| own.get_all(HOST).iter().next_back()) {
            Some(host) => host.as_bytes(),
            None => url[Position::BeforeHost..Position::AfterPort].as_bytes(),
        };
        let uri = http::Uri::builder()
            .scheme(url.scheme())
            .authority(authority)
            .path_and_query(&url[Position::BeforePath..Position::AfterQuery])
            .build()
            .map_err(|e| Error::new(ErrorKind::RequestInvalid, "send a request over HTTP/2").with_source(e))?;
        let mut sent = http::Request::new(http_body_util::Full::new(self.body()));
        *sent.method_mut() = request.method().clone();
        *sent.uri_mut() = uri;
        *sent.version_mut() = http::Version::HTTP_2;
        let fields = sent.headers_mut();
        if let Some(cookie) = cookie.filter(|_| own.is_none_or(|own| !own.contains_key(COOKIE))) {
            fields.insert(COOKIE, (*cookie).clone());
        }
        self.rest(basic(url).as_ref(), |name, value| {
            if !is_of_connection(name, value) {
                fields.append(name, value.clone());
            }
        });
        Ok(sent)
    }
}

/// Whether HTTP/2 has no place for it (RFC 9113, 8.2.2).
#[cfg(feature = "tls")]
fn is_of_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => true,
        "te" => value != "trailers",
        _ => false,
    }
}

fn asks_to_close(fields: &HeaderMap) -> bool {
    let options = fields.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    { options }.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Whether servers ask for a length of requests of this method, also where there is no body (RFC 9110, 8.6).
fn expects_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

fn lies_about_length(headers: &HeaderMap, length: usize) -> bool {
    headers.get_all(CONTENT_LENGTH).iter().enumerate().any(|(i, value)| i > 0 || value != length.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    /// The head as it goes on the wire, in lines.
    fn written(request: &Request, proxy: Option<&str>) -> Result<Vec<String>, ErrorKind> {
        let value = |text| Some(HeaderValue::from_static(text));
        let others = [("dnt", "1"), ("accept", "none/of these"), ("host", "b.test")].map(|(n, v)| header(n, v));
        let others = HeaderMap::from_iter(others);
        let defaults = Defaults::new(value("bot/1"), value("*/*"), None, true, &others).expect("valid");
        let proxy = proxy.map(|p| Proxy::parse(p).expect("literal"));
        let url = request.target().expect("literal");
        let message = Message::new(request, &url, proxy.as_ref(), &defaults).map_err(|e| e.kind())?;
        let mut out = Vec::new();
        message.write_head(&mut out);
        let text = String::from_utf8(out).expect("ASCII");
        let lines = text.strip_suffix("\r\n\r\n").expect("an empty line").split("\r\n");
        Ok(lines.map(String::from).collect())
    }

    fn sorted(mut lines: Vec<String>) -> Vec<String> {
        lines[1..].sort();
        lines
    }

    #[test]
    fn only_what_is_missing_is_set() {
        let expected = |accept| {
            let codings = "accept-encoding: gzip, deflate, br, zstd";
            ["GET /p?q HTTP/1.1", codings, accept, "dnt: 1", "host: a.test:81", "user-agent: bot/1"]
        };
        let bare = sorted(written(&Request::get("http://a.test:81/p?q"), None).expect("valid"));
        assert_eq!(bare, expected("accept: */*"));
        let (name, value) = header("accept", "image/png");
        let request = Request::get("http://a.test:81/p?q").with_header(name, value);
        assert_eq!(sorted(written(&request, None).expect("valid")), expected("accept: image/png"));
        let (name, value) = header("host", "c.test");
        let hosts = written(&request.with_header(name, value), None).expect("valid");
        assert_eq!(hosts.iter().filter(|line| line.starts_with("host")).collect::<Vec<_>>(), ["host: c.test"]);
    }

    // C7, F6
    #[test]
    fn credentials_go_where_they_belong() {
        let (name, value) = header("proxy-authorization", "Basic b2xk");
        let request = Request::get("http://me:p%3Aw@a.test/").with_header(name, value);
        let direct = written(&request, None).expect("valid");
        assert!(direct.contains(&"authorization: Basic bWU6cDp3".to_owned()), "{direct:?}");
        assert!(!direct.iter().any(|line| line.starts_with("proxy-authorization")), "{direct:?}");
        let proxied = written(&request, Some("http://x:y@p.test:3128")).expect("valid");
        assert_eq!((proxied[0].as_str(), proxied[1].as_str()), ("GET http://a.test/ HTTP/1.1", "host: a.test"));
        assert!(proxied.contains(&"authorization: Basic bWU6cDp3".to_owned()), "{proxied:?}");
        let to_proxy: Vec<_> = proxied.iter().filter(|line| line.starts_with("proxy-authorization")).collect();
        assert_eq!(to_proxy, ["proxy-authorization: Basic eDp5"]);
        let open = written(&request, Some("http://p.test:3128")).expect("valid");
        assert!(open.contains(&"proxy-authorization: Basic b2xk".to_owned()), "{open:?}");
    }

    // C10
    #[test]
    fn framing_is_ours() {
        for (name, value) in [("transfer-encoding", "chunked"), ("content-length", "9"), ("upgrade", "websocket")] {
            let (name, value) = header(name, value);
            let request = Request::post("http://a.test/", "abc").with_header(name.clone(), value.clone());
            assert_eq!(written(&request, None).err(), Some(ErrorKind::RequestInvalid));
            let everywhere = Defaults::new(None, None, None, true, &HeaderMap::from_iter([(name, value)]));
            assert_eq!(everywhere.expect_err("framing").kind(), ErrorKind::ConfigInvalid);
        }
        let (name, value) = header("content-length", "3");
        let once = Request::post("http://a.test/", "abc").with_header(name.clone(), value.clone());
        let lengths = |request: &Request| {
            let lines = written(request, None).expect("valid");
            lines.into_iter().filter(|line| line.starts_with("content-length")).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&once), ["content-length: 3"]);
        assert_eq!(written(&once.with_header(name, value), None).err(), Some(ErrorKind::RequestInvalid));
        assert_eq!(lengths(&Request::post("http://a.test/", "")), ["content-length: 0"]);
        assert!(lengths(&Request::get("http://a.test/")).is_empty());
        let connect = Request::new(Method::CONNECT, "http://a.test/");
        assert_eq!(written(&connect, None).err(), Some(ErrorKind::RequestInvalid));
    }

    // C11
    #[test]
    fn urls_that_browsers_take_can_be_sent() {
        for (url, target) in [
            ("http://a.test/{a}|b^c`d\"?q=<x>'\\|{}^`", "/%7Ba%7D|b^c%60d%22?q=%3Cx%3E%27\\|{}^`"),
            ("http://a.test/ü?ü", "/%C3%BC?%C3%BC"),
            ("http://a.test?x", "/?x"),
            ("http://a.test/a#b", "/a"),
        ] {
            let lines = written(&Request::get(url), None).expect("can be sent");
            assert_eq!(lines[0], format!("GET {target} HTTP/1.1"));
        }
        let lines = written(&Request::get("http://u:p@[::1]:8080/"), None).expect("valid");
        assert_eq!(lines[1], "host: [::1]:8080");
    }

    #[test]
    fn a_request_can_end_its_connection() {
        let defaults = Defaults::default();
        let url = Url::parse("http://a.test/").expect("literal");
        for (value, stays) in [("close", false), ("Keep-Alive, Close", false), ("keep-alive", true)] {
            let (name, value) = header("connection", value);
            let request = Request::get("http://a.test/").with_header(name.clone(), value.clone());
            assert_eq!(Message::new(&request, &url, None, &defaults).expect("valid").stays(), stays);
            let everywhere = Defaults::new(None, None, None, true, &HeaderMap::from_iter([(name, value)]));
            let (request, everywhere) = (Request::get("http://a.test/"), everywhere.expect("valid"));
            assert_eq!(Message::new(&request, &url, None, &everywhere).expect("valid").stays(), stays);
        }
    }
}
