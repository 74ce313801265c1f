//! The degrading server as a real one: a crawl over loopback, measured from within its fetcher.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::StatusCode;
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{
    BoundShare, Crawl, Error, FetchCx, Fetcher, Ledger, Output, Page, ParseError, Profile, Report, Request, Response,
    raise_descriptor_limit,
};
use tidegate_benches::{ServerProcess, keep_to_cores};

use crate::measure::{Measures, Recorder, SAMPLE};
use crate::policy::{MOST, Policy};
use crate::scenario::{Change, Name, Scenario};
use crate::server::Limits;
use crate::{Failure, table};

/// How long a server that never changes is crawled.
const SHORT: Duration = Duration::from_secs(15);

/// Prints a line for each scenario and policy that is the engine's.
pub(crate) fn run(names: &[Name], down: Duration, length: Option<Duration>, policy: &str) -> Result<(), Failure> {
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let last = available_parallelism()?.get() - 1;
    keep_to_cores(0..last.max(1))?;
    let runtime = tidegate_tokio::dedicated()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table::HEAD)?;
    for name in names {
        let mut scenario = name.scenario(down);
        if scenario.hosts > 1 || scenario.changes.iter().any(|(_, change)| !matches!(change, Change::Down(_))) {
            return Err(format!("{} is no scenario for a real server", name.text()).into());
        }
        scenario.length = length.unwrap_or(if *name == Name::Degrading { SHORT } else { scenario.length });
        for policy in Policy::ALL.into_iter().filter(|p| *p != Policy::Crawlee && p.text().starts_with(policy)) {
            let server = ServerProcess::start(arguments(&scenario, last))?;
            let (measures, bounds) = measure(&runtime, &scenario, policy, &format!("http://{}", server.addr()))?;
            writeln!(out, "{}", table::line(name.text(), &policy.text(), &measures))?;
            writeln!(out, "{:<10} {:<10} bound by {bounds}", "", "")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// What makes a load server one of this scenario.
fn arguments(scenario: &Scenario, core: usize) -> Vec<String> {
    let Limits { slots, service, slowdown, per_second, retry_after, .. } = &scenario.limits;
    let (from, until) = scenario.fault.unwrap_or_default();
    let numbers = [
        ("--slots", if *slots == u32::MAX { 0 } else { *slots }.into()),
        ("--delay-ms", service.as_millis() as u64),
        ("--per-second", per_second.unwrap_or_default().into()),
        ("--down-from", from.as_secs()),
        ("--down-for", (until - from).as_secs()),
        ("--bytes", 1024),
        ("--cores", core as u64),
    ];
    let wait = retry_after.map(|wait| ("--retry-after", wait.as_secs()));
    let numbers = numbers.into_iter().chain(wait).flat_map(|(name, number)| [name.to_owned(), number.to_string()]);
    numbers.chain(["--slowdown".to_owned(), slowdown.to_string()]).collect()
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
        refused: Mutex::default(),
        in_wait: AtomicU64::new(0),
        down_until: scenario.fault.map(|(_, until)| until),
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
        Policy::Fixed(limit) => builder
            .max_in_flight(NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN))
            .adaptive(false)
            .breaker(None, Duration::ZERO),
        Policy::Tidegate | Policy::Crawlee => builder,
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
    recorder.in_wait = watch.in_wait.load(Ordering::Relaxed);
    let share = |of: &BoundShare| format!("{} {:.0} %", of.bound.name(), of.share * 100.0);
    let bounds: Vec<_> = totals.bounds.iter().take(2).map(share).collect();
    Ok((recorder.finish(scenario, totals.counters.error).1, bounds.join(", ")))
}

/// Sleeps on the runtime's timer.
fn sleep_until(runtime: &Runtime, time: Instant) -> Result<(), Failure> {
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
    refused: Mutex<Refused>,
    /// Requests that were sent although the server had asked for a wait, or was known to be down.
    in_wait: AtomicU64,
    /// How long after the first request a server that is down is so.
    down_until: Option<Duration>,
    inner: HttpFetcher,
}

impl Watch {
    fn ended(&self) -> MutexGuard<'_, Vec<Result<Duration, ()>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server has said so far.
#[derive(Default)]
struct Refused {
    first: Option<Instant>,
    /// No request before, as far as is known.
    until: Option<Instant>,
}

impl Watch {
    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sends(&self, now: Instant) {
        let mut refused = self.refused();
        refused.first.get_or_insert(now);
        let is_early = refused.until.is_some_and(|until| now < until);
        self.in_wait.fetch_add(u64::from(is_early), Ordering::Relaxed);
    }

    /// Takes what a refusal says of the time until which nothing else is to be expected.
    fn is_refused(&self, now: Instant, response: &Response) {
        let mut refused = self.refused();
        let told = response.head.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let told = told.map(|seconds| now + Duration::from_secs(seconds));
        let is_down = response.head.status == StatusCode::SERVICE_UNAVAILABLE;
        let down = self.down_until.zip(refused.first).map(|(down, first)| first + down).filter(|_| is_down);
        refused.until = refused.until.max(told).max(down);
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
        self.0.sends(began);
        let result = self.0.inner.fetch(request, cx).await;
        let latency = cx.now().saturating_duration_since(began);
        drop(in_flight);
        let is_refusal = |response: &Response| matches!(response.head.status.as_u16(), 429 | 503);
        if let Some(response) = result.as_ref().ok().filter(|response| is_refusal(response)) {
            self.0.is_refused(cx.now(), response);
            self.0.ended().push(Err(()));
        } else {
            self.0.ended().push(result.as_ref().map(|_| latency).map_err(drop));
        }
        result
    }

    async fn resolve(&self, target: &url::Url, cx: &FetchCx) -> Result<Option<std::net::IpAddr>, Error> {
        self.0.inner.resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.0.inner.ledger()
    }
}
