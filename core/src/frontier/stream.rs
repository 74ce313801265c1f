//! A stream of requests as a frontier: nothing is deduplicated, what a parser finds is appended.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::Poll;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::Stream;

use super::leases::Leases;
use super::{Added, Frontier, FrontierError, LeaseId, Leased, Verdict};
use crate::Request;

/// Requests from any `Stream<Item = Request>`, taken as there is room for them and not before.
///
/// ```
/// use tidegate::{Request, StreamFrontier};
/// let urls = ["http://a.test/1", "http://a.test/2"];
/// let frontier = StreamFrontier::new(futures::stream::iter(urls.map(Request::get)));
/// ```
pub struct StreamFrontier {
    stream: Option<Pin<Box<dyn Stream<Item = Request> + Send>>>,
    added: VecDeque<Request>,
    leased: Leases,
}

impl StreamFrontier {
    /// A frontier of what `stream` yields.
    pub fn new(stream: impl Stream<Item = Request> + Send + 'static) -> Self {
        Self { stream: Some(Box::pin(stream)), added: VecDeque::new(), leased: Leases::default() }
    }

    fn give(&mut self, mut request: Request, leased: &mut Leased) {
        // The copy then shares it. Where it cannot be parsed, the crawl finds that out too.
        let _ = request.parse();
        leased.requests.push((self.leased.give(request.clone()), request));
    }
}

#[async_trait]
impl Frontier for StreamFrontier {
    async fn lease(&mut self, want: NonZeroU32, _now: SystemTime) -> Result<Leased, FrontierError> {
        let mut leased = Leased::default();
        std::future::poll_fn(|cx| {
            while leased.requests.len() < want.get() as usize {
                if let Some(request) = self.added.pop_front() {
                    self.give(request, &mut leased);
                    continue;
                }
                let Some(stream) = &mut self.stream else { break };
                match stream.as_mut().poll_next(cx) {
                    Poll::Ready(Some(request)) => self.give(request, &mut leased),
                    Poll::Ready(None) => self.stream = None,
                    Poll::Pending if leased.requests.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
        leased.drained = self.stream.is_none() && self.added.is_empty();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        for (id, verdict) in done.drain(..) {
            if let (Some(request), Verdict::Return) = (self.leased.end(id), verdict) {
                self.added.push_back(request);
            }
        }
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        let new = found.len() as u64;
        self.added.extend(found.drain(..));
        Ok(Added::new(new, 0))
    }
}

impl std::fmt::Debug for StreamFrontier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamFrontier").field("ended", &self.stream.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn a_stream_that_ended_is_drained_once_nothing_is_left_of_what_was_added() {
        let mut frontier = StreamFrontier::new(futures::stream::empty());
        let mut found = ["http://a.test/1", "http://a.test/2"].map(Request::get).to_vec();
        for (given, drained) in [(0, true), (1, false), (1, true)] {
            let leased = block_on(frontier.lease(NonZeroU32::MIN, SystemTime::UNIX_EPOCH)).expect("memory");
            assert_eq!((leased.requests.len(), leased.drained), (given, drained));
            block_on(frontier.add(&mut found)).expect("memory");
        }
    }

    #[test]
    fn a_lease_that_has_ended_says_nothing_of_what_has_its_place() {
        let mut frontier = StreamFrontier::new(futures::stream::iter(["http://a.test/1", "no URL"].map(Request::get)));
        let mut lease = |done: &[(LeaseId, Verdict)]| {
            block_on(frontier.settle(&mut done.to_vec())).expect("memory");
            let leased = block_on(frontier.lease(NonZeroU32::MIN, SystemTime::UNIX_EPOCH)).expect("memory");
            leased.requests.into_iter().next().map(|(id, request)| (id, request.url().to_owned()))
        };
        let (first, _) = lease(&[]).expect("the stream has two");
        let (second, url) = lease(&[(first, Verdict::Done)]).expect("the stream has another");
        assert_eq!((first == second, &*url), (false, "no URL"));
        assert_eq!(lease(&[(first, Verdict::Return)]), None);
        assert_eq!(lease(&[(second, Verdict::Return)]).map(|(_, url)| url), Some(url));
    }
}
