//! Fetches, connections, lookups and leases are dropped after every poll: tasks, sockets, ports and requests are back.
#![cfg(feature = "http")]

mod audit;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit::MS;
use audit::cancel::cancel_at_every_poll;
use tidegate::http::HttpFetcher;
use tidegate::rt::{CachedResolver, DnsLimits, Name};
use tidegate::sim::{Host, Link, Lookup, Op, Reply, Sim};
use tidegate::{Error, ErrorKind, FetchCx, Fetcher, Frontier, Request, Response, StreamFrontier};

const SECOND: Duration = Duration::from_secs(1);

/// A fetch without a crawl.
fn fetch(sim: &Sim, fetcher: &HttpFetcher, request: Request) -> impl Future<Output = Result<Response, Error>> + use<> {
    let (fetcher, cx) = (fetcher.clone(), FetchCx::detached(&sim.runtime()));
    async move { fetcher.fetch(&request, &cx).await }
}

/// Drops a fetch at every poll: no socket is left but the parked ones, and the next fetch ends as the first would have.
/// `before` is fetched first.
fn fetches(
    what: &str,
    network: impl Fn(&Sim),
    before: Option<&str>,
    request: impl Fn() -> Request,
    proxy: Option<&str>,
    expected: Result<u16, ErrorKind>,
) {
    let make_world = |sim: &Sim| {
        network(sim);
        let mut builder = HttpFetcher::builder(&sim.runtime()).seed(1);
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy);
        }
        let fetcher = builder.build().expect("valid");
        if let Some(before) = before {
            sim.block_on(fetch(sim, &fetcher, Request::get(before))).expect("answers");
        }
        fetcher
    };
    let told = |answer: Result<Response, Error>| answer.map(|a| a.head.status.as_u16()).map_err(|e| e.kind());
    let check = |sim: &Sim, fetcher: HttpFetcher, out: Option<Result<Response, Error>>| {
        if let Some(out) = out {
            assert_eq!(told(out), expected);
        }
        sim.run_for(SECOND);
        assert_eq!(sim.net().open_sockets() as usize, fetcher.idle_connections(), "after it was dropped");
        assert_eq!(told(sim.block_on(fetch(sim, &fetcher, request()))), expected, "the next one");
        audit::assert_nothing_left(sim, None, fetcher);
    };
    cancel_at_every_poll(what, make_world, |sim, fetcher| fetch(sim, fetcher, request()), check);
}

fn get() -> Request {
    Request::get("http://a.test/")
}

/// A host at the address of `a.test`.
fn host(sim: &Sim, host: Host) {
    sim.net().host(Sim::address_of("a.test"), host);
}

#[test]
fn a_fetch() {
    let hello = |sim: &Sim| host(sim, Host::http(|_| Reply::ok("hello")));
    fetches("fetch", hello, None, get, None, Ok(200));
    fetches("fetch, connection reused", hello, Some("http://a.test/"), get, None, Ok(200));
    let stale = |sim: &Sim| host(sim, Host::http(|_| Reply::ok("hello").then_close()));
    fetches("fetch, connection stale", stale, Some("http://a.test/"), get, None, Ok(200));
    let dripped = |sim: &Sim| {
        let link = Link::new().chunk(1..=7);
        host(sim, Host::http(|_| Reply::ok("hello, world").chunked(5)).with_link(link));
    };
    fetches("fetch, dripped", dripped, None, get, None, Ok(200));
    let reset = |sim: &Sim| host(sim, Host::http(|_| Reply::ok("hello").cut_last(2).then_reset()));
    fetches("fetch, reset", reset, None, get, None, Err(ErrorKind::ConnectReset));
    let silent = |sim: &Sim| host(sim, Host::http(|_| Reply::silence()));
    fetches("fetch, silence", silent, None, get, None, Err(ErrorKind::TimeoutFirstByte));
}

#[test]
fn a_fetch_that_is_redirected() {
    let network = |sim: &Sim| {
        host(
            sim,
            Host::http(|asked| match asked.path.as_str() {
                "/" => Reply::redirect(301, "/next"),
                _ => Reply::redirect(302, "http://b.test/").body("moved"),
            }),
        );
        sim.net().host(Sim::address_of("b.test"), Host::http(|_| Reply::ok("here")));
    };
    fetches("redirects", network, None, get, None, Ok(200));
}

#[test]
fn a_fetch_under_back_pressure() {
    let network = |sim: &Sim| {
        let link = Link::new().window(4 << 10).chunk(1 << 10..=4 << 10);
        host(sim, Host::http(|asked| Reply::ok(vec![b'x'; asked.body.len()])).with_link(link));
    };
    let post = || Request::post("http://a.test/", vec![b'y'; 30 << 10]);
    fetches("body", network, None, post, None, Ok(200));
}

#[test]
fn a_fetch_through_a_proxy() {
    let proxy = Some("http://u:p@proxy.test:3128");
    let network = |sim: &Sim| {
        let answer = |path: &str| match path {
            "http://a.test/" => Reply::ok("by proxy"),
            // The tunnel is open, and whoever is at its end says nothing, or nothing that is TLS.
            "silent.test:443" => Reply::raw("HTTP/1.1 200 OK\r\n\r\n").then_silence(),
            "talks.test:443" => Reply::raw("HTTP/1.1 200 OK\r\n\r\nSSH-2.0-OpenSSH_9.2\r\n"),
            "slow.test:443" => Reply::raw("HTTP/1.1 200 OK\r\n").drip(3, MS * 100).then_silence(),
            _ => Reply::status(502),
        };
        sim.net().host(Sim::address_of("proxy.test"), Host::http(move |asked| answer(&asked.path)));
    };
    fetches("proxy", network, None, get, proxy, Ok(200));
    fetches("proxy, connection reused", network, Some("http://a.test/"), get, proxy, Ok(200));
    if cfg!(feature = "tls") {
        for (name, expected) in [
            ("silent", ErrorKind::TimeoutTls),
            ("talks", ErrorKind::TlsNotTls),
            ("slow", ErrorKind::TimeoutProxy),
            ("refused", ErrorKind::ProxyRefused),
        ] {
            let request = || Request::get(format!("https://{name}.test/"));
            fetches(&format!("tunnel, {name}"), network, None, request, proxy, Err(expected));
        }
    }
}

/// TLS, by hand: the simulated peers speak none.
#[cfg(feature = "tls")]
mod tls {
    use std::io::{Cursor, Read, Write};
    use std::sync::LazyLock;

    use rustls::{ServerConfig, ServerConnection};
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tidegate::sim::SimStream;

    use super::*;

    /// What a server for `a.test` is told, and its certificate in PEM.
    static SERVER: LazyLock<(Arc<ServerConfig>, String)> = LazyLock::new(|| {
        let params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a valid name");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that ring has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("a key that fits");
        (Arc::new(config), certificate.pem())
    });

    /// Answers every request, until the connection ends.
    async fn serve(mut stream: SimStream, through_proxy: bool) -> std::io::Result<()> {
        if through_proxy {
            let mut ask = Vec::new();
            while !ask.ends_with(b"\r\n\r\n") {
                let bytes = stream.read().await?;
                if bytes.is_empty() {
                    return Ok(());
                }
                ask.extend(bytes);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        }
        let mut tls = ServerConnection::new(Arc::clone(&SERVER.0)).map_err(std::io::Error::other)?;
        let (mut asked, mut out) = (Vec::new(), Vec::new());
        loop {
            while tls.wants_write() {
                tls.write_tls(&mut out)?;
            }
            stream.write_all(&std::mem::take(&mut out)).await?;
            let bytes = stream.read().await?;
            if bytes.is_empty() {
                return Ok(());
            }
            let mut bytes = Cursor::new(bytes);
            while tls.read_tls(&mut bytes)? > 0 {
                tls.process_new_packets().map_err(std::io::Error::other)?;
            }
            // Whether there is more is not known yet.
            let _ = tls.reader().read_to_end(&mut asked);
            if asked.ends_with(b"\r\n\r\n") {
                asked.clear();
                tls.writer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?;
            }
        }
    }

    /// Dropped in the handshake, and with a request under way, once fresh and once on a connection that is used again.
    #[test]
    fn a_fetch_over_tls() {
        let request = || Request::get("https://a.test/");
        for (what, proxy, again) in [
            ("tls", None, false),
            ("tls, connection reused", None, true),
            ("tls in a tunnel", Some("http://proxy.test:443"), false),
        ] {
            let make_world = |sim: &Sim| {
                let at = if proxy.is_some() { "proxy.test" } else { "a.test" };
                let mut listener = sim.net().listen((Sim::address_of(at), 443));
                let server = sim.clone();
                sim.spawn(async move {
                    loop {
                        let stream = listener.accept().await;
                        server.spawn(async move { _ = serve(stream, proxy.is_some()).await });
                    }
                });
                let trusting = tidegate::tls::Config::builder().add_root_pem(SERVER.1.as_str()).build();
                let mut builder = HttpFetcher::builder(&sim.runtime()).seed(1).tls(trusting.expect("a root"));
                if let Some(proxy) = proxy {
                    builder = builder.proxy(proxy);
                }
                let fetcher = builder.build().expect("valid");
                if again {
                    sim.block_on(fetch(sim, &fetcher, request())).expect("answers");
                }
                fetcher
            };
            let check = |sim: &Sim, fetcher: HttpFetcher, out: Option<Result<Response, Error>>| {
                assert_eq!(out.map_or_else(|| "hello".into(), |out| out.expect("answers").body), "hello");
                sim.run_for(SECOND);
                assert_eq!(sim.net().open_sockets() as usize, fetcher.idle_connections(), "after it was dropped");
                let next = sim.block_on(fetch(sim, &fetcher, request()));
                assert_eq!(next.expect("answers").body, "hello");
                drop(fetcher);
                assert_eq!(sim.net().open_sockets(), 0);
                sim.run_for(SECOND);
                assert_eq!(sim.tasks(), 1, "the one that listens");
            };
            cancel_at_every_poll(what, make_world, |sim, fetcher| fetch(sim, fetcher, request()), check);
        }
    }
}

/// Two addresses that answer late, so that both are asked; either may answer or not.
#[test]
fn a_race_of_two_addresses() {
    let addrs: [IpAddr; 2] = ["2600::9".parse().expect("literal"), [24, 9, 9, 9].into()];
    let late = || Link::new().latency(MS * 300);
    let answers = move || Host::http(|_| Reply::ok("hello")).with_link(late());
    let refuses = move || Host::refuses().with_link(late());
    let raced = |what: &str, first: &dyn Fn() -> Host, second: &dyn Fn() -> Host, expected| {
        let network = |sim: &Sim| {
            sim.name("a.test", Lookup::found(addrs));
            sim.net().host(addrs[0], first());
            sim.net().host(addrs[1], second());
        };
        fetches(what, network, None, get, None, expected);
    };
    raced("race, both answer", &answers, &answers, Ok(200));
    raced("race, the first is a black hole", &Host::black_hole, &answers, Ok(200));
    raced("race, the first refuses", &refuses, &answers, Ok(200));
    raced("race, the second refuses", &answers, &refuses, Ok(200));
    raced("race, both refuse", &refuses, &refuses, Err(ErrorKind::ConnectRefused));
}

#[test]
fn a_connection() {
    let at = SocketAddr::from(([24, 1, 2, 3], 80));
    for (what, host) in [
        ("connect", Host::http(|_| Reply::ok(""))),
        ("connect, refused", Host::refuses()),
        ("connect, unreachable", Host::unreachable()),
    ] {
        cancel_at_every_poll(
            what,
            |sim| {
                sim.net().host(at.ip(), host.clone());
                sim.net().limit_descriptors(Some(1));
                sim.net().limit_ports(Some(1));
            },
            |sim, ()| {
                let runtime = sim.runtime();
                async move { runtime.tcp().connect(at, &Default::default()).await.map(drop) }
            },
            |sim, (), first| {
                assert_eq!((sim.net().open_sockets(), sim.tasks() <= 1), (0, true));
                let again = sim.block_on(sim.runtime().tcp().connect(at, &Default::default()));
                let again = again.map(drop).map_err(|e| e.kind());
                if let Some(first) = first {
                    assert_eq!(again, first.map_err(|e| e.kind()), "its descriptor and its port are back");
                }
                sim.run_for(SECOND);
                assert_eq!((sim.net().open_sockets(), sim.tasks()), (0, 0));
            },
        );
    }
}

/// The lookup that others share goes on without the one that asked for it first.
#[test]
fn a_lookup() {
    type Answers = Arc<Mutex<Vec<bool>>>;
    let name = || Name::new("a.test").expect("a name");
    for (what, lookup, expected) in [
        ("lookup", Lookup::found([[24, 0, 0, 9].into()]).after(MS * 5), true),
        ("lookup, not found", Lookup::not_found().after(MS * 5), false),
        ("lookup, failed", Lookup::failed().after(MS * 5), false),
    ] {
        cancel_at_every_poll(
            what,
            |sim| {
                sim.name("a.test", lookup.clone());
                let cache = CachedResolver::new(&sim.runtime(), DnsLimits::default(), 1);
                let answers = Answers::default();
                for n in 1..=3 {
                    let (sim, cache, answers) = (sim.clone(), cache.clone(), Arc::clone(&answers));
                    sim.clone().spawn(async move {
                        sim.sleep(MS * n).await;
                        let answer = cache.resolve(&name()).await.is_ok();
                        answers.lock().expect("one thread").push(answer);
                    });
                }
                (cache, answers)
            },
            |_, (cache, _)| {
                let cache = cache.clone();
                async move { cache.resolve(&name()).await.is_ok() }
            },
            |sim, (cache, answers): (CachedResolver, Answers), first| {
                assert!(first.is_none_or(|first| first == expected));
                sim.run_for(SECOND);
                assert_eq!(*answers.lock().expect("one thread"), [expected; 3], "the followers");
                assert!(sim.count(Op::Resolve) <= 2, "{} lookups", sim.count(Op::Resolve));
                assert_eq!(sim.block_on(cache.resolve(&name())).is_ok(), expected);
                assert_eq!(sim.tasks(), 0);
            },
        );
    }
}

/// What a stream of requests gave is leased once, although the lease that waited for it was dropped.
#[test]
fn a_lease() {
    let want = NonZeroU32::MIN.saturating_add(1);
    cancel_at_every_poll(
        "lease",
        |sim| {
            let sim = sim.clone();
            let stream = futures::stream::unfold(0, move |n| {
                let sim = sim.clone();
                async move {
                    sim.sleep(MS).await;
                    (n < 3).then(|| (Request::get(format!("http://a.test/{n}")), n + 1))
                }
            });
            Arc::new(futures::lock::Mutex::new(StreamFrontier::new(stream)))
        },
        |sim, frontier| {
            let (sim, frontier) = (sim.clone(), Arc::clone(frontier));
            async move { lease_all(&sim, &mut *frontier.lock().await, want, 1).await }
        },
        |sim, frontier, first| {
            let mut urls = first.unwrap_or_default();
            urls.extend(sim.block_on(async { lease_all(sim, &mut *frontier.lock().await, want, 9).await }));
            assert_eq!(urls, ["http://a.test/0", "http://a.test/1", "http://a.test/2"]);
        },
    );
}

async fn lease_all(sim: &Sim, frontier: &mut dyn Frontier, want: NonZeroU32, most: usize) -> Vec<String> {
    let mut urls = Vec::new();
    for _ in 0..most {
        let leased = frontier.lease(want, sim.runtime().wall_clock()).await.expect("a stream");
        urls.extend(leased.requests.iter().map(|(_, request)| request.url().to_owned()));
        if leased.drained {
            break;
        }
    }
    urls
}
