//! hyper-util's pooled client, the one that most clients are made of.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::workers::Worker;
use crate::Failure;
use crate::work::Work;

#[derive(Clone)]
pub(super) struct Pooled(Client<HttpConnector, Empty<Bytes>>);

pub(super) fn worker(work: &Work) -> Result<impl Fn() -> Pooled, Failure> {
    if work.certificate.is_some() {
        return Err("TLS is another crate's; reqwest shows it".into());
    }
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new());
    if work.fresh {
        builder.pool_max_idle_per_host(0);
    }
    let client = Pooled(builder.build(connector));
    Ok(move || client.clone())
}

impl Worker for Pooled {
    async fn fetch(&mut self, url: &str) -> Result<usize, Failure> {
        let response = self.0.get(url.parse()?).await?;
        Ok(response.into_body().collect().await?.to_bytes().len())
    }
}
