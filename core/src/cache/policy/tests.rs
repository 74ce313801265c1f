use proptest::prelude::*;

use super::*;

/// Sun, 06 Nov 1994 08:49:37 GMT
const DATE_OF: u64 = 784_111_777;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(DATE_OF + seconds)
}

fn map(fields: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in fields.split('|').map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a field");
        let name: HeaderName = name.parse().expect("a name");
        // Times relative to the answer.
        let value = match value.trim().strip_prefix('@') {
            Some(offset) => {
                let seconds = i64::try_from(DATE_OF).expect("it fits") + offset.parse::<i64>().expect("seconds");
                let seconds = u64::try_from(seconds).expect("after the epoch");
                httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            }
            None => value.trim().to_owned(),
        };
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

fn get(fields: &str) -> Request {
    Request::get("http://a.test/x").with_headers(map(fields))
}

fn head(status: u16, fields: &str) -> Head {
    let mut head = Head::new("http://a.test/x".parse().expect("literal"), StatusCode::from_u16(status).expect("one"));
    head.headers = map(fields);
    head
}

fn answer(status: u16, fields: &str) -> Response {
    Response::new(head(status, fields), "body")
}

fn keep(request: &Request, response: &Response) -> Option<StoredResponse> {
    CachePolicy::default().keep(request, response, at(0), at(0))
}

fn kept(asked: &str, fields: &str) -> StoredResponse {
    keep(&get(asked), &answer(200, fields)).unwrap_or_else(|| panic!("{fields} is kept"))
}

fn judge(asked: &str, stored: &StoredResponse, seconds: u64) -> Judgement {
    CachePolicy::default().judge(&get(asked), stored, at(seconds))
}

/// The last second at which it is fresh and the first at which it is not, which are next to each other.
fn fresh_until(asked: &str, stored: &StoredResponse) -> u64 {
    let is_fresh = |seconds: u64| judge(asked, stored, seconds) == Judgement::Fresh;
    let (mut fresh, mut stale) = (0, 1 << 33);
    if !is_fresh(0) {
        return 0;
    }
    while stale - fresh > 1 {
        let middle = fresh + (stale - fresh) / 2;
        if is_fresh(middle) { fresh = middle } else { stale = middle }
    }
    stale
}

#[test]
fn an_answer_is_fresh_for_as_long_as_it_says() {
    for (fields, seconds) in [
        ("cache-control: max-age=60", 60),
        ("cache-control: max-age=60, private, s-maxage=5", 60),
        ("cache-control: max-age=60, must-revalidate", 60),
        ("cache-control: max-age=60 | expires: @600", 60),
        ("cache-control: max-age=60 | age: 20", 40),
        ("cache-control: max-age=60 | age: 20 | age: 50", 40),
        ("cache-control: max-age=60 | age: soon", 60),
        ("cache-control: max-age=60 | age: 99999999999999999999 | etag: x", 0),
        ("cache-control: max-age=60 | date: @-50", 10),
        ("cache-control: max-age=60 | date: @-50 | age: 20", 10),
        ("cache-control: max-age=60 | date: @-20 | age: 50", 10),
        ("cache-control: max-age=60 | date: @50", 60),
        ("cache-control: max-age=60 | date: no date", 60),
        ("cache-control: max-age=99999999999999999999", 1 << 31),
        ("expires: @60", 60),
        ("expires: @60 | date: @0", 60),
        ("expires: @60 | date: @-60", 60),
        ("expires: @60 | date: @30 ", 30),
        ("expires: 0 | etag: x", 0),
        ("expires: @-60 | etag: x | last-modified: @-100000", 0),
        ("expires: never | last-modified: @-100000", 0),
        ("cache-control: no-cache, max-age=60", 0),
        ("cache-control: no-cache=\"set-cookie\", max-age=60", 0),
        ("cache-control: max-age=x | last-modified: @-100000", 0),
        ("last-modified: @-100000", 10_000),
        ("last-modified: @-100000 | date: @0", 10_000),
        ("last-modified: @-100000 | date: @-50000", 0),
        ("last-modified: @100 | etag: x", 0),
        ("last-modified: @-99999999", DAY),
        ("etag: x", 0),
    ] {
        assert_eq!(fresh_until("", &kept("", fields)), seconds, "{fields}");
    }
}

#[test]
fn a_request_may_ask_for_something_fresher() {
    let stored = kept("", "cache-control: max-age=60");
    for (asked, seconds) in [
        ("", 60),
        ("cache-control: max-age=30", 31),
        ("cache-control: max-age=90", 60),
        ("cache-control: max-age=0", 1),
        ("cache-control: min-fresh=20", 40),
        ("cache-control: min-fresh=60", 0),
        ("cache-control: max-stale=99", 60),
        ("cache-control: no-cache", 0),
        ("pragma: no-cache", 0),
        ("pragma: no-cache | cache-control: max-age=90", 60),
    ] {
        assert_eq!(fresh_until(asked, &stored), seconds, "{asked}");
    }
}

#[test]
fn the_time_that_an_answer_took_counts_to_its_age() {
    let response = answer(200, "cache-control: max-age=60 | age: 10");
    let stored = CachePolicy::default().keep(&get(""), &response, at(0), at(7)).expect("it is kept");
    assert_eq!(judge("", &stored, 7 + 42), Judgement::Fresh);
    assert_ne!(judge("", &stored, 7 + 43), Judgement::Fresh);
    assert_ne!(judge("", &stored, 6), Judgement::Fresh, "the clock was set back, and nothing is known");
}

#[test]
fn what_may_be_kept_is_kept_and_nothing_else() {
    let fresh = "cache-control: max-age=60";
    let of_status = |status| keep(&get(""), &answer(status, fresh)).is_some();
    let by_heuristic = |status| keep(&get(""), &answer(status, "last-modified: @-100000")).is_some();
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414] {
        assert!(of_status(status) && by_heuristic(status), "{status}");
    }
    for status in [302, 307] {
        assert!(of_status(status) && !by_heuristic(status), "{status}");
    }
    for status in [206, 303, 304, 400, 401, 403, 407, 408, 425, 429, 500, 501, 502, 503, 504, 520] {
        assert!(!of_status(status), "{status}");
    }
    for (asked, fields, is_kept) in [
        ("", fresh, true),
        ("", "etag: \"x\"", true),
        ("", "cache-control: private, max-age=60", true),
        ("", "cache-control: no-cache | etag: \"x\"", true),
        ("", "cache-control: max-age=0 | last-modified: @-5", true),
        ("", "", false),
        ("", "cache-control: max-age=0", false),
        ("", "cache-control: max-age=60, no-store", false),
        ("", "cache-control: max-age=60 | cache-control: No-Store", false),
        ("", "cache-control: max-age=60 | vary: *", false),
        ("", "cache-control: max-age=60 | vary: accept, *", false),
        ("", "cache-control: max-age=60 | vary: a b", false),
        ("", "cache-control: max-age=60 | vary: accept", true),
        ("cookie: a=b", fresh, true),
        ("authorization: Bearer x", fresh, false),
        ("cache-control: no-store", fresh, false),
        ("range: bytes=0-1", fresh, false),
        ("if-none-match: \"x\"", fresh, false),
        ("if-modified-since: @0", fresh, false),
    ] {
        assert_eq!(keep(&get(asked), &answer(200, fields)).is_some(), is_kept, "{asked} {fields}");
    }
    let too_many = (0..MOST_VARY).fold(String::from(fresh), |fields, n| fields + &format!(" | vary: x-{n}"));
    assert!(keep(&get(""), &answer(200, &too_many)).is_none());
}

#[test]
fn a_body_that_is_not_there_is_not_kept() {
    let mut response = answer(200, "cache-control: max-age=60");
    response.accepted = Accept::Head;
    assert!(keep(&get(""), &response).is_none(), "nobody wanted it");
    response.accepted = Accept::Body;
    assert!(keep(&get(""), &response).is_some());
    assert!(keep(&get("").save_to("/tmp/x"), &response).is_none(), "it is in a file");
    response.redirects.push(crate::Hop::new("http://a.test/", StatusCode::FOUND));
    assert!(keep(&get(""), &response).is_none(), "it is of another URL");
    response.redirects.clear();
    assert!(keep(&Request::get("http://a.test/y"), &response).is_none());
    for other in [Request::head("http://a.test/x"), Request::post("http://a.test/x", ""), get("").with_body("x")] {
        assert!(keep(&other, &response).is_none(), "{other:?}");
    }
    assert!(keep(&Request::get("http://me@a.test/x"), &response).is_none(), "credentials in the URL");
}

// C2
#[test]
fn an_answer_is_for_requests_with_the_same_fields_alone() {
    let policy = CachePolicy { authorized: true, ..CachePolicy::default() };
    let is_for = |asked: &str, fields: &str, other: &str| {
        let response = answer(200, &format!("cache-control: max-age=60 | {fields}"));
        let stored = policy.keep(&get(asked), &response, at(0), at(0)).expect("it is kept");
        policy.judge(&get(other), &stored, at(1)) == Judgement::Fresh
    };
    for (asked, fields, other, expected) in [
        ("accept: a", "", "accept: b", true),
        ("accept: a", "vary: Accept", "accept: a", true),
        ("accept: a", "vary: Accept", "accept: b", false),
        ("accept: a", "vary: Accept", "", false),
        ("", "vary: Accept", "accept: a", false),
        ("", "vary: Accept", "", true),
        ("accept: a | accept: b", "vary: accept", "accept: a | accept: b", true),
        ("accept: a | accept: b", "vary: accept", "accept: b | accept: a", false),
        ("x: 1 | y: 2", "vary: x | vary: y", "x: 1 | y: 3", false),
        ("authorization: a", "", "authorization: a", true),
        ("authorization: a", "", "authorization: b", false),
        ("authorization: a", "", "", false),
        ("", "", "authorization: a", false),
        ("cookie: a=1", "", "cookie: a=1", true),
        ("cookie: a=1", "", "cookie: a=2", false),
        ("cookie: a=1", "", "", false),
        ("", "", "cookie: a=1", false),
    ] {
        assert_eq!(is_for(asked, fields, other), expected, "{asked} {fields} {other}");
    }
}

// C7
#[test]
fn no_credentials_are_kept() {
    let policy = CachePolicy { authorized: true, ..CachePolicy::default() };
    let request = get("authorization: Bearer hunter2 | cookie: hunter2");
    let stored = policy.keep(&request, &answer(200, "cache-control: max-age=60"), at(0), at(0)).expect("it is kept");
    assert!(!format!("{stored:?} {:?} {:?}", stored.vary, stored.head).contains("hunter2"));
}

#[test]
fn fields_of_one_connection_are_not_kept() {
    let stored =
        kept("", "connection: close, X-Hop | x-hop: 1 | keep-alive: 5 | transfer-encoding: chunked | etag: x | x: 1");
    let mut names: Vec<_> = stored.head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["etag", "x"]);
}

#[test]
fn what_is_stale_is_asked_about_by_all_that_it_has() {
    for (fields, conditions) in [
        ("etag: W/\"x\"", "if-none-match: W/\"x\""),
        ("last-modified: @-5 | cache-control: no-cache", "if-modified-since: @-5"),
        ("etag: \"x\" | last-modified: @-5 | cache-control: no-cache", "if-none-match: \"x\" | if-modified-since: @-5"),
        ("cache-control: max-age=1", ""),
    ] {
        assert_eq!(judge("", &kept("", fields), 9), Judgement::Stale(map(conditions)), "{fields}");
    }
}

#[test]
fn a_304_renews_the_fields_and_not_the_body() {
    let policy = CachePolicy::default();
    let fields = "etag: \"x\" | cache-control: no-cache | content-type: text/html | content-encoding: gzip | age: 500 | x: 1 | x: 2 | y: 1";
    let stored = kept("", fields);
    let not_modified = "etag: W/\"x\" | cache-control: max-age=60 | content-type: text/plain | content-encoding: br | \
                        content-length: 0 | connection: x-hop | x-hop: 1 | x: 3 | date: @900";
    let renewed = policy.renew(&stored, &head(304, not_modified), at(900), at(901)).expect("it is the same");
    let expected = "etag: W/\"x\" | cache-control: max-age=60 | content-type: text/html | content-encoding: gzip | x: 3 | y: 1 | date: @900";
    assert_eq!((renewed.head.status, &renewed.head.headers), (StatusCode::OK, &map(expected)));
    assert_eq!((&renewed.body[..], renewed.requested_at, renewed.received_at), (&b"body"[..], at(900), at(901)));
    assert_eq!(policy.judge(&get(""), &renewed, at(901 + 58)), Judgement::Fresh);
    assert_ne!(policy.judge(&get(""), &renewed, at(901 + 59)), Judgement::Fresh);
    let stops = policy.renew(&stored, &head(304, "cache-control: no-store"), at(1), at(1)).expect("it is the same");
    assert!(policy.is_worth_keeping(&renewed) && !policy.is_worth_keeping(&stops));
}

#[test]
fn a_304_about_another_answer_renews_nothing() {
    let renews = |stored: &str, status, fields: &str| {
        let head = head(status, fields);
        CachePolicy::default().renew(&kept("", stored), &head, at(1), at(1)).is_some()
    };
    assert!(renews("etag: \"x\"", 304, ""));
    assert!(renews("etag: \"x\"", 304, "etag: \"x\""));
    assert!(renews("last-modified: @-5", 304, "last-modified: @-5"));
    assert!(!renews("etag: \"x\"", 304, "etag: \"y\""));
    assert!(!renews("last-modified: @-5", 304, "etag: \"y\""));
    assert!(!renews("etag: \"x\"", 200, "etag: \"x\""));
    let mut elsewhere = head(304, "");
    elsewhere.url = "http://a.test/y".parse().expect("literal");
    assert!(CachePolicy::default().renew(&kept("", "etag: x"), &elsewhere, at(1), at(1)).is_none());
}

#[test]
fn an_unsafe_method_invalidates_within_its_origin() {
    let gone = |request: &Request, status, fields| CachePolicy::default().invalidated(request, &head(status, fields));
    let post = Request::post("http://me:pw@a.test/x", "body");
    let more = "location: /y#z | content-location: http://b.test/";
    assert_eq!(gone(&post, 200, ""), ["http://a.test/x"]);
    assert_eq!(gone(&post, 303, more), ["http://a.test/x", "http://a.test/y"]);
    assert_eq!(
        gone(&post, 200, "content-location: z | location: ftp://a.test/"),
        ["http://a.test/x", "http://a.test/z"]
    );
    assert!(gone(&post, 404, more).is_empty() && gone(&post, 500, more).is_empty(), "nothing was changed");
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
        assert!(gone(&post.clone().with_method(method), 200, more).is_empty());
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        assert_eq!(gone(&post.clone().with_method(method), 204, "").len(), 1);
    }
}

fn field() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["cache-control", "age", "date", "expires", "last-modified", "etag", "vary"]);
    let date = (-200_000_i64..200_000).prop_map(|offset| format!("@{offset}"));
    let directive = prop_oneof![
        (0_u64..200).prop_map(|n| format!("max-age={n}")),
        prop::sample::select(vec!["no-cache", "no-store", "private", "max-age=x", "max-age=\"7\""])
            .prop_map(String::from),
    ];
    (name, prop_oneof![date, directive, "[0-9]{0,22}", "[ -?A-{}~]{0,9}"])
        .prop_map(|(name, value)| format!("{name}: {value}"))
}

proptest! {
    /// What is fresh at a time was fresh at every time before, since it came.
    #[test]
    fn freshness_ends_once(
        fields in proptest::collection::vec(field(), 0..6), took in 0_u64..100, first in 0_u64..200_000, later in 0_u64..200_000,
    ) {
        let policy = CachePolicy::default();
        let response = answer(200, &fields.join(" | "));
        let Some(stored) = policy.keep(&get(""), &response, at(0), at(took)) else { return Ok(()) };
        prop_assert!(!CacheControl::of(&stored.head.headers).no_store);
        let is_fresh = |after: u64| policy.judge(&get(""), &stored, at(took + after)) == Judgement::Fresh;
        if is_fresh(first + later) {
            prop_assert!(is_fresh(first), "{:?}", stored.head.headers);
        }
        prop_assert!(!is_fresh(u64::from(u32::MAX)), "for ever");
        // Nothing is fresher for being renewed by a 304 that says nothing.
        let renewed = policy.renew(&stored, &head(304, ""), at(took), at(took)).expect("nothing speaks against it");
        prop_assert_eq!(&renewed.body, &stored.body);
    }

    #[test]
    fn what_is_asked_for_only_shortens(
        asked in prop::sample::select(vec!["no-cache", "max-age=5", "max-age=500", "min-fresh=9", "max-stale", "max-stale=9", "x"]),
        fields in proptest::collection::vec(field(), 0..6), after in 0_u64..300,
    ) {
        let Some(stored) = keep(&get(""), &answer(200, &fields.join(" | "))) else { return Ok(()) };
        let asked = format!("cache-control: {asked}");
        if judge(&asked, &stored, after) == Judgement::Fresh {
            prop_assert_eq!(judge("", &stored, after), Judgement::Fresh);
        }
    }
}
