//! What goes out: actions of the engine become work.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::attempt;
use super::super::parse_stage::ParseJob;
use super::{Driver, key};
use crate::engine::{Action, Blame, Event, HostId, JobId, JobVerdict};
use crate::fetch::Wish;
use crate::observer::{FetchWatch, What};
use crate::request::without_userinfo;
use crate::time::later;
use crate::{Delivery, DeliveryId, Error, ErrorKind, FetchCx, HostCx, Limits, Outcome, RetryTime, SkipReason, Verdict};

impl Driver {
    pub(super) fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Prepare(host) => self.prepare(now, host),
            Action::Resolve(host) => self.resolve(now, host),
            Action::Vet(job) => self.vet(now, job),
            Action::Fetch { job, attempt } => self.fetch(now, job, attempt),
            Action::Readmit(job) => {
                if let Some(readmit) = self.record(job).and_then(|record| record.readmit.take()) {
                    let _ = readmit.send(());
                }
            }
            Action::Parse(job) => self.parse(now, job),
            Action::Deliver(job) => {
                let items = self.record(job).and_then(|record| record.items.take());
                match (&self.p.items, items) {
                    (Some(lane), Some(items)) => lane.enqueue(job, items),
                    _ => {
                        self.tell(now, job, |record| What::Delivered {
                            items: record.known().map_or(0, |facts| facts.items),
                        });
                        self.event(now, Event::Delivered { job, rejected: false });
                    }
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
                self.proxied.remove(&host);
                self.trusted.remove(&host);
            }
        }
    }

    pub(super) fn target_of(&self, host: HostId) -> Option<url::Url> {
        url::Url::parse(self.p.engine.host_key(host)?).ok()
    }

    pub(super) fn loop_of(&self, host: HostId) -> usize {
        host.index() % self.p.loops.len()
    }

    pub(super) fn context(&self, at: usize, limits: Arc<Limits>, number: u64, attempt: u32) -> FetchCx {
        FetchCx::new(Arc::clone(&self.homes[at]), self.p.runtime.now(), limits, number, attempt)
    }

    pub(super) fn prepare(&mut self, now: Instant, host: HostId) {
        let (Some(policy), Some(target), Some(fetcher)) =
            (self.p.host_policy.clone(), self.target_of(host), self.p.fetcher.clone())
        else {
            return self.event(now, Event::Prepared { host, gap: None, valid_until: None });
        };
        let at = self.loop_of(host);
        let (guards, guarded) = (self.p.settings.profile.guard, !self.trusted.contains(&host));
        let limits = Arc::clone(&self.limits);
        let home = Arc::clone(&self.homes[at]);
        // Bodies before a sink that waits for a page of this host must not keep its rules from being read.
        let is_awaited = self.p.engine.is_awaited(host);
        let cx = HostCx::new(self.p.settings.user_agent.clone(), move |request| {
            let mut cx = FetchCx::new(Arc::clone(&home), home.runtime.now(), Arc::clone(&limits), 0, 1);
            cx.guarding(guards, guarded);
            if is_awaited {
                cx.books_at_once();
            }
            Box::pin(attempt::fetch_page(Arc::clone(&fetcher), request, cx))
        });
        self.p.loops[at].begin(None, Box::pin(attempt::prepare(policy, target, cx, host)));
    }

    pub(super) fn resolve(&mut self, now: Instant, host: HostId) {
        // A name may be known to the proxy alone, and is nobody else's business: the fetch decides.
        if self.proxied.contains(&host) {
            return self.event(now, Event::Resolved { host, address: None });
        }
        let at = self.loop_of(host);
        let cx = self.context(at, Arc::clone(&self.limits), 0, 1);
        if let (Some(target), Some(fetcher)) = (self.target_of(host), self.p.fetcher.clone()) {
            self.p.loops[at].begin(None, Box::pin(attempt::resolve(fetcher, target, cx, host)));
        } else {
            self.event(now, Event::Resolved { host, address: None });
        }
    }

    pub(super) fn vet(&mut self, now: Instant, job: JobId) {
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

    pub(super) fn fetch(&mut self, now: Instant, job: JobId, attempt: u32) {
        let at = self.p.engine.host_of(job).map_or(0, |host| self.loop_of(host));
        let Some(record) = self.record(job) else { return };
        record.in_loop = at;
        record.clear();
        record.facts().timings.queue = Some(now.saturating_duration_since(record.submitted));
        let request = Arc::clone(record.current());
        let (limits, number) = (Arc::clone(&record.limits), record.number);
        let guarded = record.guarded;
        let (follows, page_only) = (record.hops() < limits.redirects, record.reply.is_some());
        let guards = self.p.settings.profile.guard;
        let watch = |observers| Arc::new(FetchWatch::new(Arc::clone(observers), Arc::clone(&request)));
        let watch = self.p.observers.as_ref().map(watch);
        if let Some(record) = self.record(job) {
            record.watch.clone_from(&watch);
        }
        let mut cx = FetchCx::new(Arc::clone(&self.homes[at]), now, limits, number, attempt);
        cx.guarding(guards, guarded);
        let wish = Wish { job, request, watch, follows, page_only };
        if page_only {
            cx.books_at_once();
        }
        self.tell(now, job, |record| What::Dispatched {
            hop: record.hops(),
            queue: record.known().and_then(|facts| facts.timings.queue).unwrap_or_default(),
        });
        let Some(fetcher) = self.p.fetcher.clone() else { return };
        self.p.loops[at].begin(Some(key(job)), Box::pin(attempt::fetch(fetcher, wish, cx)));
    }

    pub(super) fn parse(&mut self, now: Instant, job: JobId) {
        let limit = self.p.settings.parse_limit;
        self.parsers_due.get_or_insert_with(|| later(now, limit));
        let attempt = self.p.engine.attempts(job);
        let stage = Arc::clone(&self.p.stage);
        let Some(record) = self.record(job) else { return };
        let Some(answer) = record.answer.take() else { return };
        self.tell(now, job, |_| What::Parsing);
        let Some(record) = self.record(job) else { return };
        stage.begin(ParseJob {
            job,
            request: Arc::clone(&record.request),
            answer,
            limits: Arc::clone(&record.limits),
            attempt,
            at: record.facts().fetched_at.unwrap_or(SystemTime::UNIX_EPOCH),
            page_only: record.reply.is_some(),
        });
    }

    /// Fails the URLs whose parsers do not end. Where their threads can no longer be replaced, nothing would be parsed any
    /// more, and the crawl ends.
    pub(super) fn give_up_parsers(&mut self, now: Instant) {
        let limit = self.p.settings.parse_limit;
        let (given_up, next) = self.p.stage.overdue(now, limit);
        for (job, replaced) in given_up {
            let attempted = format!("parse the page within {limit:?}");
            self.failed(now, job, Error::new(ErrorKind::ParserTimeout, attempted), RetryTime::Never, Blame::Nobody);
            if !replaced {
                let attempted = "replace a parser thread: too many were given up to parsers that do not end";
                self.fail(now, Error::new(ErrorKind::ParserTimeout, attempted));
            }
        }
        let busy = self.p.engine.counters().parsing > 0;
        self.parsers_due = next.or_else(|| busy.then(|| later(now, limit)));
    }

    pub(super) fn settle(&mut self, now: Instant, job: JobId, verdict: JobVerdict) {
        let attempts = self.p.engine.attempts(job);
        let host = self.p.engine.host_of(job);
        let host_error = host.and_then(|host| self.host_errors.get(&host)).map(Error::replicate);
        let Some(record) = self.record(job) else { return };
        let settled = record.settle(verdict, attempts, host_error);
        record.answer = None;
        if let Some(watch) = record.watch.take() {
            watch.end();
        }
        if let Some(reply) = record.reply.take() {
            let page = record.page.take();
            let answer = match (&settled.outcome, page) {
                (Outcome::Ok, Some(page)) => Ok(*page),
                (Outcome::Error(error), _) => Err(error.replicate()),
                (Outcome::Skipped(reason), _) => {
                    Err(Error::new(ErrorKind::Cancelled, format!("fetch the URL: skipped, {}", reason.code())))
                }
                _ => Err(Error::new(ErrorKind::Cancelled, "fetch the URL")),
            };
            let _ = reply.send(answer);
        }
        self.tally.settled(&settled);
        if let Some(observers) = &self.p.observers {
            observers.tell(now, settled.job, settled.request.url(), attempts, What::Settled(&settled));
        }
        match &self.p.outcomes {
            Some(lane) => {
                let id = DeliveryId::of(&settled.request.identity_bytes(), u64::MAX);
                let url = without_userinfo(settled.request.url()).into_owned();
                let at = settled.fetched_at.unwrap_or_else(|| self.p.runtime.wall_clock());
                lane.push(job, move || Delivery::new(id, url, at, *settled));
            }
            None => {
                if self.lost_outcomes.is_some()
                    && let Some(record) = self.record(job)
                {
                    // There was somebody to take its outcome, and nobody has.
                    record.closing = Some(Verdict::Return);
                }
                self.closed(now, job);
            }
        }
    }
}
