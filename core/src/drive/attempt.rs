//! The futures that a fetch loop runs: an attempt, the rules of a host, its address.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use url::Url;

use super::inbox::{FetchEnd, Message};
use super::parse_stage::panic_message;
use crate::engine::{HostId, JobId};
use crate::{Accept, Error, ErrorKind, FetchCx, Fetcher, Head, HostCx, HostPolicy, Page, Request};

/// A redirect whose body is larger than this is not read to its end for the sake of the connection.
const DRAIN: u64 = 64 << 10;

/// Runs `work`; a panic becomes an error of `kind`.
async fn contained<T>(kind: ErrorKind, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(Err(Error::new(kind, panic_message(panic)))),
    })
    .await
}

/// One attempt at one hop, within the total deadline.
pub(super) async fn fetch(fetcher: Arc<dyn Fetcher>, request: Arc<Request>, cx: FetchCx, job: JobId) -> Message {
    cx.set_local(cx.now().saturating_duration_since(cx.started()));
    let work = contained(ErrorKind::FetcherPanic, async { fetcher.fetch(&request, &cx).await });
    let total = cx.limits().deadlines.total;
    let result = cx.timeout(total, ErrorKind::TimeoutTotal, "fetch the URL", work).await.and_then(|result| result);
    let timings = cx.finish();
    Message::Fetched { job, end: FetchEnd { result, timings, booking: cx.take_booking(), at: cx.wall_clock() } }
}

/// What the crawl wants of an answer: a redirect that will be followed is read only for the sake of its connection.
pub(super) fn accept_redirect(head: &Head) -> Accept {
    let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length <= DRAIN) { Accept::Body } else { Accept::Head }
}

/// Finds the rules of a host.
pub(super) async fn prepare(policy: Arc<dyn HostPolicy>, target: Url, cx: HostCx, host: HostId) -> Message {
    let rules = contained(ErrorKind::FetcherPanic, async { policy.prepare(&target, &cx).await }).await;
    Message::Prepared { host, rules }
}

/// A page outside the queues, redirects followed by the fetcher.
pub(super) async fn fetch_page(fetcher: Arc<dyn Fetcher>, request: Request, cx: FetchCx) -> Result<Page, Error> {
    let total = cx.limits().deadlines.total;
    let work = fetcher.fetch(&request, &cx);
    let response = cx.timeout(total, ErrorKind::TimeoutTotal, "fetch the URL", work).await??;
    let body = response.decoded(cx.limits())?;
    Ok(Page::new(request, response.head, body, cx.attempt(), cx.wall_clock()))
}

/// Finds the address of a host.
pub(super) async fn resolve(fetcher: Arc<dyn Fetcher>, target: Url, cx: FetchCx, host: HostId) -> Message {
    let work = contained(ErrorKind::FetcherPanic, async { fetcher.resolve(&target, &cx).await });
    let limit = cx.limits().deadlines.dns;
    let address = cx.timeout(limit, ErrorKind::TimeoutDns, "resolve the host", work).await.and_then(|result| result);
    Message::Resolved { host, address: address.map_err(|error| error.with_url(target.as_str())) }
}
