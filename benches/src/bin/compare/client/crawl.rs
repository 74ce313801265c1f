//! A whole crawl of tidegate: requests from a stream, engine, fetch loop, lag and telemetry, a parser, and a sink that counts. A
//! parser that does nothing is inline, which is what one that takes no time is worth; one that finds links has the usual pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::stream::{self, Stream, StreamExt as _};
use tidegate::rt::{Inline, Runtime};
use tidegate::sink::Delivery;
use tidegate::{Crawl, Outcome, Output, Page, ParseError, Profile, Request, Settled, Shutdown, SinkError};
use tidegate_benches::Ticker;

use super::tidegate::{fetcher, limits, most, request};
use super::workers::{OPENING, PACE, due, finish};
use crate::Failure;
use crate::meter::{self, Meter};
use crate::work::Work;

pub(super) async fn run(work: &Work, runtime: &Runtime) -> Result<(), Failure> {
    let runtime = if work.parse { runtime.clone() } else { runtime.clone().with_offload(Inline::new()) };
    let links = work.parse.then(|| Arc::new(AtomicU64::new(0)));
    let found = links.clone();
    let parser = move |page: &Page, _: &mut Output<()>| -> Result<(), ParseError> {
        if let Some(found) = &found {
            found.fetch_add(tidegate_parse::links(page)?.iter().count() as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    let fetcher = fetcher(work, &runtime)?;
    let requests = requests(work, &runtime);
    let ticker = work.ticker.then(|| Ticker::start(&runtime));
    let meter = Arc::new(Meter::begin()?);
    let (all_done, done) = futures::channel::oneshot::channel();
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(most(work))
        .max_in_flight_per_host(None)
        .adaptive(false)
        .max_in_flight_per_address(None)
        .retries(0)
        .limits(limits())
        .requests(requests)
        .fetcher(fetcher.clone())
        .parse_with(parser)
        .outcomes(counting(Arc::clone(&meter), work.requests, all_done))
        .start()?;
    let handle = crawl.handle();
    runtime.spawn(async move {
        // The dripping ones have no end.
        if done.await.is_ok() {
            handle.shutdown(Shutdown::Now);
        }
    });
    let report = crawl.await?;
    let mut measured = meter.end();
    let totals = report.totals;
    measured.seen.extend(links.map(|links| ("links".into(), links.load(Ordering::Relaxed) as f64)));
    measured.seen.insert("gate_closed".into(), totals.lag.gate_closed_count as f64);
    measured.seen.insert("in_flight".into(), totals.littles_law.l);
    measured.seen.extend(totals.littles_law.ratio.map(|ratio| ("littles_law".into(), ratio)));
    finish(&mut measured, ticker, work, &runtime).await?;
    Ok(meter::report(measured)?)
}

/// A sink that writes each outcome down, and says when the last one of the work has come.
fn counting(
    meter: Arc<Meter>,
    mut left: u64,
    all_done: futures::channel::oneshot::Sender<()>,
) -> impl FnMut(&Delivery<Settled>) -> Result<(), SinkError> {
    let mut all_done = Some(all_done);
    move |delivery| {
        let settled = &delivery.item;
        match &settled.outcome {
            Outcome::Ok => meter.took(settled.timings.total.unwrap_or_default(), settled.bytes),
            Outcome::Error(e) => meter.failed(crate::chain(e)),
            // The dripping ones, when all others are done; a run that lacks answers is seen by their number.
            _ => return Ok(()),
        }
        left = left.saturating_sub(1);
        if left == 0
            && let Some(all_done) = all_done.take()
        {
            // Nobody waits where the crawl has ended.
            let _ = all_done.send(());
        }
        Ok(())
    }
}

/// The dripping ones first, then the others, at the rate where there is one.
fn requests(work: &Work, runtime: &Runtime) -> impl Stream<Item = Request> + Send + 'static {
    let (urls, requests, rate, dripping) = (work.urls(), work.requests, work.rate, work.dripping);
    let drips: Vec<_> = (0..u64::from(dripping)).map(|n| request(work, &work.dripping_url(n))).collect();
    let (opening, pacing) = (runtime.clone(), runtime.clone());
    let begun = stream::once(async move {
        if dripping > 0 {
            opening.sleep_until(opening.now() + OPENING).await;
        }
        opening.now()
    });
    let others = begun.flat_map(move |begun| {
        let pacing = pacing.clone();
        stream::iter(0..requests).then(move |n| wait_for_turn(n, rate, begun, pacing.clone()))
    });
    stream::iter(drips).chain(others.map(move |n| Request::get(&urls[n as usize % urls.len()])))
}

async fn wait_for_turn(n: u64, rate: Option<f64>, begun: Instant, runtime: Runtime) -> u64 {
    while rate.is_some_and(|rate| due(runtime.now().saturating_duration_since(begun), rate) <= n) {
        runtime.sleep_until(runtime.now() + PACE).await;
    }
    n
}
