//! One fetch from a server that does wrong: its verdict, and that nothing is left of it afterwards.

use std::sync::Arc;

use super::http::HELLO;
use super::support::on;
use super::{Harness, Script, Step};
use crate::fetch::Home;
use crate::http::{HttpFetcher, HttpFetcherBuilder};
use crate::ledger::{BodyBytes, LedgerUsage};
use crate::rt::Runtime;
use crate::{ErrorKind, FetchCx, Fetcher, Limits, Request, Response};

/// More than any body of these cases has.
const BUDGET: u64 = 1 << 30;

/// The steps of a server that is well.
pub(super) fn well() -> [Step; 3] {
    [Step::ReadHead, Step::write(HELLO), Step::ReadToEnd]
}

/// What becomes of one request.
pub(super) struct Trial {
    pub(super) limits: Limits,
    /// Makes the request of the server's URL.
    pub(super) ask: fn(String) -> Request,
    /// Sets up the fetcher, given `host:port` of the server.
    pub(super) build: fn(HttpFetcherBuilder, &str) -> HttpFetcherBuilder,
}

impl Default for Trial {
    fn default() -> Self {
        Self { limits: Limits::listed(), ask: |url| Request::get(url), build: |builder, _| builder }
    }
}

impl Trial {
    /// The verdict on a server that plays `steps` on its first connection and is well on the second, to which the same request
    /// goes afterwards. Both connections are closed at the end, and what was booked is given back.
    pub(super) fn run<H: Harness>(self, harness: &Arc<H>, steps: impl Into<Vec<Step>>) -> Result<Response, ErrorKind> {
        let runtime = harness.runtime();
        let served = harness.serve(Script::new(steps).and(well()));
        on(&**harness, async move {
            let Self { limits, ask, build } = self;
            let place = served.addr.to_string();
            let fetcher = build(HttpFetcher::builder(&runtime), &place).build().expect("it is valid");
            let bytes = Arc::new(BodyBytes::new(BUDGET, BUDGET));
            let request = ask(format!("http://{place}/"));
            let result = fetch(&runtime, &fetcher, &request, limits, &bytes).await;
            // The server has seen the end of it, or has closed it by itself.
            served.outcome().await;
            let again = fetch(&runtime, &fetcher, &request, Limits::listed(), &bytes).await;
            assert!(again.is_ok(), "the next request fails: {again:?}");
            let ledger = fetcher.ledger().expect("it keeps one").clone();
            drop(fetcher);
            served.outcome().await;
            let LedgerUsage { sockets, idle, waiting, handshakes, lookups, .. } = ledger.usage();
            assert_eq!((sockets, idle, waiting, handshakes, lookups), (0, 0, 0, 0, 0), "something is still booked");
            assert_eq!(bytes.bytes(), 0, "bytes are still booked");
            result
        })
    }
}

async fn fetch(
    runtime: &Runtime,
    fetcher: &HttpFetcher,
    request: &Request,
    limits: Limits,
    bytes: &Arc<BodyBytes>,
) -> Result<Response, ErrorKind> {
    let home = Home { runtime: runtime.clone(), timing: None, bytes: Some(Arc::clone(bytes)), wishes: None };
    let cx = FetchCx::new(Arc::new(home), runtime.now(), Arc::new(limits), 0, 1);
    fetcher.fetch(request, &cx).await.map_err(|error| error.kind())
}

/// The verdict under the usual limits.
pub(super) fn verdict<H: Harness>(harness: &Arc<H>, reply: impl Into<bytes::Bytes>) -> Result<Response, ErrorKind> {
    Trial::default().run(harness, [Step::ReadHead, Step::Write(reply.into())])
}

/// As [`verdict`], of the body alone.
pub(super) fn body<H: Harness>(harness: &Arc<H>, reply: impl Into<bytes::Bytes>) -> Result<Vec<u8>, ErrorKind> {
    verdict(harness, reply).map(|response| response.body.to_vec())
}

/// That each of these replies, whole and byte by byte, after which the server closes, fails with this kind.
pub(super) fn all_fail<'r, H: Harness>(harness: &Arc<H>, kind: ErrorKind, replies: impl IntoIterator<Item = &'r [u8]>) {
    for reply in replies {
        let reply = bytes::Bytes::copy_from_slice(reply);
        for step in [Step::Write(reply.clone()), Step::Drip(reply.clone())] {
            let result = Trial::default().run(harness, [Step::ReadHead, step]);
            assert_eq!(result.map(|r| r.body).map_err(Some), Err(Some(kind)), "{}", reply.escape_ascii());
        }
    }
}
