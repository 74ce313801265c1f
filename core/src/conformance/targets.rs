//! Where requests go, and what goes with them: redirects, credentials, names and addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;
use http::header::{AUTHORIZATION, COOKIE, HeaderName};

use super::http::{HELLO, get};
use super::support::on;
use super::trial::{Trial, well};
use super::{Harness, Script, Step};
use crate::http::HttpFetcher;
use crate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError};
use crate::{ErrorKind, FetchCx, Fetcher, Limits, Request};

fn moved(location: impl AsRef<[u8]>) -> Step {
    let head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ";
    Step::write([head, location.as_ref(), b"\r\n\r\n"].concat())
}

/// A redirect to itself ends at the limit: as many requests as hops are allowed, and one.
// C1
pub fn a_redirect_loop<H: Harness>(harness: &Arc<H>) {
    let (runtime, served) =
        (harness.runtime(), harness.serve(Script::new([Step::Repeat(vec![Step::ReadHead, moved("/")])])));
    let outcome = on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let mut limits = Limits::listed();
        limits.redirects = 3;
        let error = get(&runtime, &fetcher, format!("http://{}/", served.addr), limits).await.expect_err("a loop");
        assert_eq!(error.kind(), ErrorKind::RedirectTooMany);
        drop(fetcher);
        served.outcome().await
    });
    assert_eq!(String::from_utf8_lossy(&outcome.received).matches("GET / ").count(), 4);
}

/// Redirects to what is no target are errors, and nothing is asked of anybody.
// C3
pub fn redirects_to_nowhere<H: Harness>(harness: &Arc<H>) {
    let long = format!("/{}", "x".repeat(17 << 10));
    let mailto = "mailto:a@b.test";
    for location in [
        &b"file:///etc/passwd"[..],
        b"ftp://a.test/",
        b"data:text/html,x",
        b"javascript:alert(1)",
        b"gopher://a.test/",
        mailto.as_bytes(),
        b"",
        b"http://[bad/",
        b"http:///",
        b"/\xff\xfe",
        long.as_bytes(),
    ] {
        // The connection is kept after the redirect: the server ends it.
        let result = Trial::default().run(harness, [Step::ReadHead, moved(location)]);
        assert_eq!(result.map(|r| r.body), Err(ErrorKind::RedirectInvalid), "{}", location.escape_ascii());
    }
    let result = Trial::default().run(harness, [Step::ReadHead, moved(b"/a\0b"), Step::ReadToEnd]);
    assert_eq!(result.map(|r| r.body), Err(ErrorKind::HttpHeader), "NUL");
}

/// Nothing that is secret goes to another origin, nor comes back with a hop that returns.
// C2, C7
pub fn secrets_on_redirects<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let stranger_addr = harness.unused_addr();
    let origin = harness.serve(
        Script::new([Step::ReadHead, moved(format!("http://{stranger_addr}/there"))])
            .and([Step::ReadHead, Step::write(HELLO)]),
    );
    let home = format!("http://{}/home", origin.addr);
    let stranger = harness.serve(Script::new([Step::ReadHead, moved(home)]));
    let (first, second, third) = on(&**harness, async move {
        let port = stranger_addr.port();
        let builder = HttpFetcher::builder(&runtime).resolve(&stranger_addr.ip().to_string(), port, stranger.addr);
        let fetcher = builder.build().expect("valid");
        let secret = HeaderValue::from_static("s3cret");
        let request = Request::get(format!("http://me:s3cret@{}/", origin.addr))
            .with_header(AUTHORIZATION, secret.clone())
            .with_header(COOKIE, secret.clone())
            .with_header(HeaderName::from_static("x-api-key"), secret);
        let cx = FetchCx::detached(&runtime);
        let response = fetcher.fetch(&request, &cx).await.expect("an answer");
        assert!(!format!("{response:?} {:?} {request:?}", response.redirects).contains("s3cret"));
        drop(fetcher);
        let mut own = [origin.outcome().await, origin.outcome().await];
        own.sort_by_key(|outcome| outcome.connection);
        let [first, third] = own;
        (first, stranger.outcome().await, third)
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_ascii_lowercase();
    assert_eq!(text(&first.received).matches("s3cret").count(), 3);
    for other in [&second, &third] {
        let head = text(&other.received);
        assert!(!head.contains("s3cret") && !head.contains("authorization") && !head.contains("referer"), "{head}");
    }
}

/// Line ends in a URL or a field make no second request and no field: they are taken out, written as `%0A`, or cannot be said.
// C10, C11
pub fn line_ends<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::Repeat(vec![Step::ReadHead, Step::write(HELLO)])]));
    let urls = ["/a\r\nX-Evil: 1", "/a\tb", "/a?b\nc#d\re", "/%0d%0aX-Evil:%201", "/\0"];
    assert!(HeaderValue::from_bytes(b"a\r\nX-Evil: 1").is_err() && HeaderName::from_bytes(b"a\nb").is_err());
    let outcome = on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        for url in urls {
            let response = get(&runtime, &fetcher, format!("http://{}{url}", served.addr), Limits::listed()).await;
            assert_eq!(&response.expect("an answer").body[..], b"hello");
        }
        let unsayable = get(&runtime, &fetcher, format!("http://a\0b:{}/", served.addr.port()), Limits::listed()).await;
        assert_eq!(unsayable.expect_err("no host").kind(), ErrorKind::UrlInvalid);
        drop(fetcher);
        served.outcome().await
    });
    let text = String::from_utf8_lossy(&outcome.received).to_ascii_lowercase();
    assert_eq!(text.matches(" http/1.1\r\n").count(), urls.len(), "{text}");
    assert!(!text.contains("\nx-evil") && !text.contains('\0'), "{text}");
}

/// What a name server says to a name.
type Said = Result<Vec<SocketAddr>, fn(Name) -> ResolveError>;

/// Answers of a name server, by name.
#[derive(Clone)]
struct Zone(Arc<HashMap<&'static str, Said>>);

impl Resolve for Zone {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let found = match self.0.get(name.as_str()) {
            Some(Ok(addrs)) => Ok(Addrs::new(addrs.iter().map(SocketAddr::ip).collect::<Vec<IpAddr>>(), None)),
            Some(Err(error)) => Err(error(name.clone())),
            None => Err(ResolveError::NotFound(name.clone())),
        };
        Box::pin(async move { found })
    }
}

/// Names that do not exist, that have no address, and that nobody answers for; a name whose first address refuses.
// G1, G2, G4
pub fn names<H: Harness>(harness: &Arc<H>) {
    let served = harness.serve(Script::new(well()));
    let dead = SocketAddr::new([127, 0, 0, 9].into(), served.addr.port());
    let failed: fn(Name) -> ResolveError = |name| ResolveError::Failed { name, message: "SERVFAIL".into() };
    let silent: fn(Name) -> ResolveError = ResolveError::TimedOut;
    let zone = Zone(Arc::new(HashMap::from([
        ("empty.test", Ok(Vec::new())),
        ("failed.test", Err(failed)),
        ("silent.test", Err(silent)),
        ("good.test", Ok(vec![dead, served.addr])),
    ])));
    let runtime = harness.runtime().with_resolve(zone);
    on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let port = served.addr.port();
        for (name, kind) in [
            ("missing.test", ErrorKind::DnsNotFound),
            ("empty.test", ErrorKind::DnsNotFound),
            ("failed.test", ErrorKind::DnsFailed),
            ("silent.test", ErrorKind::TimeoutDns),
        ] {
            for _ in 0..2 {
                let result = get(&runtime, &fetcher, format!("http://{name}:{port}/"), Limits::listed()).await;
                assert_eq!(result.expect_err(name).kind(), kind, "{name}");
            }
        }
        let response = get(&runtime, &fetcher, format!("http://good.test:{port}/"), Limits::listed()).await;
        let response = response.expect("the second address answers");
        assert_eq!((response.remote, &response.body[..]), (Some(served.addr), &b"hello"[..]));
        let ledger = fetcher.ledger().expect("it keeps one").clone();
        drop(fetcher);
        let usage = ledger.usage();
        assert_eq!((usage.sockets, usage.lookups), (0, 0));
    });
}
