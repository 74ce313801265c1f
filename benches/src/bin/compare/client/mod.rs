//! The clients that are compared, each a run of this program as a process of its own.

mod crawl;
mod curl;
mod hyper;
mod hyper_util;
mod pages;
mod raw;
mod reqwest;
mod roots;
mod tidegate;
mod workers;

use std::time::Duration;

use ::tidegate::rt::Runtime;
use clap::ValueEnum;
use futures::future::BoxFuture;
use tidegate_benches::Ticker;

use crate::Failure;
use crate::meter::{self, Meter};
use crate::work::Work;

/// A client. Each uses one thread but where its name says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Client {
    /// A loop over epoll with a parser that knows this server only: the floor.
    Raw,
    /// A connection of hyper, polled in the task of its fetch.
    Hyper,
    /// hyper-util's client, as reqwest has it inside.
    HyperUtil,
    /// reqwest on a current-thread runtime.
    Reqwest,
    /// reqwest on a multi-thread runtime with one worker.
    ReqwestMulti,
    /// libcurl's multi interface over epoll.
    Curl,
    /// The bare fetcher of tidegate on Tokio.
    TidegateFetcher,
    /// The same on smol.
    TidegateFetcherSmol,
    /// A whole crawl of tidegate on Tokio.
    TidegateCrawl,
    /// The same on smol.
    TidegateCrawlSmol,
    /// A crawl of tidegate on Tokio that follows links, found by its own parser.
    TidegatePages,
    /// The same on smol.
    TidegatePagesSmol,
    /// reqwest and a search for `href="` in the text, which is not HTML.
    ReqwestScan,
    /// reqwest and scraper.
    ReqwestScraper,
    /// The crate spider, with mimalloc, where it is installed.
    Spider,
    /// Python's Scrapy, where it is installed.
    Scrapy,
    /// Node's Crawlee with its `CheerioCrawler`, where it is installed.
    Crawlee,
    /// Wget2, where it is installed.
    Wget2,
    /// Tokio with nothing to do but tick: what lag is measured against.
    Idle,
    /// The same on smol.
    IdleSmol,
    /// Python's aiohttp, where it is installed.
    Aiohttp,
    /// Node's undici, where it is installed.
    Undici,
    /// Go's `net/http`, where it is installed.
    Go,
}

impl Client {
    /// Its name on the command line and in the tables.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it asks for nothing.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Self::Idle | Self::IdleSmol)
    }

    /// Whether it is a whole crawl of tidegate, which is what its planner is for.
    pub(crate) fn is_crawl(self) -> bool {
        matches!(self, Self::TidegateCrawl | Self::TidegateCrawlSmol)
    }

    /// Does the work in this process.
    pub(crate) fn run(self, work: &Work) -> Result<(), Failure> {
        match self {
            Self::Raw => raw::run(work),
            Self::Hyper => on_tokio(async |runtime, spawn| {
                let new = hyper::worker(work)?;
                workers::run(work, runtime, spawn, new).await
            }),
            Self::HyperUtil => on_tokio(async |runtime, spawn| {
                let new = hyper_util::worker(work)?;
                workers::run(work, runtime, spawn, new).await
            }),
            Self::Reqwest => on_tokio(async |runtime, spawn| {
                let new = reqwest::worker(work)?;
                workers::run(work, runtime, spawn, new).await
            }),
            Self::ReqwestMulti => reqwest::on_many_threads(work),
            Self::Curl => curl::run(work),
            Self::TidegateFetcher => on_tokio(async |runtime, _| tidegate::run(work, runtime).await),
            Self::TidegateFetcherSmol => on_smol(async |runtime| tidegate::run(work, runtime).await),
            Self::TidegateCrawl => on_tokio(async |runtime, _| crawl::run(work, runtime).await),
            Self::TidegateCrawlSmol => on_smol(async |runtime| crawl::run(work, runtime).await),
            Self::TidegatePages => on_tokio(async |runtime, _| pages::run(work, runtime).await),
            Self::TidegatePagesSmol => on_smol(async |runtime| pages::run(work, runtime).await),
            Self::ReqwestScan => on_tokio(async |_, spawn| pages::run_reqwest(work, spawn, pages::scan).await),
            Self::ReqwestScraper => on_tokio(async |_, spawn| pages::run_reqwest(work, spawn, pages::select).await),
            Self::Idle => on_tokio(async |runtime, _| idle(work, runtime).await),
            Self::IdleSmol => on_smol(async |runtime| idle(work, runtime).await),
            Self::Aiohttp | Self::Undici | Self::Go | Self::Spider | Self::Scrapy | Self::Crawlee | Self::Wget2 => {
                Err("it is a program of its own".into())
            }
        }
    }
}

/// The way that people start tasks on a Tokio runtime.
type Spawn<'a> = &'a dyn Fn(BoxFuture<'static, ()>);

/// A current-thread runtime on this thread, which is what its manual says for many connections on one core.
fn on_tokio(run: impl AsyncFnOnce(&Runtime, Spawn<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = tokio.handle().clone();
    tokio.block_on(run(&tidegate_tokio::from_handle(handle.clone()), &move |task| drop(handle.spawn(task))))
}

/// The thread that its manual says to use. This one only waits until it is done.
fn on_smol(run: impl AsyncFnOnce(&Runtime) -> Result<(), Failure>) -> Result<(), Failure> {
    let runtime = tidegate_smol::dedicated()?;
    futures::executor::block_on(run(&runtime))
}

/// As long as the work would take at its rate.
async fn idle(work: &Work, runtime: &Runtime) -> Result<(), Failure> {
    let ticker = work.ticker.then(|| Ticker::start(runtime));
    let meter = Meter::begin()?;
    let seconds = work.requests as f64 / work.rate.unwrap_or(1e3);
    runtime.sleep_until(runtime.now() + Duration::from_secs_f64(seconds)).await;
    let mut measured = meter.end();
    workers::finish(&mut measured, ticker, work, runtime).await?;
    Ok(meter::report(measured)?)
}
