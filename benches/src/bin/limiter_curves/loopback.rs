//! The degrading server as a real one: a crawl over loopback, measured from within its fetcher.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::available_parallelism;
use std::time::Duration;

use async_trait::async_trait;
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{
    BoundShare, Crawl, Error, FetchCx, Fetcher, Ledger, Output, Page, ParseError, Profile, Report, Request, Response,
    raise_descriptor_limit,
};
use tidegate_benches::{ServerProcess, keep_to_cores};

use crate::measure::{Measures, Recorder, SAMPLE};
use crate::policy::{MOST, Policy};
use crate::scenario::{Name, Scenario};
use crate::{Failure, table};

/// Prints a line for each policy that is the engine's.
pub(crate) fn run(seconds: u32, policy: &str) -> Result<(), Failure> {
    let scenario = Scenario { length: Duration::from_secs(seconds.into()), ..Name::Degrading.scenario() };
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let last = available_parallelism()?.get() - 1;
    keep_to_cores(0..last.max(1))?;
    let runtime = tidegate_tokio::dedicated()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table::HEAD)?;
    for policy in Policy::ALL.into_iter().filter(|p| *p != Policy::Crawlee && p.text().starts_with(policy)) {
        let limits = &scenario.limits;
        let numbers = [limits.slots.to_string(), limits.slowdown.to_string(), limits.service.as_millis().to_string()];
        let [slots, slowdown, delay] = &numbers;
        let cores = last.to_string();
        let server = ServerProcess::start([
            "--slots",
            slots,
            "--slowdown",
            slowdown,
            "--delay-ms",
            delay,
            "--bytes",
            "1024",
            "--cores",
            &cores,
        ])?;
        let (measures, bounds) = measure(&runtime, &scenario, policy, &format!("http://{}", server.addr()))?;
        writeln!(out, "{}", table::line("loopback", &policy.text(), &measures))?;
        writeln!(out, "{:<10} {:<10} bound by {bounds}", "", "")?;
        out.flush()?;
    }
    Ok(())
}

fn measure(
    runtime: &Runtime,
    scenario: &Scenario,
    policy: Policy,
    origin: &str,
) -> Result<(Measures, String), Failure> {
    let watch = Arc::new(Watch {
        in_flight: AtomicU32::new(0),
        ended: Mutex::default(),
        inner: HttpFetcher::builder(runtime)
            .pool_max_idle(MOST as usize)
            .pool_max_idle_per_host(MOST as usize)
            .build()?,
    });
    let origin = origin.to_owned();
    let requests = (0_u64..).map(move |n| Request::get(format!("{origin}/{n}")));
    let builder = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .delay(Duration::ZERO)
        .requests(futures::stream::iter(requests))
        .max_time(scenario.length)
        .drain(Duration::ZERO)
        .fetcher(Shared(Arc::clone(&watch)))
        .parse_with(|_: &Page, _: &mut Output<()>| -> Result<(), ParseError> { Ok(()) });
    let crawl = match policy {
        Policy::Fixed(limit) => builder.max_in_flight(NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN)),
        Policy::Tidegate | Policy::Crawlee => {
            builder.adaptive(true).breaker(NonZeroU32::new(16), Duration::from_secs(60))
        }
    }
    .start()?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    let mut recorder = Recorder::new(scenario);
    let began = runtime.now();
    let samples = (scenario.length.as_nanos() / SAMPLE.as_nanos()) as u32;
    let a_bucket = (scenario.bucket.as_nanos() / SAMPLE.as_nanos()) as u32;
    for sample in 1..=samples {
        let time = SAMPLE * sample;
        sleep_until(runtime, began + time)?;
        for ended in std::mem::take(&mut *watch.ended()) {
            match ended {
                Ok(latency) => recorder.page(time, latency),
                Err(()) => recorder.failures += 1,
            }
        }
        recorder.sample(watch.in_flight.load(Ordering::Relaxed));
        if sample.is_multiple_of(a_bucket) {
            recorder.close_bucket();
        }
    }
    let Report { totals, .. } = report.recv()??;
    recorder.sent = totals.counters.starts;
    recorder.first = totals.counters.starts - totals.counters.retries;
    let share = |of: &BoundShare| format!("{} {:.0} %", of.bound.name(), of.share * 100.0);
    let bounds: Vec<_> = totals.bounds.iter().take(2).map(share).collect();
    Ok((recorder.finish(scenario, totals.counters.error).1, bounds.join(", ")))
}

/// Sleeps on the runtime's timer.
fn sleep_until(runtime: &Runtime, time: std::time::Instant) -> Result<(), Failure> {
    let (done, is_done) = mpsc::channel();
    let sleep = runtime.sleep_until(time);
    runtime.spawn(async move {
        sleep.await;
        // The receiver waits below.
        let _ = done.send(());
    });
    Ok(is_done.recv()?)
}

/// The HTTP fetcher, with an eye on what is in flight and how long it takes.
struct Watch {
    in_flight: AtomicU32,
    /// Latencies, and failures, since they were taken last.
    ended: Mutex<Vec<Result<Duration, ()>>>,
    inner: HttpFetcher,
}

impl Watch {
    fn ended(&self) -> MutexGuard<'_, Vec<Result<Duration, ()>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a fetch for as long as it lives.
struct InFlight<'a>(&'a AtomicU32);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Shared(Arc<Watch>);

#[async_trait]
impl Fetcher for Shared {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(&self.0.in_flight);
        let began = cx.now();
        let result = self.0.inner.fetch(request, cx).await;
        let latency = cx.now().saturating_duration_since(began);
        drop(in_flight);
        self.0.ended().push(result.as_ref().map(|_| latency).map_err(drop));
        result
    }

    async fn resolve(&self, target: &url::Url, cx: &FetchCx) -> Result<Option<std::net::IpAddr>, Error> {
        self.0.inner.resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.0.inner.ledger()
    }
}
