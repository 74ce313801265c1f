//! Frontiers, the handle, and every way in which a crawl can end.

#[macro_use]
mod common;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use common::{Gate, Seen, TWO, answer, crawl, dally, lock, ms, n, outcomes, settled, tree, wait_for, watched};
use futures::executor::block_on;
use tidegate::rt::Runtime;
use tidegate::{
    Added, Error, ErrorKind, FinishReason, Frontier, FrontierError, LeaseId, Leased, Recurring, Request, Response,
    Shutdown, Verdict,
};

on_all_runtimes!(
    a_graceful_end_finishes_what_is_in_flight_and_returns_the_rest,
    the_end_now_drops_a_hung_fetch,
    the_drain_is_bounded,
    the_drain_after_the_last_page_is_bounded,
    dropping_the_crawl_stops_it,
    links_of_a_drained_page_are_kept,
    pause_holds_and_resume_goes_on,
    the_handle_submits_fetches_and_lists,
    a_cancelled_url_does_not_come_again,
    fetch_after_the_end_says_so,
    a_frontier_that_fails_ends_the_run,
    a_pending_lease_does_not_hold_the_end_up,
    a_slow_stream_loses_nothing,
    a_list_comes_round_again,
    max_time_ends_the_crawl,
    many_crawls_one_after_another,
);

type Ledger = Arc<Mutex<BTreeMap<String, Vec<Verdict>>>>;

/// A frontier that writes down what becomes of each lease, and every URL that it was told of.
#[derive(Default)]
struct Book {
    waiting: VecDeque<Request>,
    leased: BTreeMap<LeaseId, Request>,
    next: u64,
    verdicts: Ledger,
    known: Arc<Mutex<Vec<String>>>,
    /// Where it fails: `lease`, `settle` or `add`, after so many calls.
    fails: Option<(&'static str, u32)>,
}

impl Book {
    fn check(&mut self, call: &str) -> Result<(), FrontierError> {
        match &mut self.fails {
            Some((at, 0)) if *at == call => Err(FrontierError::new(format!("{call}: the disk is full"))),
            Some((at, left)) if *at == call => {
                *left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Frontier for Book {
    async fn lease(&mut self, want: NonZeroU32, _now: SystemTime) -> Result<Leased, FrontierError> {
        self.check("lease")?;
        dally(2).await;
        let mut leased = Leased::default();
        while leased.requests.len() < want.get() as usize {
            let Some(request) = self.waiting.pop_front() else { break };
            self.next += 1;
            self.leased.insert(LeaseId(self.next), request.clone());
            leased.requests.push((LeaseId(self.next), request));
        }
        leased.drained = self.waiting.is_empty();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        self.check("settle")?;
        dally(1).await;
        // One at a time is allowed: what is left is offered again.
        let (lease, verdict) = done.remove(0);
        let request = self.leased.remove(&lease).expect("a lease ends once");
        lock(&self.verdicts).entry(request.url().to_owned()).or_default().push(verdict);
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        self.check("add")?;
        dally(1).await;
        lock(&self.known).extend(found.iter().map(|request| request.url().to_owned()));
        self.waiting.extend(found.drain(..));
        Ok(Added::default())
    }
}

/// Counts its starts and waits at a door. The first page has a link.
fn behind(door: &Gate, seen: &Seen) -> impl tidegate::Fetcher {
    let (door, seen) = (door.clone(), seen.clone());
    move |request: Request| {
        let door = door.clone();
        seen.add(request.url());
        async move {
            door.wait().await;
            let body = if request.url().ends_with("/0") { "=x\n>/child" } else { "=x" };
            Ok::<Response, Error>(answer(&request, 200, body))
        }
    }
}

fn seeds(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|i| format!("http://a.test/{i}"))
}

// K4
fn a_graceful_end_finishes_what_is_in_flight_and_returns_the_rest(runtime: &Runtime) {
    let (door, seen, all, book) = (Gate::default(), Seen::default(), outcomes(), Book::default());
    let verdicts = Arc::clone(&book.verdicts);
    let crawl = crawl(runtime)
        .seeds(seeds(100))
        .frontier(book)
        .max_in_flight(n(7))
        .fetcher(behind(&door, &seen))
        .outcomes(all.clone())
        .start()
        .expect("settings are fine");
    wait_for(|| seen.total() == 7);
    let handle = crawl.handle();
    handle.shutdown(Shutdown::Graceful { within: Duration::from_secs(3600) });
    wait_for(|| handle.snapshot().counters.cancelled == 93);
    door.open();
    let report = block_on(crawl).expect("a stop is no failure");
    settled(&report, &all);
    let c = report.totals.counters;
    assert_eq!((c.ok, c.cancelled, report.finish_reason), (7, 93, FinishReason::Shutdown));
    let verdicts = lock(&verdicts);
    let count = |verdict| verdicts.values().filter(|v| **v == [verdict]).count();
    assert_eq!((count(Verdict::Done), count(Verdict::Return)), (7, 93));
}

fn the_end_now_drops_a_hung_fetch(runtime: &Runtime) {
    let (seen, all, book) = (Seen::default(), outcomes(), Book::default());
    let verdicts = Arc::clone(&book.verdicts);
    let crawl = crawl(runtime)
        .seeds(seeds(100))
        .frontier(book)
        .max_in_flight(n(7))
        .fetcher(behind(&Gate::default(), &seen))
        .outcomes(all.clone())
        .start()
        .expect("settings are fine");
    wait_for(|| seen.total() == 7);
    crawl.handle().shutdown(Shutdown::Graceful { within: Duration::from_secs(3600) });
    crawl.handle().shutdown(Shutdown::Now);
    crawl.handle().shutdown(Shutdown::Graceful { within: Duration::ZERO });
    let report = block_on(crawl).expect("a stop is no failure");
    settled(&report, &all);
    assert_eq!(report.totals.counters.cancelled, 100);
    assert!(lock(&verdicts).values().all(|v| *v == [Verdict::Return]));
    assert_eq!(lock(&verdicts).len(), 100);
}

fn the_drain_is_bounded(runtime: &Runtime) {
    let (seen, all) = (Seen::default(), outcomes());
    let crawl = crawl(runtime)
        .seeds(seeds(10))
        .fetcher(behind(&Gate::default(), &seen))
        .outcomes(all.clone())
        .start()
        .expect("settings are fine");
    wait_for(|| seen.total() == 10);
    crawl.handle().shutdown(Shutdown::Graceful { within: ms(30) });
    let report = block_on(crawl).expect("a stop is no failure");
    settled(&report, &all);
    assert_eq!(report.totals.counters.cancelled, 10);
}

fn the_drain_after_the_last_page_is_bounded(runtime: &Runtime) {
    let (seen, all) = (Seen::default(), outcomes());
    let run = crawl(runtime)
        .seeds(seeds(10))
        .max_pages(4)
        .drain(ms(30))
        .fetcher(behind(&Gate::default(), &seen))
        .outcomes(all.clone())
        .run();
    let report = block_on(run).expect("a stop is no failure");
    settled(&report, &all);
    assert_eq!((seen.total(), report.finish_reason), (4, FinishReason::MaxPages));
}

fn dropping_the_crawl_stops_it(runtime: &Runtime) {
    let (seen, book) = (Seen::default(), Book::default());
    let verdicts = Arc::clone(&book.verdicts);
    let crawl = crawl(runtime)
        .seeds(seeds(50))
        .frontier(book)
        .fetcher(behind(&Gate::default(), &seen))
        .start()
        .expect("settings are fine");
    wait_for(|| seen.total() == 16);
    let handle = crawl.handle();
    drop(crawl);
    wait_for(|| lock(&verdicts).len() == 50);
    assert!(lock(&verdicts).values().all(|v| *v == [Verdict::Return]));
    wait_for(|| handle.submit([]).is_err());
    assert_eq!(block_on(handle.fetch("http://a.test/")).expect_err("ended").kind(), ErrorKind::Shutdown);
}

fn links_of_a_drained_page_are_kept(runtime: &Runtime) {
    let (door, seen, book) = (Gate::default(), Seen::default(), Book::default());
    let known = Arc::clone(&book.known);
    let crawl = crawl(runtime)
        .seed("http://a.test/0")
        .frontier(book)
        .fetcher(behind(&door, &seen))
        .start()
        .expect("settings are fine");
    wait_for(|| seen.total() == 1);
    crawl.handle().shutdown(Shutdown::Graceful { within: Duration::from_secs(3600) });
    door.open();
    let report = block_on(crawl).expect("a stop is no failure");
    assert_eq!(report.totals.counters.ok, 1);
    // The page's lease is done: nobody would find the link again.
    assert_eq!(*lock(&known), ["http://a.test/0", "http://a.test/child"]);
}

fn pause_holds_and_resume_goes_on(runtime: &Runtime) {
    let (door, seen, all) = (Gate::default(), Seen::default(), outcomes());
    let crawl = crawl(runtime)
        .seeds(seeds(200))
        .max_in_flight(n(5))
        .fetcher(behind(&door, &seen))
        .outcomes(all.clone())
        .start()
        .expect("settings are fine");
    let handle = crawl.handle();
    wait_for(|| seen.total() == 5);
    handle.pause();
    // An answer to a later question says that the pause was taken.
    assert_eq!(block_on(handle.hosts(1)).expect("it runs")[0].in_flight, 5);
    door.open();
    wait_for(|| handle.snapshot().counters.ok == 5);
    assert_eq!((seen.total(), block_on(handle.hosts(1)).expect("it runs")[0].in_flight), (5, 0));
    handle.resume();
    let report = block_on(crawl).expect("the run ends well");
    settled(&report, &all);
    assert_eq!(report.totals.counters.ok, 201);
}

fn the_handle_submits_fetches_and_lists(runtime: &Runtime) {
    let (door, all) = (Gate::default(), outcomes());
    let wait = door.clone();
    let fetcher = move |request: Request| {
        let wait = wait.clone();
        async move {
            match request.target()?.path() {
                "/token" => Ok(answer(&request, 403, "a token")),
                "/gone" => Err(Error::new(ErrorKind::DnsNotFound, "ask")),
                _ => {
                    wait.wait().await;
                    Ok(answer(&request, 200, ""))
                }
            }
        }
    };
    let crawl =
        crawl(runtime).seeds(seeds(3)).fetcher(fetcher).outcomes(all.clone()).start().expect("settings are fine");
    let handle = crawl.handle();
    let page = block_on(handle.fetch("http://b.test/token")).expect("any status is an answer");
    assert_eq!((page.status().as_u16(), &*page.utf8()), (403, "a token"));
    let error = block_on(handle.fetch("http://b.test/gone")).expect_err("no such host");
    assert_eq!(error.kind(), ErrorKind::DnsNotFound);
    assert_eq!(block_on(handle.fetch("nonsense")).expect_err("no URL").kind(), ErrorKind::UrlInvalid);
    handle.submit(["http://a.test/1", "http://c.test/new"].map(Request::get)).expect("it runs");
    wait_for(|| {
        let hosts = block_on(handle.hosts(10)).expect("it runs");
        let hosts: Vec<_> = hosts.iter().map(|h| (h.origin.as_str(), h.jobs, h.in_flight)).collect();
        hosts == [("http://a.test", 3, 3), ("http://c.test", 1, 1), ("http://b.test", 0, 0)]
    });
    door.open();
    let report = block_on(crawl).expect("the run ends well");
    settled(&report, &all);
    let c = report.totals.counters;
    assert_eq!((c.submitted, c.ok, c.error), (7, 5, 2));
}

fn a_cancelled_url_does_not_come_again(runtime: &Runtime) {
    let (door, seen, all, book) = (Gate::default(), Seen::default(), outcomes(), Book::default());
    let verdicts = Arc::clone(&book.verdicts);
    let crawl = crawl(runtime)
        .seeds(seeds(20))
        .frontier(book)
        .max_in_flight(n(4))
        .fetcher(behind(&door, &seen))
        .outcomes(all.clone())
        .start()
        .expect("settings are fine");
    let handle = crawl.handle();
    wait_for(|| seen.total() == 4);
    // One digit: some are in flight, some wait.
    let cancelled = block_on(handle.cancel(|request| request.url().len() == "http://a.test/0".len()));
    assert_eq!(cancelled.expect("it runs"), 10);
    door.open();
    let report = block_on(crawl).expect("the run ends well");
    settled(&report, &all);
    assert_eq!(report.totals.counters.cancelled, 10);
    assert!(lock(&verdicts).values().all(|v| v.iter().all(|v| *v == Verdict::Done)));
    assert!(seen.all().values().all(|n| *n == 1));
    assert_eq!(seen.of("http://a.test/9"), 0);
}

fn fetch_after_the_end_says_so(runtime: &Runtime) {
    let crawl = crawl(runtime)
        .seeds(seeds(1))
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .start()
        .expect("settings are fine");
    let handle = crawl.handle();
    let report = block_on(crawl).expect("the run ends well");
    assert_eq!(block_on(handle.fetch("http://a.test/")).expect_err("ended").kind(), ErrorKind::Shutdown);
    assert_eq!(block_on(handle.hosts(1)).expect_err("ended").kind(), ErrorKind::Shutdown);
    assert_eq!(block_on(handle.cancel(|_| true)).expect_err("ended").kind(), ErrorKind::Shutdown);
    assert!(handle.submit([Request::get("http://a.test/")]).is_err());
    handle.pause();
    handle.resume();
    handle.shutdown(Shutdown::Now);
    assert_eq!(handle.snapshot().counters, report.totals.counters);
}

fn a_frontier_that_fails_ends_the_run(runtime: &Runtime) {
    for (at, after) in [("lease", 0), ("lease", 1), ("add", 0), ("add", 5), ("settle", 0), ("settle", 5)] {
        let book = Book { fails: Some((at, after)), ..Book::default() };
        let run = crawl(runtime)
            .seed("http://a.test/0")
            .frontier(book)
            .fetcher(|request: Request| async move { tree(&request, u32::MAX / 4) })
            .sink(tidegate::sink::null())
            .outcomes(outcomes());
        let error = block_on(run.run()).expect_err("the run cannot go on");
        assert_eq!(error.kind(), ErrorKind::FrontierFailed, "{at} {after}");
    }
}

fn a_pending_lease_does_not_hold_the_end_up(runtime: &Runtime) {
    let crawl = crawl(runtime)
        .requests(futures::stream::pending())
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .start()
        .expect("settings are fine");
    crawl.handle().submit([Request::get("http://a.test/0")]).expect("it runs");
    let handle = crawl.handle();
    wait_for(|| handle.snapshot().counters.ok == 1);
    handle.shutdown(Shutdown::Graceful { within: Duration::from_secs(3600) });
    block_on(crawl).expect("a stop is no failure");
}

fn a_slow_stream_loses_nothing(runtime: &Runtime) {
    let all = outcomes();
    let clock = runtime.clone();
    // One URL a millisecond: a lease is pending most of the time, while others settle.
    let stream = futures::stream::unfold((0, clock), |(i, clock)| async move {
        if i == 150 {
            return None;
        }
        clock.sleep_until(clock.now() + ms(1)).await;
        Some((Request::get(format!("http://a.test/{i}")), (i + 1, clock)))
    });
    let run = crawl(runtime)
        .requests(stream)
        .scope(tidegate::Scope::any())
        .fetcher(|request: Request| async move {
            dally(3).await;
            let body = if request.depth() == 0 { ">/link" } else { "" };
            Ok(answer(&request, 200, body))
        })
        .outcomes(all.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &all);
    assert_eq!(report.totals.counters.ok, 300, "nothing is deduplicated: {report}");
}

fn a_list_comes_round_again(runtime: &Runtime) {
    let (seen, all) = (Seen::default(), outcomes());
    let count = seen.clone();
    let list = (0..10).map(|i| Request::head(format!("http://{i}.test/"))).collect();
    let begun = runtime.now();
    let monitor = Recurring::new(list, ms(150), runtime.wall_clock()).with_rounds(3);
    let run = crawl(runtime)
        .frontier(monitor)
        .fetcher(move |request: Request| {
            count.add(request.url());
            async move { Ok(answer(&request, 200, "")) }
        })
        .outcomes(all.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &all);
    // A slot that our own machine was too late for is skipped, so at most three.
    assert!(seen.all().len() == 10 && seen.all().values().all(|n| (1..=3).contains(n)), "{:?}", seen.all());
    assert!(runtime.now() - begun >= ms(435), "the last slot is due then: {report}");
}

fn max_time_ends_the_crawl(runtime: &Runtime) {
    let all = outcomes();
    let run = crawl(runtime)
        .seed("http://a.test/0")
        .max_time(ms(50))
        .fetcher(|request: Request| async move { tree(&request, u32::MAX / 4) })
        .outcomes(all.clone())
        .run();
    let report = block_on(run).expect("a stop is no failure");
    settled(&report, &all);
    assert_eq!(report.finish_reason, FinishReason::MaxTime);
}

// K7
fn many_crawls_one_after_another(runtime: &Runtime) {
    for _ in 0..50 {
        let run = crawl(runtime).seed("http://a.test/0").fetcher(|r: Request| async move { tree(&r, 3) }).run();
        assert_eq!(block_on(run).expect("the run ends well").totals.counters.ok, 3);
    }
}

// K9
#[test]
fn two_crawls_on_two_runtimes_do_not_know_of_each_other() {
    watched("two_crawls_on_two_runtimes_do_not_know_of_each_other", || {
        let (tokio, smol) = (tidegate_tokio::dedicated(), tidegate_smol::dedicated());
        let (tokio, smol) = (tokio.expect("a thread"), smol.expect("a thread"));
        let one = |runtime: &Runtime, size: u32| {
            crawl(runtime).seed("http://a.test/0").fetcher(move |r: Request| async move { tree(&r, size) }).run()
        };
        let (a, b) = block_on(async { futures::join!(one(&tokio, 200), one(&smol, 300)) });
        let (a, b) = (a.expect("the run ends well"), b.expect("the run ends well"));
        assert_eq!((a.totals.counters.ok, b.totals.counters.ok), (200, 300));
        assert_eq!((a.runtime, b.runtime), ("tokio", "smol"));
    });
}

/// A fetch, a sink, a frontier: each is under way when the runtime goes.
fn under_way(runtime: &Runtime, seen: &Seen) -> tidegate::Crawl {
    crawl(runtime)
        .seeds(seeds(50))
        .fetcher(behind(&Gate::default(), seen))
        .sink(tidegate::sink::null())
        .outcomes(outcomes())
        .start()
        .expect("settings are fine")
}

// K5, K6
#[test]
fn a_tokio_runtime_that_is_dropped_ends_the_crawl() {
    watched("a_tokio_runtime_that_is_dropped_ends_the_crawl", || {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let tokio = tokio.expect("threads");
        let seen = Seen::default();
        let crawl = under_way(&tidegate_tokio::from_handle(tokio.handle().clone()), &seen);
        wait_for(|| seen.total() == 16);
        drop(tokio);
        assert_eq!(block_on(crawl).expect_err("it cannot go on").kind(), ErrorKind::Shutdown);
    });
}

// K5, K6
#[test]
fn a_smol_executor_that_is_dropped_ends_the_crawl() {
    watched("a_smol_executor_that_is_dropped_ends_the_crawl", || {
        let executor = Arc::new(async_executor::Executor::new());
        let runtime = tidegate_smol::from_executor(&executor, TWO).expect("descriptors");
        let seen = Seen::default();
        let crawl = under_way(&runtime, &seen);
        block_on(executor.run(std::future::poll_fn(|cx| {
            if seen.total() == 16 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        drop(executor);
        assert_eq!(block_on(crawl).expect_err("it cannot go on").kind(), ErrorKind::Shutdown);
    });
}
