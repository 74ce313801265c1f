//! Sinks that hang, and sinks that ask the crawl for something, in a simulated world.
#![cfg(feature = "http")]

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tidegate::robots::Robots;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{
    Batch, Builder, Close, Crawl, Handle, Output, Page, ParseError, Profile, Request, Scope, Sink, SinkError,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn one_item(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    out.item(page.url().path().to_owned());
    Ok(())
}

/// Every host has every page.
fn crawl(sim: &Sim, urls: usize) -> Builder<String> {
    sim.net().hosts_by(|_| Some(Host::http(|_| Reply::ok("page"))));
    let seeds = (0..urls).map(|n| Request::get(format!("http://h{}.test/{n}", n % 10)));
    Crawl::builder(sim.runtime()).profile(Profile::list()).scope(Scope::any()).parse_with(one_item).seeds(seeds)
}

/// Takes one item at a time, each after `pause`; as `told`, how often it was closed and why.
struct Slow {
    sim: Sim,
    pause: Duration,
    told: &'static AtomicUsize,
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for Slow {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        while !batch.is_empty() {
            self.sim.sleep(self.pause).await;
            batch.pop();
        }
        Ok(())
    }

    async fn close(&mut self, why: Close) -> Result<(), SinkError> {
        self.told.store(why as usize + 1, Ordering::Relaxed);
        Ok(())
    }
}

// J1, J2
#[test]
fn a_sink_that_takes_nothing_for_too_long_ends_the_crawl_and_a_slow_one_does_not() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    for (pause, ends_well) in [(SECOND * 20, true), (SECOND * 20 + MS, false)] {
        for of_outcomes in [false, true] {
            Sim::check(0..2, |sim| async move {
                let slow = Slow { sim: sim.clone(), pause, told: &TOLD };
                let crawl = crawl(&sim, 30).sink_limit(SECOND * 20);
                let crawl = if of_outcomes { crawl.outcomes(slow) } else { crawl.sink(slow) };
                let result = crawl.run().await;
                let why = TOLD.swap(0, Ordering::Relaxed);
                if ends_well {
                    assert_eq!(
                        (result.expect("it is only slow").totals.counters.ok, why),
                        (30, Close::Done as usize + 1)
                    );
                    assert!(sim.elapsed() >= SECOND * 600);
                } else {
                    let error = result.expect_err("it hangs");
                    assert_eq!((error.kind().code(), why), ("sink.failed", Close::Failed as usize + 1), "{error:?}");
                    assert!(sim.elapsed() < SECOND * 22, "{:?}", sim.elapsed());
                }
            });
        }
    }
}

/// Asks the crawl for two pages with each of its first batches before it takes them.
#[derive(Clone)]
struct Asks {
    crawl: Arc<OnceLock<Handle>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for Asks {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        let number = self.asked.load(Ordering::Relaxed);
        // The outcomes of what it asks for come to it as well.
        if number == 10 {
            batch.ack_all();
            return Ok(());
        }
        self.asked.store(number + 1, Ordering::Relaxed);
        // Hosts that are known, and one that is not.
        for url in [format!("http://h{}.test/asked/{number}", number % 10), format!("http://new{number}.test/")] {
            let page = self.crawl.get().expect("it has started").fetch(url).await?;
            assert_eq!(page.utf8(), "page");
        }
        batch.ack_all();
        Ok(())
    }
}

// J1
#[test]
fn a_sink_may_ask_the_crawl_for_a_page_whatever_waits_for_it() {
    type Change = fn(Builder<String>) -> Builder<String>;
    let changes: [Change; 5] = [
        |crawl| crawl,
        |crawl| crawl.byte_budget(1),
        |crawl| crawl.load_signal("rows", || 1.5),
        |crawl| crawl.max_in_flight(NonZeroU32::MIN),
        |crawl| crawl.host_policy(Robots::new()).byte_budget(1).max_in_flight_per_host(NonZeroU32::new(1)),
    ];
    for change in changes {
        for of_outcomes in [false, true] {
            Sim::check(0..2, |sim| async move {
                let asks = Asks { crawl: Arc::default(), asked: Arc::default() };
                let crawl = change(crawl(&sim, 400));
                let crawl = if of_outcomes { crawl.outcomes(asks.clone()) } else { crawl.sink(asks.clone()) };
                let crawl = crawl.start().expect("valid");
                asks.crawl.set(crawl.handle()).expect("once");
                let report = crawl.await.expect("it ends well");
                let asked = 2 * asks.asked.load(Ordering::Relaxed) as u64;
                assert_eq!((report.totals.counters.ok, report.totals.counters.error), (400 + asked, 0), "{report}");
            });
        }
    }
}
