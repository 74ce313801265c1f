//! What comes in: messages become events of the engine.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::inbox::{Answer, Command, FetchEnd, LaneOf, Message, ParseEnd};
use super::super::record::{self, Record};
use super::super::stats::{FinishReason, HostSnapshot};
use super::{Driver, Reply};
use crate::engine::{Blame, Event, HostId, JobId, JobSpec, JobVerdict, Shutdown};
use crate::observer::What;
use crate::request::{origin, without_userinfo};
use crate::time::later;
use crate::{
    Accept, Error, ErrorKind, Head, HostRules, LeaseId, Leased, Limits, Request, RetryTime, SkipReason, Timings,
};

impl Driver {
    pub(super) fn on_message(&mut self, now: Instant, message: Message) {
        match message {
            Message::Prepared { host, rules } => self.prepared(now, host, rules),
            Message::Resolved { host, address: Ok(address) } => {
                self.tell_of_host(now, host, What::Resolved { address });
                self.host_errors.remove(&host);
                self.event(now, Event::Resolved { host, address });
            }
            Message::Resolved { host, address: Err(error) } => self.host_failed(now, host, error),
            Message::Waits { job } => self.event(now, Event::Waits { job }),
            Message::Turn { job, readmit } => {
                let Some(record) = self.open_record(job) else { return };
                record.readmit = Some(readmit);
                self.event(now, Event::Turn { job });
            }
            Message::Fetched { job, end } => self.fetched(now, job, end),
            Message::Parsed { job, end } => self.parsed(now, job, end),
            Message::Delivered { job, items, rejected } => {
                let Some(record) = self.open_record(job) else { return };
                record.facts().items = items;
                let is_rejected = rejected.is_some();
                record.error = rejected;
                self.tell(now, job, |_| What::Delivered { items });
                self.event(now, Event::Delivered { job, rejected: is_rejected });
            }
            Message::Closed { job } => self.closed(now, job),
            Message::Leased(leased) => self.leased(now, leased),
            Message::Added { refused } => {
                let added = self.lease.adding.pop_front().unwrap_or_default();
                self.lease.adding_requests -= added;
                self.lease.worth_asking = true;
                self.lease.drained = false;
                self.refused.extend(refused);
                self.event(now, Event::FrontierBehind(self.lease.is_behind()));
            }
            Message::FrontierFailed(error) => {
                self.frontier_failed = true;
                self.fail(now, error.into());
            }
            Message::SinkFailed { of, error } => {
                self.fail(now, error);
                if of == LaneOf::Outcomes {
                    self.lose_outcomes(now);
                }
            }
            Message::LaneClosed(result) => {
                if let Err(error) = result {
                    self.fatal.get_or_insert(error);
                }
                self.open_tasks -= 1;
                if self.closing.is_none() {
                    // It failed before everything settled, and said how.
                    self.fail(now, Error::new(ErrorKind::Shutdown, "go on without a sink or frontier"));
                }
            }
            Message::ObserverPanicked(message) => {
                let attempted = format!("go on after a panic of an observer: {message}");
                self.fail(now, Error::new(ErrorKind::Other, attempted));
            }
            message @ (Message::LagGate | Message::Gate { .. } | Message::Slow { .. } | Message::Stall { .. }) => {
                self.on_lag(now, message);
            }
            Message::TaskLost => {
                self.fatal = Some(Error::new(ErrorKind::Shutdown, "go on: the runtime dropped a task of the crawl"));
                self.ended = true;
            }
            Message::Command(command) => self.command(now, *command),
        }
    }

    pub(super) fn command(&mut self, now: Instant, command: Command) {
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
            Command::Resume => self.p.engine.resume(now),
            Command::Shutdown(how) => self.end(now, FinishReason::Shutdown, how),
            Command::Cancel { which, reply } => {
                let ids: Vec<_> = self
                    .records
                    .iter()
                    .flatten()
                    .filter(|record| record.closing.is_none() && which(&record.request))
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

    pub(super) fn leased(&mut self, now: Instant, leased: Leased) {
        self.lease.asked = false;
        self.lease.drained = leased.drained && self.lease.adding.is_empty();
        self.lease.next_due = leased.next_due;
        // An answer that was made before a settlement does not know what the settlement set free.
        let settled_since = std::mem::take(&mut self.lease.settled_since_asked);
        self.lease.worth_asking = (settled_since || !leased.requests.is_empty()) && !leased.drained;
        for (lease, request) in leased.requests {
            self.submit(now, Some(lease), request, None);
        }
    }

    /// Takes a request into the engine, or settles it at once where it is out of bounds.
    pub(super) fn submit(&mut self, now: Instant, lease: Option<LeaseId>, mut request: Request, reply: Option<Reply>) {
        let parsed = match request.parse() {
            Ok(parsed) => parsed,
            Err(error) => return self.submit_settled(now, lease, request, JobVerdict::Error, Some((error, reply))),
        };
        let target = &parsed.url;
        if reply.is_none() && request.depth() > 0 {
            let scope = &self.p.settings.scope;
            let reason = if !scope.contains_link(target, request.parent()) {
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
        let wait = |time: SystemTime| time.duration_since(self.p.runtime.wall_clock()).ok();
        let spec = JobSpec {
            priority: request.priority(),
            attempts: overrides.and_then(|o| o.max_retries).map_or(0, |retries| retries.saturating_add(1)),
            vet: self.p.host_policy.is_some(),
            awaited: reply.is_some(),
            not_before: request.not_before().and_then(wait).map(|wait| later(now, wait)),
        };
        let limits = match overrides {
            Some(overrides) => Arc::new(overrides.apply(&self.limits)),
            None => Arc::clone(&self.limits),
        };
        let host = self.p.engine.host(&origin(target));
        if overrides.is_some_and(|o| o.proxy.is_some()) {
            self.proxied.insert(host);
        }
        if !request.is_guarded() {
            self.trusted.insert(host);
        }
        let job = self.p.engine.submit(now, host, spec);
        self.insert(now, job, lease, request, limits).reply = reply;
        self.tell(now, job, |_| What::Queued);
    }

    pub(super) fn submit_settled(
        &mut self,
        now: Instant,
        lease: Option<LeaseId>,
        request: Request,
        verdict: JobVerdict,
        error: Option<(Error, Option<Reply>)>,
    ) {
        let limits = Arc::clone(&self.limits);
        let job = self.p.engine.submit_settled(verdict);
        let record = self.insert(now, job, lease, request, limits);
        if let Some((error, reply)) = error {
            record.error = Some(error);
            record.reply = reply;
        }
    }

    pub(super) fn insert(
        &mut self,
        now: Instant,
        job: JobId,
        lease: Option<LeaseId>,
        request: Request,
        limits: Arc<Limits>,
    ) -> &mut Record {
        self.submitted += 1;
        let mut record = Record::new(job, self.submitted, Arc::new(request), limits, now);
        record.lease = lease;
        if self.records.len() <= job.index() {
            self.records.resize_with(job.index() + 1, || None);
        }
        let depth = record.request.depth();
        self.records[job.index()] = Some(record);
        self.tell(now, job, |_| What::Leased { depth });
        self.records[job.index()].as_mut().expect("it was put there")
    }

    pub(super) fn prepared(&mut self, now: Instant, host: HostId, rules: Result<Box<dyn HostRules>, Error>) {
        match rules {
            Ok(rules) => {
                let gap = rules.crawl_delay();
                let valid_until = now.checked_add(rules.valid_for());
                self.rules.insert(host, rules);
                self.host_errors.remove(&host);
                self.tell_of_host(now, host, What::Prepared);
                self.event(now, Event::Prepared { host, gap, valid_until });
            }
            Err(error) => self.host_failed(now, host, error),
        }
    }

    pub(super) fn host_failed(&mut self, now: Instant, host: HostId, error: Error) {
        let retry = error.retry_time();
        self.tell_of_host(now, host, What::HostFailed { error: &error });
        self.host_errors.insert(host, error);
        self.event(now, Event::HostFailed { host, retry });
    }

    pub(super) fn fetched(&mut self, now: Instant, job: JobId, end: FetchEnd) {
        let Some(record) = self.open_record(job) else { return };
        let (timings, at) = match &end {
            Ok(answer) => (&answer.timings, answer.at),
            Err(none) => (&none.timings, none.at),
        };
        let facts = record.facts();
        facts.timings = Timings { queue: facts.timings.queue, ..*timings };
        facts.fetched_at = Some(at);
        let timings = facts.timings;
        self.tally.fetched.push(timings);
        match end {
            Ok(answer) => self.answered(now, job, answer),
            Err(none) => {
                let error = none.error;
                let Some(record) = self.open_record(job) else { return };
                let safe = record.is_idempotent() || record::was_not_sent(error.kind());
                let retry = match error.retry_time() {
                    RetryTime::AfterBackoff if !safe => RetryTime::Never,
                    retry => retry,
                };
                let blame = record::blame(error.kind());
                self.failed(now, job, error, retry, blame);
            }
        }
    }

    pub(super) fn answered(&mut self, now: Instant, job: JobId, answer: Box<Answer>) {
        let Some(record) = self.record(job) else { return };
        let response = &answer.response;
        record.note_response(response);
        let bytes_wire = response.bytes_wire;
        self.tell(now, job, |_| What::Body { bytes_wire });
        let Some(record) = self.record(job) else { return };
        let status = response.head.status;
        if response.head.location().is_some() && record.limits.redirects > 0 {
            match self.redirect(now, job, &response.head) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => return self.failed(now, job, error, RetryTime::Never, Blame::Url),
            }
        }
        if record::is_retry_status(status) {
            let (may_retry, may_wait) = (self.p.engine.may_retry(job), self.p.engine.may_wait(job));
            let wait = record::retry_after(&response.head, self.p.runtime.wall_clock());
            let Some(record) = self.record(job) else { return };
            let blame = record::blame_of_status(status);
            let throttled = blame == Blame::Throttled;
            let retry = wait.map_or(RetryTime::AfterBackoff, RetryTime::After);
            if (may_retry || throttled && may_wait) && record.is_idempotent() {
                let error = Error::new(ErrorKind::HttpStatus, format!("get an answer other than {status}"));
                return self.failed(now, job, error, retry, blame);
            }
            if let Some(wait) = wait.filter(|_| throttled) {
                self.event(now, Event::Throttled { job, wait });
            }
        }
        match response.accepted {
            Accept::Refuse if status.is_success() => {
                self.event(now, Event::Skipped { job, reason: SkipReason::Type });
            }
            Accept::Refuse | Accept::Fail => {
                let error = Error::new(ErrorKind::HttpStatus, format!("get an answer other than {status}"));
                self.failed(now, job, error, RetryTime::Never, record::blame_of_status(status));
            }
            Accept::Body | Accept::Head => {
                if let Some(record) = self.record(job) {
                    record.answer = Some(answer);
                }
                self.event(now, Event::Fetched { job });
            }
        }
    }

    /// Sends the job on its next hop; `false` where the answer is no redirect to follow.
    pub(super) fn redirect(&mut self, now: Instant, job: JobId, head: &Head) -> Result<bool, Error> {
        let Some(record) = self.record(job) else { return Ok(true) };
        let Some(mut next) = crate::redirect::next_hop(record.current(), head)? else { return Ok(false) };
        if record.hops() >= record.limits.redirects {
            let attempted = format!("follow more than {} redirects", record.limits.redirects);
            return Err(Error::new(ErrorKind::RedirectTooMany, attempted).with_url(next.url()));
        }
        let parsed = next.parse()?;
        let target = &parsed.url;
        let is_own = record.reply.is_some();
        let first = Arc::clone(&record.request);
        let guarded = record.guarded;
        record.note_hop(head);
        if self.p.observers.is_some() {
            let to = without_userinfo(next.url());
            self.tell(now, job, |_| What::Redirected { status: head.status, to: &to });
        }
        let Some(record) = self.record(job) else { return Ok(true) };
        record.hop = Some(Arc::new(next));
        // Where a seed leads, the crawl was sent; where a page or the embedder's own fetch leads, it was not.
        if !is_own && first.depth() == 0 && self.seeds.contains(first.url()) {
            self.p.settings.scope.admit(target);
        } else if first.depth() > 0 && !is_own && !self.p.settings.scope.contains_link(target, Some(head.url.as_str()))
        {
            self.event(now, Event::Skipped { job, reason: SkipReason::Scope });
            return Ok(true);
        }
        let host = self.p.engine.host(&origin(target));
        if !guarded {
            self.trusted.insert(host);
        }
        self.event(now, Event::Redirected { job, host });
        Ok(true)
    }

    pub(super) fn failed(&mut self, now: Instant, job: JobId, error: Error, retry: RetryTime, blame: Blame) {
        if let Some(record) = self.record(job) {
            record.error = Some(error);
            self.event(now, Event::Failed { job, retry, blame });
            if let Some(until) = self.p.engine.delayed_until(job) {
                let wait = until.saturating_duration_since(now);
                self.tell(now, job, |record| What::Retried {
                    error: record.error.as_ref().expect("it was put there"),
                    wait,
                });
            }
        }
    }

    pub(super) fn parsed(&mut self, now: Instant, job: JobId, end: ParseEnd) {
        let has_sink = self.p.items.is_some();
        self.tally.parsed.push(end.took);
        let Some(record) = self.open_record(job) else { return };
        record.facts().bytes = end.bytes;
        let (bytes, took) = (end.bytes, end.took);
        self.tell(now, job, |_| What::Parsed { bytes, took });
        let Some(record) = self.open_record(job) else { return };
        match end.result {
            Ok(parsed) => {
                let deliver = parsed.items.is_some();
                record.items = parsed.items;
                record.facts().items = if has_sink { 0 } else { parsed.item_count };
                record.facts().links = parsed.links;
                if let Some(more) = parsed.more {
                    record.page = more.page;
                    record.facts().attachment = more.attachment;
                    self.tally.counts.extend(more.counts);
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
                self.failed(now, job, error, retry, Blame::Nobody);
            }
        }
    }

    pub(super) fn closed(&mut self, now: Instant, job: JobId) {
        let Some(record) = self.records.get_mut(job.index()).and_then(|slot| slot.take_if(|r| r.id == job)) else {
            return;
        };
        if let (Some(lease), Some(verdict)) = (record.lease, record.closing) {
            self.p.frontier.settle(lease, verdict);
            // It may give what it held back until now.
            self.lease.worth_asking |= !self.lease.drained;
            self.lease.settled_since_asked |= self.lease.asked;
        }
        self.event(now, Event::Closed { job });
    }
}
