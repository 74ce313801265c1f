//! The rule for following a redirect: a request and the head that answered it in, the next request out.

use http::{HeaderMap, Method, header};
use url::Url;

use crate::request::canonical;
use crate::{Error, ErrorKind, Head, Limits, Request};

/// The request that `head` asks for in place of `request`; `None` where it is no redirect or names no target.
///
/// Pure, so that the crawl and a fetcher that follows by itself obey one rule:
/// * 301 and 302 turn POST into GET, 303 turns everything but HEAD into GET; 307 and 308 change nothing. Where the
///   method changes, the body and the `content-*` fields go.
/// * To another origin (scheme, host or port) go no credentials, whether in fields or in the URL, and of the fields that
///   the caller set only accept, accept-language, accept-encoding and user-agent, and content-type where the body goes.
///   What was dropped does not come back when a later hop returns.
/// * Label, data, id, depth, priority and overrides are kept.
///
/// # Errors
/// [`ErrorKind::RedirectInvalid`] where Location cannot be parsed, is longer than a URL may be, or is neither http nor
/// https.
///
/// ```
/// use tidegate::{Head, Request, redirect};
///
/// let mut head = Head::new("http://a.test/old".parse()?, http::StatusCode::FOUND);
/// head.headers.insert("location", "/new".parse()?);
/// let next = redirect::next_hop(&Request::get("http://a.test/old"), &head)?.expect("it is a redirect");
/// assert_eq!(next.url(), "http://a.test/new");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn next_hop(request: &Request, head: &Head) -> Result<Option<Request>, Error> {
    let Some(location) = head.location() else { return Ok(None) };
    let invalid = |why: &str| {
        let attempted = format!("follow a redirect whose Location {why}");
        Error::new(ErrorKind::RedirectInvalid, attempted).with_url(head.url.as_str())
    };
    if location.len() > Limits::URL {
        return Err(invalid("is longer than a URL may be"));
    }
    let text = std::str::from_utf8(location.as_bytes()).map_err(|e| invalid("is not UTF-8").with_source(e))?;
    if text.trim().is_empty() {
        return Err(invalid("is empty"));
    }
    // The request's own URL is the base: it has the userinfo that the origin was given.
    let base = request.target()?;
    let joined = base.join(text).map_err(|e| invalid("cannot be parsed").with_source(e))?;
    let mut target = canonical(joined).map_err(|e| invalid("is neither http nor https").with_source(e))?;
    if target.as_str().len() > Limits::URL {
        return Err(invalid("is longer than a URL may be"));
    }

    let same_origin = base.origin() == target.origin();
    set_userinfo(&mut target, if same_origin { Some(&base) } else { None });

    let method = request.method();
    let to_get = match head.status.as_u16() {
        301 | 302 => *method == Method::POST,
        303 => *method != Method::HEAD && *method != Method::GET,
        _ => false,
    };
    let mut headers = request.headers().cloned().unwrap_or_default();
    if !same_origin {
        keep_safelisted(&mut headers, !to_get && !request.body().is_empty());
    }
    let mut next = request.clone().with_url(target);
    if to_get {
        drop_content_fields(&mut headers);
        next = next.with_method(Method::GET).with_body(bytes::Bytes::new());
    }
    Ok(Some(next.with_headers(headers)))
}

fn set_userinfo(target: &mut Url, from: Option<&Url>) {
    let (name, password) = from.map_or(("", None), |url| (url.username(), url.password()));
    // Both fail only for URLs without a host, which `canonical` does not let through.
    let _ = target.set_username(name);
    let _ = target.set_password(password);
}

fn keep_safelisted(headers: &mut HeaderMap, body_goes: bool) {
    let safe = |name: &header::HeaderName| {
        [header::ACCEPT, header::ACCEPT_LANGUAGE, header::ACCEPT_ENCODING, header::USER_AGENT].contains(name)
            || (body_goes && *name == header::CONTENT_TYPE)
    };
    let unsafe_names: Vec<_> = headers.keys().filter(|name| !safe(name)).cloned().collect();
    for name in unsafe_names {
        headers.remove(name);
    }
}

fn drop_content_fields(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("content-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    headers.remove(header::TRANSFER_ENCODING);
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn head(url: &str, status: u16, location: &[u8]) -> Head {
        let status = StatusCode::from_u16(status).expect("literal");
        let mut head = Head::new(url.parse().expect("literal"), status);
        head.headers.insert(header::LOCATION, HeaderValue::from_bytes(location).expect("literal"));
        head
    }

    fn follow(request: &Request, status: u16, location: &str) -> Request {
        next_hop(request, &head("http://a.test/", status, location.as_bytes())).expect("valid").expect("redirect")
    }

    fn with_secrets(request: Request) -> Request {
        let field = |request: Request, name: &'static str| {
            request.with_header(header::HeaderName::from_static(name), HeaderValue::from_static("s3cret"))
        };
        ["authorization", "cookie", "proxy-authorization", "x-api-key", "accept", "content-type"]
            .into_iter()
            .fold(request, field)
    }

    fn names(request: &Request) -> Vec<String> {
        let mut names: Vec<_> =
            request.headers().map(|h| h.keys().map(|n| n.as_str().to_owned()).collect()).unwrap_or_default();
        names.sort();
        names
    }

    // C2
    #[test]
    fn another_origin_is_told_no_secret() {
        let request = with_secrets(Request::get("http://me:pw@a.test/x"));
        for target in ["http://b.test/", "https://a.test/", "http://a.test:81/", "http://who:ever@b.test/"] {
            let next = follow(&request, 302, target);
            assert_eq!(names(&next), ["accept"], "{target}");
            assert!(!next.url().contains('@'), "{}", next.url());
            let back = follow(&next, 302, "http://a.test/x");
            assert_eq!(names(&back), ["accept"], "nothing comes back: {target}");
            assert!(!back.url().contains('@'));
        }
        let same = follow(&request, 302, "/y#frag");
        assert_eq!(same.url(), "http://me:pw@a.test/y");
        assert_eq!(names(&same).len(), 6);
    }

    // C3
    #[test]
    fn only_http_is_followed() {
        let long = format!("http://a.test/{}", "x".repeat(70_000));
        let bad: [&[u8]; 10] = [
            b"file:///etc/passwd",
            b"ftp://a.test/",
            b"data:text/html,x",
            b"javascript:alert(1)",
            b"gopher://a.test/",
            b"mailto:a@b.test",
            b"",
            b"http://a\xff\xfe.test/",
            b"http://[::1/",
            long.as_bytes(),
        ];
        for location in bad {
            let error = next_hop(&Request::get("http://a.test/"), &head("http://a.test/", 301, location))
                .expect_err("must not be followed");
            assert_eq!(error.kind(), ErrorKind::RedirectInvalid);
        }
    }

    // C6
    #[test]
    fn methods_change_as_browsers_do() {
        let post = Request::post("http://a.test/", "body")
            .with_header(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))
            .with_label("l")
            .with_priority(3)
            .with_depth(2);
        for (status, method, kept) in
            [(301, "GET", 0), (302, "GET", 0), (303, "GET", 0), (307, "POST", 4), (308, "POST", 4)]
        {
            let next = follow(&post, status, "/n");
            assert_eq!((next.method().as_str(), next.body().len()), (method, kept), "{status}");
            assert_eq!(next.headers().is_some(), kept > 0, "content-type goes with the body");
            assert_eq!((next.label(), next.priority(), next.depth()), (Some("l"), 3, 2));
        }
        let put = Request::new(Method::PUT, "http://a.test/");
        assert_eq!(follow(&put, 302, "/").method(), Method::PUT);
        assert_eq!(follow(&put, 303, "/").method(), Method::GET);
        assert_eq!(follow(&Request::head("http://a.test/"), 303, "/").method(), Method::HEAD);
        let across = follow(&post, 307, "http://b.test/");
        assert_eq!((across.body().len(), names(&across)), (4, vec!["content-type".to_owned()]));
    }

    #[test]
    fn what_is_no_redirect_is_left_alone() {
        let request = Request::get("http://a.test/");
        for status in [200, 300, 304, 404] {
            assert!(next_hop(&request, &head("http://a.test/", status, b"/x")).expect("no error").is_none());
        }
        let bare = Head::new("http://a.test/".parse().expect("literal"), StatusCode::FOUND);
        assert!(next_hop(&request, &bare).expect("no error").is_none());
    }

    proptest! {
        #[test]
        fn never_panics_and_never_leaves_http(location in proptest::collection::vec(any::<u8>(), 0..80)) {
            if HeaderValue::from_bytes(&location).is_ok()
                && let Ok(Some(next)) = next_hop(&Request::get("http://a.test/d/e"), &head("http://a.test/d/e", 302, &location))
            {
                prop_assert!(next.url().starts_with("http://") || next.url().starts_with("https://"));
            }
        }
    }
}
