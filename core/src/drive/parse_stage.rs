//! Where answers become items and links: decoding and a [`Parser`], run by an offload.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::inbox::{Answer, Inbox, Message, More, ParseEnd, ParseFailure, Parsed};
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
    shared: Arc<Shared<I>>,
    offload: Arc<dyn Offload>,
    /// Bounded by the parse permits.
    rejected: Mutex<Vec<(Job, JobId)>>,
}

/// What jobs of the offload have.
struct Shared<I> {
    router: Router<I>,
    runtime: Runtime,
    inbox: Arc<Inbox>,
    /// Pages that the offload has or is to have. Bounded by the parse permits.
    pages: Mutex<Vec<Running>>,
}

struct Running {
    job: JobId,
    /// `None` before a thread has it.
    began: Option<Instant>,
    /// Its name in the offload: known once it was submitted, when it may run already.
    ticket: Option<Ticket>,
}

impl<I: Send + 'static> Shared<I> {
    fn run(&self, job: ParseJob) {
        let (id, began) = (job.job, self.runtime.now());
        if let Some(page) = lock(&self.pages).iter_mut().find(|page| page.job == id) {
            page.began = Some(began);
        }
        let (result, bytes) = parse(&self.router, job);
        let took = self.runtime.now().saturating_duration_since(began);
        lock(&self.pages).retain(|page| page.job != id);
        self.inbox.push(Message::Parsed { job: id, end: ParseEnd { result, bytes, took } });
    }
}

impl<I: Send + 'static> Local<I> {
    pub(super) fn new(router: Router<I>, runtime: &Runtime, inbox: Arc<Inbox>) -> Self {
        Self {
            shared: Arc::new(Shared { router, runtime: runtime.clone(), inbox, pages: Mutex::default() }),
            offload: Arc::clone(runtime.offload()),
            rejected: Mutex::default(),
        }
    }

    fn submit(&self, job: Job, id: JobId) {
        match self.offload.submit(job) {
            Ok(ticket) => {
                if let Some(page) = lock(&self.shared.pages).iter_mut().find(|page| page.job == id) {
                    page.ticket = Some(ticket);
                }
            }
            Err(Rejected(job)) => lock(&self.rejected).push((job, id)),
        }
    }
}

impl<I: Send + 'static> ParseStage for Local<I> {
    fn accept(&self, label: Option<&str>, head: &Head) -> Accept {
        self.shared.router.parser(label).map_or_else(|| Accept::on_success(head), |parser| parser.accept(head))
    }

    fn begin(&self, job: ParseJob) {
        let (shared, id) = (Arc::clone(&self.shared), job.job);
        lock(&shared.pages).push(Running { job: id, began: None, ticket: None });
        self.submit(Box::new(move || shared.run(job)), id);
    }

    fn retry(&self) {
        let rejected = std::mem::take(&mut *lock(&self.rejected));
        rejected.into_iter().for_each(|(job, id)| self.submit(job, id));
    }

    fn has_rejected(&self) -> bool {
        !lock(&self.rejected).is_empty()
    }

    fn overdue(&self, now: Instant, limit: Duration) -> (Vec<(JobId, bool)>, Option<Instant>) {
        let mut pages = lock(&self.shared.pages);
        let mut given_up = Vec::new();
        let mut next = None;
        // A page cannot end meanwhile, since it would have to take itself off the list first. One that runs without a name is
        // still being submitted, by the driver itself, which therefore is not here.
        pages.retain(|page| {
            let Some(until) = page.began.map(|began| later(began, limit)) else { return true };
            if until > now {
                next = Some(next.map_or(until, |next: Instant| next.min(until)));
                return true;
            }
            let replaced = page.ticket.is_some_and(|ticket| self.offload.give_up(ticket));
            given_up.push((page.job, replaced));
            false
        });
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
    let Answer { mut response, mut booking, .. } = *answer;
    let (remote, from_cache) = (response.remote, response.from_cache);
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
    let page = Page::new(Arc::clone(&request), response.head, body, attempt, at)
        .with_remote(remote)
        .with_from_cache(from_cache);
    let mut parsed = Parsed { items: None, item_count: 0, found: Vec::new(), links: 0, more: None, stop: false };
    if page_only {
        parsed.more = Some(Box::new(More { page: Some(Box::new(page)), ..More::default() }));
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
            if !out.counts.is_empty() || out.attachment.is_some() {
                parsed.more = Some(Box::new(More { counts: out.counts, attachment: out.attachment, page: None }));
            }
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
