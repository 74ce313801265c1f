//! The message that goes on the wire for a [`Request`].

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_LENGTH, Entry, HOST, PROXY_AUTHORIZATION,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body_util::Full;
use url::{Position, Url};

use super::proxy::{Proxy, basic};
use crate::{Error, ErrorKind, Request};

/// Fields that are set where the request has none of that name.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) accept: Option<HeaderValue>,
    pub(super) accept_language: Option<HeaderValue>,
    pub(super) others: HeaderMap,
    pub(super) decompress: bool,
}

/// `proxy` is the one that reads this message: that of a plain http target.
pub(super) fn build(
    request: &Request,
    url: &Url,
    proxy: Option<&Proxy>,
    defaults: &Defaults,
) -> Result<http::Request<Full<Bytes>>, Error> {
    let invalid = |why: &str| Error::new(ErrorKind::RequestInvalid, format!("send a request {why}"));
    let body = request.body();
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(HOST, host(url).ok_or_else(|| invalid("to a host that no header can hold"))?);
    if let Some(own) = request.headers() {
        for (name, value) in own {
            if *name == HOST {
                headers.insert(HOST, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
    }
    if *request.method() == Method::CONNECT || headers.contains_key(UPGRADE) {
        return Err(invalid("that turns the connection into something else"));
    }
    if headers.contains_key(TRANSFER_ENCODING) || lies_about_length(&headers, body.len()) {
        return Err(invalid("whose framing fields contradict its body"));
    }
    if let Some(credentials) = basic(url) {
        default(&mut headers, AUTHORIZATION, Some(&credentials));
    }
    // Never to an origin; to the proxy that reads this message its own, and else the caller's.
    match proxy {
        None => drop(headers.remove(PROXY_AUTHORIZATION)),
        Some(proxy) => {
            if let Some(credentials) = proxy.authorization() {
                headers.insert(PROXY_AUTHORIZATION, credentials.clone());
            }
        }
    }
    default(&mut headers, USER_AGENT, defaults.user_agent.as_ref());
    default(&mut headers, ACCEPT, defaults.accept.as_ref());
    default(&mut headers, ACCEPT_LANGUAGE, defaults.accept_language.as_ref());
    if request.overrides().is_some_and(|o| o.save_to.is_some()) {
        // The file is to hold the bytes that the URL stands for.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    } else if defaults.decompress {
        default(&mut headers, ACCEPT_ENCODING, Some(&HeaderValue::from_static("gzip, deflate, br, zstd")));
    }
    for name in defaults.others.keys() {
        if let Entry::Vacant(vacant) = headers.entry(name) {
            let mut values = defaults.others.get_all(name).iter();
            if let Some(first) = values.next() {
                vacant.insert(first.clone());
            }
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
    let mut message = http::Request::new(Full::new(body));
    *message.method_mut() = request.method().clone();
    *message.uri_mut() = uri(url, proxy.is_some()).ok_or_else(|| invalid("whose URL cannot be sent"))?;
    *message.headers_mut() = headers;
    Ok(message)
}

fn default(headers: &mut HeaderMap, name: HeaderName, value: Option<&HeaderValue>) {
    if let (Some(value), Entry::Vacant(vacant)) = (value, headers.entry(name)) {
        vacant.insert(value.clone());
    }
}

fn lies_about_length(headers: &HeaderMap, length: usize) -> bool {
    headers.get_all(CONTENT_LENGTH).iter().enumerate().any(|(i, value)| i > 0 || value != length.to_string().as_str())
}

fn host(url: &Url) -> Option<HeaderValue> {
    let host = url.host_str()?;
    match url.port() {
        Some(port) => HeaderValue::from_str(&format!("{host}:{port}")).ok(),
        None => HeaderValue::from_str(host).ok(),
    }
}

/// Path and query; for a proxy with scheme and host before them, and never with userinfo.
fn uri(url: &Url, absolute: bool) -> Option<Uri> {
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let parse = |path: &str| {
        if absolute {
            format!("{}://{}{path}", url.scheme(), host(url)?.to_str().ok()?).parse().ok()
        } else {
            path.parse().ok()
        }
    };
    // WHATWG URLs may hold a few characters that RFC 3986 does not allow.
    parse(path).or_else(|| parse(&escape(path)))
}

fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 12);
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(request: &Request, proxy: Option<&str>) -> Result<http::Request<Full<Bytes>>, ErrorKind> {
        let defaults = Defaults {
            user_agent: Some(HeaderValue::from_static("bot/1")),
            accept: Some(HeaderValue::from_static("*/*")),
            accept_language: None,
            others: HeaderMap::from_iter([(HeaderName::from_static("dnt"), HeaderValue::from_static("1"))]),
            decompress: true,
        };
        let proxy = proxy.map(|p| Proxy::parse(p).expect("literal"));
        let url = request.target().expect("literal");
        build(request, &url, proxy.as_ref(), &defaults).map_err(|e| e.kind())
    }

    fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    #[test]
    fn only_what_is_missing_is_set() {
        let (name, value) = header("accept", "image/png");
        let request = Request::get("http://a.test:81/p?q").with_header(name, value);
        let message = built(&request, None).expect("valid");
        let get = |name: &str| message.headers().get(name).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(message.uri(), "/p?q");
        assert_eq!(get("host").as_deref(), Some("a.test:81"));
        assert_eq!(get("accept").as_deref(), Some("image/png"));
        assert_eq!((get("user-agent").as_deref(), get("dnt").as_deref()), (Some("bot/1"), Some("1")));
        assert_eq!(get("accept-encoding").as_deref(), Some("gzip, deflate, br, zstd"));
        assert_eq!((get("accept-language"), get("authorization")), (None, None));
    }

    // C7, F6
    #[test]
    fn credentials_go_where_they_belong() {
        let (name, value) = header("proxy-authorization", "Basic b2xk");
        let request = Request::get("http://me:p%3Aw@a.test/").with_header(name, value);
        let direct = built(&request, None).expect("valid");
        assert_eq!(direct.headers()["authorization"], "Basic bWU6cDp3");
        assert!(!direct.headers().contains_key("proxy-authorization"));
        assert!(!format!("{direct:?}").contains("bWU6"));
        let proxied = built(&request, Some("http://x:y@p.test:3128")).expect("valid");
        assert_eq!(proxied.uri(), "http://a.test/");
        assert_eq!(proxied.headers()["proxy-authorization"], "Basic eDp5");
        assert_eq!(proxied.headers()["authorization"], "Basic bWU6cDp3");
    }

    // C10
    #[test]
    fn framing_is_ours() {
        for (name, value) in [("transfer-encoding", "chunked"), ("content-length", "9"), ("upgrade", "websocket")] {
            let (name, value) = header(name, value);
            let request = Request::post("http://a.test/", "abc").with_header(name, value);
            assert_eq!(built(&request, None).err(), Some(ErrorKind::RequestInvalid));
        }
        let (name, value) = header("content-length", "3");
        let once = Request::post("http://a.test/", "abc").with_header(name.clone(), value.clone());
        assert!(built(&once, None).is_ok());
        assert_eq!(built(&once.with_header(name, value), None).err(), Some(ErrorKind::RequestInvalid));
        let connect = Request::new(Method::CONNECT, "http://a.test/");
        assert_eq!(built(&connect, None).err(), Some(ErrorKind::RequestInvalid));
    }

    // C11
    #[test]
    fn urls_that_browsers_take_can_be_sent() {
        for url in ["http://a.test/{a}|b^c`d\"?q=<x>'\\|{}^`", "http://a.test/ü?ü", "http://a.test?x"] {
            let message = built(&Request::get(url), None).expect("can be sent");
            assert!(message.uri().to_string().starts_with('/'), "{url}");
        }
        let message = built(&Request::get("http://[::1]:8080/"), None).expect("valid");
        assert_eq!(message.headers()["host"], "[::1]:8080");
    }
}
