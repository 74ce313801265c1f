//! What a snapshot promises: figures of one moment, a window, Little's law.
#![cfg(feature = "http")]

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::sim::{Host, Lookup, Reply, Sim};
use tidegate::{Builder, Crawl, Error, ErrorKind, Head, Profile, Request, Response, Scope, Shutdown, Snapshot};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn crawl(sim: &Sim) -> Builder<()> {
    Crawl::builder(sim.runtime()).profile(Profile::list()).retries(1).backoff(SECOND, SECOND).scope(Scope::any())
}

fn is_whole(now: &Snapshot) {
    let c = now.counters;
    assert_eq!(c.submitted, c.ok + c.error + c.skipped + c.cancelled + u64::from(c.jobs), "{c:?}");
    assert!(now.errors.values().sum::<u64>() <= c.error && now.skipped.values().sum::<u64>() <= c.skipped);
    for (run, recent) in [(0.0, 0.0), now.bounds.iter().fold((0.0, 0.0), |(a, b), of| (a + of.share, b + of.recent))] {
        assert!(run <= 1.000_001 && recent <= 1.000_001, "{:?}", now.bounds);
    }
}

/// Errors, skips, retries and a cancellation, looked at every millisecond.
#[test]
fn every_snapshot_is_of_one_moment() {
    Sim::check(0..3, |sim| async move {
        sim.name("a.test", Lookup::found([IpAddr::from([24, 1, 0, 1])]));
        sim.net().host(
            IpAddr::from([24, 1, 0, 1]),
            Host::http(|asked| match asked.path.len() % 4 {
                0 => Reply::status(503),
                1 => Reply::raw("").then_close(),
                _ => Reply::ok("text"),
            }),
        );
        let urls = (0..300)
            .map(|n| Request::get(format!("http://a.test/{}", "x".repeat(n % 9))).with_dedupe_key(n.to_string()));
        let deep = (0..50).map(|n| Request::get(format!("http://b.test/{n}")).with_depth(9));
        let crawl = crawl(&sim).max_depth(3).seeds(urls.chain(deep)).start().expect("valid");
        let handle = crawl.handle();
        let ended = Arc::new(AtomicBool::new(false));
        let (looks, seen) = (handle.clone(), Arc::new(Mutex::new(0_u64)));
        let (looker, told, count) = (sim.runtime(), Arc::clone(&ended), Arc::clone(&seen));
        sim.spawn(async move {
            while !told.load(Ordering::Relaxed) {
                let now = looks.snapshot();
                is_whole(&now);
                *count.lock().expect("not poisoned") += u64::from(now.counters.jobs > 0);
                looker.sleep_until(looker.now() + MS).await;
            }
        });
        sim.sleep(MS * 1_500).await;
        handle.cancel(|request| request.url().ends_with('/')).await.expect("it runs");
        sim.sleep(SECOND).await;
        handle.shutdown(Shutdown::Graceful { within: SECOND });
        let report = crawl.await.expect("it ends well");
        ended.store(true, Ordering::Relaxed);
        is_whole(&report.totals);
        assert_eq!(report.totals.counters.jobs, 0);
        assert!(*seen.lock().expect("not poisoned") > 100, "it was looked at while it ran");
        sim.sleep(MS * 10).await;
        assert_eq!(handle.snapshot().elapsed, report.totals.elapsed, "time stands still after the end");
        assert!(sim.panics().is_empty(), "{:?}", sim.panics());
    });
}

/// The same from another thread, while the driver runs on this one.
#[test]
fn a_snapshot_from_another_thread_is_of_one_moment_too() {
    let sim = Sim::new(1);
    sim.block_on(async {
        let fetcher = |request: Request| async move {
            let target = request.target()?;
            if target.path().len() % 3 == 0 {
                return Err(Error::new(ErrorKind::ConnectReset, "fetch"));
            }
            Ok(Response::new(Head::new(target, http::StatusCode::OK), "text"))
        };
        let urls = (0..30_000).map(|n| Request::get(format!("http://h{}.test/{n}", n % 50)));
        let crawl = crawl(&sim).retries(0).fetcher(fetcher).requests(futures::stream::iter(urls));
        let crawl = crawl.max_in_flight(number(100)).start().expect("valid");
        let handle = crawl.handle();
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut last = 0;
            while !told.load(Ordering::Relaxed) {
                let now = handle.snapshot();
                is_whole(&now);
                assert!(now.counters.submitted >= last, "it never goes back");
                last = now.counters.submitted;
            }
        });
        let report = crawl.await.expect("it ends well");
        ended.store(true, Ordering::Relaxed);
        thread.join().expect("each look was whole");
        assert_eq!(report.totals.counters.submitted, 30_000);
        is_whole(&report.totals);
    });
}

/// Ten at a time, each 100 ms, one after the other: what the law says, and what the windows say.
#[test]
fn rates_quantiles_and_littles_law_are_those_of_the_window() {
    Sim::check(0..2, |sim| async move {
        let runtime = sim.runtime();
        let slow = Arc::new(AtomicBool::new(false));
        let is_slow = Arc::clone(&slow);
        let fetcher = move |request: Request| {
            let (runtime, takes) = (runtime.clone(), if is_slow.load(Ordering::Relaxed) { 400 } else { 100 });
            async move {
                runtime.sleep_until(runtime.now() + MS * takes).await;
                Ok(Response::new(Head::new(request.target()?, http::StatusCode::OK), "0123456789"))
            }
        };
        let urls = (0..u64::MAX).map(|n| Request::get(format!("http://a.test/{n}")));
        let crawl = crawl(&sim)
            .fetcher(fetcher)
            .requests(futures::stream::iter(urls))
            .max_in_flight(number(10))
            .max_in_flight_per_host(None)
            .adaptive(false)
            .window(SECOND * 2)
            .start()
            .expect("valid");
        let handle = crawl.handle();
        sim.sleep(SECOND * 10 + MS * 50).await;
        let now = handle.snapshot();
        let (recent, law) = (now.recent, now.recent.littles_law);
        assert!(recent.span >= SECOND * 2 && recent.span <= MS * 2_200, "{recent:?}");
        assert!((95.0..=105.0).contains(&recent.starts_per_second), "{recent:?}");
        assert!((95.0..=105.0).contains(&recent.settled_per_second), "{recent:?}");
        assert!((9.9..=10.0).contains(&law.l) && (0.95..=1.05).contains(&law.ratio.expect("ends")), "{law:?}");
        assert_eq!(recent.cpu, None, "virtual time has no CPU");
        assert_eq!(now.bound_by().map(|bound| bound.bound), Some(tidegate::engine::Bound::GlobalLimit));
        let total = now.latency.total;
        assert!(total.run.count > 900 && total.window.count < total.run.count / 2, "{total:?}");
        assert!(total.run.p50 >= MS * 100 && total.run.max <= MS * 110, "{total:?}");
        // From now on four times as slow: the window knows nothing else, the run does.
        slow.store(true, Ordering::Relaxed);
        sim.sleep(SECOND * 4).await;
        let now = handle.snapshot();
        assert!((24.0..=26.0).contains(&now.recent.starts_per_second), "{:?}", now.recent);
        assert!(now.latency.total.window.p50 >= MS * 400 && now.latency.total.run.p50 < MS * 110, "{:?}", now.latency);
        handle.shutdown(Shutdown::Now);
        crawl.await.expect("it ends well");
    });
}

/// Eight at a time of a host with two ports, whose bodies come slowly.
#[test]
fn a_snapshot_says_what_is_booked_and_of_how_much() {
    Sim::check(0..2, |sim| async move {
        for n in 0..4 {
            let host = Host::http(|_| Reply::ok(vec![b'x'; 100_000]).drip(1_000, MS * 50));
            sim.net().host(Sim::address_of(&format!("h{n}.test")), host);
        }
        sim.net().limit_descriptors(Some(6));
        sim.net().limit_ports(Some(2));
        let urls = (0..8).map(|n| Request::get(format!("http://h{}.test/{n}", n % 4)));
        let own = crawl(&sim)
            .byte_budget(5 << 16)
            .max_in_flight_per_host(None)
            .adaptive(false)
            .seeds(urls)
            .start()
            .expect("valid");
        let handle = own.handle();
        sim.sleep(SECOND * 2).await;
        let booked = handle.snapshot().booked;
        let share = |share: tidegate::Share| (share.now, share.most);
        assert_eq!((share(booked.sockets), share(booked.ports)), ((6, 6), (2, 2)), "{booked:?}");
        assert_eq!((share(booked.handshakes), share(booked.lookups)), ((0, 64), (0, 256)), "{booked:?}");
        // One body alone may have more than that, so that they are read one by one.
        assert_eq!((share(booked.body_bytes), booked.waiting_for_bytes), ((1 << 16, 5 << 16), 5), "{booked:?}");
        let report = own.await.expect("it ends well");
        assert_eq!((report.totals.counters.ok, report.totals.booked.body_bytes.now), (8, 0), "{report}");
        assert_eq!(report.totals.booked.sockets.now, u64::from(report.totals.booked.idle));
        sim.sleep(MS).await;
        assert_eq!(handle.snapshot().booked.sockets.now, 0, "the fetcher has gone");
    });
}

#[cfg(feature = "serde")]
#[test]
fn a_snapshot_is_serialised_by_the_names_of_its_fields() {
    Sim::check(0..1, |sim| async move {
        let urls = (0..20).map(|n| Request::get(format!("http://a.test/{n}")));
        let fetcher = |request: Request| async move {
            Ok(Response::new(Head::new(request.target()?, http::StatusCode::OK), "text"))
        };
        let report = crawl(&sim).fetcher(fetcher).seeds(urls).run().await.expect("it ends well");
        let json = serde_json::to_value(&report.totals).expect("serialised");
        assert_eq!(json["counters"]["ok"], 20);
        assert_eq!(json["status"]["200"], 20);
        assert!(json["elapsed"].is_f64() && json["latency"]["total"]["run"]["p99"].is_f64(), "{json}");
        assert!(json["recent"]["littles_law"]["l"].is_f64() && json["recent"]["cpu"].is_null(), "{json}");
        assert_eq!(
            json["booked"]["sockets"],
            serde_json::json!({ "now": 0, "most": 0 }),
            "its fetcher keeps no ledger"
        );
        assert_eq!(json["booked"]["body_bytes"]["most"], 256 << 20);
        let bounds = json["bounds"].as_array().expect("a list");
        assert!(bounds.iter().all(|b| b["bound"].is_string() && b["time"].is_f64()), "{json}");
    });
}
