//! Sinks that are slow, fail, refuse or hang, and the stream of items.

#[macro_use]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::{Gate, answer, crawl, dally, lock, ms, outcomes, settled, tree, wait_for};
use futures::StreamExt;
use futures::executor::block_on;
use tidegate::rt::Runtime;
use tidegate::{Batch, Close, Delivery, DeliveryId, Error, ErrorKind, Request, Shutdown, Sink, SinkError};

on_all_runtimes!(
    a_slow_sink_stops_the_fetches,
    a_sink_that_kills_batches_gets_everything_once_by_id,
    rejected_items_fail_their_url_and_nothing_else,
    a_fatal_sink_fails_the_run,
    a_sink_that_panics_fails_the_run,
    a_fatal_sink_of_outcomes_fails_the_run,
    an_error_of_close_fails_the_run,
    a_hung_sink_does_not_hold_the_end_up,
    a_sink_that_asks_for_the_end_of_time_can_be_stopped,
    items_come_as_a_stream,
    items_that_are_dropped_come_again,
    items_may_be_acknowledged_in_batches_and_out_of_order,
    a_dropped_stream_fails_the_run,
    the_sink_is_closed_once_and_told_why,
);

async fn page(request: Request) -> Result<tidegate::Response, Error> {
    dally(1).await;
    let body = format!("=a {0}\n=b {0}\n=c {0}", request.url());
    Ok(answer(&request, 200, body))
}

fn urls(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|i| format!("http://{}.test/{i}", i % 5))
}

/// Takes nothing before the door opens, then one at a time.
struct Slow {
    door: Gate,
    taken: Arc<AtomicU64>,
}

#[async_trait]
impl Sink<String> for Slow {
    async fn deliver(&mut self, batch: &mut Batch<String>) -> Result<(), SinkError> {
        self.door.wait().await;
        batch.pop();
        self.taken.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

// J1
fn a_slow_sink_stops_the_fetches(runtime: &Runtime) {
    const PAGES: u32 = 4000;
    // Deliver permits, the backlog behind them, the permits of the parser, and what is in flight.
    const ROOM: u64 = 256 + 1024 + 64 + 32;
    let (door, taken, fetched, most) = (Gate::default(), Arc::default(), Arc::default(), Arc::default());
    let sink = Slow { door: door.clone(), taken: Arc::clone(&taken) };
    let (taken, count, peak) = (taken, Arc::<AtomicU64>::clone(&fetched), Arc::<AtomicU64>::clone(&most));
    let fetcher = move |request: Request| {
        let fetched = count.fetch_add(1, Ordering::SeqCst) + 1;
        peak.fetch_max(fetched - taken.load(Ordering::SeqCst), Ordering::SeqCst);
        async move { Ok(answer(&request, 200, "=one")) }
    };
    let crawl = crawl(runtime)
        .seeds(urls(PAGES))
        .max_in_flight(common::n(32))
        .fetcher(fetcher)
        .sink(sink)
        .start()
        .expect("settings are fine");
    let handle = crawl.handle();
    wait_for(|| handle.snapshot().bounds.iter().any(|share| share.bound.name() == "sink"));
    door.open();
    let report = block_on(crawl).expect("the run ends well");
    assert_eq!((report.totals.counters.ok, report.totals.items), (u64::from(PAGES), u64::from(PAGES)));
    let most = most.load(Ordering::SeqCst);
    assert!((256..=ROOM).contains(&most), "{most} pages fetched and not taken");
}

/// Fails in every way that is not final, and remembers what it made durable.
struct Killer {
    rng: fastrand::Rng,
    kept: Arc<Mutex<BTreeMap<DeliveryId, String>>>,
    offered: Arc<Mutex<BTreeMap<DeliveryId, (String, u32)>>>,
}

#[async_trait]
impl Sink<String> for Killer {
    async fn deliver(&mut self, batch: &mut Batch<String>) -> Result<(), SinkError> {
        for delivery in batch.iter() {
            let mut offered = lock(&self.offered);
            let (item, times) = offered.entry(delivery.id).or_insert_with(|| (delivery.item.clone(), 0));
            assert_eq!(*item, delivery.item, "an id names one item");
            *times += 1;
        }
        dally(self.rng.u32(..3)).await;
        let part = self.rng.usize(..=batch.len());
        for _ in 0..part {
            let delivery = batch.pop().expect("counted");
            let twice = lock(&self.kept).insert(delivery.id, delivery.item);
            assert_eq!(twice, None, "acknowledged and given again");
        }
        match self.rng.u32(..4) {
            0 => Err(SinkError::retry("lost the connection").after(ms(1))),
            1 => Err(std::io::Error::other("by the question mark").into()).map_err(|e: SinkError| e.after(ms(1))),
            // As it is, with what is new; nothing taken means a wait.
            _ => Ok(()),
        }
    }
}

// J2, J3
fn a_sink_that_kills_batches_gets_everything_once_by_id(runtime: &Runtime) {
    let (kept, offered, all) = (Arc::default(), Arc::default(), outcomes());
    let sink = Killer { rng: fastrand::Rng::with_seed(5), kept: Arc::clone(&kept), offered: Arc::clone(&offered) };
    let run = crawl(runtime).seeds(urls(400)).fetcher(page).sink(sink).outcomes(all.clone()).run();
    let report = block_on(run).expect("the run ends well");
    assert!(settled(&report, &all).iter().all(|s| s.items == 3 && s.outcome.name() == "ok"));
    let kept = lock(&kept);
    assert_eq!((kept.len(), kept.values().collect::<BTreeSet<_>>().len()), (1200, 1200));
    assert!(lock(&offered).values().any(|(_, times)| *times > 1), "the test is of retries");
}

fn rejected_items_fail_their_url_and_nothing_else(runtime: &Runtime) {
    let (kept, all) = (Arc::new(Mutex::new(Vec::new())), outcomes());
    let log = Arc::clone(&kept);
    let sink = move |delivery: &Delivery<String>| {
        if delivery.item.starts_with('b') && delivery.url.ends_with('7') {
            return Err(SinkError::reject("too long for its column"));
        }
        lock(&log).push(delivery.item.clone());
        Ok(())
    };
    let run = crawl(runtime).seeds(urls(50)).fetcher(page).sink(sink).outcomes(all.clone()).run();
    let report = block_on(run).expect("the run ends well");
    let list = settled(&report, &all);
    assert_eq!((report.totals.counters.ok, report.totals.errors.get("sink.rejected")), (45, Some(&5)), "{report}");
    assert!(list.iter().all(|s| s.items == if s.request.url().ends_with('7') { 2 } else { 3 }));
    assert_eq!(lock(&kept).len(), 145);
}

/// Fails for good after some items.
struct Fails {
    after: u32,
    panics: bool,
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for Fails {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        while batch.pop().is_some() {
            if self.after == 0 {
                assert!(!self.panics, "in a sink");
                return Err(SinkError::fatal("disk full"));
            }
            self.after -= 1;
        }
        Ok(())
    }
}

fn kind(result: Result<tidegate::Report, Error>) -> ErrorKind {
    result.expect_err("the run cannot go on").kind()
}

fn a_fatal_sink_fails_the_run(runtime: &Runtime) {
    let endless = |request: Request| async move { tree(&request, u32::MAX / 4) };
    let run = crawl(runtime)
        .seed("http://a.test/0")
        .fetcher(endless)
        .sink(Fails { after: 20, panics: false })
        .outcomes(outcomes());
    assert_eq!(kind(block_on(run.run())), ErrorKind::SinkFailed);
}

fn a_sink_that_panics_fails_the_run(runtime: &Runtime) {
    let endless = |request: Request| async move { tree(&request, u32::MAX / 4) };
    let run = crawl(runtime).seed("http://a.test/0").fetcher(endless).sink(Fails { after: 20, panics: true });
    assert_eq!(kind(block_on(run.run())), ErrorKind::SinkFailed);
}

fn a_fatal_sink_of_outcomes_fails_the_run(runtime: &Runtime) {
    let endless = |request: Request| async move { tree(&request, u32::MAX / 4) };
    let items = tidegate::sink::collect();
    let run = crawl(runtime)
        .seed("http://a.test/0")
        .fetcher(endless)
        .sink(items)
        .outcomes(Fails { after: 20, panics: false });
    assert_eq!(kind(block_on(run.run())), ErrorKind::SinkFailed);
}

/// Writes down how it was closed.
struct Closing {
    why: Arc<Mutex<Vec<Close>>>,
    fails: bool,
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for Closing {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        batch.ack_all();
        Ok(())
    }

    async fn close(&mut self, why: Close) -> Result<(), SinkError> {
        lock(&self.why).push(why);
        if self.fails { Err(SinkError::fatal("fsync")) } else { Ok(()) }
    }
}

fn an_error_of_close_fails_the_run(runtime: &Runtime) {
    let sink = Closing { why: Arc::default(), fails: true };
    let run = crawl(runtime).seeds(urls(5)).fetcher(page).sink(sink).outcomes(outcomes());
    assert_eq!(kind(block_on(run.run())), ErrorKind::SinkFailed);
}

fn the_sink_is_closed_once_and_told_why(runtime: &Runtime) {
    let (items, records) = (Arc::default(), Arc::default());
    let start = |urls: u32| {
        crawl(runtime)
            .seeds(self::urls(urls))
            .fetcher(page)
            .sink(Closing { why: Arc::clone(&items), fails: false })
            .outcomes(Closing { why: Arc::clone(&records), fails: false })
            .start()
            .expect("settings are fine")
    };
    block_on(start(5)).expect("the run ends well");
    let stopped = start(5000);
    stopped.handle().shutdown(Shutdown::Now);
    block_on(stopped).expect("a stop is no failure");
    for log in [items, records] {
        assert_eq!(*lock(&log), [Close::Done, Close::Stopped]);
    }
}

/// Hangs, and says when it is dropped in the middle of that.
struct Hangs(Arc<()>);

#[async_trait]
impl Sink<String> for Hangs {
    async fn deliver(&mut self, _batch: &mut Batch<String>) -> Result<(), SinkError> {
        let _alive = Arc::clone(&self.0);
        std::future::pending().await
    }
}

// J2
fn a_hung_sink_does_not_hold_the_end_up(runtime: &Runtime) {
    let (alive, all) = (Arc::new(()), outcomes());
    let crawl = crawl(runtime)
        .seeds(urls(50))
        .fetcher(page)
        .sink(Hangs(Arc::clone(&alive)))
        .outcomes(all.clone())
        .close_limit(ms(300))
        .start()
        .expect("settings are fine");
    wait_for(|| Arc::strong_count(&alive) == 3);
    crawl.handle().shutdown(Shutdown::Now);
    assert_eq!(kind(block_on(crawl)), ErrorKind::SinkFailed);
    assert!(all.take().iter().all(|d| d.item.outcome.name() == "cancelled"));
    // The delivery is dropped, not left behind for ever.
    wait_for(|| Arc::strong_count(&alive) == 1);
}

fn a_sink_that_asks_for_the_end_of_time_can_be_stopped(runtime: &Runtime) {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let sink = move |_: &Delivery<String>| {
        count.fetch_add(1, Ordering::SeqCst);
        Err(SinkError::retry("never").after(std::time::Duration::MAX))
    };
    let crawl = crawl(runtime).close_limit(ms(300)).seeds(urls(5)).fetcher(page).sink(sink).start();
    let crawl = crawl.expect("settings are fine");
    wait_for(|| asked.load(Ordering::SeqCst) > 0);
    drop(crawl.handle());
    crawl.handle().shutdown(Shutdown::Now);
    assert_eq!(kind(block_on(crawl)), ErrorKind::SinkFailed);
}

fn items_come_as_a_stream(runtime: &Runtime) {
    let all = outcomes();
    let (crawl, mut items) =
        crawl(runtime).seeds(urls(300)).fetcher(page).outcomes(all.clone()).items().expect("settings are fine");
    let mut ids = BTreeSet::new();
    block_on(async {
        while let Some(item) = items.next().await {
            assert!(item.delivery().item.len() > 2);
            assert!(ids.insert(item.ack().id));
        }
    });
    let report = block_on(crawl).expect("the run ends well");
    assert_eq!((ids.len(), settled(&report, &all).len(), report.totals.items), (900, 300, 900));
}

fn items_that_are_dropped_come_again(runtime: &Runtime) {
    let (crawl, mut items) = crawl(runtime).seeds(urls(100)).fetcher(page).items().expect("settings are fine");
    let mut times: BTreeMap<DeliveryId, u32> = BTreeMap::new();
    block_on(async {
        while let Some(item) = items.next().await {
            let times = times.entry(item.delivery().id).or_insert(0);
            *times += 1;
            if *times == 3 {
                item.ack();
            }
        }
    });
    let report = block_on(crawl).expect("the run ends well");
    assert_eq!((report.totals.counters.ok, report.totals.items), (100, 300));
    assert!(times.len() == 300 && times.values().all(|n| *n == 3));
}

fn items_may_be_acknowledged_in_batches_and_out_of_order(runtime: &Runtime) {
    let all = outcomes();
    let (crawl, items) =
        crawl(runtime).seeds(urls(100)).fetcher(page).outcomes(all.clone()).items().expect("settings are fine");
    let settled_before_ack = block_on(async {
        let mut chunks = items.chunks(75);
        let mut early = 0;
        while let Some(mut chunk) = chunks.next().await {
            assert_eq!(chunk.len(), 75);
            let last = chunk.split_off(74);
            chunk.into_iter().rev().for_each(|item| drop(item.ack()));
            // The URL of the last one is not settled before it is acknowledged.
            let url = last[0].delivery().url.clone();
            early += all.take().iter().filter(|d| d.url == url).count();
            last.into_iter().for_each(|item| drop(item.ack()));
        }
        early
    });
    assert_eq!(settled_before_ack, 0);
    assert_eq!(block_on(crawl).expect("the run ends well").totals.counters.ok, 100);
}

fn a_dropped_stream_fails_the_run(runtime: &Runtime) {
    let (crawl, mut items) = crawl(runtime).seeds(urls(100)).fetcher(page).items().expect("settings are fine");
    let held = block_on(items.next()).expect("an item");
    drop(items);
    assert_eq!(kind(block_on(crawl)), ErrorKind::SinkFailed);
    drop(held);
}
