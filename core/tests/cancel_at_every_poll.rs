//! Every public future is dropped after each poll that it takes, its own and those of the world around it: tasks, sockets,
//! booked bytes, permits and leases are back each time.
#![cfg(feature = "http")]

mod audit;

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use audit::{Audit, CLEAN, MS};
use futures::StreamExt;
use tidegate::http::HttpFetcher;
use tidegate::rt::{CachedResolver, DnsLimits, Name};
use tidegate::sim::{Host, Link, Lookup, Op, Reply, Scheduling, Sim};
use tidegate::{
    Crawl, Error, ErrorKind, FetchCx, Fetcher, Frontier, Handle, Items, Report, Request, Response, Shutdown,
    StreamFrontier,
};

const SECOND: Duration = Duration::from_secs(1);

const ORDERS: [(Scheduling, u64); 5] = [
    (Scheduling::Fifo, 0),
    (Scheduling::Lifo, 0),
    (Scheduling::Random, 1),
    (Scheduling::Random, 2),
    (Scheduling::Random, 3),
];

/// A future that a task of the simulation polls, and that can be dropped from outside at any moment.
struct Held<F: Future>(Arc<Mutex<Slot<F>>>);

struct Slot<F: Future> {
    future: Option<Pin<Box<F>>>,
    out: Option<F::Output>,
    waker: Option<Waker>,
}

impl<F: Future<Output: Send> + Send + 'static> Held<F> {
    fn spawn(sim: &Sim, future: F) -> Self {
        let slot = Arc::new(Mutex::new(Slot { future: Some(Box::pin(future)), out: None, waker: None }));
        let held = Self(Arc::clone(&slot));
        sim.spawn(poll_fn(move |cx| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.waker = Some(cx.waker().clone());
            let Some(future) = &mut slot.future else { return Poll::Ready(()) };
            let Poll::Ready(out) = future.as_mut().poll(cx) else { return Poll::Pending };
            slot.out = Some(out);
            slot.future = None;
            Poll::Ready(())
        }));
        held
    }

    /// What came of it, where it has ended. Otherwise it is dropped, and its task ends.
    fn end(self) -> Option<F::Output> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (future, waker) = (slot.future.take(), slot.waker.take());
        let out = slot.out.take();
        drop(slot);
        drop(future);
        waker.into_iter().for_each(Waker::wake);
        out
    }
}

/// For each order and each n: makes a world and a future in it, lets the world go on for n polls of anything, drops the
/// future, and checks the world. The last n is the one after which the future is ready; `check` is given what it came to.
fn cancel_at_every_poll<W, F>(
    what: &str,
    make_world: impl Fn(&Sim) -> W,
    make_future: impl Fn(&Sim, &W) -> F,
    check: impl Fn(&Sim, W, Option<F::Output>),
) where
    F: Future<Output: Send> + Send + 'static,
{
    let mut runs = 0;
    for (scheduling, seed) in ORDERS {
        for n in 0.. {
            let run = || {
                let sim = audit::sim(scheduling, seed);
                let world = make_world(&sim);
                let held = Held::spawn(&sim, make_future(&sim, &world));
                let goes_on = sim.run_polls(n);
                let out = held.end();
                let ended = out.is_some();
                assert!(ended || goes_on, "nothing will ever happen, and it is not ready");
                check(&sim, world, out);
                assert_eq!(sim.panics(), Vec::<String>::new());
                sim.end();
                ended
            };
            runs += 1;
            let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                println!("{what}, {} {seed}, after {n} polls", scheduling.name());
                resume_unwind(panic)
            });
            if ended {
                break;
            }
        }
    }
    println!("{what}: {runs} runs");
}

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
        let link = Link { chunk: 1..=7, ..Link::default() };
        host(sim, Host::http(|_| Reply::ok("hello, world").chunked(5)).with_link(link));
    };
    fetches("fetch, dripped", dripped, None, get, None, Ok(200));
    let reset = |sim: &Sim| host(sim, Host::http(|_| Reply::ok("hello").cut(-2).then_reset()));
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
        let link = Link { window: 4 << 10, chunk: 1 << 10..=4 << 10, ..Link::default() };
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

/// Two addresses that answer late, so that both are asked; either may answer or not.
#[test]
fn a_race_of_two_addresses() {
    let addrs: [IpAddr; 2] = ["2600::9".parse().expect("literal"), [24, 9, 9, 9].into()];
    let late = || Link { latency: MS * 300, ..Link::default() };
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
    let want = std::num::NonZeroU32::MIN.saturating_add(1);
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

async fn lease_all(sim: &Sim, frontier: &mut dyn Frontier, want: std::num::NonZeroU32, most: usize) -> Vec<String> {
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

/// A crawl of the site, and the hands on it.
struct Crawling {
    audit: Audit,
    fetcher: HttpFetcher,
    crawl: Option<Crawl>,
    items: Option<Items<String>>,
    handle: Handle,
}

impl Crawling {
    fn begin(sim: &Sim) -> Self {
        audit::site(sim);
        let (audit, fetcher) = (Audit::default(), audit::fetcher(sim));
        let crawl = audit.crawl_to_sink(sim, fetcher.clone()).start().expect("valid");
        Self { handle: crawl.handle(), crawl: Some(crawl), items: None, audit, fetcher }
    }

    fn begin_with_items(sim: &Sim) -> Self {
        audit::site(sim);
        let (audit, fetcher) = (Audit::default(), audit::fetcher(sim));
        let (crawl, items) = audit.crawl(sim, fetcher.clone()).items().expect("valid");
        Self { handle: crawl.handle(), crawl: Some(crawl), items: Some(items), audit, fetcher }
    }

    fn crawl(&mut self) -> Crawl {
        self.crawl.take().expect("taken once")
    }

    /// The crawl is over or was dropped: everything is back.
    fn assert_over(self, sim: &Sim) {
        assert!(self.crawl.is_none(), "it would go on");
        audit::assert_nothing_left(sim, Some(&self.handle), self.fetcher);
        self.audit.assert_conserved(&self.handle);
    }

    /// The crawl goes on to its end with all its permits; then everything is back.
    fn finish(mut self, sim: &Sim) -> Report {
        let report = sim.block_on(self.crawl()).expect("it goes on");
        self.assert_over(sim);
        report
    }
}

fn told(audit: &Audit) -> Vec<(String, &'static str)> {
    audit.told().into_iter().map(|told| (told.url, told.outcome)).collect()
}

fn clean() -> Vec<(String, &'static str)> {
    CLEAN.map(|(url, outcome, ..)| (url.to_owned(), outcome)).into()
}

#[test]
fn a_crawl() {
    cancel_at_every_poll(
        "crawl",
        |sim| {
            let mut world = Crawling::begin(sim);
            let crawl = Mutex::new(Some(world.crawl()));
            (world, crawl)
        },
        |_, (_, crawl)| crawl.lock().expect("one thread").take().expect("made once"),
        |sim, (world, _), report: Option<Result<Report, Error>>| {
            if let Some(report) = report {
                report.expect("it went on to its end");
                assert_eq!(told(&world.audit), clean());
            }
            world.assert_over(sim);
        },
    );
}

/// Its future is only a view of it: it may be awaited by reference, given up, and awaited again.
#[test]
fn a_crawl_awaited_by_reference() {
    type Shared = Arc<futures::lock::Mutex<Crawl>>;
    cancel_at_every_poll(
        "crawl by reference",
        |sim| {
            let mut world = Crawling::begin(sim);
            let crawl: Shared = Arc::new(futures::lock::Mutex::new(world.crawl()));
            (world, crawl)
        },
        |_, (_, crawl)| {
            let crawl = Arc::clone(crawl);
            async move { (&mut *crawl.lock().await).await }
        },
        |sim, (world, crawl): (Crawling, Shared), report| {
            let report = report.unwrap_or_else(|| sim.block_on(async { (&mut *crawl.lock().await).await }));
            report.expect("it goes on");
            assert_eq!(told(&world.audit), clean());
            world.assert_over(sim);
        },
    );
}

/// Not the future but the crawl ends, at every poll.
#[test]
fn a_crawl_that_is_shut_down() {
    for (what, how) in [
        ("shutdown, now", Shutdown::Now),
        ("shutdown, graceful", Shutdown::Graceful { within: MS * 10 }),
        ("shutdown, patient", Shutdown::Graceful { within: audit::REST }),
    ] {
        cancel_at_every_poll(
            what,
            Crawling::begin,
            |_, world| {
                let handle = world.handle.clone();
                // Whoever drops this shuts the crawl down, as whoever drops the crawl does.
                let shutdown = OnDrop(Some(move || handle.shutdown(how)));
                let over = world.audit.clone();
                poll_fn(move |_| {
                    let _ = &shutdown;
                    if over.book().closed.is_empty() { Poll::Pending } else { Poll::Ready(()) }
                })
            },
            |sim, world, _| _ = world.finish(sim),
        );
    }
}
