//! [`Worker`]: what an asynchronous client is to the comparison, and the tasks that keep it busy.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc;
use tidegate::rt::{BoxFuture, Runtime};
use tidegate_benches::{Ticker, now};

use crate::Failure;
use crate::measured::Measured;
use crate::meter::{self, Meter};
use crate::work::Work;

/// How long dripping connections are given to open before anything else begins.
pub(crate) const OPENING: Duration = Duration::from_secs(3);
/// How often a rate starts what is due.
pub(crate) const PACE: Duration = Duration::from_millis(1);

/// Fetches one URL at a time.
pub(crate) trait Worker: Send + 'static {
    /// Fetches to the last byte of the body, which is kept until then; gives its length.
    fn fetch(&mut self, url: &str) -> impl Future<Output = Result<usize, Failure>> + Send;
}

/// What all tasks of a run share.
struct Shared<W> {
    urls: Vec<String>,
    requests: u64,
    next: AtomicU64,
    meter: Meter,
    /// Workers without work, where a rate starts the requests.
    idle: Mutex<Vec<W>>,
}

/// Does the work with workers that `new` makes, each in a task of its own, and reports. `runtime` gives time only; tasks
/// are started by `spawn`.
pub(crate) async fn run<W: Worker>(
    work: &Work,
    runtime: &Runtime,
    spawn: impl Fn(BoxFuture<'static, ()>),
    new: impl Fn() -> W,
) -> Result<(), Failure> {
    for n in 0..u64::from(work.dripping) {
        let (mut worker, url) = (new(), work.dripping_url(n));
        // It ends with the process.
        spawn(Box::pin(async move { drop(worker.fetch(&url).await) }));
    }
    if work.dripping > 0 {
        runtime.sleep_until(runtime.now() + OPENING).await;
    }
    let urls = work.urls();
    let ticker = work.ticker.then(|| Ticker::start(runtime));
    let meter = Meter::begin()?;
    let shared = Arc::new(Shared {
        urls,
        requests: work.requests,
        next: AtomicU64::new(0),
        meter,
        idle: Mutex::new(Vec::new()),
    });
    // Nothing is sent: it ends when the last task has dropped its sender.
    let (running, mut ended) = mpsc::channel::<Infallible>(0);
    match work.rate {
        None => {
            for _ in 0..work.requests.min(work.concurrency.into()) {
                spawn(Box::pin(one_after_another(new(), Arc::clone(&shared), running.clone())));
            }
        }
        Some(rate) => at_rate(rate, runtime, &shared, &running, spawn, new).await,
    }
    drop(running);
    let _: Option<Infallible> = ended.next().await;
    let mut measured = shared.meter.end();
    finish(&mut measured, ticker, work, runtime).await?;
    Ok(meter::report(measured)?)
}

/// Adds the lag, and keeps the connections for a while.
pub(crate) async fn finish(
    measured: &mut Measured,
    ticker: Option<Ticker>,
    work: &Work,
    runtime: &Runtime,
) -> Result<(), Failure> {
    if let Some(ticker) = ticker {
        measured.lag = Some(ticker.ended().await?.into());
    }
    runtime.sleep_until(runtime.now() + Duration::from_millis(work.settle_ms)).await;
    Ok(())
}

async fn one_after_another<W: Worker>(mut worker: W, shared: Arc<Shared<W>>, _running: mpsc::Sender<Infallible>) {
    loop {
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        if n >= shared.requests {
            return;
        }
        shared.fetch(&mut worker, n).await;
    }
}

async fn at_rate<W: Worker>(
    rate: f64,
    runtime: &Runtime,
    shared: &Arc<Shared<W>>,
    running: &mpsc::Sender<Infallible>,
    spawn: impl Fn(BoxFuture<'static, ()>),
    new: impl Fn() -> W,
) {
    let begun = runtime.now();
    let mut started = 0;
    while started < shared.requests {
        let due = due(runtime.now().saturating_duration_since(begun), rate).min(shared.requests);
        for n in started..due {
            let worker = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut worker = worker.unwrap_or_else(&new);
            let (shared, running) = (Arc::clone(shared), running.clone());
            spawn(Box::pin(async move {
                shared.fetch(&mut worker, n).await;
                shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
                drop(running);
            }));
        }
        started = due;
        runtime.sleep_until(runtime.now() + PACE).await;
    }
}

/// Requests that a rate has started after so long.
pub(crate) fn due(elapsed: Duration, rate: f64) -> u64 {
    (elapsed.as_secs_f64() * rate) as u64
}

impl<W: Worker> Shared<W> {
    async fn fetch(&self, worker: &mut W, n: u64) {
        let url = &self.urls[n as usize % self.urls.len()];
        let since = now();
        match worker.fetch(url).await {
            Ok(bytes) => self.meter.answered(since, bytes),
            Err(e) => self.meter.failed(crate::chain(&*e)),
        }
    }
}
