//! Redirects that the fetcher follows by itself, targets and credentials.
#![cfg(feature = "http")]

mod common;

use common::{Server, fetch, limits, run};
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{ErrorKind, FetchCx, Fetcher, Request};

fn fetcher(runtime: &Runtime) -> HttpFetcher {
    HttpFetcher::builder(runtime).build().expect("defaults are valid")
}

/// `/n` redirects to `/n-1`; `/0` is the page.
fn countdown() -> Server {
    Server::start(|peer| {
        while let Some(head) = peer.request()? {
            let path = head.split(' ').nth(1).expect("a path");
            match path[1..].parse::<u32>() {
                Ok(0) | Err(_) => peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")?,
                Ok(n) => {
                    let to = n - 1;
                    peer.send(
                        format!("HTTP/1.1 302 Found\r\nLocation: /{to}#x\r\nContent-Length: 0\r\n\r\n").as_bytes(),
                    )?;
                }
            }
        }
        Ok(())
    })
}

// C1
#[test]
fn redirects_are_counted_exactly() {
    let server = countdown();
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for (most, hops, status) in [(0, 1, Ok(302)), (3, 3, Ok(200)), (3, 4, Err(ErrorKind::RedirectTooMany))] {
            let mut limits = limits();
            limits.redirects = most;
            let cx = FetchCx::detached(&rt).with_limits(limits);
            let result = fetcher.fetch(&Request::get(server.url(&format!("/{hops}"))), &cx).await;
            assert_eq!(result.as_ref().map(|r| r.head.status.as_u16()).map_err(|e| e.kind()), status);
            if let Ok(response) = result
                && most > 0
            {
                let urls: Vec<_> = response.redirects.iter().map(|hop| hop.url.to_string()).collect();
                assert_eq!(urls, [server.url("/3"), server.url("/2"), server.url("/1")]);
                assert_eq!(response.head.url.as_str(), server.url("/0"));
            }
        }
    });
    assert_eq!(server.accepted(), 1, "redirects without a body keep the connection");
}

// C1
#[test]
fn a_loop_ends() {
    let server = Server::replying("HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 3\r\n\r\nbye");
    run(async |rt| {
        let error = fetch(&rt, &fetcher(&rt), Request::get(server.url("/"))).await.expect_err("a loop");
        assert_eq!(error.kind(), ErrorKind::RedirectTooMany);
    });
    assert_eq!(server.heads().len(), 11);
}

// C2, C7
#[test]
fn userinfo_is_sent_once_and_shown_nowhere() {
    let stranger = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let location = stranger.url("/");
    let origin = Server::start(move |peer| {
        while let Some(head) = peer.request()? {
            let to = if head.starts_with("GET /a ") { "/b".to_owned() } else { location.clone() };
            peer.send(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
        }
        Ok(())
    });
    run(async |rt| {
        let url = origin.url("/a").replace("http://", "http://me:s3cret@");
        let response = fetch(&rt, &fetcher(&rt), Request::get(url)).await.expect("an answer");
        assert!(!format!("{response:?} {:?}", response.redirects).contains("s3cret"));
    });
    let basic = "authorization: Basic bWU6czNjcmV0\r\n";
    assert!(origin.heads().iter().all(|head| head.contains(basic)), "both hops of the origin");
    assert!(!stranger.heads()[0].contains("uthorization"));
    assert!(!stranger.heads()[0].contains('@') && !origin.heads()[0].contains('@'));
}

// C3
#[test]
fn a_redirect_to_anything_else_is_an_error() {
    for location in ["file:///etc/passwd", "javascript:alert(1)", "", "http://[bad/"] {
        let server =
            Server::replying(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
        let error = run(async |rt| fetch(&rt, &fetcher(&rt), Request::get(server.url("/"))).await);
        assert_eq!(error.expect_err("not followed").kind(), ErrorKind::RedirectInvalid, "{location:?}");
    }
}

// C6
#[test]
fn a_post_becomes_a_get() {
    let server = Server::start(|peer| {
        while let Some(head) = peer.request()? {
            let reply: &[u8] = if head.starts_with("POST") {
                b"HTTP/1.1 303 See Other\r\nLocation: /done\r\nContent-Length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            };
            peer.send(reply)?;
        }
        Ok(())
    });
    let response = run(async |rt| fetch(&rt, &fetcher(&rt), Request::post(server.url("/"), "form")).await);
    assert_eq!(&response.expect("an answer").body[..], b"ok");
    let heads = server.heads();
    assert!(heads[0].contains("content-length: 4\r\n") && heads[1].starts_with("GET /done HTTP/1.1\r\n"));
    assert!(!heads[1].contains("content-length"));
}

#[test]
fn names_are_resolved_or_told_to_be_unknown() {
    let server = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    run(async |rt| {
        let port = server.addr.port();
        let fetcher = HttpFetcher::builder(&rt).resolve("fixed.test", port, server.addr).build().expect("valid");
        let cx = FetchCx::detached(&rt);
        let get = async |url: String| fetcher.fetch(&Request::get(url), &cx).await;
        let response = get(format!("http://fixed.test:{port}/")).await.expect("an answer");
        assert_eq!(response.remote, Some(server.addr));
        assert!(server.heads()[0].contains(&format!("host: fixed.test:{port}\r\n")));
        assert!(get(format!("http://localhost:{port}/")).await.is_ok(), "v6 first or not");

        let target = |url: &str| url.parse::<url::Url>().expect("literal");
        let resolved = fetcher.resolve(&target(&format!("http://localhost:{port}/")), &cx).await.expect("known");
        assert!(resolved.is_some_and(|ip| ip.is_loopback()));
        let fixed = fetcher.resolve(&target(&format!("http://fixed.test:{port}/")), &cx).await.expect("known");
        assert_eq!(fixed, None);
    });
}

// C11, G6
#[test]
fn what_cannot_be_fetched_is_told_before_anything_is_sent() {
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for (url, kind) in [
            ("http://", ErrorKind::UrlInvalid),
            ("nonsense", ErrorKind::UrlInvalid),
            ("ftp://a.test/", ErrorKind::UrlScheme),
            ("http://a..test/", ErrorKind::UrlInvalid),
            (&format!("http://{}.test/", "x".repeat(300)), ErrorKind::UrlInvalid),
        ] {
            let error = fetch(&rt, &fetcher, Request::get(url)).await.expect_err("not a target");
            assert_eq!(error.kind(), kind, "{url}");
        }
    });
}

#[test]
fn nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let error = run(async |rt| fetch(&rt, &fetcher(&rt), Request::get(format!("http://{free}/"))).await);
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectRefused);
    assert!(error.to_string().contains(&format!("connect to {free}")));
}
