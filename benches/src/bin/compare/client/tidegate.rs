//! The fetcher of tidegate without a crawl around it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{FetchCx, Fetcher as _, Ledger, LedgerLimits, Limits, Overrides, Request, tls};

use super::workers::{self, Worker};
use crate::Failure;
use crate::work::Work;

/// Descriptors that are kept for anything but sockets.
const SPARE: u32 = 200;

struct Bare {
    work: Arc<Work>,
    fetcher: HttpFetcher,
    cx: FetchCx,
}

pub(super) async fn run(work: &Work, runtime: &Runtime) -> Result<(), Failure> {
    let fetcher = fetcher(work, runtime)?;
    let (shared, limits) = (Arc::new(work.clone()), Arc::new(limits()));
    let new = || Bare {
        work: Arc::clone(&shared),
        fetcher: fetcher.clone(),
        cx: FetchCx::detached(runtime).with_limits(Arc::clone(&limits)),
    };
    workers::run(work, runtime, |task| runtime.spawn(task), new).await
}

/// The default one, allowed to have as many sockets as the process may.
pub(super) fn fetcher(work: &Work, runtime: &Runtime) -> Result<HttpFetcher, Failure> {
    let mut sockets = LedgerLimits::of_this_machine();
    let most = tidegate::Machine::read().descriptors_soft.and_then(|most| u32::try_from(most).ok());
    sockets.sockets = most.map_or(sockets.sockets, |most| most.saturating_sub(SPARE));
    let parked = if work.fresh { 0 } else { sockets.sockets as usize };
    let mut tls = tls::Config::builder();
    if let Some(pem) = work.pem()? {
        tls = tls.add_root_pem(pem);
    }
    let fetcher = HttpFetcher::builder(runtime)
        .ledger(Ledger::new(sockets))
        .pool_max_idle(parked)
        .pool_max_idle_per_host(parked)
        .tls(tls.build()?)
        .build()?;
    Ok(fetcher)
}

/// Those for listed URLs, with patience for servers that answer when all have come, and for slow proxies.
pub(super) fn limits() -> Limits {
    let mut limits = Limits::listed();
    limits.deadlines.first_byte = Duration::from_secs(240);
    limits.deadlines.proxy = limits.deadlines.first_byte;
    limits.deadlines.total = Duration::from_secs(300);
    limits
}

/// A request, through a proxy where it goes through one.
pub(super) fn request(work: &Work, url: &str) -> Request {
    let request = Request::get(url);
    let Some(proxy) = work.proxy(url) else { return request };
    let mut overrides = Overrides::default();
    overrides.proxy = Some(proxy.into());
    request.with_overrides(overrides)
}

/// What may be in flight, the dripping ones too.
pub(super) fn most(work: &Work) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(work.concurrency.saturating_add(work.dripping).saturating_sub(1))
}

impl Worker for Bare {
    async fn fetch(&mut self, url: &str) -> Result<usize, Failure> {
        let response = self.fetcher.fetch(&request(&self.work, url), &self.cx).await?;
        Ok(response.body.len())
    }
}
