//! Fetches and parsers of a simulated crawl that take long, and what they may hold meanwhile.
#![cfg(feature = "http")]

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tidegate::rt::{CachedResolver, DnsLimits, Job, Name, Offload, Place, Rejected, Ticket};
use tidegate::sim::{Host, Link, Lookup, Reply, Sim};
use tidegate::{Builder, Crawl, FetchCx, Output, Page, ParseError, Phase, Profile};

const SECOND: Duration = Duration::from_secs(1);

fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
    Ok(())
}

fn crawl(sim: &Sim) -> Builder<()> {
    Crawl::builder(sim.runtime()).profile(Profile::list()).parse_with(nothing)
}

// G4
#[test]
fn the_next_address_is_tried_as_soon_as_one_is_refused() {
    Sim::check(0..2, |sim| async move {
        let [dead, alive] = [IpAddr::from([24, 1, 0, 1]), IpAddr::from([24, 1, 0, 2])];
        let more = [IpAddr::from([24, 1, 0, 3]), IpAddr::from([24, 1, 0, 4])];
        sim.name("a.test", Lookup::found([dead, alive].into_iter().chain(more)));
        sim.net().host(dead, Host::refuses());
        sim.net().host(alive, Host::http(|_| Reply::ok("")));
        let report = crawl(&sim).seed("http://a.test/").run().await.expect("the run ends well");
        assert!(report.totals.counters.ok == 1 && report.totals.elapsed < SECOND / 10, "{report}");
    });
}

// G3
#[test]
fn no_more_addresses_of_a_name_are_kept_than_may_be() {
    Sim::check(0..1, |sim| async move {
        sim.name("a.test", Lookup::found((1..=40).map(|n| IpAddr::from([24, 1, 0, n]))));
        let limits = DnsLimits::default();
        let resolver = CachedResolver::new(&sim.runtime(), limits.clone(), 1);
        let found = resolver.resolve(&Name::new("a.test").expect("valid")).await.expect("it is there");
        assert_eq!(found.addrs.len(), limits.addrs);
    });
}

#[test]
fn a_body_may_take_long_while_it_goes_on_and_is_booked_once() {
    Sim::check(0..2, |sim| async move {
        let body = vec![b'x'; 1 << 20];
        let reply = move || Reply::ok(body.clone()).drip(1 << 17, SECOND * 9);
        sim.net().host(Sim::address_of("a.test"), Host::http(move |_| reply()));
        let report = crawl(&sim).seed("http://a.test/").run().await.expect("the run ends well");
        assert_eq!((report.totals.counters.ok, report.totals.bytes_wire), (1, 1 << 20), "{report}");
        let peak = report.totals.bytes_in_memory_peak;
        assert!((1 << 20..=(1 << 20) + (1 << 16)).contains(&peak), "{peak}");
    });
}

// H7
#[test]
fn a_body_that_is_all_there_does_not_keep_the_thread() {
    let sim = Sim::builder().seed(1).io_cost(Duration::from_micros(20)).build();
    let own = sim.clone();
    let lag = sim.block_on(async move {
        let link = Link::new().chunk(1..=1);
        let host = Host::http(|_| Reply::ok(vec![b'x'; 60_000])).with_link(link);
        own.net().host(Sim::address_of("a.test"), host);
        let report = crawl(&own).retries(0).seed("http://a.test/").run().await.expect("the run ends well");
        assert_eq!(report.totals.counters.ok, 1, "{report}");
        report.totals.lag.max
    });
    sim.end();
    assert!(lag < Duration::from_millis(20), "{lag:?}");
}

#[test]
fn a_phase_that_comes_twice_counts_twice() {
    Sim::check(0..1, |sim| async move {
        let cx = FetchCx::detached(&sim.runtime());
        for phase in [Phase::Connect, Phase::FirstByte, Phase::Connect, Phase::FirstByte] {
            cx.phase(phase);
            sim.sleep(SECOND).await;
        }
        let timings = cx.finish();
        assert_eq!((timings.connect, timings.first_byte), (Some(SECOND * 2), Some(SECOND * 2)));
    });
}

/// Runs each job on a thread of its own, and replaces the thread of one that it gives up, or does not.
struct Threads {
    replaces: bool,
}

impl Offload for Threads {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        std::thread::spawn(job);
        Ok(Ticket(0))
    }

    fn capacity(&self) -> NonZeroUsize {
        NonZeroUsize::new(4).expect("not zero")
    }

    fn place(&self) -> Place {
        Place::Offload
    }

    fn give_up(&self, _: Ticket) -> bool {
        self.replaces
    }
}

// I3
#[test]
fn parsers_that_do_not_end_are_given_up_each_in_its_time() {
    for replaces in [true, false] {
        Sim::check(0..2, |sim| async move {
            sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::ok("")));
            sim.net().host(Sim::address_of("b.test"), Host::http(|_| Reply::ok("").after(SECOND * 20)));
            let (go, wait) = mpsc::channel::<()>();
            let (began, begins) = mpsc::channel();
            let (wait, began) = (Mutex::new(wait), Mutex::new(began));
            let wait = Arc::new(wait);
            let stuck = move |_: &Page, _: &mut Output<()>| -> Result<(), ParseError> {
                began.lock().expect("not poisoned").send(()).expect("the test waits");
                // Until the test is over, which closes the channel.
                let _ = wait.lock().map(|wait| wait.recv());
                Ok(())
            };
            let runtime = sim.runtime().with_offload(Threads { replaces });
            let crawl = Crawl::builder(runtime).profile(Profile::list()).parse_limit(SECOND * 30).parse_with(stuck);
            let crawl = crawl.seeds(["http://a.test/", "http://b.test/"]).start().expect("valid");
            let handle = crawl.handle();
            // A thread may begin at any time before it is waited for: the clock stands still for those who wait only.
            for until in [1, 21] {
                sim.sleep((SECOND * until).saturating_sub(sim.elapsed())).await;
                begins.recv().expect("the parser begins");
            }
            sim.sleep(SECOND * 11).await;
            let failed = handle.snapshot().errors;
            assert_eq!(failed.into_iter().collect::<Vec<_>>(), [("parser.timeout", 1)]);
            match crawl.await {
                Ok(report) => assert!(replaces && report.totals.elapsed < SECOND * 52, "{report}"),
                Err(error) => assert!(!replaces && sim.elapsed() < SECOND * 33, "{error}"),
            }
            drop(go);
        });
    }
}
