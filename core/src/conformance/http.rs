//! The HTTP fetcher on this runtime: connections, reuse, and a deadline for each phase.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::support::on;
use super::{Harness, Script, Signal, Step};
use crate::http::HttpFetcher;
use crate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError, Runtime, TcpConn, TcpConnect, TcpOptions};
use crate::{Crawl, Error, ErrorKind, FetchCx, Fetcher, Limits, Overrides, Profile, Request, Response};

/// Shorter than any deadline that a case does not mean.
const SOON: Duration = Duration::from_millis(30);

pub(super) const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Answers each request with these bytes.
fn replying(reply: &'static str) -> [Step; 1] {
    [Step::Repeat(vec![Step::ReadHead, Step::write(reply)])]
}

pub(super) async fn get(
    runtime: &Runtime,
    fetcher: &HttpFetcher,
    url: String,
    limits: Limits,
) -> Result<Response, Error> {
    fetcher.fetch(&Request::get(url), &FetchCx::detached(runtime).with_limits(limits)).await
}

fn fetcher(runtime: &Runtime) -> HttpFetcher {
    HttpFetcher::builder(runtime).build().expect("the defaults are valid")
}

/// Fetches `path` once from a server that plays `script`.
fn fetch_once<H: Harness>(harness: &Arc<H>, script: Script, limits: Limits) -> Result<Response, Error> {
    let (runtime, addr) = (harness.runtime(), harness.serve(script).addr);
    on(&**harness, async move { get(&runtime, &fetcher(&runtime), format!("http://{addr}/"), limits).await })
}

/// Fails with `kind`, and not before the deadline is over.
fn times_out<H: Harness>(harness: &Arc<H>, runtime: Runtime, url: String, limits: Limits, kind: ErrorKind) {
    let (elapsed, result) = on(&**harness, async move {
        let start = runtime.now();
        let result = get(&runtime, &fetcher(&runtime), url, limits).await;
        (runtime.now() - start, result)
    });
    assert_eq!(result.expect_err("the deadline is over").kind(), kind);
    assert!(elapsed >= SOON, "after {elapsed:?}");
}

/// A deadline of a phase in which the server, playing `steps`, says nothing more.
fn stalls<H: Harness>(harness: &Arc<H>, steps: impl Into<Vec<Step>>, set: impl FnOnce(&mut Limits), kind: ErrorKind) {
    let served = harness.serve(Script::new(steps));
    let mut limits = Limits::listed();
    set(&mut limits);
    times_out(harness, harness.runtime(), format!("http://{}/", served.addr), limits, kind);
    // What failed is not kept.
    harness.block_on(served.outcome());
}

/// A page comes, and the server has got a request.
pub fn get_a_page<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadHead, Step::write(HELLO)]));
    let addr = served.addr;
    let response = on(&**harness, async move {
        get(&runtime, &fetcher(&runtime), format!("http://{addr}/a?b"), Limits::listed()).await
    });
    let response = response.expect("an answer");
    assert_eq!(response.head.status, 200);
    assert_eq!(&response.body[..], b"hello");
    assert_eq!(response.remote, Some(addr));
    let outcome = harness.block_on(served.outcome());
    let head = String::from_utf8_lossy(&outcome.received).to_ascii_lowercase();
    assert!(head.starts_with("get /a?b http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {addr}\r\n")), "{head}");
}

/// A connection is used again: the server accepts one only.
pub fn a_connection_is_reused<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new(replying(HELLO)));
    let addr = served.addr;
    on(&**harness, async move {
        let fetcher = fetcher(&runtime);
        for n in 0..5 {
            let response = get(&runtime, &fetcher, format!("http://{addr}/{n}"), Limits::listed()).await;
            assert_eq!(&response.expect("an answer").body[..], b"hello");
        }
        assert_eq!(fetcher.idle_connections(), 1);
    });
    let outcome = harness.block_on(served.outcome());
    assert_eq!(String::from_utf8_lossy(&outcome.received).matches("GET /").count(), 5);
}

/// A parked connection that the server has closed is replaced, and nobody hears of it.
pub fn a_connection_closed_while_parked_is_replaced<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let once = || [Step::ReadHead, Step::write(HELLO)];
    let served = harness.serve(Script::new(once()).and(once()).and(once()));
    on(&**harness, async move {
        let fetcher = fetcher(&runtime);
        for n in 0..3 {
            let response = get(&runtime, &fetcher, format!("http://{}/{n}", served.addr), Limits::listed()).await;
            assert_eq!(&response.expect("an answer").body[..], b"hello");
            assert_eq!(served.outcome().await.connection, n);
        }
    });
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n3\r\nell\r\n1\r\no\r\n0\r\n\r\n";

/// A chunked body is put together.
pub fn chunked<H: Harness>(harness: &Arc<H>) {
    let response = fetch_once(harness, Script::new(replying(CHUNKED)), Limits::listed());
    assert_eq!(&response.expect("an answer").body[..], b"hello");
}

/// The same where each byte comes by itself.
pub fn byte_by_byte<H: Harness>(harness: &Arc<H>) {
    for reply in [CHUNKED, HELLO] {
        let steps = [Step::ReadHead, Step::drip(reply)];
        let response = fetch_once(harness, Script::new(steps), Limits::listed());
        assert_eq!(&response.expect("an answer").body[..], b"hello");
    }
}

/// A body above its cap is refused, announced or not; one of just that size is not.
pub fn body_cap<H: Harness>(harness: &Arc<H>) {
    for reply in [CHUNKED, HELLO] {
        let capped = |bytes| {
            let mut limits = Limits::listed();
            limits.body_wire = bytes;
            fetch_once(harness, Script::new(replying(reply)), limits)
        };
        assert_eq!(&capped(5).expect("just as large").body[..], b"hello");
        assert_eq!(capped(4).expect_err("too large").kind(), ErrorKind::BodyTooLarge);
    }
}

/// A redirect is followed, over the same connection.
pub fn redirect<H: Harness>(harness: &Arc<H>) {
    let moved = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n";
    let steps = [Step::ReadHead, Step::write(moved), Step::ReadHead, Step::write(HELLO)];
    let runtime = harness.runtime();
    let served = harness.serve(Script::new(steps));
    let addr = served.addr;
    let response =
        on(
            &**harness,
            async move { get(&runtime, &fetcher(&runtime), format!("http://{addr}/"), Limits::listed()).await },
        );
    let response = response.expect("an answer");
    assert_eq!(response.head.url.path(), "/there");
    assert_eq!(response.redirects.len(), 1);
    assert!(String::from_utf8_lossy(&harness.block_on(served.outcome()).received).contains("GET /there "));
}

/// A server that refuses is told as one.
pub fn refused<H: Harness>(harness: &Arc<H>) {
    let (runtime, addr) = (harness.runtime(), harness.unused_addr());
    let result =
        on(
            &**harness,
            async move { get(&runtime, &fetcher(&runtime), format!("http://{addr}/"), Limits::listed()).await },
        );
    assert_eq!(result.expect_err("nobody listens").kind(), ErrorKind::ConnectRefused);
}

/// The `dns` deadline, under a resolver that never answers.
// G2
pub fn deadline_of_dns<H: Harness>(harness: &Arc<H>) {
    let mut limits = Limits::listed();
    limits.deadlines.dns = SOON;
    let runtime = harness.runtime().with_resolve(Never);
    times_out(harness, runtime, "http://a.test/".into(), limits, ErrorKind::TimeoutDns);
}

/// The `connect` deadline, under connections that are never made.
pub fn deadline_of_connect<H: Harness>(harness: &Arc<H>) {
    let mut limits = Limits::listed();
    limits.deadlines.connect = SOON;
    let runtime = harness.runtime().with_tcp(Never);
    times_out(harness, runtime, "http://192.0.2.1/".into(), limits, ErrorKind::TimeoutConnect);
}

/// The `first_byte` deadline: the server takes the request and says nothing.
// A1
pub fn deadline_of_the_first_byte<H: Harness>(harness: &Arc<H>) {
    let steps = [Step::ReadToEnd];
    stalls(harness, steps, |limits| limits.deadlines.first_byte = SOON, ErrorKind::TimeoutFirstByte);
}

/// The `head` deadline: the server stops in the middle of the head.
// A8
pub fn deadline_of_the_head<H: Harness>(harness: &Arc<H>) {
    let steps = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\nContent-"), Step::ReadToEnd];
    stalls(harness, steps, |limits| limits.deadlines.head = SOON, ErrorKind::TimeoutHead);
}

/// The `idle` deadline: the server stops in the middle of the body.
pub fn deadline_of_an_idle_body<H: Harness>(harness: &Arc<H>) {
    let steps = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"), Step::ReadToEnd];
    stalls(harness, steps, |limits| limits.deadlines.idle = SOON, ErrorKind::TimeoutIdle);
}

/// The `idle` deadline while a request is sent: the server takes no more of it.
// A24
pub fn deadline_of_an_unread_request<H: Harness>(harness: &Arc<H>) {
    let (runtime, end) = (harness.runtime(), Signal::new());
    let addr = harness.serve(Script::new([Step::Wait(end.clone())])).addr;
    let result = on(&**harness, async move {
        let mut limits = Limits::listed();
        limits.deadlines.idle = SOON;
        // More than fits between the two.
        let request = Request::post(format!("http://{addr}/"), vec![b'x'; 32 << 20]);
        fetcher(&runtime).fetch(&request, &FetchCx::detached(&runtime).with_limits(limits)).await
    });
    end.raise();
    assert_eq!(result.expect_err("the deadline is over").kind(), ErrorKind::TimeoutWrite);
}

/// The `total` deadline, which no progress extends.
pub fn deadline_of_the_whole<H: Harness>(harness: &Arc<H>) {
    let steps = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n\r\n"), Step::ReadToEnd];
    stalls(harness, steps, |limits| limits.deadlines.total = SOON, ErrorKind::TimeoutTotal);
}

/// A fetch that is dropped in the middle of a body closes its connection.
// H10
pub fn dropped_mid_body_closes_the_connection<H: Harness>(harness: &Arc<H>) {
    let (runtime, sent) = (harness.runtime(), Signal::new());
    let served = harness.serve(Script::new([
        Step::ReadHead,
        Step::write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"),
        Step::Raise(sent.clone()),
        Step::ReadToEnd,
    ]));
    on(&**harness, async move {
        let fetcher = fetcher(&runtime);
        let url = format!("http://{}/", served.addr);
        let fetch = Box::pin(get(&runtime, &fetcher, url, Limits::listed()));
        let futures::future::Either::Right((_, fetch)) = futures::future::select(fetch, Box::pin(sent.wait())).await
        else {
            panic!("the body has not ended")
        };
        drop(fetch);
        assert_eq!(fetcher.idle_connections(), 0);
        served.outcome().await;
    });
}

/// A fetch that a crawl gives up in the middle of a body gives its permit back, the only one that there is, and closes its
/// connection.
// H10
pub fn given_up_mid_body_frees_the_permit<H: Harness>(harness: &Arc<H>) {
    let (runtime, go_on) = (harness.runtime(), Signal::new());
    let stalling = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"), Step::ReadToEnd];
    let answering = [Step::ReadHead, Step::Wait(go_on.clone()), Step::write(HELLO)];
    let served = harness.serve(Script::new(stalling).and(answering));
    let addr = served.addr;
    let report = on(&**harness, async move {
        // Long enough that the connection is made, however busy the machine is.
        let soon = Overrides { total_timeout: Some(10 * SOON), ..Overrides::default() };
        let requests =
            [Request::get(format!("http://{addr}/0")).with_overrides(soon), Request::get(format!("http://{addr}/1"))];
        let crawl = Crawl::builder::<()>(runtime.clone())
            .profile(Profile::own())
            .max_in_flight(NonZeroU32::MIN)
            .retries(0)
            .requests(futures::stream::iter(requests))
            .fetcher(fetcher(&runtime))
            .start()
            .expect("nothing is missing");
        // The other one is held.
        assert_eq!(served.outcome().await.connection, 0);
        go_on.raise();
        crawl.await
    });
    let counters = report.expect("the crawl ends").totals.counters;
    assert_eq!((counters.ok, counters.error), (1, 1));
}

/// Never answers.
struct Never;

impl Resolve for Never {
    fn resolve(&self, _: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        Box::pin(pending())
    }
}

impl TcpConnect for Never {
    fn connect(&self, _: SocketAddr, _: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        Box::pin(pending())
    }
}
