//! Between fetchers and services of tower.
#![cfg(all(feature = "http", feature = "tower"))]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use tidegate::http::HttpFetcher;
use tidegate::layer::tower::{FromService, IntoService};
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{
    Crawl, Error, ErrorKind, FetchCx, Fetcher, Head, Limits, Output, Page, ParseError, Profile, Request, Response,
    Settled, accepting,
};
use tower::{Service as _, ServiceBuilder, ServiceExt as _, service_fn};

/// Answers with what it was asked.
async fn echo(request: http::Request<Full<Bytes>>) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("it is whole").to_bytes();
    let said =
        format!("{} {} {:?} {}", parts.method, parts.uri, parts.headers.get("x"), String::from_utf8_lossy(&body));
    let mut answer = http::Response::new(Full::new(said.into()));
    *answer.status_mut() = StatusCode::from_u16(299).expect("a status");
    answer.headers_mut().insert("y", HeaderValue::from_static("2"));
    Ok(answer)
}

async fn fetch(sim: &Sim, fetcher: &impl Fetcher, request: Request) -> Result<Response, Error> {
    fetcher.fetch(&request, &FetchCx::detached(&sim.runtime())).await
}

#[test]
fn a_service_has_the_request_and_its_answer_is_the_fetchers() {
    Sim::check(0..1, |sim| async move {
        let fetcher = FromService::<_, Full<Bytes>>::new(service_fn(echo));
        let request = Request::post("http://me:pw@a.test:81/x?y#z", "body")
            .with_method(Method::PUT)
            .with_header("x".parse().expect("a name"), HeaderValue::from_static("1"));
        let response = fetch(&sim, &fetcher, request).await.expect("an answer");
        assert_eq!(&response.body[..], b"PUT http://a.test:81/x?y Some(\"1\") body");
        assert_eq!((response.head.status.as_u16(), response.bytes_wire), (299, response.body.len() as u64));
        assert_eq!(response.head.headers["y"], "2");
        let error = fetch(&sim, &fetcher, Request::get("ftp://a.test/")).await.expect_err("not supported");
        assert_eq!(error.kind(), ErrorKind::UrlScheme);
    });
}

#[test]
fn an_error_of_our_own_stays_what_it_is_and_another_one_is_its_source() {
    Sim::check(0..1, |sim| async move {
        let ours = FromService::<_, Bytes>::new(service_fn(|_: http::Request<Bytes>| async {
            Err::<http::Response<Full<Bytes>>, _>(Error::new(ErrorKind::ConnectRefused, "connect"))
        }));
        let error = fetch(&sim, &ours, Request::get("http://a.test/")).await.expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::ConnectRefused);
        let others = FromService::<_, Bytes>::new(service_fn(|_: http::Request<Bytes>| async {
            Err::<http::Response<Full<Bytes>>, _>(std::io::Error::other("on purpose"))
        }));
        let error = fetch(&sim, &others, Request::get("http://me:hunter2@a.test/")).await.expect_err("it fails");
        assert_eq!((error.kind(), error.url()), (ErrorKind::Other, Some("http://a.test/")));
        assert_eq!(std::error::Error::source(&error).expect("there is one").to_string(), "on purpose");
    });
}

/// So many frames of a KiB, and then perhaps silence.
struct Frames {
    left: usize,
    stalls: bool,
    read: Arc<AtomicUsize>,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return if self.stalls { Poll::Pending } else { Poll::Ready(None) };
        }
        self.left -= 1;
        self.read.fetch_add(1, Ordering::Relaxed);
        let frame =
            if self.left == 1 { Frame::trailers(http::HeaderMap::new()) } else { Frame::data(vec![b'x'; 1024].into()) };
        Poll::Ready(Some(Ok(frame)))
    }
}

fn frames(left: usize, stalls: bool, read: &Arc<AtomicUsize>) -> impl Fetcher + use<> {
    let read = Arc::clone(read);
    FromService::<_, Bytes>::new(service_fn(move |_: http::Request<Bytes>| {
        let frames = Frames { left, stalls, read: Arc::clone(&read) };
        async move { Ok::<_, Infallible>(http::Response::new(frames)) }
    }))
}

// A10, A1
#[test]
fn a_body_is_bounded_in_size_and_in_time() {
    Sim::check(0..1, |sim| async move {
        let read = Arc::new(AtomicUsize::new(0));
        let mut limits = Limits::listed();
        limits.body_wire = 4096;
        let cx = || FetchCx::detached(&sim.runtime()).with_limits(limits.clone());
        let get = Request::get("http://a.test/");
        let response = frames(5, false, &read).fetch(&get, &cx()).await.expect("just small enough, with its trailers");
        assert_eq!(response.body.len(), 4096);
        read.store(0, Ordering::Relaxed);
        let error = frames(usize::MAX, false, &read).fetch(&get, &cx()).await.expect_err("it never ends");
        assert_eq!((error.kind(), read.load(Ordering::Relaxed)), (ErrorKind::BodyTooLarge, 5));
        let before = sim.elapsed();
        let error = frames(3, true, &read).fetch(&get, &cx()).await.expect_err("it goes silent");
        assert_eq!((error.kind(), sim.elapsed() - before), (ErrorKind::TimeoutIdle, Duration::from_secs(15)));
        let silent = service_fn(|_: http::Request<Bytes>| {
            std::future::pending::<Result<http::Response<Full<Bytes>>, Infallible>>()
        });
        let error = fetch(&sim, &FromService::<_, Bytes>::new(silent), get.clone()).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::TimeoutTotal);
    });
}

#[test]
fn a_crawl_reads_only_what_its_parser_wants_and_decodes_it() {
    // gzip of "hello"
    const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x106\x05\0\0\0";
    Sim::check(0..1, |sim| async move {
        let read = Arc::new(AtomicUsize::new(0));
        let nothing = |_: &Page, _: &mut Output<()>| Ok::<_, ParseError>(());
        let outcomes = tidegate::sink::collect();
        let crawl = Crawl::builder(sim.runtime()).profile(Profile::list()).fetcher(frames(9, false, &read));
        let head_only = accepting(nothing, |_: &Head| tidegate::Accept::Head);
        crawl
            .seed("http://a.test/")
            .parse_with(head_only)
            .outcomes(outcomes.clone())
            .run()
            .await
            .expect("it ends well");
        let settled: Vec<Settled> = outcomes.take().into_iter().map(|delivery| delivery.item).collect();
        assert_eq!((settled[0].outcome.name(), read.load(Ordering::Relaxed)), ("ok", 0));

        let zipped = FromService::<_, Bytes>::new(service_fn(|_: http::Request<Bytes>| async {
            let answer =
                http::Response::builder().header("content-encoding", "gzip").body(Full::new(Bytes::from(GZIP)));
            Ok::<_, Infallible>(answer.expect("valid"))
        }));
        let items = tidegate::sink::collect();
        let parse = |page: &Page, out: &mut Output<String>| {
            out.item(page.utf8().into_owned());
            Ok::<_, ParseError>(())
        };
        let crawl = Crawl::builder(sim.runtime()).profile(Profile::list()).fetcher(zipped);
        crawl.seed("http://a.test/").parse_with(parse).sink(items.clone()).run().await.expect("it ends well");
        assert_eq!(items.take()[0].item, "hello");
    });
}

#[test]
fn a_fetcher_is_a_service_below_others() {
    Sim::check(0..1, |sim| async move {
        let answers = Host::http(|asked| match &*asked.path {
            "/on" => Reply::redirect(302, "/x"),
            _ => Reply::ok([b"got ", &asked.body[..]].concat()).header("x", asked.header("x").unwrap_or("none")),
        });
        sim.net().host(Sim::address_of("a.test"), answers);
        let http = HttpFetcher::builder(&sim.runtime()).build().expect("valid");
        let add = |mut request: http::Request<Full<Bytes>>| {
            request.headers_mut().insert("x", HeaderValue::from_static("1"));
            request
        };
        let service = ServiceBuilder::new().map_request(add).service(IntoService::new(http, &sim.runtime()));
        let post = http::Request::post("http://a.test/").body(Full::new(Bytes::from("body"))).expect("valid");
        let answer = service.clone().oneshot(post).await.expect("an answer");
        assert_eq!(answer.headers()["x"], "1");
        assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), "got body");
        let get = http::Request::get("http://a.test/on").body(Full::default()).expect("valid");
        let answer = service.clone().oneshot(get).await.expect("an answer");
        let head = answer.extensions().get::<Arc<Head>>().expect("it is there");
        assert_eq!((answer.status().as_u16(), head.url.path()), (200, "/x"));
        let relative = http::Request::get("/x").body(Full::default()).expect("valid");
        assert_eq!(service.clone().oneshot(relative).await.expect_err("no host").kind(), ErrorKind::UrlInvalid);

        // And as the fetcher of a crawl, which follows by itself.
        let mut limits = Limits::listed();
        limits.redirects = 0;
        let http = HttpFetcher::builder(&sim.runtime()).build().expect("valid");
        let service =
            ServiceBuilder::new().map_request(add).service(IntoService::new(http, &sim.runtime()).with_limits(limits));
        let outcomes = tidegate::sink::collect();
        let crawl = Crawl::builder::<()>(sim.runtime()).profile(Profile::list()).fetcher(FromService::new(service));
        let crawl = crawl.seed("http://a.test/on").outcomes(outcomes.clone());
        let report = crawl.run().await.expect("the run ends well");
        let settled: Vec<Settled> = outcomes.take().into_iter().map(|delivery| delivery.item).collect();
        assert_eq!((report.totals.counters.ok, settled[0].redirects.len()), (1, 1), "{report}");
        assert_eq!(settled[0].headers().expect("an answer")["x"], "1");
    });
}

// B2
#[test]
fn the_body_of_a_request_is_bounded_before_it_is_sent() {
    Sim::check(0..1, |sim| async move {
        let fetcher = |_| async { Err(Error::new(ErrorKind::Other, "be asked")) };
        let mut limits = Limits::listed();
        limits.body_wire = 2048;
        let read = Arc::new(AtomicUsize::new(0));
        let mut service = IntoService::new(fetcher, &sim.runtime()).with_limits(limits);
        for (left, kind, frames) in [(usize::MAX, ErrorKind::RequestInvalid, 3), (3, ErrorKind::Other, 3)] {
            read.store(0, Ordering::Relaxed);
            let body = Frames { left, stalls: false, read: Arc::clone(&read) };
            let request = http::Request::post("http://a.test/").body(body).expect("valid");
            let error = service.call(request).await.expect_err("it fails");
            assert_eq!((error.kind(), read.load(Ordering::Relaxed)), (kind, frames));
        }
    });
}
