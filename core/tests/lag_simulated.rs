//! What a crawl does when its loop stands still: the gate closes while the stall lasts, its cause is named, and no server is
//! blamed for it.
#![cfg(feature = "http")]

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tidegate::engine::Bound;
use tidegate::rt::{Inline, Look, Watch};
use tidegate::sim::{Host, Link, Reply, Sim};
use tidegate::sink::Collect;
use tidegate::{
    Accept, Batch, Builder, Crawl, Delivery, Error, ErrorKind, Handle, Head, Limits, Outcome, Output, Page, ParseError,
    Parser, Profile, Report, Request, Response, Settled, Sink, SinkError, Snapshot, Stall, StallCause,
};

const MS: Duration = Duration::from_millis(1);

const STALL: Duration = Duration::from_millis(300);

/// Which pages take long, by their number: one in each second at 1,000 pages a second.
fn is_slow(url: &str) -> bool {
    url.rsplit_once('/').and_then(|(_, n)| n.parse::<u32>().ok()).is_some_and(|n| n % 1000 == 500)
}

fn urls(pages: u32) -> impl Iterator<Item = Request> {
    (0..pages).map(|n| Request::get(format!("http://h{}.test/{n}", n % 50)))
}

/// Hosts that answer after `wait`, over links of 1 ms.
fn serve(sim: &Sim, wait: Duration) {
    sim.net()
        .hosts_by(move |_| Some(Host::http(move |_| Reply::ok("page").after(wait)).with_link(Link::new().latency(MS))));
}

fn crawl<P: Parser<String>>(sim: &Sim, pages: u32, parser: P) -> Builder<String> {
    Crawl::builder(sim.runtime())
        .profile(Profile::list())
        .requests(futures::stream::iter(urls(pages)))
        .rate(1000.0)
        .parse_with(parser)
}

fn item(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    out.item(page.url().path().to_owned());
    Ok(())
}

/// Asks for every body, and thinks long about some.
struct Thinks(Sim);

impl Parser<String> for Thinks {
    fn accept(&self, head: &Head) -> Accept {
        if is_slow(head.url.as_str()) {
            self.0.spend(STALL);
        }
        Accept::Body
    }

    fn parse(&self, page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        item(page, out)
    }
}

/// Takes long for some items.
struct Blocks(Sim);

#[async_trait]
impl Sink<String> for Blocks {
    async fn deliver(&mut self, batch: &mut Batch<String>) -> Result<(), SinkError> {
        while let Some(delivery) = batch.pop() {
            if is_slow(&delivery.url) {
                self.0.spend(STALL);
            }
        }
        Ok(())
    }
}

fn no_url_is_blamed(kept: &Collect<Settled>) {
    for settled in kept.take() {
        assert!(matches!(settled.item.outcome, Outcome::Ok), "{:?}", settled.item);
    }
}

async fn run(crawl: Builder<String>) -> Snapshot {
    let kept = tidegate::sink::collect();
    let report: Report = crawl.outcomes(kept.clone()).run().await.expect("the run ends well");
    no_url_is_blamed(&kept);
    report.totals
}

fn all_are(totals: &Snapshot, cause: StallCause, stalls: u64) {
    assert_eq!(totals.stalls.get(cause.code()), Some(&stalls), "{:?}", totals.stalls);
    assert_eq!(totals.stalls.len(), 1, "{:?}", totals.stalls);
    for stall in &totals.recent_stalls {
        assert!(stall.lag > STALL - 10 * MS && stall.lag <= STALL + 10 * MS, "{stall:?}");
        assert_eq!(stall.cause, cause);
    }
    let closed = totals.recent_gates.iter().filter(|event| event.signal == Bound::Lag && !event.open).count() as u64;
    assert_eq!((closed, totals.lag.gate_closed_count), (stalls, stalls));
}

fn names_slow_urls(stalls: &[Stall]) {
    for stall in stalls {
        assert!(stall.url.as_deref().is_some_and(is_slow), "{stall:?}");
    }
}

// H7
#[test]
fn a_hook_that_blocks_is_named_with_its_url() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 20 * MS);
        let totals = run(crawl(&sim, 3000, Thinks(sim.clone()))).await;
        all_are(&totals, StallCause::Hook, 3);
        names_slow_urls(&totals.recent_stalls);
    });
}

// H7
#[test]
fn a_sink_that_blocks_is_named_with_its_url() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 20 * MS);
        let totals = run(crawl(&sim, 3000, item).sink(Blocks(sim.clone()))).await;
        all_are(&totals, StallCause::Sink, 3);
    });
}

// H7
#[test]
fn a_parser_that_blocks_inline_is_named_with_its_url() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 20 * MS);
        let slow = sim.clone();
        let parse = move |page: &Page, out: &mut Output<String>| {
            if is_slow(page.url().as_str()) {
                slow.spend(STALL);
            }
            item(page, out)
        };
        let crawl = Crawl::builder(sim.runtime().with_offload(Inline::new()))
            .profile(Profile::list())
            .requests(futures::stream::iter(urls(3000)))
            .rate(1000.0)
            .parse_with(parse);
        let totals = run(crawl).await;
        all_are(&totals, StallCause::InlineParse, 3);
        names_slow_urls(&totals.recent_stalls);
    });
}

// H7
#[test]
fn a_fetch_whose_poll_takes_long_is_named_with_its_url() {
    Sim::check(0..2, |sim| async move {
        let (runtime, slow) = (sim.runtime(), sim.clone());
        let fetcher = move |request: Request| {
            let (runtime, slow) = (runtime.clone(), slow.clone());
            async move {
                runtime.sleep_until(runtime.now() + 20 * MS).await;
                if is_slow(request.url()) {
                    slow.spend(200 * MS);
                }
                Ok::<_, Error>(Response::new(Head::new(request.target()?, http::StatusCode::OK), "page"))
            }
        };
        let totals = run(crawl(&sim, 2000, item).fetcher(fetcher)).await;
        assert_eq!(totals.stalls, [(StallCause::Fetch.code(), 2)].into());
        names_slow_urls(&totals.recent_stalls);
    });
}

/// Stands still for 300 ms in each second, as a task of the embedder's would.
fn disturb(sim: &Sim, stall: Duration) {
    let foreign = sim.clone();
    sim.spawn(async move {
        loop {
            foreign.sleep(Duration::from_secs(1) - stall).await;
            foreign.spend(stall);
        }
    });
}

// H7
#[test]
fn a_foreign_task_is_named_and_the_crawl_goes_on_within_a_second() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 20 * MS);
        disturb(&sim, STALL);
        let totals = run(crawl(&sim, 3000, item)).await;
        let stalls = totals.stalls[StallCause::ForeignTask.code()];
        all_are(&totals, StallCause::ForeignTask, stalls);
        assert!(totals.recent_stalls.iter().all(|stall| stall.url.is_none()));
        // 3,000 pages at 1,000 a second, 300 ms of each are gone, and the gate opens after 20 beats.
        assert!(totals.elapsed < Duration::from_secs(7), "{:?}", totals.elapsed);
        assert!((3..=7).contains(&stalls), "{stalls}");
    });
}

// H7
#[test]
fn the_gate_is_shut_while_a_stall_lasts() {
    Sim::check(0..4, |sim| async move {
        serve(&sim, 20 * MS);
        let (began, foreign) = (Arc::new(Mutex::new(None)), sim.clone());
        let noted = Arc::clone(&began);
        sim.spawn(async move {
            foreign.sleep(Duration::from_secs(1)).await;
            *noted.lock().expect("not poisoned") = Some(foreign.runtime().wall_clock());
            foreign.spend(STALL);
        });
        // More in flight than the floor, or the gate would not be felt.
        let totals = run(crawl(&sim, 2000, item)).await;
        let [shut, open] = &totals.recent_gates[..] else { panic!("{:?}", totals.recent_gates) };
        assert!(!shut.open && open.open);
        let began = began.lock().expect("not poisoned").expect("it was");
        // Told when the loop goes on, before anything else is begun; closed within 60 ms on the watchdog's thread.
        assert!(totals.lag.gate_closed >= STALL - 60 * MS, "{:?}", totals.lag);
        assert_eq!(shut.at.duration_since(began).expect("later").as_millis(), STALL.as_millis());
    });
}

/// A watch whose system counts a quota.
struct Quota(tidegate::rt::Runtime, Arc<Mutex<Duration>>);

impl Watch for Quota {
    fn watch(&self, after: Duration, look: Look) {
        self.0.watch().expect("a simulation has one").watch(after, look);
    }

    fn throttled(&self) -> Option<Duration> {
        Some(*self.1.lock().expect("not poisoned"))
    }
}

// H7
#[test]
fn a_quota_is_named_and_does_not_shut_the_gate() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 20 * MS);
        let (counter, foreign) = (Arc::new(Mutex::new(Duration::ZERO)), sim.clone());
        let counted = Arc::clone(&counter);
        sim.spawn(async move {
            loop {
                foreign.sleep(300 * MS).await;
                // The watchdog is stopped too, so that the counter is right whenever it looks.
                *counted.lock().expect("not poisoned") += 200 * MS;
                foreign.spend(200 * MS);
            }
        });
        let runtime = sim.runtime().with_watch(Quota(sim.runtime(), counter));
        let crawl = Crawl::builder(runtime)
            .profile(Profile::list())
            .requests(futures::stream::iter(urls(3000)))
            .rate(1000.0)
            .parse_with(item);
        let totals = run(crawl).await;
        assert!(totals.stalls[StallCause::Throttled.code()] >= 6, "{:?}", totals.stalls);
        assert_eq!((totals.stalls.len(), totals.lag.gate_closed_count), (1, 0));
        assert!(totals.elapsed < Duration::from_secs(7), "{:?}", totals.elapsed);
    });
}

// H7
#[test]
fn without_a_watch_a_stall_is_seen_when_it_is_over() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 20 * MS);
        disturb(&sim, STALL);
        let crawl = Crawl::builder(sim.runtime().without_watch())
            .profile(Profile::list())
            .requests(futures::stream::iter(urls(1000)))
            .rate(1000.0)
            .parse_with(item);
        let totals = run(crawl).await;
        all_are(&totals, StallCause::ForeignTask, totals.stalls["foreign_task"]);
    });
}

/// A crawl of one page with these limits, whose server answers after `wait`, disturbed 100 ms after its start by one stall of
/// so long.
fn one_page(limits: Limits, wait: Duration, stall: Duration) -> (Result<Settled, ErrorKind>, Duration) {
    let sim = Sim::new(1);
    serve(&sim, wait);
    let foreign = sim.clone();
    sim.spawn(async move {
        foreign.sleep(100 * MS).await;
        foreign.spend(stall);
    });
    let kept = tidegate::sink::collect();
    let crawl = Crawl::builder(sim.runtime())
        .profile(Profile::list())
        .seed("http://a.test/1")
        .limits(limits)
        .retries(0)
        .outcomes(kept.clone())
        .parse_with(item);
    let report = sim.block_on(crawl.run()).expect("the run ends well");
    let settled: Delivery<Settled> = kept.take().remove(0);
    let result = match &settled.item.outcome {
        Outcome::Ok => Ok(settled.item),
        Outcome::Error(error) => Err(error.kind()),
        other => panic!("{other:?}"),
    };
    (result, report.totals.elapsed)
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::listed();
    change(&mut limits);
    limits
}

// B7
#[test]
fn a_phase_is_put_off_by_the_stall_within_it() {
    let first_byte = |limit| limits(|limits| limits.deadlines.first_byte = limit);
    // 300 ms of which are ours, less what a beat may be late by itself.
    let (answered, _) = one_page(first_byte(500 * MS), 740 * MS, STALL);
    let settled = answered.expect("the server had its time");
    let (local, waited) = (settled.timings.local.expect("known"), settled.timings.first_byte.expect("known"));
    assert!(local >= 285 * MS && local <= STALL, "{local:?}");
    assert!(waited < 460 * MS, "{waited:?}");
    assert_eq!(one_page(first_byte(500 * MS), 840 * MS, STALL).0.unwrap_err(), ErrorKind::TimeoutFirstByte);
    assert_eq!(one_page(first_byte(500 * MS), 740 * MS, Duration::ZERO).0.unwrap_err(), ErrorKind::TimeoutFirstByte);
}

// B7
#[test]
fn a_phase_is_put_off_by_its_own_length_at_most() {
    let first_byte = limits(|limits| limits.deadlines.first_byte = 300 * MS);
    let (late, took) = one_page(first_byte.clone(), 10_000 * MS, 2000 * MS);
    assert_eq!(late.unwrap_err(), ErrorKind::TimeoutFirstByte);
    assert!(took >= 2100 * MS && took <= 2130 * MS, "one more turn, and no more: {took:?}");
    assert!(
        one_page(first_byte, 1900 * MS, 2000 * MS).0.is_ok(),
        "it came during the stall, and is read before the judgement"
    );
}

// B7
#[test]
fn the_total_deadline_is_never_put_off() {
    let total = |limit| limits(|limits| limits.deadlines.total = limit);
    let (late, took) = one_page(total(600 * MS), 900 * MS, STALL);
    assert_eq!(late.unwrap_err(), ErrorKind::TimeoutTotal);
    assert!(took >= 600 * MS && took <= 616 * MS, "{took:?}");
    assert!(one_page(total(600 * MS), 580 * MS, STALL).0.is_ok());
}

// B7 H7
#[test]
fn no_server_is_blamed_for_stalls() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 150 * MS);
        disturb(&sim, STALL);
        let tight = limits(|limits| {
            limits.deadlines.connect = 50 * MS;
            // The simulated servers stand still too.
            limits.deadlines.first_byte = 320 * MS;
            limits.deadlines.idle = 50 * MS;
        });
        let totals = run(crawl(&sim, 2000, item).limits(tight).retries(0)).await;
        assert_eq!(totals.counters.ok, 2000, "{:?}", totals.errors);
    });
}

// H7
#[test]
fn an_idle_crawl_polls_nothing_and_nobody_looks() {
    let sim = Sim::new(1);
    serve(&sim, 20 * MS);
    let (crawl, polls) = sim.block_on(async {
        let (sender, requests) = futures::channel::mpsc::unbounded();
        sender.unbounded_send(Request::get("http://a.test/1")).expect("it is open");
        let crawl = Crawl::builder(sim.runtime())
            .profile(Profile::list())
            .requests(requests)
            .parse_with(item)
            .start()
            .expect("valid");
        sim.sleep(Duration::from_secs(60)).await;
        ((crawl, sender), sim.polls())
    });
    sim.run_for(Duration::from_secs(600));
    // The pool lets its connection go meanwhile.
    assert!(sim.polls() - polls < 20, "{}", sim.polls() - polls);
    drop(crawl);
}

// H7
#[test]
fn a_signal_of_ones_own_shuts_the_gate_and_opens_it() {
    Sim::check(0..2, |sim| async move {
        serve(&sim, 100 * MS);
        let clock = sim.clone();
        let rows = move || if (1..3).contains(&clock.elapsed().as_secs()) { 1.5 } else { 0.2 };
        let totals = run(crawl(&sim, 2000, item).load_signal("rows", rows)).await;
        let gates: Vec<_> = totals.recent_gates.iter().map(|e| (e.signal, e.name.as_str(), e.open)).collect();
        assert_eq!(gates, [(Bound::Signal, "rows", false), (Bound::Signal, "rows", true)]);
        let bound = totals.bounds.iter().find(|share| share.bound == Bound::Signal).expect("it was bound").time;
        assert!(bound > Duration::from_secs(1) && bound < Duration::from_millis(2300), "{bound:?}");
    });
}

#[test]
fn a_signal_may_ask_the_crawl_itself() {
    Sim::check(0..1, |sim| async move {
        serve(&sim, 20 * MS);
        let handle: Arc<OnceLock<Handle>> = Arc::default();
        let own = Arc::clone(&handle);
        let lag = move || own.get().map_or(0.0, |handle: &Handle| handle.snapshot().lag.p50.as_secs_f64());
        let crawl = crawl(&sim, 300, item).load_signal("own lag", lag).start().expect("valid");
        assert!(handle.set(crawl.handle()).is_ok());
        assert_eq!(crawl.await.expect("it ends well").totals.counters.ok, 300);
    });
}

#[test]
fn a_crawl_beyond_its_memory_keeps_the_floor_going() {
    Sim::check(0..1, |sim| async move {
        serve(&sim, 20 * MS);
        let totals = run(crawl(&sim, 300, item).memory_limit(1)).await;
        assert_eq!(totals.counters.ok, 300);
        if cfg!(target_os = "linux") {
            assert!(totals.recent_gates.iter().any(|e| e.signal == Bound::Memory && !e.open));
        }
    });
}
