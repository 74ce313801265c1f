//! Simulated crawls whose bodies are many times what the byte budget has room for.
#![cfg(feature = "http")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{
    Batch, Builder, Crawl, Handle, Limits, Output, Overrides, Page, ParseError, Profile, Report, Request, Scope, Sink,
    SinkError,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What is booked at a time.
const STEP: u64 = 64 << 10;

const URLS: usize = 120;

/// Bodies of 1 byte up to 640 KiB, 40 MiB in all, that come 48 KiB every 20 ms.
fn serve(sim: &Sim) {
    for n in 0..URLS {
        let size = 1 + n % 11 * (64 << 10);
        let host = Host::http(move |_| Reply::ok(vec![b'x'; size]).drip(48 << 10, MS * 20));
        sim.net().host(Sim::address_of(&format!("h{n}.test")), host);
    }
}

fn limits(idle: Duration) -> Limits {
    let mut limits = Limits::discovered();
    limits.body_wire = 704 << 10;
    (limits.deadlines.idle, limits.deadlines.total) = (idle, SECOND * 600);
    limits
}

fn crawl(sim: &Sim, budget: u64) -> Builder<u64> {
    let limits = limits(SECOND / 2);
    Crawl::builder(sim.runtime())
        .profile(Profile::list())
        .limits(limits)
        .max_in_flight(NonZeroU32::new(100).expect("not zero"))
        .retries(0)
        .scope(Scope::any())
        .byte_budget(budget)
        .parse_with(one_item)
        .seeds((0..URLS).map(|n| Request::get(format!("http://h{n}.test/"))))
}

fn one_item(page: &Page, out: &mut Output<u64>) -> Result<(), ParseError> {
    out.item(page.body().len() as u64);
    Ok(())
}

fn check(report: &Report, budget: u64) {
    assert_eq!((report.totals.counters.ok, report.totals.counters.error), (URLS as u64, 0), "{report}");
    let peak = report.totals.bytes_in_memory_peak;
    assert!(peak <= budget && peak > budget / 2, "{peak} of {budget}: {report}");
    assert_eq!(report.totals.bytes_in_memory, 0);
}

// H5, B6
#[test]
fn bodies_beyond_the_budget_wait_in_their_sockets_and_no_server_is_blamed() {
    // Room for one body, for one and a bit, and for a few; a parser that keeps up, and one that does not.
    for (budget, cost) in [(11 * STEP, MS), (13 * STEP, MS * 50), (40 * STEP, MS * 50)] {
        Sim::builder().job_cost(cost).check(0..1, |sim| async move {
            serve(&sim);
            let report = crawl(&sim, budget).run().await.expect("it ends well");
            check(&report, budget);
            assert!(report.totals.elapsed > SECOND * 2, "most had to wait longer than they may be idle: {report}");
            let body = report.totals.latency.body.run;
            assert!(body.max < SECOND, "waiting for room is no time of the body: {body:?}");
        });
    }
}

// H5
#[test]
fn with_room_for_all_nobody_waits() {
    Sim::check(0..1, |sim| async move {
        serve(&sim);
        let report = crawl(&sim, 1 << 30).run().await.expect("it ends well");
        assert_eq!(report.totals.counters.ok, URLS as u64);
        assert!(report.totals.bytes_in_memory_peak > 100 * STEP && report.totals.elapsed < SECOND * 2, "{report}");
    });
}

// A1: what a server owes is still asked of it.
#[test]
fn a_server_that_is_silent_is_still_idle() {
    Sim::check(0..2, |sim| async move {
        serve(&sim);
        let silent = Host::http(|_| Reply::ok(vec![b'x'; 600 << 10]).drip(48 << 10, SECOND * 2));
        sim.net().host(Sim::address_of("h10.test"), silent);
        let report = crawl(&sim, 22 * STEP).run().await.expect("it ends well");
        let errors: Vec<_> = report.totals.errors.into_iter().collect();
        assert_eq!((report.totals.counters.ok, errors), (URLS as u64 - 1, vec![("timeout.idle", 1)]));
    });
}

// H5, A1
#[test]
fn the_time_in_which_a_fetch_waits_for_room_is_no_time_of_its_server() {
    // The second piece of the second body comes a second after there is room for it, or longer after that than it may.
    for (pause, code) in [(MS * 6_500, None), (MS * 9_500, Some(("timeout.idle", 1)))] {
        Sim::check(0..2, |sim| async move {
            let first = Host::http(|_| Reply::ok(vec![b'x'; 11 << 16]).drip(48 << 10, MS * 400));
            sim.net().host(Sim::address_of("h0.test"), first);
            let second = Host::http(move |_| Reply::ok(vec![b'x'; 90 << 10]).after(MS * 100).drip(48 << 10, pause));
            sim.net().host(Sim::address_of("h1.test"), second);
            let crawl = Crawl::builder::<()>(sim.runtime()).profile(Profile::list()).limits(limits(SECOND * 2));
            let seeds = (0..2).map(|n| Request::get(format!("http://h{n}.test/")));
            let report = crawl.retries(0).byte_budget(11 * STEP).seeds(seeds).run().await.expect("it ends well");
            let errors: Vec<_> = report.totals.errors.clone().into_iter().collect();
            assert_eq!(errors, code.into_iter().collect::<Vec<_>>(), "{report}");
        });
    }
}

// H5
#[test]
fn who_finds_no_room_before_its_deadline_blames_nobody() {
    Sim::check(0..2, |sim| async move {
        // Each has more than what is shared, and the first needs longer than the second may.
        for (n, pause) in [(0, SECOND), (1, MS)] {
            let host = Host::http(move |_| Reply::ok(vec![b'x'; 600 << 10]).after(SECOND * n).drip(8 << 10, pause));
            sim.net().host(Sim::address_of(&format!("h{n}.test")), host);
        }
        let mut bounds = limits(SECOND * 10);
        bounds.deadlines.total = SECOND * 100;
        let mut short = Overrides::default();
        short.total_timeout = Some(SECOND * 20);
        let seeds = [Request::get("http://h0.test/"), Request::get("http://h1.test/").with_overrides(short)];
        let crawl = Crawl::builder::<()>(sim.runtime()).profile(Profile::list()).limits(bounds).retries(0);
        let report = crawl.byte_budget(11 * STEP).seeds(seeds).run().await.expect("it ends well");
        let errors: Vec<_> = report.totals.errors.clone().into_iter().collect();
        assert_eq!((report.totals.counters.ok, errors), (1, vec![("local.bytes", 1)]), "{report}");
    });
}

/// Asks for a page of its own for each item that it takes.
struct Enriching {
    handle: Arc<std::sync::OnceLock<Handle>>,
    asked: Arc<AtomicU64>,
}

#[async_trait]
impl Sink<u64> for Enriching {
    async fn deliver(&mut self, batch: &mut Batch<u64>) -> Result<(), SinkError> {
        let handle = self.handle.get().expect("it was set before the first delivery");
        for n in 0..batch.len() {
            let page = handle.fetch(format!("http://h{}.test/more", n % URLS)).await.expect("it is there");
            assert_eq!(page.body().len(), 1 + n % URLS % 11 * (64 << 10));
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        batch.ack_all();
        Ok(())
    }
}

// H5
#[test]
fn a_sink_that_asks_for_pages_gets_them_while_the_budget_is_spent() {
    Sim::check(0..1, |sim| async move {
        serve(&sim);
        let (handle, asked) = (Arc::default(), Arc::default());
        let sink = Enriching { handle: Arc::clone(&handle), asked: Arc::clone(&asked) };
        let crawl = crawl(&sim, 11 * STEP).sink(sink).start().expect("valid");
        handle.set(crawl.handle()).expect("once");
        let report = crawl.await.expect("it ends well");
        assert_eq!(asked.load(Ordering::Relaxed), URLS as u64);
        assert_eq!((report.totals.counters.ok, report.totals.counters.error), (2 * URLS as u64, 0), "{report}");
    });
}
