//! The futures that a fetch loop runs: an attempt, the rules of a host, its address.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use url::Url;

use super::inbox::{Answer, Inbox, Message, NoAnswer};
use super::lag_probe::Worker;
use super::parse_stage::ParseStage;
use crate::engine::{HostId, JobId};
use crate::fetch::{Wish, Wishes};
use crate::panics::panic_message;
use crate::rt::{Job, Rejected};
use crate::time::later;
use crate::{Accept, Error, ErrorKind, FetchCx, Fetcher, Head, HostCx, HostPolicy, Page, Request, Response};

/// A redirect whose body is larger than this is not read to its end for the sake of the connection.
const DRAIN: u64 = 64 << 10;

/// What a page for a host's rules may have at least, on the wire and decoded: a small limit on pages is no reason to do
/// without the rules.
const RULES_BODY: u64 = 8 << 20;

/// When an offload that had no room is asked again.
const NO_ROOM: Duration = Duration::from_millis(10);

/// Runs `work`; a panic becomes an error of `kind`.
async fn contained<T>(kind: ErrorKind, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(Err(Error::new(kind, panic_message(panic)))),
    })
    .await
}

/// What the crawl wants of the attempts of a loop.
pub(super) struct Wanted {
    pub(super) stage: Arc<dyn ParseStage>,
    pub(super) worker: Arc<Worker>,
    pub(super) inbox: Arc<Inbox>,
}

impl Wishes for Wanted {
    fn accept(&self, wish: &Wish, head: &Head) -> Accept {
        match head.location() {
            Some(_) if wish.follows => accept_redirect(head),
            _ if wish.page_only => Accept::Body,
            _ => self.worker.hook(|| self.stage.accept(wish.request.label(), head)),
        }
    }

    fn waits(&self, job: JobId) {
        self.inbox.push(Message::Waits { job });
    }

    fn turn(&self, job: JobId) -> oneshot::Receiver<()> {
        let (readmit, admission) = oneshot::channel();
        self.inbox.push(Message::Turn { job, readmit });
        admission
    }
}

/// One attempt at one hop, within the total deadline.
pub(super) fn fetch(fetcher: Arc<dyn Fetcher>, wish: Wish, mut cx: FetchCx) -> impl Future<Output = Message> {
    cx.wishing(wish);
    async move {
        cx.set_local(cx.moment().saturating_duration_since(cx.started()));
        let (fetcher, cx) = (&fetcher, &cx);
        let Wish { job, request, .. } = cx.wish().expect("it was given one");
        let (job, mut work) = (*job, None);
        let mut attempt = poll_fn(move |task| {
            let poll = || work.get_or_insert_with(|| fetcher.fetch(request, cx)).as_mut().poll(task);
            catch_unwind(AssertUnwindSafe(poll))
                .unwrap_or_else(|panic| Poll::Ready(Err(Error::new(ErrorKind::FetcherPanic, panic_message(panic)))))
        });
        let total = cx.limits().deadlines.total;
        let result = cx.timeout(total, ErrorKind::TimeoutTotal, "fetch the URL", &mut attempt).await;
        let result = result.unwrap_or_else(|error| Err(cx.cut_off(error)));
        let timings = cx.finish();
        let at = cx.wall_clock();
        let end = match result {
            Ok(response) => Ok(Box::new(Answer { response, booking: cx.take_booking(), timings, at })),
            Err(error) => Err(Box::new(NoAnswer { error, timings, at })),
        };
        Message::Fetched { job, end }
    }
}

/// What the crawl wants of an answer: a redirect that will be followed is read only for the sake of its connection.
fn accept_redirect(head: &Head) -> Accept {
    let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length <= DRAIN) { Accept::Body } else { Accept::Head }
}

/// Finds the rules of a host.
pub(super) async fn prepare(policy: Arc<dyn HostPolicy>, target: Url, cx: HostCx, host: HostId) -> Message {
    let rules = contained(ErrorKind::FetcherPanic, async { policy.prepare(&target, &cx).await }).await;
    Message::Prepared { host, rules }
}

/// A page outside the queues, redirects followed by the fetcher, decoded by the offload.
pub(super) async fn fetch_page(fetcher: Arc<dyn Fetcher>, request: Request, cx: FetchCx) -> Result<Page, Error> {
    let mut limits = cx.limits().clone();
    limits.body_wire = limits.body_wire.max(RULES_BODY);
    limits.body_decoded = limits.body_decoded.max(RULES_BODY);
    let cx = cx.with_limits(limits);
    let work = async {
        let response = fetcher.fetch(&request, &cx).await?;
        decoded(response, &cx).await
    };
    let total = cx.limits().deadlines.total;
    let (head, body) = cx.timeout(total, ErrorKind::TimeoutTotal, "fetch the URL", work).await??;
    Ok(Page::new(request, head, body, cx.attempt(), cx.wall_clock()))
}

/// Decodes off the loop. An offload that has no room is asked until it has; the caller has the deadline.
pub(crate) async fn decoded(response: Response, cx: &FetchCx) -> Result<(Arc<Head>, Bytes), Error> {
    if response.decoder.is_none() {
        return Ok((response.head, response.body));
    }
    let (sender, receiver) = oneshot::channel();
    let limits = cx.limits().clone();
    let mut job: Job = Box::new(move || {
        let body = response.decoded(&limits);
        let _ = sender.send(body.map(|body| (response.head, body)));
    });
    while let Err(Rejected(back)) = cx.runtime().offload().submit(job) {
        job = back;
        cx.runtime().sleep_until(later(cx.now(), NO_ROOM)).await;
    }
    receiver.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::FetcherPanic, "decode the body")))
}

/// Finds the address of a host.
pub(super) async fn resolve(fetcher: Arc<dyn Fetcher>, target: Url, cx: FetchCx, host: HostId) -> Message {
    let work = contained(ErrorKind::FetcherPanic, async { fetcher.resolve(&target, &cx).await });
    let limit = cx.limits().deadlines.dns;
    let address = cx.timeout(limit, ErrorKind::TimeoutDns, "resolve the host", work).await.and_then(|result| result);
    Message::Resolved { host, address: address.map_err(|error| error.with_url(target.as_str())) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use async_trait::async_trait;

    use super::*;
    use crate::engine::{Config, Engine, JobSpec};
    #[cfg(feature = "http")]
    use crate::fetch::Home;
    use crate::rt::manual::Manual;
    use crate::rt::{Inline, Offload, Place, ThreadPool, Ticket};
    #[cfg(feature = "http")]
    use crate::rt::{SliceClock, StallClock, Wheel};
    use crate::{Decode, Limits};

    /// Answers with an encoded body, whose decoding tells its thread.
    struct Encoded;

    #[async_trait]
    impl Fetcher for Encoded {
        async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
            assert!(cx.limits().body_wire >= RULES_BODY, "the file is read whatever pages may have");
            let mut response = Response::new(Head::new(request.target()?, http::StatusCode::OK), "encoded");
            response.decoder = Some(Arc::new(Self));
            Ok(response)
        }
    }

    impl Decode for Encoded {
        fn decode(&self, head: &Head, _wire: Bytes, limits: &Limits) -> Result<Bytes, Error> {
            assert!(limits.body_decoded >= RULES_BODY);
            assert_ne!(head.url.path(), "/panics");
            Ok(format!("{:?}", thread::current().name()).into())
        }
    }

    /// Refuses so many jobs before it takes one.
    struct Full(AtomicUsize);

    impl Offload for Full {
        fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
            if self.0.load(Ordering::Relaxed) > 0 {
                self.0.fetch_sub(1, Ordering::Relaxed);
                return Err(Rejected(job));
            }
            Inline::new().submit(job)
        }

        fn capacity(&self) -> NonZeroUsize {
            NonZeroUsize::MIN
        }

        fn place(&self) -> Place {
            Place::Inline
        }

        fn give_up(&self, _: Ticket) -> bool {
            false
        }
    }

    /// The page, with the clock moved on by `step` each time that it is not there yet.
    fn fetch(offload: impl Offload, path: &str, step: Duration) -> Result<Page, Error> {
        let manual = Manual::new();
        let mut limits = Limits::discovered();
        (limits.body_wire, limits.body_decoded) = (10, 10);
        let cx = FetchCx::detached(&manual.runtime().with_offload(offload)).with_limits(limits);
        let page = fetch_page(Arc::new(Encoded), Request::get(format!("http://a.test/{path}")), cx);
        let mut page = pin!(page);
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            if let Poll::Ready(page) = page.as_mut().poll(&mut task) {
                return page;
            }
            manual.advance(step);
            thread::yield_now();
        }
    }

    // C10
    #[test]
    fn a_page_of_rules_is_decoded_off_the_loop() {
        let pool = || ThreadPool::new(NonZeroUsize::MIN);
        let page = fetch(pool(), "robots.txt", Duration::ZERO).expect("it is decoded");
        assert_eq!(&page.body()[..], br#"Some("tidegate-work")"#);
        let error = fetch(pool(), "panics", Duration::ZERO).expect_err("contained");
        assert_eq!(error.kind(), ErrorKind::FetcherPanic);
    }

    #[test]
    fn an_offload_without_room_is_asked_again_until_the_deadline() {
        assert!(fetch(Full(AtomicUsize::new(3)), "robots.txt", NO_ROOM).is_ok());
        let error = fetch(Full(AtomicUsize::new(usize::MAX)), "robots.txt", NO_ROOM).expect_err("there is no room");
        assert_eq!(error.kind(), ErrorKind::TimeoutTotal);
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_total_deadline_has_a_timer_only_where_no_phase_ends_before_it() {
        let manual = Manual::new();
        let start = manual.runtime().now();
        let seconds = Duration::from_secs;
        // The second phase is put off by a stall, beyond the total deadline.
        for (phase, stalls, before, after) in [(30, false, 2, 2), (10, true, 1, 2)] {
            let clock = Arc::new(StallClock::new(Duration::ZERO));
            let wheel = Wheel::with_stalls(&manual.runtime(), Arc::clone(&clock));
            let home = Home {
                runtime: manual.runtime(),
                timing: Some((wheel.clone(), Arc::new(SliceClock::new(start)))),
                bytes: None,
                wishes: None,
            };
            let cx = FetchCx::new(Arc::new(home), start, Arc::default(), 1, 1);
            let (begun, mut timer) = (manual.runtime().now(), None);
            let waits =
                poll_fn(|task| cx.poll_deadline(timer.get_or_insert_with(|| cx.deadline(seconds(phase))), task));
            let mut attempt = pin!(cx.timeout(seconds(15), ErrorKind::TimeoutTotal, "fetch", waits));
            let mut task = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(attempt.as_mut().poll(&mut task).is_pending());
            assert_eq!(wheel.len(), before, "{phase}");
            if stalls {
                clock.begin(begun + seconds(1));
            }
            manual.advance(seconds(12));
            wheel.advance(begun + seconds(12));
            assert!(attempt.as_mut().poll(&mut task).is_pending());
            assert_eq!(wheel.len(), after, "{phase}");
            manual.advance(seconds(4));
            wheel.advance(begun + seconds(16));
            let Poll::Ready(Err(error)) = attempt.as_mut().poll(&mut task) else { panic!("it is over") };
            assert_eq!(error.kind(), ErrorKind::TimeoutTotal);
        }
    }

    /// What a fetch in flight holds beside what its fetcher boxes.
    #[test]
    fn an_attempt_is_small() {
        let manual = Manual::new();
        let mut engine = Engine::new(Config::default());
        let host = engine.host("http://a.test");
        let job = engine.submit(manual.runtime().now(), host, JobSpec::default());
        let cx = FetchCx::detached(&manual.runtime());
        let request = Arc::new(Request::get("http://a.test/"));
        let wish = Wish { job, request, watch: None, follows: true, page_only: false };
        let fetcher = |_| async { Err(Error::new(ErrorKind::Other, "fetch")) };
        let size = size_of_val(&super::fetch(Arc::new(fetcher), wish, cx));
        assert!(size <= 528, "{size} bytes");
    }
}
