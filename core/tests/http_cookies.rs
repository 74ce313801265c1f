//! Cookies on the wire: which requests have which.
#![cfg(feature = "http")]

mod common;

use common::{Server, fetch, run};
use tidegate::http::{CookieJar, HttpFetcher};
use tidegate::{Fetcher as _, Request};

fn cookies(server: &Server) -> Vec<Option<String>> {
    let field = |head: &String| head.lines().find_map(|line| line.strip_prefix("cookie: ").map(String::from));
    server.heads().iter().map(field).collect()
}

fn setting(location: &str) -> Server {
    let status = if location.is_empty() { "200 OK" } else { "302 Found" };
    Server::replying(format!(
        "HTTP/1.1 {status}\r\n{location}Set-Cookie: id=s3cret; Path=/\r\nset-cookie: lang=en\r\nContent-Length: 0\r\n\r\n"
    ))
}

// C8
#[test]
fn a_jar_is_filled_and_sent_from_by_all_who_share_it() {
    let server = setting("");
    run(async |rt| {
        let jar = CookieJar::new();
        let [one, other] = [(); 2].map(|()| HttpFetcher::builder(&rt).cookies(jar.clone()).build().expect("valid"));
        let none = HttpFetcher::builder(&rt).build().expect("valid");
        for fetcher in [&one, &other, &none, &one] {
            fetch(&rt, fetcher, Request::get(server.url("/a/b"))).await.expect("an answer");
        }
        let own = http::HeaderValue::from_static("own=1");
        let request = Request::get(server.url("/a/b")).with_header(http::header::COOKIE, own);
        fetch(&rt, &one, request).await.expect("an answer");
        fetch(&rt, &one, Request::get(server.url("/c"))).await.expect("an answer");
        assert_eq!(jar.len(), 3, "that of /a, that of /, and id");
        assert!(!format!("{jar:?} {one:?}").contains("s3cret"));
    });
    let both = Some("lang=en; id=s3cret");
    let expected = [None, both, None, both, Some("own=1"), Some("id=s3cret")];
    assert_eq!(cookies(&server).iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
}

// C2, C8
#[test]
fn a_redirect_sets_cookies_for_its_own_host_alone() {
    let target = setting("");
    let there = target.url("/there").replace("127.0.0.1", "localhost");
    let front = setting(&format!("Location: {there}\r\n"));
    run(async |rt| {
        let port = target.addr.port();
        let builder = HttpFetcher::builder(&rt).cookies(CookieJar::new()).resolve("localhost", port, target.addr);
        let fetcher = builder.build().expect("valid");
        for _ in 0..2 {
            let response = fetch(&rt, &fetcher, Request::get(front.url("/"))).await.expect("an answer");
            assert_eq!(response.redirects.len(), 1);
        }
    });
    let both = Some("id=s3cret; lang=en".to_owned());
    assert_eq!(cookies(&front), [None, both.clone()]);
    assert_eq!(cookies(&target), [None, both]);
}

// C8, C9
#[test]
fn a_flood_of_cookies_is_bounded_on_both_sides() {
    let fields: String = (0..60).map(|n| format!("Set-Cookie: c{n}={}; Path=/\r\n", "x".repeat(2_000))).collect();
    let server = Server::replying(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n"));
    run(async |rt| {
        let jar = CookieJar::new();
        let fetcher = HttpFetcher::builder(&rt).cookies(jar.clone()).build().expect("valid");
        let cx = || {
            let mut limits = common::limits();
            limits.head_bytes = 1 << 20;
            tidegate::FetchCx::detached(&rt).with_limits(limits)
        };
        for _ in 0..2 {
            fetcher.fetch(&Request::get(server.url("/")), &cx()).await.expect("an answer");
        }
        assert_eq!(jar.len(), 50, "what came after these is left out");
    });
    let sent = cookies(&server).pop().flatten().expect("some are sent");
    assert!(sent.len() <= 8_190 && sent.len() > 6_000, "{}", sent.len());
    assert!(sent.contains("c49=") && !sent.contains("c0="), "the newest");
}
