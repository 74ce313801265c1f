//! Locations, to the rule for redirects: what is followed is http, is no longer than a URL may be, and takes no secret elsewhere.
#![no_main]

use http::header::{AUTHORIZATION, HeaderName, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use tidegate::{Head, Limits, Request, canonical, redirect};

const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// The first byte says the status and the method; the rest is Location.
fn follow(input: &[u8]) {
    let &[how, ref location @ ..] = input else { return };
    let Ok(location) = HeaderValue::from_bytes(location) else { return };
    let status = StatusCode::from_u16(STATUSES[usize::from(how) % STATUSES.len()]).expect("one of the list");
    let method = if how & 0x80 == 0 { Method::GET } else { Method::POST };
    let secret = HeaderValue::from_static("s3cret");
    let request = Request::new(method.clone(), "https://me:s3cret@a.test/x/y?z")
        .with_body("form")
        .with_header(AUTHORIZATION, secret.clone())
        .with_header(HeaderName::from_static("x-api-key"), secret);
    let mut head = Head::new("https://a.test/x/y?z".parse().expect("a literal"), status);
    head.headers.insert(LOCATION, location);
    let Ok(next) = redirect::next_hop(&request, &head) else { return };
    let next = next.expect("it is a redirect");
    let target = next.target().expect("it was let through");
    assert!(matches!(target.scheme(), "http" | "https") && target.as_str().len() <= Limits::URL, "{target}");
    assert_eq!(canonical(target.clone()).ok().as_ref(), Some(&target));
    let is_home = target.scheme() == "https" && target.host_str() == Some("a.test") && target.port().is_none();
    let fields = next.headers().map_or(0, http::HeaderMap::len);
    let has_password = target.password().is_some();
    assert!(is_home || (fields == 0 && !has_password && target.username().is_empty()), "{target}: {fields}");
    assert!(!is_home || has_password);
    if method == Method::POST && status.as_u16() < 304 {
        assert_eq!((next.method(), next.body().len()), (&Method::GET, 0));
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| follow(input));
