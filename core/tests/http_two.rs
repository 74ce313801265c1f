//! HTTP/2: one connection for many requests, and what becomes of them when streams and connections end.
#![cfg(feature = "tls")]

mod common;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{fetch, limits, run};
use futures::future::join_all;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Response, StatusCode, Version};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate::http::{HttpFetcher, HttpFetcherBuilder};
use tidegate::rt::Runtime;
use tidegate::tls::Config;
use tidegate::{ErrorKind, FetchCx, Fetcher, Ledger, LedgerLimits, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

/// Starts a task of a server.
#[expect(clippy::disallowed_methods, reason = "servers run beside the fetcher")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

type Tls = TlsStream<TcpStream>;
type Asked = (http::Request<RecvStream>, SendResponse<Bytes>);

/// A server of the test's own runtime, for `a.test`.
struct Server {
    addr: SocketAddr,
    pem: String,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Runs `serve` with each connection and its number, of those that chose from these protocols.
    async fn start<F: Future<Output = ()> + Send + 'static>(
        alpn: &[&str],
        serve: impl Fn(Tls, usize) -> F + Send + 'static,
    ) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a valid name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions that ring has")
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], private)
                .expect("a key that fits");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                // What closes in the middle of the handshake is no news.
                if let Ok(stream) = acceptor.accept(stream).await {
                    spawn(serve(stream, number));
                }
            }
        });
        Self { addr, pem: certificate.pem(), accepted }
    }

    /// The same over HTTP/2, with each request, the number of its connection and its own there.
    async fn answering<F: Future<Output = ()> + Send + 'static>(
        streams: Option<u32>,
        answer: impl Fn(Asked, usize, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::start(&["h2"], move |stream, number| {
            let answer = answer.clone();
            async move {
                let Some(mut connection) = shake_hands(stream, streams).await else { return };
                let mut requests = 0;
                while let Some(Ok(asked)) = connection.accept().await {
                    spawn(answer(asked, number, requests));
                    requests += 1;
                }
            }
        })
        .await
    }

    fn builder(&self, rt: &Runtime) -> HttpFetcherBuilder {
        let config = Config::builder().add_root_pem(self.pem.clone()).build().expect("a valid root");
        HttpFetcher::builder(rt).tls(config).resolve("a.test", self.addr.port(), self.addr)
    }

    fn fetcher(&self, rt: &Runtime) -> HttpFetcher {
        self.builder(rt).build().expect("valid")
    }

    fn url(&self, path: &str) -> String {
        format!("https://a.test:{}{path}", self.addr.port())
    }

    fn get(&self, path: &str) -> Request {
        Request::get(self.url(path))
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn shake_hands(stream: Tls, streams: Option<u32>) -> Option<Connection<Tls, Bytes>> {
    let mut builder = h2::server::Builder::new();
    if let Some(streams) = streams {
        builder.max_concurrent_streams(streams);
    }
    builder.handshake(stream).await.ok()
}

/// Answers with the path.
fn echo((request, mut respond): Asked) {
    let path = Bytes::from(request.uri().path().to_owned());
    if let Ok(mut body) = respond.send_response(Response::new(()), false) {
        let _ = body.send_data(path, true);
    }
}

async fn echoes(server: &Server, rt: &Runtime, fetcher: &HttpFetcher, paths: std::ops::Range<usize>) {
    let fetches = paths.map(|n| async move {
        let path = format!("/{n}");
        let response = fetch(rt, fetcher, server.get(&path)).await.expect("an answer");
        assert_eq!((&response.body[..], response.head.version), (path.as_bytes(), Version::HTTP_2));
    });
    join_all(fetches).await;
}

#[test]
fn two_hundred_requests_share_a_few_connections() {
    run(async |rt| {
        let server = Server::answering(None, |asked, _, _| async move { echo(asked) }).await;
        let fetcher = server.fetcher(&rt);
        echoes(&server, &rt, &fetcher, 0..1).await;
        assert_eq!(fetcher.idle_connections(), 1);
        echoes(&server, &rt, &fetcher, 0..200).await;
        assert!(server.accepted() <= 3, "{} connections", server.accepted());
        // Those that never spoke before dial each, and go on with what is there first.
        let other = server.fetcher(&rt);
        echoes(&server, &rt, &other, 0..20).await;
        assert_eq!(other.idle_connections(), 1);
    });
}

// E3
#[test]
fn no_more_streams_than_the_server_allows() {
    for allowed in [1, 10] {
        run(async |rt| {
            let open = Arc::new(AtomicUsize::new(0));
            let most = Arc::new(AtomicUsize::new(0));
            let (now, peak) = (Arc::clone(&open), Arc::clone(&most));
            let server = Server::answering(Some(allowed), move |asked, number, _| {
                let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
                async move {
                    if number == 0 {
                        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                    echo(asked);
                }
            })
            .await;
            let fetcher = server.fetcher(&rt);
            echoes(&server, &rt, &fetcher, 0..1).await;
            echoes(&server, &rt, &fetcher, 0..60).await;
            assert!(most.load(Ordering::SeqCst) <= allowed as usize);
            assert_eq!(open.load(Ordering::SeqCst), 0);
        });
    }
}

// E1
#[test]
fn a_server_that_goes_away_loses_no_request() {
    run(async |rt| {
        let server = Server::start(&["h2"], |stream, _| async move {
            let Some(mut connection) = shake_hands(stream, None).await else { return };
            let mut served = 0;
            while let Some(Ok(asked)) = connection.accept().await {
                echo(asked);
                served += 1;
                if served == 10 {
                    connection.graceful_shutdown();
                }
            }
        })
        .await;
        let fetcher = server.fetcher(&rt);
        for round in 0..5 {
            echoes(&server, &rt, &fetcher, round * 10..round * 10 + 10).await;
        }
        for n in 0..40 {
            echoes(&server, &rt, &fetcher, n..n + 1).await;
        }
        assert!(server.accepted() > 3, "{} connections", server.accepted());
    });
}

/// The frame that ends an answer of status 200 without a body: a field of the static table (RFC 7541, A).
fn ok(stream: u8) -> [u8; 10] {
    [0, 0, 1, 1, 5, 0, 0, 0, stream, 0x88]
}

/// Reads frames until the next one that begins a request.
async fn next_request(stream: &mut Tls) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] == 1 {
            return Ok(());
        }
    }
}

/// Answers one request, and of the next three but the first: the others it says it did not see.
async fn go_away(stream: &mut Tls) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    next_request(stream).await?;
    stream.write_all(&ok(1)).await?;
    for _ in 0..3 {
        next_request(stream).await?;
    }
    stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]).await?;
    stream.write_all(&ok(3)).await?;
    stream.flush().await?;
    let _ = stream.read_to_end(&mut preface.to_vec()).await;
    Ok(())
}

// E1
#[test]
fn requests_that_a_leaving_server_did_not_see_go_again_whatever_they_do() {
    run(async |rt| {
        let server = Server::start(&["h2"], |mut stream, number| async move {
            if number == 0 {
                let _ = go_away(&mut stream).await;
                return;
            }
            let Some(mut connection) = shake_hands(stream, None).await else { return };
            while let Some(Ok(asked)) = connection.accept().await {
                echo(asked);
            }
        })
        .await;
        let fetcher = server.fetcher(&rt);
        assert!(fetch(&rt, &fetcher, server.get("/")).await.is_ok());
        let posts = (0..3).map(|_| fetch(&rt, &fetcher, Request::post(server.url("/again"), "")));
        let bodies = join_all(posts).await.into_iter().map(|r| r.expect("an answer").body);
        let again = bodies.filter(|body| &body[..] == b"/again").count();
        assert_eq!((again, server.accepted()), (2, 2));
    });
}

// E2
#[test]
fn what_a_server_refuses_goes_by_another_connection_a_few_times() {
    run(async |rt| {
        let server = Server::answering(None, |(request, mut respond): Asked, number, _| async move {
            let path = request.uri().path().to_owned();
            match &path[..] {
                "/never" => respond.send_reset(Reason::REFUSED_STREAM),
                "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
                "/later" if number < 2 => respond.send_reset(Reason::REFUSED_STREAM),
                _ => echo((request, respond)),
            }
        })
        .await;
        let fetcher = server.fetcher(&rt);
        let post = Request::post(server.url("/later"), "once");
        assert_eq!(&fetch(&rt, &fetcher, post).await.expect("the third").body[..], b"/later");
        assert_eq!(server.accepted(), 3);
        let error = fetch(&rt, &fetcher, server.get("/never")).await.expect_err("refused each time");
        assert_eq!(error.kind(), ErrorKind::ConnectReset);
        assert_eq!(server.accepted(), 6, "three more after the one that was there");
        let error = fetch(&rt, &fetcher, server.get("/reset")).await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectReset);
        assert_eq!(server.accepted(), 7);
    });
}

// E7
#[test]
fn each_request_of_a_connection_that_dies_has_one_outcome() {
    run(async |rt| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let server = Server::start(&["h2"], move |stream, number| {
            let log = Arc::clone(&log);
            async move {
                let Some(mut connection) = shake_hands(stream, None).await else { return };
                let mut held = Vec::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let path = request.uri().path().to_owned();
                    if path == "/first" || number > 0 {
                        echo((request, respond));
                        continue;
                    }
                    log.lock().expect("no panic").push(path);
                    held.push(respond);
                    if held.len() == 50 {
                        return;
                    }
                }
            }
        })
        .await;
        let fetcher = server.fetcher(&rt);
        assert!(fetch(&rt, &fetcher, server.get("/first")).await.is_ok());
        // One keeps the connection from being one that was idle.
        let outcomes = join_all((0..50).map(|n| {
            let request = server.get(&format!("/{n}"));
            let (rt, fetcher) = (&rt, &fetcher);
            async move { fetch(rt, fetcher, request).await.map(drop).map_err(|e| e.kind()) }
        }))
        .await;
        assert_eq!(seen.lock().expect("no panic").len(), 50);
        let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        // The one that found it idle went again, as it would over HTTP/1.1.
        assert_eq!(failed.len(), 49, "{outcomes:?}");
        for kind in failed {
            assert!(matches!(kind, ErrorKind::HttpEmptyReply | ErrorKind::ConnectReset), "{kind:?}");
        }
        assert!(fetch(&rt, &fetcher, server.get("/after")).await.is_ok());
    });
}

// A6
#[test]
fn a_head_has_the_limits_of_any() {
    run(async |rt| {
        let server = Server::answering(None, |(request, mut respond): Asked, _, _| async move {
            let mut response = Response::new(());
            let size: usize = request.uri().path()[1..].parse().expect("a number");
            let value = HeaderValue::from_str(&"x".repeat(1000)).expect("ASCII");
            for _ in 0..size {
                response.headers_mut().append("x-much", value.clone());
            }
            let _ = respond.send_response(response, true);
        })
        .await;
        let fetcher = server.fetcher(&rt);
        assert!(fetch(&rt, &fetcher, server.get("/30")).await.is_ok());
        let kind = async |path| fetch(&rt, &fetcher, server.get(path)).await.expect_err("too large").kind();
        assert_eq!(kind("/100").await, ErrorKind::HttpHeadTooLarge);
        assert_eq!(kind("/300").await, ErrorKind::HttpProtocol, "hyper's own limit");
        assert!(fetch(&rt, &fetcher, server.get("/30")).await.is_ok());
        assert_eq!(server.accepted(), 1, "the others of the connection hear nothing of it");
    });
}

// D6
#[test]
fn a_server_that_does_not_choose_it_is_spoken_to_in_http1() {
    for alpn in [&[][..], &["http/1.1"]] {
        run(async |rt| {
            let server = Server::start(alpn, |mut stream, _| async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
                let _ = stream.read_u8().await;
            })
            .await;
            let fetcher = server.fetcher(&rt);
            let response = fetch(&rt, &fetcher, server.get("/")).await.expect("an answer");
            assert_eq!((&response.body[..], response.head.version), (&b"hello"[..], Version::HTTP_11));
        });
    }
    run(async |rt| {
        let server = Server::start(&["h2", "http/1.1"], |stream, _| async move {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        })
        .await;
        let fetcher = server.builder(&rt).http2(false).build().expect("valid");
        assert!(fetch(&rt, &fetcher, server.get("/")).await.is_err(), "the server says nothing");
        assert_eq!(server.accepted(), 1);
    });
}

// E6
#[test]
fn a_body_that_nobody_reads_holds_no_other_up() {
    const LEN: usize = 1 << 20;
    run(async |rt| {
        let server = Server::answering(None, |(request, mut respond): Asked, _, _| async move {
            if request.uri().path() != "/large" {
                return echo((request, respond));
            }
            let mut body = respond.send_response(Response::new(()), false).expect("a stream");
            let _ = body.send_data(Bytes::from(vec![7; LEN]), true);
            // h2 sends what the window lets it.
            let _ = std::future::poll_fn(|task| body.poll_reset(task)).await;
        })
        .await;
        let fetcher = server.fetcher(&rt);
        echoes(&server, &rt, &fetcher, 0..1).await;
        let (large, cx) = (server.get("/large"), FetchCx::detached(&rt).with_limits(limits()));
        let mut slow = Box::pin(fetcher.fetch(&large, &cx));
        // It sends its request, and takes a window of its body at most each time after that.
        for _ in 0..3 {
            assert!(futures::poll!(&mut slow).is_pending());
            echoes(&server, &rt, &fetcher, 0..99).await;
        }
        assert_eq!(slow.await.expect("the rest").body.len(), LEN);
        assert_eq!(server.accepted(), 1);
    });
}

// H10
#[test]
fn a_fetch_that_is_dropped_gives_everything_back() {
    run(async |rt| {
        let resets = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&resets);
        let server = Server::answering(None, move |(request, mut respond): Asked, _, _| {
            let count = Arc::clone(&count);
            async move {
                if request.uri().path() == "/never" {
                    let reset = std::future::poll_fn(|task| respond.poll_reset(task)).await;
                    count.fetch_add(usize::from(matches!(reset, Ok(Reason::CANCEL))), Ordering::SeqCst);
                } else {
                    echo((request, respond));
                }
            }
        })
        .await;
        let ledger = Ledger::new(LedgerLimits::default());
        let fetcher = server.builder(&rt).ledger(ledger.clone()).build().expect("valid");
        echoes(&server, &rt, &fetcher, 0..1).await;
        for _ in 0..20 {
            let (request, cx) = (server.get("/never"), FetchCx::detached(&rt).with_limits(limits()));
            let mut fetching = Box::pin(fetcher.fetch(&request, &cx));
            assert!(futures::poll!(&mut fetching).is_pending());
            echoes(&server, &rt, &fetcher, 0..1).await;
        }
        common::until(|| resets.load(Ordering::SeqCst) == 20).await;
        assert_eq!((server.accepted(), ledger.usage().sockets, ledger.usage().idle), (1, 1, 1));
        assert!(futures::poll!(Box::pin(fetch(&rt, &fetcher, server.get("/never")))).is_pending());
        drop(fetcher);
        common::until(|| ledger.usage().sockets == 0).await;
        assert_eq!(ledger.usage().idle, 0);
    });
}

// H1
#[test]
fn an_idle_connection_makes_room_for_another_host() {
    run(async |rt| {
        let serve = |asked, _, _| async move { echo(asked) };
        let (one, two) = (Server::answering(None, serve).await, Server::answering(None, serve).await);
        let mut limits = LedgerLimits::default();
        limits.sockets = 1;
        let ledger = Ledger::new(limits);
        let [first, second] =
            [&one, &two].map(|server| server.builder(&rt).ledger(ledger.clone()).build().expect("valid"));
        for _ in 0..3 {
            echoes(&one, &rt, &first, 0..1).await;
            echoes(&two, &rt, &second, 0..1).await;
            assert_eq!((first.idle_connections(), second.idle_connections()), (0, 1));
        }
        let brief = one.builder(&rt).pool_idle_timeout(Duration::ZERO).build().expect("valid");
        echoes(&one, &rt, &brief, 0..1).await;
        let before = one.accepted();
        echoes(&one, &rt, &brief, 0..1).await;
        assert_eq!(one.accepted(), before + 1, "it was idle for too long");
    });
}

#[test]
fn a_request_is_told_without_what_is_of_a_connection() {
    run(async |rt| {
        let server = Server::answering(None, |(request, mut respond): Asked, _, _| async move {
            let told = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::NOT_FOUND;
            let mut body = respond.send_response(response, false).expect("a stream");
            let _ = body.send_data(told.into(), true);
        })
        .await;
        let fetcher = server.fetcher(&rt);
        let mut request = Request::post(format!("https://u:p@a.test:{}/a?b#c", server.addr.port()), "abc");
        for (name, value) in [("connection", "close"), ("te", "gzip"), ("host", "b.test"), ("x-own", "1")] {
            request = request.with_header(name.parse().expect("a name"), HeaderValue::from_static(value));
        }
        let response = fetch(&rt, &fetcher, request).await.expect("an answer");
        assert_eq!(response.head.status, StatusCode::NOT_FOUND);
        let told = String::from_utf8_lossy(&response.body).into_owned();
        assert!(told.starts_with("POST https://b.test/a?b "), "{told}");
        for there in ["\"content-length\": \"3\"", "\"x-own\"", "\"authorization\"", "\"accept-encoding\""] {
            assert!(told.contains(there), "{there} in {told}");
        }
        for gone in ["\"connection\"", "\"te\"", "\"host\""] {
            assert!(!told.contains(gone), "{gone} in {told}");
        }
    });
}
