//! Simulated fetches that need more sockets and ports than the ledger has.
#![cfg(feature = "http")]

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tidegate::http::HttpFetcher;
use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError};
use tidegate::sim::{Host, PeerRequest, Reply, Sim};
use tidegate::sink::collect;
use tidegate::{Crawl, ErrorKind, FetchCx, Fetcher, Ledger, LedgerLimits, Profile, Request, Scope, Settled, Shutdown};

const HOSTS: usize = 4;

const SECOND: Duration = Duration::from_secs(1);

fn ledger(sockets: u32, ports: u32) -> Ledger {
    let mut limits = LedgerLimits::default();
    (limits.sockets, limits.ports) = (sockets, ports);
    Ledger::new(limits)
}

fn serve(sim: &Sim) {
    let reply = || Reply::ok(vec![b'x'; 1 << 10]).drip(1 << 9, Duration::from_secs(1));
    for n in 0..HOSTS {
        sim.net().host(Sim::address_of(&format!("h{n}.test")), Host::http(move |_| reply()));
    }
}

// H1, H2
#[test]
fn more_fetches_than_sockets_and_ports_all_end_and_the_system_is_never_asked_for_too_much() {
    for (sockets, ports) in [(1, 9), (3, 9), (9, 1), (3, 2)] {
        Sim::check(0..8, |sim| async move {
            serve(&sim);
            // Past the ledger nobody would be told why.
            sim.net().limit_descriptors(Some(sockets));
            let ledger = ledger(sockets, ports);
            let fetcher = HttpFetcher::builder(&sim.runtime()).ledger(ledger.clone()).build().expect("valid");
            let fetches = (0..40).map(|n| {
                let (fetcher, runtime) = (&fetcher, sim.runtime());
                async move {
                    let request = Request::get(format!("http://h{}.test/{n}", n % HOSTS));
                    fetcher.fetch(&request, &FetchCx::detached(&runtime)).await
                }
            });
            let answers = join_all(fetches).await;
            for answer in answers {
                assert!(answer.is_ok(), "{sockets} sockets, {ports} ports: {answer:?}");
            }
            let usage = ledger.usage();
            assert_eq!((usage.waiting, usage.socket_cap, usage.sockets), (0, sockets, usage.idle), "{usage:?}");
            drop(fetcher);
            assert_eq!(ledger.usage().sockets, 0);
        });
    }
}

// H10
#[test]
fn fetches_that_are_dropped_while_they_wait_pass_their_turn_on() {
    Sim::check(0..8, |sim| async move {
        serve(&sim);
        let ledger = ledger(1, 1);
        let fetcher = HttpFetcher::builder(&sim.runtime()).ledger(ledger.clone()).build().expect("valid");
        let (first, second) = (Request::get("http://h0.test/1"), Request::get("http://h1.test/2"));
        for drops in 0..6 {
            let cx = || FetchCx::detached(&sim.runtime());
            let (a, b, c) = (cx(), cx(), cx());
            let going = fetcher.fetch(&first, &a);
            let mut dropped = Some(fetcher.fetch(&second, &b));
            let waiting = fetcher.fetch(&first, &c);
            let mut polls = 0;
            let dropping = std::future::poll_fn(|task| {
                polls += 1;
                if polls > drops {
                    dropped = None;
                }
                match dropped.as_mut() {
                    Some(fetch) => fetch.as_mut().poll(task).map(drop),
                    None => std::task::Poll::Ready(()),
                }
            });
            let (going, (), waiting) = futures::join!(going, dropping, waiting);
            assert!(going.is_ok() && waiting.is_ok(), "after {drops} polls");
            let usage = ledger.usage();
            assert_eq!((usage.waiting, usage.sockets), (0, usage.idle), "{usage:?}");
        }
    });
}

// H1, H2
#[test]
fn fetchers_that_share_a_ledger_do_not_wait_for_what_others_have_parked() {
    // One socket in all; one port to a host.
    for (sockets, ports, hosts) in [(1, 9, ["h0", "h1", "h2"]), (9, 1, ["h0", "h0", "h0"])] {
        Sim::check(0..4, |sim| async move {
            serve(&sim);
            let ledger = ledger(sockets, ports);
            let fetcher = || HttpFetcher::builder(&sim.runtime()).ledger(ledger.clone()).build().expect("valid");
            let mut fetchers = [fetcher(), fetcher(), fetcher()];
            for round in 0..3 {
                let fetches = fetchers.iter().zip(hosts).map(|(fetcher, host)| {
                    let runtime = sim.runtime();
                    async move {
                        let request = Request::get(format!("http://{host}.test/{round}"));
                        fetcher.fetch(&request, &FetchCx::detached(&runtime)).await
                    }
                });
                let before = sim.elapsed();
                for answer in join_all(fetches).await {
                    assert!(answer.is_ok(), "{answer:?}");
                }
                // A second for each body and nothing else.
                assert!(sim.elapsed() - before < Duration::from_secs(8), "{:?}", sim.elapsed() - before);
                assert_eq!(fetchers.iter().map(HttpFetcher::idle_connections).sum::<usize>(), 1);
                // One that is gone is in nobody's way.
                fetchers[round] = fetcher();
            }
        });
    }
}

// H1, H2
#[test]
fn a_crawl_knows_how_many_descriptors_and_ports_there_are() {
    Sim::check(0..3, |sim| async move {
        let reply = || Reply::ok(vec![b'x'; 1 << 10]).drip(1 << 9, Duration::from_millis(500));
        for n in 0..300 {
            sim.net().host(Sim::address_of(&format!("h{n}.test")), Host::http(move |_| reply()));
        }
        let runtime = sim.runtime();
        sim.net().limit_descriptors(Some(100));
        sim.net().limit_ports(Some(2));
        assert_eq!((runtime.ledger_limits().sockets, runtime.ledger_limits().ports), (100, 2));
        let report = Crawl::builder::<()>(runtime)
            .profile(Profile::list())
            .scope(Scope::any())
            .max_in_flight_per_host(None)
            // An attempt that the system has no room for is none, so the servers count what was really tried.
            .retries(0)
            .seeds((0..900).map(|n| Request::get(format!("http://h{}.test/{n}", n % 300))))
            .run()
            .await
            .expect("it ends well");
        let counters = &report.totals.counters;
        assert_eq!((counters.ok, counters.error, counters.starts), (900, 0, 900), "{report}");
        assert!(sim.net().open_sockets_peak() <= 100);
        sim.net().limit_descriptors(None);
        assert_eq!(sim.runtime().ledger_limits().sockets, LedgerLimits::default().sockets);
    });
}

// H1, H2
#[test]
fn who_finds_no_socket_before_its_deadline_goes_back_and_has_not_been_tried() {
    // Somebody else has the one socket, or the one port to the host, for longer than a fetch may take.
    for (sockets, ports, other) in [(1, 9, "h1"), (9, 1, "h0")] {
        Sim::check(0..2, |sim| async move {
            let slow = |asked: &PeerRequest| if asked.path == "/slow" { vec![b'x'; 7_000] } else { vec![b'x'; 100] };
            let host = Host::http(move |asked| Reply::ok(slow(asked)).drip(100, SECOND));
            ["h0.test", "h1.test"].into_iter().for_each(|name| sim.net().host(Sim::address_of(name), host.clone()));
            let fetcher = HttpFetcher::builder(&sim.runtime()).ledger(ledger(sockets, ports)).build().expect("valid");
            let (others, runtime) = (fetcher.clone(), sim.runtime());
            sim.spawn(async move {
                let request = Request::get(format!("http://{other}.test/slow"));
                others.fetch(&request, &FetchCx::detached(&runtime)).await.expect("in time");
            });
            sim.sleep(SECOND).await;
            let mut profile = Profile::list();
            profile.limits.deadlines.total = SECOND * 20;
            let crawl = Crawl::builder::<()>(sim.runtime()).profile(profile).fetcher(fetcher).retries(0);
            let report = crawl.seed(Request::get("http://h0.test/")).run().await.expect("it ends well");
            let counters = &report.totals.counters;
            assert_eq!((counters.ok, counters.error), (1, 0), "{report} {:?}", report.totals.errors);
            assert!(report.totals.elapsed > SECOND * 60, "{report}");
        });
    }
}

/// Has no descriptor for the first lookups.
struct NoRoomAtFirst {
    left: AtomicU32,
    asks: Arc<dyn Resolve>,
}

impl Resolve for NoRoomAtFirst {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let has_none = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if has_none {
            let no_descriptor = std::io::Error::from_raw_os_error(24);
            let error = ResolveError::from_io(name, &no_descriptor);
            return Box::pin(async move { Err(error) });
        }
        self.asks.resolve(name)
    }
}

// H1
#[cfg(unix)]
#[test]
fn a_lookup_without_a_descriptor_is_no_attempt_and_nobody_elses_fault() {
    Sim::check(0..3, |sim| async move {
        serve(&sim);
        let without = |lookups: u32| {
            let asks = Arc::clone(sim.runtime().resolver());
            sim.runtime().with_resolve(NoRoomAtFirst { left: lookups.into(), asks })
        };
        let runtime = without(1);
        let fetcher = HttpFetcher::builder(&runtime).build().expect("valid");
        let error = fetcher.fetch(&Request::get("http://h0.test/"), &FetchCx::detached(&runtime)).await;
        assert_eq!(error.expect_err("nobody was asked").kind(), ErrorKind::LocalDescriptors);
        let report = Crawl::builder::<()>(without(10))
            .profile(Profile::list())
            .scope(Scope::any())
            .retries(0)
            .seeds((0..40).map(|n| Request::get(format!("http://h{}.test/{n}", n % HOSTS))))
            .run()
            .await
            .expect("it ends well");
        let counters = &report.totals.counters;
        assert_eq!((counters.ok, counters.error, counters.retries), (40, 0, 0), "{report} {:?}", report.totals.errors);
    });
}

/// Two hosts, one of which has all its ports in use by somebody else, or as many as it gets.
async fn beside_a_host_without_ports(sim: &Sim, has_other: bool, most: u32, ports: u32) -> (Duration, u64) {
    let reply = |asked: &PeerRequest| {
        let time = if asked.host().starts_with("spent") { SECOND * 60 } else { Duration::from_millis(20) };
        Reply::ok("page").after(time)
    };
    ["spent.test", "fresh.test"].into_iter().for_each(|name| sim.net().host(Sim::address_of(name), Host::http(reply)));
    let fetcher = HttpFetcher::builder(&sim.runtime()).ledger(ledger(1_000, ports)).build().expect("valid");
    let mut urls: Vec<_> = (0..1_000).map(|n| format!("http://fresh.test/{n}")).collect();
    if has_other {
        // Those come first.
        urls.splice(0..0, (0..5_000).map(|n| format!("http://spent.test/{n}")));
    }
    let done = collect::<Settled>();
    let crawl = Crawl::builder::<()>(sim.runtime())
        .profile(Profile::list())
        .scope(Scope::any())
        .fetcher(fetcher)
        .max_in_flight(NonZeroU32::new(most).expect("not zero"))
        .max_in_flight_per_host(None)
        .outcomes(done.clone())
        .seeds(urls)
        .start()
        .expect("valid");
    let fresh = || done.take().iter().filter(|settled| settled.item.url().contains("fresh")).count() as u64;
    let mut count = 0;
    while count < 1_000 {
        sim.sleep(Duration::from_millis(20)).await;
        count += fresh();
        assert!(sim.elapsed() < SECOND * 3_600, "{count} of 1,000");
    }
    let took = sim.elapsed();
    let snapshot = crawl.handle().snapshot();
    assert!(snapshot.counters.in_flight_peak <= most);
    crawl.handle().shutdown(Shutdown::Now);
    crawl.await.expect("it ends well");
    (took, snapshot.counters.error)
}

// H2, H8
#[test]
fn a_host_without_ports_takes_nothing_from_the_others() {
    // Of 20 fetches that may be in flight each host has ports for eight.
    let alone = Arc::new(Mutex::new(Duration::ZERO));
    for has_other in [false, true] {
        Sim::check(0..1, |sim| {
            let alone = Arc::clone(&alone);
            async move {
                let (took, errors) = beside_a_host_without_ports(&sim, has_other, 20, 8).await;
                assert_eq!(errors, 0);
                let mut alone = alone.lock().expect("no panic");
                if has_other {
                    assert!(took <= *alone + Duration::from_millis(100), "{took:?}, and {alone:?} without the other");
                } else {
                    *alone = took;
                }
            }
        });
    }
}
