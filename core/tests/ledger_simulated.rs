//! Simulated fetches that need more sockets and ports than the ledger has.
#![cfg(feature = "http")]

use std::time::Duration;

use futures::future::join_all;
use tidegate::http::HttpFetcher;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{Crawl, FetchCx, Fetcher, Ledger, LedgerLimits, Profile, Request, Scope};

const HOSTS: usize = 4;

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
