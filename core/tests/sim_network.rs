//! The simulated network: paths, faults, listeners, and the scripted HTTP peer under `HttpFetcher`.
#![cfg(feature = "http")]

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, Write};
use tidegate::http::HttpFetcher;
use tidegate::rt::{Name, ResolveError, Runtime, TcpConn};
use tidegate::sim::{Host, Link, Lookup, Op, Reply, Sim, SimStream};
use tidegate::{ErrorKind, FetchCx, Fetcher, Limits, Request, Response};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const AT: [u8; 4] = [192, 0, 2, 1];

fn addr() -> SocketAddr {
    SocketAddr::from((AT, 80))
}

async fn connect(runtime: &Runtime) -> io::Result<TcpConn> {
    runtime.tcp().connect(addr(), &Default::default()).await
}

async fn read(conn: &mut TcpConn) -> io::Result<Vec<u8>> {
    let mut raw = [0; 64 << 10];
    let mut buf = ReadBuf::new(&mut raw);
    poll_fn(|cx| Pin::new(&mut conn.io).poll_read(cx, buf.unfilled())).await?;
    Ok(buf.filled().to_vec())
}

async fn write(conn: &mut TcpConn, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = poll_fn(|cx| Pin::new(&mut conn.io).poll_write(cx, bytes)).await?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Both ends of a connection over this path.
async fn pair(sim: &Sim, link: Link) -> (TcpConn, SimStream) {
    sim.net().host(AT, Host::refuses().with_link(link));
    let mut listener = sim.net().listen(addr());
    let runtime = sim.runtime();
    let (ours, theirs) = futures::future::join(connect(&runtime), listener.accept()).await;
    (ours.expect("somebody listens"), theirs)
}

#[test]
fn latency_is_exact_in_both_directions() {
    Sim::check(0..2, |sim| async move {
        let link = Link::new().latency(MS * 30);
        let (mut ours, mut theirs) = pair(&sim, link).await;
        assert_eq!(sim.elapsed(), MS * 60, "there and back");
        write(&mut ours, b"ping").await.expect("open");
        assert_eq!(theirs.read().await.expect("open"), "ping");
        assert_eq!(sim.elapsed(), MS * 90);
        theirs.write_all(b"pong").await.expect("open");
        assert_eq!(read(&mut ours).await.expect("open"), b"pong");
        assert_eq!(sim.elapsed(), MS * 120);
        drop(ours);
        assert_eq!(theirs.read().await.expect("a clean end"), "");
        assert_eq!(sim.elapsed(), MS * 150);
    });
}

#[test]
fn bandwidth_is_exact_and_shared_by_what_follows() {
    Sim::check(0..2, |sim| async move {
        let link = Link::new()
            .latency(MS * 10)
            .bandwidth(NonZeroU64::new(1000).expect("not zero"))
            .chunk(100..=100)
            .window(1 << 20);
        let (mut ours, mut theirs) = pair(&sim, link).await;
        let began = sim.elapsed();
        write(&mut ours, &[7; 2000]).await.expect("open");
        drop(ours);
        let mut got = 0;
        loop {
            let bytes = theirs.read().await.expect("open");
            if bytes.is_empty() {
                break;
            }
            got += bytes.len();
            assert_eq!(sim.elapsed() - began, MS * 10 + MS * got as u32, "after {got} bytes");
        }
        assert_eq!(got, 2000);
    });
}

#[test]
fn chunks_jitter_and_windows_change_no_byte() {
    Sim::check(0..20, |sim| async move {
        let link = Link::new().latency(MS).jitter(MS * 9).chunk(1..=700).window(1000);
        let (mut ours, mut theirs) = pair(&sim, link).await;
        let sent: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
        let bytes = sent.clone();
        let writing = async move {
            write(&mut ours, &bytes).await.expect("open");
            drop(ours);
        };
        let reading = async move {
            let mut got = Vec::new();
            loop {
                let bytes = theirs.read().await.expect("open");
                assert!(bytes.len() <= 700);
                if bytes.is_empty() {
                    return got;
                }
                got.extend(bytes);
            }
        };
        let ((), got) = futures::future::join(writing, reading).await;
        assert!(got == sent);
    });
}

// A3
#[test]
fn ends_are_told_apart() {
    Sim::check(0..4, |sim| async move {
        // Half closed: one direction goes on.
        let (mut ours, mut theirs) = pair(&sim, Link::default()).await;
        theirs.shutdown();
        assert_eq!(read(&mut ours).await.expect("a clean end"), b"");
        assert_eq!(read(&mut ours).await.expect("stays the end"), b"");
        write(&mut ours, b"still").await.expect("open");
        assert_eq!(theirs.read().await.expect("open"), "still");
        drop((ours, theirs));

        // Reset: what came before is read before it.
        let (mut ours, mut theirs) = pair(&sim, Link::default()).await;
        theirs.write_all(b"early").await.expect("open");
        theirs.reset();
        sim.sleep(SECOND).await;
        assert_eq!(read(&mut ours).await.expect("it came"), b"early");
        assert_eq!(read(&mut ours).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(write(&mut ours, b"x").await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        drop(ours);

        // Dropped with something unread: a reset.
        let (mut ours, theirs) = pair(&sim, Link::default()).await;
        write(&mut ours, b"unread").await.expect("open");
        sim.sleep(SECOND).await;
        drop(theirs);
        sim.sleep(SECOND).await;
        assert_eq!(read(&mut ours).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        drop(ours);

        // Written to after the other end was closed: taken, and so is what follows until the reset is back.
        let (mut ours, theirs) = pair(&sim, Link::default()).await;
        drop(theirs);
        write(&mut ours, b"x").await.expect("nobody knows yet");
        write(&mut ours, b"y").await.expect("nobody knows yet");
        sim.sleep(SECOND).await;
        assert_eq!(write(&mut ours, b"z").await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(read(&mut ours).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        drop(ours);

        // Bytes were on their way when the other end was closed: its end comes first, then a reset.
        let (mut ours, theirs) = pair(&sim, Link::default()).await;
        write(&mut ours, b"x").await.expect("open");
        drop(theirs);
        assert_eq!(read(&mut ours).await.expect("a clean end"), b"");
        sim.sleep(SECOND).await;
        assert_eq!(read(&mut ours).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        drop(ours);
        assert_eq!(sim.net().open_sockets(), 0);
    });
}

// A24
#[test]
fn a_reader_that_does_not_read_stops_the_writer() {
    Sim::check(0..2, |sim| async move {
        let (mut ours, mut theirs) = pair(&sim, Link::new().window(1000).chunk(300..=300)).await;
        let mut writing = Box::pin(write(&mut ours, &[1; 1500]));
        assert!(futures::poll!(&mut writing).is_pending());
        sim.sleep(SECOND).await;
        assert!(futures::poll!(&mut writing).is_pending());
        assert_eq!(theirs.read().await.expect("open").len(), 300);
        assert!(futures::poll!(&mut writing).is_pending(), "1200 are taken");
        assert_eq!(theirs.read().await.expect("open").len(), 300);
        writing.await.expect("the rest has room");
    });
}

// F1, H1, H2
#[test]
fn what_keeps_a_connection_from_being_made() {
    let sim = Sim::new(1);
    let runtime = sim.runtime();
    let refused = |sim: &Sim| sim.block_on(connect(&runtime)).expect_err("no connection");
    assert_eq!(refused(&sim).kind(), io::ErrorKind::ConnectionRefused, "nothing is there");
    assert_eq!(sim.elapsed(), MS * 2, "after a round trip");
    sim.net().host(AT, Host::unreachable());
    assert_eq!(refused(&sim).kind(), io::ErrorKind::HostUnreachable);
    sim.net().host(AT, Host::http(|_| Reply::ok("")).with_connections(1));
    let first = sim.block_on(connect(&runtime)).expect("one is accepted");
    assert_eq!(refused(&sim).kind(), io::ErrorKind::ConnectionRefused, "a second is not");
    sim.net().host(AT, Host::http(|_| Reply::ok("")));
    sim.net().limit_descriptors(Some(1));
    assert_eq!(refused(&sim).raw_os_error(), Some(24), "EMFILE");
    sim.net().limit_descriptors(None);
    sim.net().limit_ports(Some(1));
    assert_eq!(refused(&sim).kind(), io::ErrorKind::AddrNotAvailable);
    drop(first);
    sim.fail_with(Op::Connect, sim.count(Op::Connect), || io::ErrorKind::NetworkDown.into());
    assert_eq!(refused(&sim).kind(), io::ErrorKind::NetworkDown);
    let (open, peak) = (sim.net().open_sockets(), sim.net().open_sockets_peak());
    assert_eq!((open, peak), (0, 2));
    sim.net().host(AT, Host::black_hole());
    let mut connecting = Box::pin(connect(&runtime));
    sim.block_on(async {
        assert!(futures::poll!(&mut connecting).is_pending());
        sim.sleep(SECOND * 3600).await;
        assert!(futures::poll!(&mut connecting).is_pending());
    });
    assert_eq!(sim.net().open_sockets(), 1);
    drop(connecting);
    assert_eq!(sim.net().open_sockets(), 0);
}

// H10
#[test]
fn a_connection_that_is_not_waited_for_leaves_nothing() {
    Sim::check(0..4, |sim| async move {
        let runtime = sim.runtime();
        sim.net().host(AT, Host::http(|_| Reply::ok("")));
        for micros in [0, 500, 999, 1_000, 1_500, 2_000, 5_000] {
            let mut connecting = Box::pin(connect(&runtime));
            assert!(futures::poll!(&mut connecting).is_pending());
            sim.sleep(Duration::from_micros(micros)).await;
            drop(connecting);
            assert_eq!(sim.net().open_sockets(), 0, "after {micros} us");
        }
        sim.net().limit_ports(Some(1));
        sim.sleep(SECOND).await;
        drop(connect(&runtime).await.expect("its port was given back each time"));
    });
}

// G1, G2
#[test]
fn lookups_answer_as_they_were_told() {
    let sim = Sim::new(1);
    let runtime = sim.runtime();
    let look_up = |name| sim.block_on(runtime.resolver().resolve(&Name::new(name).expect("a name")));
    sim.name("a.test", Lookup::found([AT.into()]).after(SECOND));
    assert_eq!(look_up("A.test.").expect("found").addrs, [std::net::IpAddr::from(AT)]);
    assert_eq!(sim.elapsed(), SECOND);
    assert!(matches!(look_up("x.invalid"), Err(ResolveError::NotFound(_))));
    assert_eq!(look_up("b.test").expect("found").addrs, [Sim::address_of("b.test")]);
    assert!(look_up("localhost").expect("found").addrs[0].is_loopback());
    sim.names_by(|name| if name.as_str().starts_with('f') { Lookup::failed() } else { Lookup::never() });
    assert!(matches!(look_up("f.test"), Err(ResolveError::Failed { .. })));
    sim.fail(Op::Resolve, sim.count(Op::Resolve));
    assert!(matches!(look_up("a.test"), Err(ResolveError::Failed { .. })));
    sim.block_on(async {
        let mut never = runtime.resolver().resolve(&Name::new("n.test").expect("a name"));
        sim.sleep(SECOND * 3600).await;
        assert!(futures::poll!(&mut never).is_pending());
    });
}

struct Client(HttpFetcher, Sim);

impl Client {
    fn new(sim: &Sim) -> Self {
        Self(HttpFetcher::builder(&sim.runtime()).build().expect("valid"), sim.clone())
    }

    async fn get(&self, path: &str) -> Result<Response, tidegate::Error> {
        let mut limits = Limits::listed();
        limits.redirects = 0;
        let cx = FetchCx::detached(&self.1.runtime()).with_limits(limits);
        self.0.fetch(&Request::get(format!("http://a.test{path}")), &cx).await
    }

    async fn error(&self, path: &str) -> ErrorKind {
        self.get(path).await.expect_err("it fails").kind()
    }
}

#[test]
fn a_peer_answers_whatever_it_is_told_however_it_is_cut() {
    for chunk in [1..=1, 1..=50, 16 << 10..=16 << 10] {
        Sim::check(0..3, |sim| {
            let link = Link::new().chunk(chunk.clone());
            async move {
                let peer = Host::http(|asked| match asked.path.as_str() {
                    "/echo" => Reply::ok(format!("{} {} {}", asked.method, asked.host(), asked.nth)),
                    "/chunked" => Reply::ok("0123456789").chunked(3),
                    "/moved" => Reply::redirect(302, "/echo"),
                    "/late" => Reply::ok("late").after(SECOND),
                    "/drip" => Reply::ok("0123456789").drip(1, MS * 10),
                    "/cut" => Reply::ok("0123456789").cut_last(1),
                    "/empty" => Reply::raw("").then_close(),
                    "/reset" => Reply::ok("0123456789").cut_after(20).then_reset(),
                    "/garbage" => Reply::raw("SSH-2.0-OpenSSH_9.2\r\n").then_close(),
                    "/silence" => Reply::silence(),
                    "/until-end" => Reply::raw("HTTP/1.1 200 OK\r\n\r\nall").then_half_close(),
                    _ => Reply::status(404),
                });
                sim.net().host(Sim::address_of("a.test"), peer.with_link(link));
                let client = Client::new(&sim);
                assert_eq!(client.get("/echo").await.expect("answers").body, "GET a.test 0");
                assert_eq!(client.get("/echo").await.expect("answers").body, "GET a.test 1", "on the same connection");
                assert_eq!(client.get("/chunked").await.expect("answers").body, "0123456789");
                assert_eq!(client.get("/moved").await.expect("answers").head.status, 302);
                assert_eq!(client.get("/none").await.expect("answers").head.status, 404);
                let began = sim.elapsed();
                assert_eq!(client.get("/late").await.expect("answers").body, "late");
                assert!(sim.elapsed() - began >= SECOND);
                assert_eq!(client.get("/drip").await.expect("answers").body, "0123456789");
                assert_eq!(client.get("/until-end").await.expect("answers").body, "all");
                assert_eq!(client.error("/cut").await, ErrorKind::BodyIncomplete);
                assert_eq!(client.error("/empty").await, ErrorKind::HttpEmptyReply);
                assert_eq!(client.error("/reset").await, ErrorKind::ConnectReset);
                assert_eq!(client.error("/garbage").await, ErrorKind::HttpStatusLine);
                let began = sim.elapsed();
                assert_eq!(client.error("/silence").await, ErrorKind::TimeoutFirstByte);
                let waited = sim.elapsed() - began;
                assert!(waited >= SECOND * 30 && waited < SECOND * 31, "{waited:?}");
            }
        });
    }
}

/// A connection that the server closes while it is parked, or while the request is on its way, costs no failure.
// A2
#[test]
fn a_stale_connection_is_replaced() {
    Sim::check(0..5, |sim| async move {
        let client = Client::new(&sim);
        sim.net().host(
            Sim::address_of("a.test"),
            Host::http(|asked| Reply::ok(asked.connection.to_string()).then_close_after(MS * 100)),
        );
        // Sent again while it still looks open, while its end is on its way, and after it has come.
        for pause in [0, 50, 97, 98, 99, 100, 101, 102, 200] {
            let before = client.get("/").await.expect("answers").body;
            sim.sleep(MS * pause).await;
            let after = client.get("/").await.expect("answers").body;
            assert_ne!(before, after, "{pause} ms");
            sim.sleep(SECOND).await;
        }
    });
}
