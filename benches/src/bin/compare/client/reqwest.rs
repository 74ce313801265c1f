//! reqwest, with one client for all as its manual says.

use reqwest::{Client, Proxy};

use super::roots;
use super::workers::{self, Worker};
use crate::Failure;
use crate::work::Work;

#[derive(Clone)]
pub(super) struct Shared(Client);

pub(super) fn worker(work: &Work) -> Result<impl Fn() -> Shared, Failure> {
    let mut builder = Client::builder().no_proxy().tls_backend_preconfigured(roots::config(work)?);
    if work.fresh {
        builder = builder.pool_max_idle_per_host(0);
    }
    if work.slow_proxies {
        let work = work.clone();
        builder = builder.proxy(Proxy::custom(move |url| work.proxy(url.as_str())));
    }
    let client = Shared(builder.build()?);
    Ok(move || client.clone())
}

/// As `#[tokio::main]` has it, with one worker.
pub(super) fn on_many_threads(work: &Work) -> Result<(), Failure> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let handle = tokio.handle().clone();
    let runtime = tidegate_tokio::from_handle(handle.clone());
    tokio.block_on(async {
        let new = worker(work)?;
        workers::run(work, &runtime, move |task| drop(handle.spawn(task)), new).await
    })
}

impl Worker for Shared {
    async fn fetch(&mut self, url: &str) -> Result<usize, Failure> {
        let response = self.0.get(url).send().await?.error_for_status()?;
        Ok(response.bytes().await?.len())
    }
}
