//! Crawls, and the futures of their handles and items, are dropped after every poll of anything; and at every poll a crawl
//! is shut down, paused, loses URLs, or loses its runtime. Tasks, sockets, booked bytes, permits and leases are back each
//! time, and each URL has one outcome.
#![cfg(feature = "http")]

mod audit;

use std::future::Future;
use std::sync::Arc;

use audit::cancel::cancel_at_every_poll;
use audit::{Audit, CLEAN, MS};
use futures::lock::Mutex;
use futures::{FutureExt, StreamExt};
use tidegate::http::HttpFetcher;
use tidegate::sim::Sim;
use tidegate::{Crawl, Error, ErrorKind, FinishReason, Handle, Items, Report, Request, Shutdown, Verdict};

const OWN: &str = "http://b.test/own";

/// A crawl of the site, and the hands on it.
struct Crawling {
    audit: Audit,
    fetcher: HttpFetcher,
    handle: Handle,
    crawl: Arc<Mutex<Crawl>>,
}

impl Crawling {
    fn begin(sim: &Sim) -> Self {
        audit::site(sim);
        let (audit, fetcher) = (Audit::default(), audit::fetcher(sim));
        let crawl = audit.crawl_to_sink(sim, fetcher.clone()).start().expect("valid");
        Self::new(audit, fetcher, crawl)
    }

    fn begin_with_items(sim: &Sim) -> (Self, Arc<Mutex<Items<String>>>) {
        audit::site(sim);
        let (audit, fetcher) = (Audit::default(), audit::fetcher(sim));
        let (crawl, items) = audit.crawl(sim, fetcher.clone()).items().expect("valid");
        (Self::new(audit, fetcher, crawl), Arc::new(Mutex::new(items)))
    }

    fn new(audit: Audit, fetcher: HttpFetcher, crawl: Crawl) -> Self {
        Self { handle: crawl.handle(), crawl: Arc::new(Mutex::new(crawl)), audit, fetcher }
    }

    /// Awaits the crawl by reference, and does something where that is dropped.
    fn wait_then<F: FnOnce() + Send + 'static>(
        &self,
        then: F,
    ) -> impl Future<Output = Result<Report, Error>> + Send + use<F> {
        let (crawl, then) = (Arc::clone(&self.crawl), OnDrop(Some(then)));
        async move {
            let _then = then;
            (&mut *crawl.lock().await).await
        }
    }

    /// The crawl has its report, or goes on to it; then everything is back.
    fn finish(self, sim: &Sim, report: Option<Result<Report, Error>>, cancelled: Verdict) -> Result<Report, Error> {
        let report = report.unwrap_or_else(|| sim.block_on(async { (&mut *self.crawl.lock().await).await }));
        drop(self.crawl);
        audit::assert_nothing_left(sim, Some(&self.handle), self.fetcher);
        self.audit.assert_conserved(&self.handle, cancelled);
        report
    }

    /// As [`finish`](Self::finish), and nothing is to be seen in the outcomes.
    fn finish_clean(self, sim: &Sim, report: Option<Result<Report, Error>>) {
        let audit = self.audit.clone();
        self.finish(sim, report, Verdict::Return).expect("it goes on");
        let mut told = audit.told();
        told.retain(|told| told.url != OWN);
        let told: Vec<_> = told.iter().map(|t| (t.url.as_str(), t.outcome, t.attempts, t.items)).collect();
        assert_eq!(told, CLEAN);
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

/// Dropped, it gives back all that it has.
#[test]
fn a_crawl() {
    let make_world = |sim: &Sim| {
        audit::site(sim);
        let (audit, fetcher) = (Audit::default(), audit::fetcher(sim));
        let crawl = audit.crawl_to_sink(sim, fetcher.clone()).start().expect("valid");
        (audit, fetcher, crawl.handle(), std::sync::Mutex::new(Some(crawl)))
    };
    type World = (Audit, HttpFetcher, Handle, std::sync::Mutex<Option<Crawl>>);
    cancel_at_every_poll(
        "crawl",
        make_world,
        |_, world: &World| world.3.lock().expect("one thread").take().expect("made once"),
        |sim, (audit, fetcher, handle, _), report| {
            assert!(report.is_none_or(|report| report.is_ok()));
            audit::assert_nothing_left(sim, Some(&handle), fetcher);
            audit.assert_conserved(&handle, Verdict::Return);
        },
    );
}

/// One that waits for its frontier. What it gives back when it ends is not leased once more.
#[test]
fn a_crawl_of_a_stream_that_does_not_end() {
    type World = (Audit, HttpFetcher, Handle, std::sync::Mutex<Option<Crawl>>);
    for (what, ends) in
        [("crawl of a stream, in time", FinishReason::MaxTime), ("crawl of a stream, in pages", FinishReason::MaxPages)]
    {
        cancel_at_every_poll(
            what,
            |sim| {
                audit::site(sim);
                let (audit, fetcher) = (Audit::default(), audit::fetcher(sim));
                let some = ["http://b.test/landed", OWN].map(Request::get);
                let stream = futures::stream::iter(some).chain(futures::stream::pending());
                let crawl = audit.crawl_to_sink(sim, fetcher.clone()).requests(stream);
                let in_time = ends == FinishReason::MaxTime;
                let crawl = if in_time { crawl.max_time(MS * 200) } else { crawl.max_pages(2) };
                let crawl = crawl.start().expect("valid");
                (audit, fetcher, crawl.handle(), std::sync::Mutex::new(Some(crawl)))
            },
            |_, world: &World| world.3.lock().expect("one thread").take().expect("made once"),
            |sim, (audit, fetcher, handle, _), report| {
                let reason = report.map(|report| report.expect("it ends well").finish_reason);
                assert!(reason.is_none_or(|reason| reason == ends));
                audit::assert_nothing_left(sim, Some(&handle), fetcher);
                audit.assert_counted(&handle);
            },
        );
    }
}

/// Awaited by reference it is only looked at.
#[test]
fn a_crawl_that_is_awaited_by_reference() {
    cancel_at_every_poll(
        "crawl by reference",
        Crawling::begin,
        |_, world| world.wait_then(|| {}),
        |sim, world, report| world.finish_clean(sim, report),
    );
}

#[test]
fn a_crawl_that_is_shut_down() {
    for (what, how) in [
        ("shutdown now", Shutdown::Now),
        ("shutdown in 10 ms", Shutdown::Graceful { within: MS * 10 }),
        ("shutdown in time", Shutdown::Graceful { within: audit::REST }),
    ] {
        cancel_at_every_poll(
            what,
            Crawling::begin,
            |_, world| {
                let handle = world.handle.clone();
                world.wait_then(move || handle.shutdown(how))
            },
            |sim, world, report| {
                let report = world.finish(sim, report, Verdict::Return).expect("it ends well");
                assert!(matches!(report.finish_reason, FinishReason::Shutdown | FinishReason::Done));
            },
        );
    }
}

/// All its permits are there when it goes on.
#[test]
fn a_crawl_that_is_paused() {
    cancel_at_every_poll(
        "pause",
        Crawling::begin,
        |_, world| {
            let handle = world.handle.clone();
            world.wait_then(move || handle.pause())
        },
        |sim, world, report| {
            sim.run_for(audit::REST);
            let counters = world.handle.snapshot().counters;
            assert_eq!((counters.in_flight, counters.parsing), (0, 0));
            assert_eq!(world.handle.snapshot().bytes_in_memory, 0);
            world.handle.resume();
            world.finish_clean(sim, report);
        },
    );
}

/// What is cancelled by the embedder is done with, and the rest goes on with all permits.
#[test]
fn urls_that_are_cancelled() {
    for (what, part) in [("cancel all", "http"), ("cancel some", "r")] {
        cancel_at_every_poll(
            what,
            Crawling::begin,
            |_, world| {
                let handle = world.handle.clone();
                let cancel = move || {
                    let cancelled = handle.cancel(move |request| request.url().contains(part));
                    assert!(cancelled.now_or_never().is_none_or(|answer| answer.is_err()), "nobody has answered yet");
                };
                world.wait_then(cancel)
            },
            |sim, world, report| {
                let report = world.finish(sim, report, Verdict::Done).expect("it goes on");
                assert_eq!(report.finish_reason, FinishReason::Done);
            },
        );
    }
}

/// Nobody waits for the answer, and the crawl goes on.
#[test]
fn questions_to_a_handle() {
    cancel_at_every_poll(
        "hosts",
        Crawling::begin,
        |_, world| {
            let handle = world.handle.clone();
            async move { handle.hosts(9).await }
        },
        |sim, world, hosts| {
            assert!(hosts.is_none_or(|hosts| hosts.is_ok()));
            world.finish_clean(sim, None);
        },
    );
    cancel_at_every_poll(
        "fetch by a handle",
        Crawling::begin,
        |_, world| {
            let handle = world.handle.clone();
            async move { handle.fetch(OWN).await }
        },
        |sim, world, page| {
            let answered = page.is_some();
            assert!(page.is_none_or(|page| page.expect("any status is an answer").status().as_u16() == 404));
            let audit = world.audit.clone();
            world.finish_clean(sim, None);
            let own: Vec<_> = audit.told().into_iter().filter(|told| told.url == OWN).collect();
            assert!(own.len() >= usize::from(answered) && own.iter().all(|told| told.outcome == "ok"), "{own:?}");
        },
    );
}

async fn consume(sim: Sim, audit: Audit, items: Arc<Mutex<Items<String>>>) {
    while let Some(item) = items.lock().await.next().await {
        sim.sleep(MS).await;
        audit.take_item(&item.ack());
    }
}

/// An item that was dropped comes again.
#[test]
fn a_consumer_of_items() {
    cancel_at_every_poll(
        "items",
        Crawling::begin_with_items,
        |sim, (world, items)| consume(sim.clone(), world.audit.clone(), Arc::clone(items)),
        |sim, (world, items), _| {
            sim.spawn(consume(sim.clone(), world.audit.clone(), items));
            world.finish_clean(sim, None);
        },
    );
}

/// A crawl whose stream of items is dropped fails, and gives back what it had.
#[test]
fn a_consumer_of_items_that_gives_up() {
    cancel_at_every_poll(
        "items, given up",
        |sim| {
            let (world, items) = Crawling::begin_with_items(sim);
            (world, std::sync::Mutex::new(Some(items)))
        },
        |sim, (world, items)| {
            let items = items.lock().expect("one thread").take().expect("made once");
            consume(sim.clone(), world.audit.clone(), items)
        },
        |sim, (world, _), consumed| {
            let audit = world.audit.clone();
            match world.finish(sim, None, Verdict::Return) {
                Ok(_) => assert!(audit.told().iter().all(|told| told.outcome != "cancelled")),
                Err(error) => assert_eq!((error.kind(), consumed), (ErrorKind::SinkFailed, None), "{error}"),
            }
        },
    );
}

// K5
#[test]
fn a_crawl_whose_runtime_ends() {
    cancel_at_every_poll(
        "end of the runtime",
        Crawling::begin,
        |_, world| world.wait_then(|| {}),
        |sim, world, report| {
            sim.end();
            let report = report.or_else(|| async { (&mut *world.crawl.lock().await).await }.now_or_never());
            match report.expect("nobody else could end it any more") {
                Ok(_) => world.audit.assert_conserved(&world.handle, Verdict::Return),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Shutdown),
            }
            world.audit.assert_nothing_twice();
            assert_eq!((sim.tasks(), world.handle.snapshot().bytes_in_memory), (0, 0));
        },
    );
}
