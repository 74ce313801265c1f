//! Sinks that hang, and sinks that ask the crawl for something, in a simulated world.
#![cfg(feature = "http")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{Batch, Builder, Close, Crawl, Output, Page, ParseError, Profile, Request, Scope, Sink, SinkError};

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
