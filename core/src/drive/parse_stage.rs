//! Where answers become items and links: decoding and a [`Parser`], run by an offload.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::inbox::{Answer, Inbox, Message, ParseEnd, ParseFailure, Parsed};
use crate::engine::JobId;
use crate::hash::KeyedState;
use crate::panics::panic_message;
use crate::request::without_userinfo;
use crate::rt::{Job, Offload, Rejected, Runtime, Ticket};
use crate::time::later;
use crate::{Accept, Delivery, DeliveryId, Head, Limits, Output, Page, ParseAction, Parser, Request};

/// Parsers by label, and one for everything else.
pub(crate) struct Router<I> {
    labelled: HashMap<Arc<str>, Arc<dyn Parser<I>>, KeyedState>,
    otherwise: Option<Arc<dyn Parser<I>>>,
}

impl<I> Router<I> {
    pub(crate) fn new() -> Self {
        Self { labelled: HashMap::with_hasher(KeyedState::new(0)), otherwise: None }
    }

    pub(crate) fn route(&mut self, label: Arc<str>, parser: Arc<dyn Parser<I>>) {
        self.labelled.insert(label, parser);
    }

    pub(crate) fn otherwise(&mut self, parser: Arc<dyn Parser<I>>) {
        self.otherwise = Some(parser);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labelled.is_empty() && self.otherwise.is_none()
    }

    fn parser(&self, label: Option<&str>) -> Option<&Arc<dyn Parser<I>>> {
        label.and_then(|label| self.labelled.get(label)).or(self.otherwise.as_ref())
    }
}

/// A page to be parsed.
pub(super) struct ParseJob {
    pub(super) job: JobId,
    pub(super) request: Arc<Request>,
    pub(super) answer: Box<Answer>,
    pub(super) limits: Arc<Limits>,
    pub(super) attempt: u32,
    pub(super) at: SystemTime,
    /// Give the page itself instead of parsing it.
    pub(super) page_only: bool,
}

/// Parses pages somewhere. The driver knows this alone.
pub(super) trait ParseStage: Send + Sync {
    /// Whether the body of this answer is wanted. On the loop; quick.
    fn accept(&self, label: Option<&str>, head: &Head) -> Accept;

    /// Starts to parse. The answer is a [`Message::Parsed`].
    fn begin(&self, job: ParseJob);

    /// Starts what an offload shared with others had no room for.
    fn retry(&self);

    /// Whether there is any of that.
    fn has_rejected(&self) -> bool;

    /// Pages at a time.
    fn permits(&self) -> u32;

    /// Gives up the pages that have been parsed for longer than the limit: their jobs, each with whether something took
    /// the place of what is stuck with it. And when to ask again, where anything runs.
    fn overdue(&self, now: Instant, limit: Duration) -> (Vec<(JobId, bool)>, Option<Instant>);
}

/// Parses in this process.
pub(super) struct Local<I> {
    router: Arc<Router<I>>,
    offload: Arc<dyn Offload>,
    runtime: Runtime,
    inbox: Arc<Inbox>,
    /// Bounded by the parse permits.
    rejected: Mutex<Vec<(Job, Named)>>,
    /// What is parsed now, the longest first.
    running: Arc<Mutex<VecDeque<Running>>>,
}

/// The name of a page's job in the offload: known once it was submitted, when it may run already.
type Named = Arc<OnceLock<Ticket>>;

struct Running {
    began: Instant,
    job: JobId,
    ticket: Named,
}

impl<I: Send + 'static> Local<I> {
    pub(super) fn new(router: Router<I>, runtime: &Runtime, inbox: Arc<Inbox>) -> Self {
        Self {
            router: Arc::new(router),
            offload: Arc::clone(runtime.offload()),
            runtime: runtime.clone(),
            inbox,
            rejected: Mutex::default(),
            running: Arc::default(),
        }
    }

    fn submit(&self, job: Job, name: Named) {
        match self.offload.submit(job) {
            Ok(ticket) => _ = name.set(ticket),
            Err(Rejected(job)) => lock(&self.rejected).push((job, name)),
        }
    }
}

impl<I: Send + 'static> ParseStage for Local<I> {
    fn accept(&self, label: Option<&str>, head: &Head) -> Accept {
        self.router.parser(label).map_or_else(|| Accept::on_success(head), |parser| parser.accept(head))
    }

    fn begin(&self, job: ParseJob) {
        let router = Arc::clone(&self.router);
        let runtime = self.runtime.clone();
        let inbox = Arc::clone(&self.inbox);
        let running = Arc::clone(&self.running);
        let name = Named::default();
        let ticket = Arc::clone(&name);
        let work = Box::new(move || {
            let began = runtime.now();
            let id = job.job;
            lock(&running).push_back(Running { began, job: id, ticket });
            let (result, bytes) = parse(&router, job);
            let took = runtime.now().saturating_duration_since(began);
            lock(&running).retain(|running| running.job != id);
            inbox.push(Message::Parsed { job: id, end: ParseEnd { result, bytes, took } });
        });
        self.submit(work, name);
    }

    fn retry(&self) {
        let rejected = std::mem::take(&mut *lock(&self.rejected));
        rejected.into_iter().for_each(|(job, name)| self.submit(job, name));
    }

    fn has_rejected(&self) -> bool {
        !lock(&self.rejected).is_empty()
    }

    fn overdue(&self, now: Instant, limit: Duration) -> (Vec<(JobId, bool)>, Option<Instant>) {
        let mut running = lock(&self.running);
        let mut given_up = Vec::new();
        // A page cannot end meanwhile, since it would have to take itself off the list first. One without a name is still
        // being submitted, by the driver itself, which therefore is not here.
        while running.front().is_some_and(|page| later(page.began, limit) <= now) {
            let Some(page) = running.pop_front() else { break };
            let replaced = page.ticket.get().is_some_and(|ticket| self.offload.give_up(*ticket));
            given_up.push((page.job, replaced));
        }
        let next = running.front().map(|page| later(page.began, limit));
        (given_up, next)
    }

    fn permits(&self) -> u32 {
        u32::try_from(self.offload.capacity().get()).unwrap_or(u32::MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse<I: Send + 'static>(router: &Router<I>, job: ParseJob) -> (Result<Parsed, ParseFailure>, u64) {
    let ParseJob { request, answer, limits, attempt, at, page_only, .. } = job;
    let Answer { mut response, mut booking } = *answer;
    let remote = response.remote;
    let body = match response.accepted {
        // Taken, as a second handle to it would have to be allocated.
        Accept::Body if response.decoder.is_none() => std::mem::take(&mut response.body),
        Accept::Body => match catch_unwind(AssertUnwindSafe(|| response.decoded(&limits))) {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return (Err(ParseFailure::Decode(error)), 0),
            Err(panic) => {
                let message = format!("decode the body: {}", panic_message(panic));
                return (Err(ParseFailure::Panicked { message, page: None }), 0);
            }
        },
        _ => Bytes::new(),
    };
    let bytes = body.len() as u64;
    let decoded = response.decoder.is_some();
    drop(response.body);
    if decoded {
        // The wire bytes are gone; what they became is bounded by the parse permits.
        drop(booking.take());
    }
    let page = Page::new(Arc::clone(&request), response.head, body, attempt, at).with_remote(remote);
    let mut parsed = Parsed {
        items: None,
        item_count: 0,
        found: Vec::new(),
        links: 0,
        counts: Vec::new(),
        attachment: None,
        page: None,
        stop: false,
    };
    if page_only {
        parsed.page = Some(Box::new(page));
        return (Ok(parsed), bytes);
    }
    let Some(parser) = router.parser(request.label()) else { return (Ok(parsed), bytes) };
    let run = catch_unwind(AssertUnwindSafe(|| {
        let mut out = Output::new(&page, limits.links);
        match parser.parse(&page, &mut out) {
            Ok(()) => Ok((out.into_parts(), false)),
            Err(error) if error.action() == ParseAction::Stop => Ok((out.into_parts(), true)),
            Err(error) => Err(error),
        }
    }));
    match run {
        Ok(Ok((out, stop))) => {
            parsed.stop = stop;
            parsed.links = out.found.len() as u64;
            parsed.found = distinct_children(out.found, &page, &request);
            parsed.counts = out.counts;
            parsed.attachment = out.attachment;
            parsed.item_count = out.items.len() as u64;
            parsed.items =
                (!out.items.is_empty()).then(|| Box::new(deliveries(out.items, &page)) as Box<dyn Any + Send>);
            (Ok(parsed), bytes)
        }
        Ok(Err(error)) => (Err(ParseFailure::Refused { error, page: Box::new(page) }), bytes),
        Err(panic) => {
            let message = panic_message(panic);
            (Err(ParseFailure::Panicked { message, page: Some(Box::new(page)) }), bytes)
        }
    }
}

fn distinct_children(found: Vec<Request>, page: &Page, request: &Request) -> Vec<Request> {
    if found.is_empty() {
        return found;
    }
    let mut seen = std::collections::HashSet::with_capacity_and_hasher(found.len(), KeyedState::new(0));
    let guarded = page.remote().is_some_and(|remote| crate::guard::is_public(remote.ip()));
    let parent: Arc<str> = without_userinfo(page.url().as_str()).into();
    found
        .into_iter()
        .filter(|child| seen.insert(child.identity()))
        .map(|child| child.with_depth(request.depth() + 1).with_parent(Arc::clone(&parent)).with_guarded(guarded))
        .collect()
}

fn deliveries<I>(items: Vec<I>, page: &Page) -> Vec<Delivery<I>> {
    let identity = page.request().identity();
    let url = without_userinfo(page.url().as_str()).into_owned();
    let one =
        |(index, item)| Delivery::new(DeliveryId::of(&identity, index as u64), url.clone(), page.fetched_at(), item);
    items.into_iter().enumerate().map(one).collect()
}
