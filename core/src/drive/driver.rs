//! The driver: the one task that owns the engine, turns messages into its events and its actions into work.

use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures::channel::oneshot;

use super::attempt;
use super::fetch_loop::{FetchLoop, SLICE};
use super::frontier_task::FrontierDoor;
use super::inbox::{Command, FetchEnd, Inbox, Message, ParseEnd};
use super::lag_probe::LagProbe;
use super::lane::Lane;
use super::parse_stage::{ParseJob, ParseStage};
use super::record::{self, Record};
use super::stats::{FinishReason, Report, Stats};
use super::{HostSnapshot, Profile, Scope};
use crate::engine::{Action, Engine, Event, HostId, JobId, JobSpec, JobVerdict, Shutdown};
use crate::hash::KeyedState;
use crate::request::without_userinfo;
use crate::rt::{BoxFuture, Runtime, Sleep};
use crate::time::later;
use crate::{
    Accept, Close, Delivery, DeliveryId, Error, ErrorKind, FetchCx, Fetcher, Head, HostCx, HostPolicy, HostRules,
    Leased, Ledger, Limits, Outcome, Request, Response, RetryTime, Settled, SkipReason, Verdict,
};

/// How long sinks and frontier may take to close after everything has settled or was aborted.
const LINGER: Duration = Duration::from_secs(10);

/// How long a parse job waits that an offload shared with others had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(2);

/// Jobs for which there must be room before the frontier is asked, unless it is all the room there is.
const LEASE_AT_LEAST: u32 = 64;

/// Jobs that are leased at a time: what the driver takes in is work on the loop, about 2 us each.
const LEASE_AT_MOST: u32 = 128;

/// What a crawl was told, apart from the engine's rules.
pub(super) struct Settings {
    pub(super) profile: Profile,
    pub(super) user_agent: Box<str>,
    pub(super) scope: Scope,
    pub(super) max_depth: Option<u32>,
    pub(super) max_time: Option<Duration>,
}

/// Everything that the driver works with.
pub(super) struct Parts {
    pub(super) runtime: Runtime,
    pub(super) inbox: Arc<Inbox>,
    pub(super) engine: Engine,
    pub(super) settings: Settings,
    pub(super) fetcher: Arc<dyn Fetcher>,
    pub(super) host_policy: Option<Arc<dyn HostPolicy>>,
    pub(super) loops: Vec<FetchLoop>,
    pub(super) stage: Arc<dyn ParseStage>,
    pub(super) items: Option<Box<dyn Lane>>,
    pub(super) outcomes: Option<Box<dyn Lane>>,
    pub(super) frontier: FrontierDoor,
    pub(super) probe: Arc<LagProbe>,
    pub(super) stats: Arc<Mutex<Stats>>,
    pub(super) seeds: Vec<Request>,
    pub(super) done: oneshot::Sender<Result<Report, Error>>,
}

pub(super) struct Driver {
    p: Parts,
    started: Instant,
    records: Vec<Option<Record>>,
    /// Jobs, from 1, in the order of submission.
    submitted: u64,
    rules: HashMap<HostId, Box<dyn HostRules>, KeyedState>,
    host_errors: HashMap<HostId, Error, KeyedState>,
    /// Lanes that take nothing more because the crawl failed.
    failed_lanes: Vec<Box<dyn Lane>>,
    ledger: Arc<Ledger>,
    limits: Arc<Limits>,
    lease: Lease,
    finish: Option<FinishReason>,
    fatal: Option<Error>,
    /// Sinks and the frontier, as long as their tasks have not ended.
    open_tasks: usize,
    /// Why the sinks were closed; `None` while the crawl runs.
    closing: Option<Close>,
    /// Until when what was started may go on after the last page that was allowed.
    drain_until: Option<Instant>,
    /// When parse jobs that a shared offload had no room for are offered again.
    offer_again: Option<Instant>,
    give_up_at: Option<Instant>,
    timer: Option<(Instant, Pin<Box<dyn Sleep>>)>,
    yielding: Option<BoxFuture<'static, ()>>,
    ended: bool,
    done: Option<oneshot::Sender<Result<Report, Error>>>,
}

/// How we stand with the frontier.
#[derive(Debug, Default)]
struct Lease {
    asked: bool,
    /// Additions that it has not answered.
    adding: u32,
    /// It may have something that it had not when it was asked last.
    worth_asking: bool,
    drained: bool,
    next_due: Option<SystemTime>,
    /// The question was taken back, because the crawl ends.
    withdrawn: bool,
}

impl Driver {
    pub(super) fn new(mut p: Parts) -> Self {
        let (unused, _) = oneshot::channel();
        let done = std::mem::replace(&mut p.done, unused);
        let mut driver = Self {
            started: p.runtime.now(),
            records: Vec::new(),
            submitted: 0,
            rules: HashMap::with_hasher(KeyedState::new(0)),
            host_errors: HashMap::with_hasher(KeyedState::new(0)),
            failed_lanes: Vec::new(),
            ledger: Arc::new(Ledger::default()),
            limits: Arc::new(p.settings.profile.limits.clone()),
            lease: Lease { worth_asking: true, ..Lease::default() },
            finish: None,
            fatal: None,
            open_tasks: 1 + usize::from(p.items.is_some()) + usize::from(p.outcomes.is_some()),
            closing: None,
            drain_until: None,
            offer_again: None,
            give_up_at: None,
            timer: None,
            yielding: None,
            ended: false,
            done: Some(done),
            p,
        };
        let seeds = std::mem::take(&mut driver.p.seeds);
        for target in seeds.iter().filter_map(|seed| seed.target().ok()) {
            driver.p.settings.scope.admit(&target);
        }
        driver.add(seeds);
        driver
    }

    fn add(&mut self, found: Vec<Request>) {
        if !found.is_empty() {
            self.lease.adding += 1;
            self.p.frontier.add(found);
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        self.p.engine.handle_event(now, event);
    }

    fn record(&mut self, job: JobId) -> Option<&mut Record> {
        self.records.get_mut(job.index())?.as_mut().filter(|record| record.id == job)
    }

    /// The record, unless the job has its verdict: an answer that comes later than a cancellation changes nothing.
    fn open_record(&mut self, job: JobId) -> Option<&mut Record> {
        self.record(job).filter(|record| record.closing.is_none())
    }

    fn stats(&self) -> std::sync::MutexGuard<'_, Stats> {
        self.p.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What comes in.

    fn on_message(&mut self, now: Instant, message: Message) {
        match message {
            Message::Prepared { host, rules } => self.prepared(now, host, rules),
            Message::Resolved { host, address: Ok(address) } => self.event(now, Event::Resolved { host, address }),
            Message::Resolved { host, address: Err(error) } => self.host_failed(now, host, error),
            Message::Fetched { job, end } => self.fetched(now, job, end),
            Message::Parsed { job, end } => self.parsed(now, job, end),
            Message::Delivered { job, items, rejected } => {
                let Some(record) = self.open_record(job) else { return };
                record.settled.items = items;
                let is_rejected = rejected.is_some();
                record.error = rejected;
                self.event(now, Event::Delivered { job, rejected: is_rejected });
            }
            Message::Closed { job } => self.closed(now, job),
            Message::Leased(leased) => self.leased(now, leased),
            Message::Added { refused } => {
                self.lease.adding -= 1;
                self.lease.worth_asking = true;
                self.lease.drained = false;
                for request in refused {
                    self.submit_settled(now, None, request, JobVerdict::Skipped(SkipReason::FrontierFull), None);
                }
            }
            Message::FrontierFailed(error) => self.fail(now, error.into()),
            Message::SinkFailed(error) => self.fail(now, error),
            Message::LaneClosed(result) => {
                if let Err(error) = result {
                    self.fatal.get_or_insert(error);
                }
                self.open_tasks -= 1;
                if self.closing.is_none() {
                    // It failed before everything settled, and said how: nobody acknowledges outcomes any more.
                    self.fail(now, Error::new(ErrorKind::Shutdown, "go on without a sink or frontier"));
                }
            }
            Message::Gate { open } => self.event(now, Event::Gate { open }),
            Message::TaskLost => {
                self.fatal = Some(Error::new(ErrorKind::Shutdown, "go on: the runtime dropped a task of the crawl"));
                self.ended = true;
            }
            Message::Command(command) => self.command(now, command),
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        if self.closing.is_some() {
            // Too late: a reply that is dropped says that the crawl has ended.
            return;
        }
        match command {
            Command::Submit(requests) => self.add(requests),
            Command::Fetch { request, reply } => {
                let request = request.with_priority(i32::MAX);
                self.submit(now, None, request, Some(reply));
            }
            Command::Pause => self.p.engine.pause(),
            Command::Resume => self.p.engine.resume(),
            Command::Shutdown(how) => self.end(now, FinishReason::Shutdown, how),
            Command::Cancel { which, reply } => {
                let ids: Vec<_> = self
                    .records
                    .iter()
                    .flatten()
                    .filter(|record| record.closing.is_none() && which(&record.settled.request))
                    .map(|record| record.id)
                    .collect();
                let _ = reply.send(ids.len() as u64);
                for id in ids {
                    if let Some(record) = self.record(id) {
                        record.unwanted = true;
                    }
                    self.p.engine.cancel(now, id);
                }
            }
            Command::Hosts { top, reply } => {
                let hosts = self.p.engine.hosts(top, now);
                let list = hosts.into_iter().map(|(origin, jobs, in_flight, wait)| HostSnapshot {
                    origin: origin.to_owned(),
                    jobs,
                    in_flight,
                    wait,
                });
                let _ = reply.send(list.collect());
            }
        }
    }

    fn leased(&mut self, now: Instant, leased: Leased) {
        self.lease.asked = false;
        self.lease.drained = leased.drained && self.lease.adding == 0;
        self.lease.next_due = leased.next_due;
        self.lease.worth_asking = !leased.requests.is_empty() && !leased.drained;
        for (lease, request) in leased.requests {
            self.submit(now, Some(lease), request, None);
        }
    }

    /// Takes a request into the engine, or settles it at once where it is out of bounds.
    fn submit(
        &mut self,
        now: Instant,
        lease: Option<crate::LeaseId>,
        request: Request,
        reply: Option<oneshot::Sender<Result<crate::Page, Error>>>,
    ) {
        let target = match request.target() {
            Ok(target) => target,
            Err(error) => return self.submit_settled(now, lease, request, JobVerdict::Error, Some((error, reply))),
        };
        if reply.is_none() && request.depth() > 0 {
            let scope = &self.p.settings.scope;
            let reason = if !scope.contains(&target) {
                Some(SkipReason::Scope)
            } else if self.p.settings.max_depth.is_some_and(|max| request.depth() > max) {
                Some(SkipReason::Depth)
            } else {
                None
            };
            if let Some(reason) = reason {
                return self.submit_settled(now, lease, request, JobVerdict::Skipped(reason), None);
            }
        }
        let overrides = request.overrides();
        let mut spec = JobSpec::default();
        spec.priority = request.priority();
        spec.attempts = overrides.and_then(|o| o.max_retries).map_or(0, |retries| retries.saturating_add(1));
        spec.vet = self.p.host_policy.is_some();
        let wait =
            request.not_before().map(|time| time.duration_since(self.p.runtime.wall_clock()).unwrap_or_default());
        spec.not_before = wait.filter(|wait| !wait.is_zero()).map(|wait| later(now, wait));
        let limits = match overrides {
            Some(overrides) => Arc::new(overrides.apply(&self.limits)),
            None => Arc::clone(&self.limits),
        };
        let host = self.p.engine.host(&target.origin().ascii_serialization());
        let job = self.p.engine.submit(now, host, spec);
        self.insert(now, job, lease, request, limits).reply = reply;
    }

    fn submit_settled(
        &mut self,
        now: Instant,
        lease: Option<crate::LeaseId>,
        request: Request,
        verdict: JobVerdict,
        error: Option<(Error, Option<oneshot::Sender<Result<crate::Page, Error>>>)>,
    ) {
        let limits = Arc::clone(&self.limits);
        let job = self.p.engine.submit_settled(verdict);
        let record = self.insert(now, job, lease, request, limits);
        if let Some((error, reply)) = error {
            record.error = Some(error);
            record.reply = reply;
        }
    }

    fn insert(
        &mut self,
        now: Instant,
        job: JobId,
        lease: Option<crate::LeaseId>,
        request: Request,
        limits: Arc<Limits>,
    ) -> &mut Record {
        self.submitted += 1;
        let mut record = Record::new(job, self.submitted, Arc::new(request), limits, now);
        record.lease = lease;
        if self.records.len() <= job.index() {
            self.records.resize_with(job.index() + 1, || None);
        }
        self.records[job.index()].insert(record)
    }

    fn prepared(&mut self, now: Instant, host: HostId, rules: Result<Box<dyn HostRules>, Error>) {
        match rules {
            Ok(rules) => {
                let gap = rules.crawl_delay();
                let valid_until = now.checked_add(rules.valid_for());
                self.rules.insert(host, rules);
                self.event(now, Event::Prepared { host, gap, valid_until });
            }
            Err(error) => self.host_failed(now, host, error),
        }
    }

    fn host_failed(&mut self, now: Instant, host: HostId, error: Error) {
        let retry = error.retry_time();
        self.host_errors.insert(host, error);
        self.event(now, Event::HostFailed { host, retry });
    }

    fn fetched(&mut self, now: Instant, job: JobId, end: FetchEnd) {
        let Some(record) = self.open_record(job) else { return };
        let queue = record.settled.timings.queue;
        record.settled.timings = end.timings;
        record.settled.timings.queue = queue;
        record.settled.fetched_at = Some(end.at);
        match end.result {
            Ok(response) => self.answered(now, job, response, end.booking),
            Err(error) => {
                let safe = record.is_idempotent() || record::was_not_sent(error.kind());
                let retry = match error.retry_time() {
                    RetryTime::AfterBackoff if !safe => RetryTime::Never,
                    retry => retry,
                };
                self.failed(now, job, error, retry, false);
            }
        }
    }

    fn answered(&mut self, now: Instant, job: JobId, response: Response, booking: Option<crate::Booking>) {
        let wall_clock = self.p.runtime.wall_clock();
        let may_retry = self.p.engine.may_retry(job);
        let Some(record) = self.record(job) else { return };
        record.note_response(&response);
        let status = response.head.status;
        if response.head.location().is_some() && record.limits.redirects > 0 {
            match self.redirect(now, job, &response.head) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => return self.failed(now, job, error, RetryTime::Never, false),
            }
        }
        let Some(record) = self.record(job) else { return };
        if record::is_retry_status(status) {
            let wait = record::retry_after(&response.head, wall_clock);
            let throttled = matches!(status.as_u16(), 429 | 503);
            let retry = wait.map_or(RetryTime::AfterBackoff, RetryTime::After);
            if may_retry && record.is_idempotent() {
                let error = Error::new(ErrorKind::HttpStatus, format!("get an answer other than {status}"));
                return self.failed(now, job, error, retry, throttled);
            }
            if let Some(wait) = wait.filter(|_| throttled) {
                self.event(now, Event::Throttled { job, wait });
            }
        }
        match response.accepted {
            Accept::Refuse if status.is_success() => {
                self.event(now, Event::Skipped { job, reason: SkipReason::Type });
            }
            Accept::Refuse => {
                let error = Error::new(ErrorKind::HttpStatus, format!("get an answer other than {status}"));
                self.failed(now, job, error, RetryTime::Never, false);
            }
            Accept::Body | Accept::Head => {
                if let Some(record) = self.record(job) {
                    record.response = Some((response, booking));
                }
                self.event(now, Event::Fetched { job });
            }
        }
    }

    /// Sends the job on its next hop; `false` where the answer is no redirect to follow.
    fn redirect(&mut self, now: Instant, job: JobId, head: &Head) -> Result<bool, Error> {
        let Some(record) = self.record(job) else { return Ok(true) };
        let Some(next) = crate::redirect::next_hop(record.current(), head)? else { return Ok(false) };
        if record.hops() >= record.limits.redirects {
            let attempted = format!("follow more than {} redirects", record.limits.redirects);
            return Err(Error::new(ErrorKind::RedirectTooMany, attempted).with_url(next.url()));
        }
        let target = next.target()?;
        let (is_seed, is_own) = (next.depth() == 0, record.reply.is_some());
        record.note_hop(head);
        record.hop = Some(Arc::new(next));
        if is_seed {
            self.p.settings.scope.admit(&target);
        } else if !is_own && !self.p.settings.scope.contains(&target) {
            self.event(now, Event::Skipped { job, reason: SkipReason::Scope });
            return Ok(true);
        }
        let host = self.p.engine.host(&target.origin().ascii_serialization());
        self.event(now, Event::Redirected { job, host });
        Ok(true)
    }

    fn failed(&mut self, now: Instant, job: JobId, error: Error, retry: RetryTime, throttled: bool) {
        if let Some(record) = self.record(job) {
            record.error = Some(error);
            self.event(now, Event::Failed { job, retry, throttled });
        }
    }

    fn parsed(&mut self, now: Instant, job: JobId, end: ParseEnd) {
        let has_sink = self.p.items.is_some();
        let took = u64::try_from(end.took.as_micros()).unwrap_or(u64::MAX);
        self.stats().parse.saturating_record(took.max(1));
        let Some(record) = self.open_record(job) else { return };
        record.settled.bytes = end.bytes;
        match end.result {
            Ok(parsed) => {
                let deliver = parsed.items.is_some();
                record.items = parsed.items;
                record.settled.items = if has_sink { 0 } else { parsed.item_count };
                record.page = parsed.page;
                record.settled.links = parsed.links;
                record.settled.attachment = parsed.attachment;
                for (name, n) in parsed.counts {
                    *self.stats().counts.entry(name).or_default() += n;
                }
                // Also while the crawl ends: the page's lease ends, and nobody would find its links again.
                self.add(parsed.found);
                self.event(now, Event::Parsed { job, deliver });
                if parsed.stop {
                    let within = self.p.settings.profile.drain;
                    self.end(now, FinishReason::Stopped, Shutdown::Graceful { within });
                }
            }
            Err(failure) => {
                let error = record.note_parse_failure(failure);
                let retry = error.retry_time();
                self.failed(now, job, error, retry, false);
            }
        }
    }

    fn closed(&mut self, now: Instant, job: JobId) {
        let Some(record) = self.records.get_mut(job.index()).and_then(|slot| slot.take_if(|r| r.id == job)) else {
            return;
        };
        if let (Some(lease), Some(verdict)) = (record.lease, record.closing) {
            self.p.frontier.settle(lease, verdict);
            // It may give what it held back until now.
            self.lease.worth_asking |= !self.lease.drained;
        }
        self.event(now, Event::Closed { job });
    }

    // What goes out.

    fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Prepare(host) => self.prepare(now, host),
            Action::Resolve(host) => self.resolve(host),
            Action::Vet(job) => self.vet(now, job),
            Action::Fetch { job, attempt } => self.fetch(now, job, attempt),
            Action::Parse(job) => self.parse(job),
            Action::Deliver(job) => {
                let items = self.record(job).and_then(|record| record.items.take());
                match (&self.p.items, items) {
                    (Some(lane), Some(items)) => lane.enqueue(job, items),
                    _ => self.event(now, Event::Delivered { job, rejected: false }),
                }
            }
            Action::Abort(job) => {
                if let Some(record) = self.record(job) {
                    let at = record.in_loop;
                    self.p.loops[at].abort(key(job));
                }
            }
            Action::Settle { job, verdict } => self.settle(now, job, verdict),
            Action::Forget(host) => {
                self.rules.remove(&host);
                self.host_errors.remove(&host);
            }
        }
    }

    fn target_of(&self, host: HostId) -> Option<url::Url> {
        url::Url::parse(self.p.engine.host_key(host)?).ok()
    }

    fn loop_of(&self, host: HostId) -> usize {
        host.index() % self.p.loops.len()
    }

    fn context(&self, at: usize, limits: Arc<Limits>, number: u64, attempt: u32) -> FetchCx {
        let runtime = self.p.runtime.clone();
        FetchCx::new(runtime, limits, number, attempt, Arc::clone(&self.ledger))
            .in_loop(self.p.loops[at].wheel(), self.p.loops[at].slice())
    }

    fn prepare(&mut self, now: Instant, host: HostId) {
        let (Some(policy), Some(target)) = (self.p.host_policy.clone(), self.target_of(host)) else {
            return self.event(now, Event::Prepared { host, gap: None, valid_until: None });
        };
        let at = self.loop_of(host);
        let (fetcher, limits) = (Arc::clone(&self.p.fetcher), Arc::clone(&self.limits));
        let (runtime, ledger) = (self.p.runtime.clone(), Arc::clone(&self.ledger));
        let (wheel, slice) = (self.p.loops[at].wheel(), self.p.loops[at].slice());
        let cx = HostCx::new(self.p.settings.user_agent.clone(), move |request| {
            let cx = FetchCx::new(runtime.clone(), Arc::clone(&limits), 0, 1, Arc::clone(&ledger));
            let cx = cx.in_loop(wheel.clone(), Arc::clone(&slice));
            Box::pin(attempt::fetch_page(Arc::clone(&fetcher), request, cx))
        });
        self.p.loops[at].begin(None, Box::pin(attempt::prepare(policy, target, cx, host)));
    }

    fn resolve(&mut self, host: HostId) {
        let at = self.loop_of(host);
        let cx = self.context(at, Arc::clone(&self.limits), 0, 1);
        if let Some(target) = self.target_of(host) {
            let fetcher = Arc::clone(&self.p.fetcher);
            self.p.loops[at].begin(None, Box::pin(attempt::resolve(fetcher, target, cx, host)));
        }
    }

    fn vet(&mut self, now: Instant, job: JobId) {
        let rules = self.p.engine.host_of(job).and_then(|host| self.rules.get(&host));
        let record = self.records.get(job.index()).and_then(Option::as_ref);
        let target = record.and_then(|record| record.current().target().ok());
        let allowed = match (rules, target) {
            (Some(rules), Some(target)) => rules.allows(&target),
            _ => true,
        };
        let verdict = if allowed { Event::Vetted { job } } else { Event::Skipped { job, reason: SkipReason::Robots } };
        self.event(now, verdict);
    }

    fn fetch(&mut self, now: Instant, job: JobId, attempt: u32) {
        let at = self.p.engine.host_of(job).map_or(0, |host| self.loop_of(host));
        let Some(record) = self.record(job) else { return };
        record.in_loop = at;
        record.clear();
        record.settled.timings.queue = Some(now.saturating_duration_since(record.submitted));
        let request = Arc::clone(record.current());
        let (limits, number) = (Arc::clone(&record.limits), record.number());
        let (follow, page_only) = (record.hops() < limits.redirects, record.reply.is_some());
        let accept = {
            let (stage, request) = (Arc::clone(&self.p.stage), Arc::clone(&request));
            move |head: &Head| match head.location() {
                Some(_) if follow => attempt::accept_redirect(head),
                _ if page_only => Accept::Body,
                _ => stage.accept(request.label(), head),
            }
        };
        let cx = self.context(at, limits, number, attempt).accepting(Arc::new(accept));
        let fetcher = Arc::clone(&self.p.fetcher);
        self.p.loops[at].begin(Some(key(job)), Box::pin(attempt::fetch(fetcher, request, cx, job)));
    }

    fn parse(&mut self, job: JobId) {
        let attempt = self.p.engine.attempts(job);
        let stage = Arc::clone(&self.p.stage);
        let Some(record) = self.record(job) else { return };
        let Some((response, booking)) = record.response.take() else { return };
        stage.begin(ParseJob {
            job,
            request: Arc::clone(&record.settled.request),
            response,
            booking,
            limits: Arc::clone(&record.limits),
            attempt,
            at: record.settled.fetched_at.unwrap_or(SystemTime::UNIX_EPOCH),
            page_only: record.reply.is_some(),
        });
    }

    fn settle(&mut self, now: Instant, job: JobId, verdict: JobVerdict) {
        let attempts = self.p.engine.attempts(job);
        let host = self.p.engine.host_of(job);
        let host_error = host.and_then(|host| self.host_errors.get(&host)).map(Error::replicate);
        let Some(record) = self.record(job) else { return };
        let settled = record.settle(verdict, attempts, host_error);
        record.response = None;
        if let Some(reply) = record.reply.take() {
            let page = record.page.take();
            let answer = match (&settled.outcome, page) {
                (Outcome::Ok, Some(page)) => Ok(page),
                (Outcome::Error(error), _) => Err(error.replicate()),
                (Outcome::Skipped(reason), _) => {
                    Err(Error::new(ErrorKind::Cancelled, format!("fetch the URL: skipped, {}", reason.code())))
                }
                _ => Err(Error::new(ErrorKind::Cancelled, "fetch the URL")),
            };
            let _ = reply.send(answer);
        }
        self.stats().settled(&settled);
        match &self.p.outcomes {
            Some(lane) => {
                let identity = settled.request.identity();
                let url = without_userinfo(settled.request.url()).into_owned();
                let at = settled.fetched_at.unwrap_or_else(|| self.p.runtime.wall_clock());
                let delivery: Delivery<Settled> = Delivery::new(DeliveryId::of(&identity, u64::MAX), url, at, *settled);
                lane.enqueue(job, Box::new(vec![delivery]));
            }
            None => self.closed(now, job),
        }
    }

    // The end.

    fn end(&mut self, now: Instant, reason: FinishReason, how: Shutdown) {
        self.finish.get_or_insert(reason);
        self.p.engine.shutdown(now, how);
        let within = match how {
            Shutdown::Graceful { within } => within,
            Shutdown::Now => Duration::ZERO,
        };
        let give_up = later(now, within) + LINGER;
        self.give_up_at = Some(self.give_up_at.map_or(give_up, |at| at.min(give_up)));
    }

    /// The crawl cannot go on: leases return, and what the failed part would have acknowledged is not waited for.
    fn fail(&mut self, now: Instant, error: Error) {
        self.fatal.get_or_insert(error);
        self.end(now, FinishReason::Shutdown, Shutdown::Now);
        if let Some(lane) = &self.p.items {
            lane.close(Close::Failed);
        }
        if let Some(lane) = self.p.outcomes.take() {
            lane.close(Close::Failed);
            self.failed_lanes.push(lane);
            let waiting: Vec<_> = self.records.iter().flatten().filter(|r| r.closing.is_some()).map(|r| r.id).collect();
            for job in waiting {
                // Its outcome is with nobody, so it is not done.
                if let Some(record) = self.record(job) {
                    record.closing = Some(Verdict::Return);
                }
                self.closed(now, job);
            }
        }
    }

    fn ask_frontier(&mut self) {
        let want = self.p.engine.want();
        let enough = want >= LEASE_AT_LEAST || self.p.engine.waiting() < LEASE_AT_LEAST;
        if self.lease.asked || !self.lease.worth_asking || !enough || self.finish.is_some() {
            return;
        }
        if let Some(want) = NonZeroU32::new(want.min(LEASE_AT_MOST)) {
            self.lease.asked = true;
            self.lease.worth_asking = false;
            self.p.frontier.lease(want);
        }
    }

    fn is_done(&mut self) -> bool {
        if !self.p.engine.is_idle() || (self.lease.adding > 0 && self.fatal.is_none()) {
            return false;
        }
        if self.finish.is_none() {
            return self.lease.drained && !self.lease.worth_asking;
        }
        // What it leases now would come too late for an outcome.
        if self.lease.asked && !std::mem::replace(&mut self.lease.withdrawn, true) {
            self.p.frontier.withdraw();
        }
        !self.lease.asked || self.fatal.is_some()
    }

    fn begin_to_close(&mut self) {
        let why = match (&self.fatal, self.finish) {
            (Some(_), _) => Close::Failed,
            (None, None | Some(FinishReason::Done)) => Close::Done,
            _ => Close::Stopped,
        };
        for lane in [&self.p.items, &self.p.outcomes].into_iter().flatten() {
            lane.close(why);
        }
        self.p.frontier.close();
        self.closing = Some(why);
        let give_up = self.p.runtime.now() + LINGER;
        self.give_up_at = Some(self.give_up_at.map_or(give_up, |at| at.max(give_up)));
    }

    fn on_time(&mut self, now: Instant) {
        self.p.engine.handle_timeout(now);
        if let Some(max) = self.p.settings.max_time.filter(|max| now >= later(self.started, *max)) {
            self.p.settings.max_time = None;
            let within = self.p.settings.profile.drain.min(max);
            self.end(now, FinishReason::MaxTime, Shutdown::Graceful { within });
        }
        if self.lease.next_due.is_some_and(|due| due <= self.p.runtime.wall_clock()) {
            self.lease.next_due = None;
            self.lease.worth_asking = true;
        }
        if self.p.engine.is_exhausted() && self.finish.is_none() {
            self.finish = Some(FinishReason::MaxPages);
            self.p.engine.cancel_unstarted();
            self.drain_until = Some(later(now, self.p.settings.profile.drain));
        }
        if self.drain_until.is_some_and(|at| at <= now) {
            self.drain_until = None;
            self.end(now, FinishReason::MaxPages, Shutdown::Now);
        }
        if self.offer_again.is_some_and(|at| at <= now) {
            self.offer_again = None;
            self.p.stage.retry();
        }
        if self.offer_again.is_none() && self.p.stage.has_rejected() {
            self.offer_again = Some(now + OFFER_AGAIN);
        }
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.fatal
                .get_or_insert_with(|| Error::new(ErrorKind::SinkFailed, "close the sinks and the frontier in time"));
            self.ended = true;
        }
    }

    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let due = self.lease.next_due.filter(|_| !self.lease.asked);
        let due = due.map(|due| later(now, due.duration_since(self.p.runtime.wall_clock()).unwrap_or_default()));
        let end = self.p.settings.max_time.map(|max| later(self.started, max));
        [self.p.engine.poll_timeout(), due, end, self.give_up_at, self.drain_until, self.offer_again]
            .into_iter()
            .flatten()
            .min()
    }

    fn publish(&mut self) {
        let counters = self.p.engine.counters();
        self.p.probe.set_active(counters.in_flight > 0);
        let bytes = self.ledger.bytes();
        let mut stats = self.stats();
        stats.counters = counters;
        stats.bytes_in_memory_peak = stats.bytes_in_memory_peak.max(bytes);
        stats.bound = self.p.engine.bound_clock();
    }

    /// Ends what is left of the sinks, in the middle of a delivery where need be.
    fn abandon_lanes(&mut self) {
        let lanes = [self.p.items.take(), self.p.outcomes.take()].into_iter().flatten();
        lanes.chain(self.failed_lanes.drain(..)).for_each(|lane| lane.abandon());
    }

    fn finish_up(&mut self, now: Instant) {
        self.p.inbox.close();
        self.p.loops.iter().for_each(FetchLoop::close);
        self.p.probe.close();
        self.p.frontier.close();
        self.abandon_lanes();
        self.publish();
        self.stats().bound.stop(now);
        let elapsed = now.saturating_duration_since(self.started);
        let totals = self.stats().snapshot(now, elapsed, self.p.probe.snapshot(now));
        let report = Report {
            finish_reason: self.finish.unwrap_or(FinishReason::Done),
            profile: self.p.settings.profile.name,
            runtime: self.p.runtime.name(),
            totals,
        };
        if let Some(done) = self.done.take() {
            let _ = done.send(self.fatal.take().map_or(Ok(report), Err));
        }
    }

    /// Works for a slice; `true` when there is nothing left to do for now.
    fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let mut now = self.p.runtime.now();
        let end = now + SLICE;
        loop {
            self.on_time(now);
            // Bodies are given back on the parsers' threads, so the sum is asked for and not told.
            let bytes = self.ledger.bytes();
            self.event(now, Event::Bytes(bytes));
            while let Some(message) = self.p.inbox.poll_next(cx.waker()) {
                self.on_message(now, message);
                if self.ended {
                    return true;
                }
                now = self.p.runtime.now();
                if now >= end {
                    return false;
                }
            }
            self.ask_frontier();
            let mut acted = false;
            while let Some(action) = self.p.engine.poll(now) {
                acted = true;
                self.act(now, action);
                now = self.p.runtime.now();
                if now >= end {
                    return false;
                }
            }
            if !acted {
                return true;
            }
        }
    }
}

fn key(job: JobId) -> u64 {
    job.as_u64()
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        loop {
            if let Some(yielding) = &mut driver.yielding {
                if yielding.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                driver.yielding = None;
            }
            let rested = driver.work(cx);
            let now = driver.p.runtime.now();
            driver.publish();
            if !rested {
                driver.yielding = Some(driver.p.runtime.spawner().yield_now());
                continue;
            }
            if driver.closing.is_none() && !driver.ended && driver.is_done() {
                driver.begin_to_close();
                continue;
            }
            if driver.ended || (driver.closing.is_some() && driver.open_tasks == 0) {
                driver.finish_up(now);
                return Poll::Ready(());
            }
            let Some(at) = driver.next_wake(now) else { return Poll::Pending };
            if at <= now {
                continue;
            }
            let (armed, timer) = driver.timer.get_or_insert_with(|| (at, driver.p.runtime.sleep_until(at)));
            if at < *armed || *armed <= now {
                timer.as_mut().reset(at);
                *armed = at;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.p.inbox.close();
        self.p.loops.iter().for_each(FetchLoop::close);
        self.p.probe.close();
        self.p.frontier.close();
        self.abandon_lanes();
    }
}
