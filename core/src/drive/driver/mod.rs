//! The driver: the one task that owns the engine, turns messages into its events and its actions into work.

mod incoming;
mod lag;
mod outgoing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures::channel::oneshot;

use super::attempt::Wanted;
use super::fetch_loop::{FetchLoop, SLICE};
use super::frontier_task::FrontierDoor;
use super::inbox::{Inbox, Message};
use super::lag_probe::{LagProbe, Worker};
use super::lane::{Lane, SinkLane};
use super::parse_stage::ParseStage;
use super::record::Record;
use super::stall::Stalls;
use super::stats::{FinishReason, Report, Stats};
use super::tally::Tally;
use super::{Profile, Scope};
use crate::StallCause;
use crate::engine::{Action, Bound, Engine, Event, HostId, JobId, JobVerdict, Shutdown};
use crate::fetch::Home;
use crate::hash::KeyedState;
use crate::observer::{Observers, What};
use crate::panics::panic_message;
use crate::rt::{BoxFuture, Runtime, Sleep};
use crate::time::later;
use crate::{
    BodyBytes, Booked, Close, Error, ErrorKind, Fetcher, HostPolicy, HostRules, Limits, Page, Request, Settled,
    SkipReason, Verdict,
};

/// Requests that the frontier has not taken in, above which nothing is fetched or parsed.
const FRONTIER_BEHIND: usize = 100_000;

/// Requests that are added to the frontier at once: in memory, that is work on the loop.
const ADD_AT_ONCE: usize = 256;

/// Requests that are settled at once because the frontier had no room for them.
const REFUSED_AT_ONCE: usize = 128;

/// How long a parse job waits that an offload shared with others had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(2);

/// Jobs for which there must be room before the frontier is asked, unless it is all the room there is.
const LEASE_AT_LEAST: u32 = 64;

/// Jobs that are leased at a time: what the driver takes in is work on the loop, about 2 us each.
const LEASE_AT_MOST: u32 = 128;

/// Steps for which the clock is read once, where each is about a microsecond and none is anybody else's code.
const STEPS_AT_ONCE: u32 = 8;

/// What a crawl was told, apart from the engine's rules.
pub(super) struct Settings {
    pub(super) profile: Profile,
    pub(super) user_agent: Box<str>,
    pub(super) scope: Scope,
    pub(super) max_depth: Option<u32>,
    pub(super) max_time: Option<Duration>,
    pub(super) parse_limit: Duration,
    pub(super) close_limit: Duration,
}

/// Who waits for a page.
pub(super) type Reply = oneshot::Sender<Result<Page, Error>>;

/// Everything that the driver works with.
pub(super) struct Parts {
    pub(super) runtime: Runtime,
    pub(super) inbox: Arc<Inbox>,
    pub(super) engine: Engine,
    pub(super) settings: Settings,
    /// `None` once the crawl has ended.
    pub(super) fetcher: Option<Arc<dyn Fetcher>>,
    pub(super) host_policy: Option<Arc<dyn HostPolicy>>,
    pub(super) loops: Vec<FetchLoop>,
    pub(super) stalls: Stalls,
    pub(super) worker: Worker,
    pub(super) stage: Arc<dyn ParseStage>,
    pub(super) items: Option<Box<dyn Lane>>,
    pub(super) outcomes: Option<SinkLane<Settled>>,
    pub(super) frontier: FrontierDoor,
    pub(super) probe: Arc<LagProbe>,
    pub(super) stats: Arc<Mutex<Stats>>,
    pub(super) ledger: Arc<BodyBytes>,
    /// Where there are any.
    pub(super) observers: Option<Arc<Observers>>,
}

pub(super) struct Driver {
    p: Parts,
    /// What was taken out of the inbox.
    mail: VecDeque<Message>,
    tally: Tally,
    /// What the fetches of each loop share.
    homes: Vec<Arc<Home>>,
    started: Instant,
    records: Vec<Option<Record>>,
    /// Jobs, from 1, in the order of submission.
    submitted: u64,
    rules: HashMap<HostId, Box<dyn HostRules>, KeyedState>,
    host_errors: HashMap<HostId, Error, KeyedState>,
    /// Hosts with a request that has a proxy of its own.
    proxied: HashSet<HostId, KeyedState>,
    /// Hosts to which something else led than a page of the public network: their rules may be asked for wherever they are.
    trusted: HashSet<HostId, KeyedState>,
    /// URLs that the crawl was told to begin with; what they redirect to is in scope.
    seeds: HashSet<Box<str>, KeyedState>,
    /// Requests that the frontier had no room for and that are not settled yet.
    refused: VecDeque<Request>,
    /// The lane of outcomes that takes nothing more because its sink failed.
    lost_outcomes: Option<SinkLane<Settled>>,
    limits: Arc<Limits>,
    lease: Lease,
    finish: Option<FinishReason>,
    fatal: Option<Error>,
    frontier_failed: bool,
    /// Sinks and the frontier, as long as their tasks have not ended.
    open_tasks: usize,
    /// Why the sinks were closed; `None` while the crawl runs.
    closing: Option<Close>,
    /// Until when what was started may go on after the last page that was allowed.
    drain_until: Option<Instant>,
    /// When parse jobs that a shared offload had no room for are offered again.
    offer_again: Option<Instant>,
    /// When to look for parsers that do not end; `None` while nothing is parsed.
    parsers_due: Option<Instant>,
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
    /// The sizes of the additions that it has not answered.
    adding: VecDeque<usize>,
    adding_requests: usize,
    /// A lease was settled after the question that is open.
    settled_since_asked: bool,
    /// It may have something that it had not when it was asked last.
    worth_asking: bool,
    drained: bool,
    next_due: Option<SystemTime>,
}

impl Lease {
    /// Whether it has more to take in than it should.
    fn is_behind(&self) -> bool {
        self.adding_requests > FRONTIER_BEHIND
    }
}

impl Driver {
    /// A driver that begins with `seeds` and gives its report to `done`.
    pub(super) fn new(p: Parts, mut seeds: Vec<Request>, done: oneshot::Sender<Result<Report, Error>>) -> Self {
        let home = |fetches: &FetchLoop| {
            let (stage, worker, inbox) = (Arc::clone(&p.stage), fetches.worker(), Arc::clone(&p.inbox));
            Arc::new(Home {
                runtime: p.runtime.clone(),
                timing: Some((fetches.wheel(), fetches.slice())),
                bytes: Some(Arc::clone(&p.ledger)),
                wishes: Some(Box::new(Wanted { stage, worker, inbox })),
            })
        };
        let mut driver = Self {
            homes: p.loops.iter().map(home).collect(),
            mail: VecDeque::new(),
            tally: Tally::default(),
            started: p.runtime.now(),
            records: Vec::new(),
            submitted: 0,
            rules: HashMap::with_hasher(KeyedState::new(0)),
            host_errors: HashMap::with_hasher(KeyedState::new(0)),
            proxied: HashSet::with_hasher(KeyedState::new(0)),
            trusted: HashSet::with_hasher(KeyedState::new(0)),
            seeds: HashSet::with_hasher(KeyedState::new(0)),
            refused: VecDeque::new(),
            lost_outcomes: None,
            limits: Arc::new(p.settings.profile.limits.clone()),
            lease: Lease { worth_asking: true, ..Lease::default() },
            finish: None,
            fatal: None,
            frontier_failed: false,
            open_tasks: 1 + usize::from(p.items.is_some()) + usize::from(p.outcomes.is_some()),
            closing: None,
            drain_until: None,
            offer_again: None,
            parsers_due: None,
            give_up_at: None,
            timer: None,
            yielding: None,
            ended: false,
            done: Some(done),
            p,
        };
        for seed in &mut seeds {
            driver.seeds.insert(seed.url().into());
            if let Ok(target) = seed.target() {
                driver.p.settings.scope.admit(&target);
                seed.note_target(&target);
            }
        }
        driver.add(seeds);
        driver
    }

    fn add(&mut self, found: Vec<Request>) {
        if found.is_empty() {
            return;
        }
        let mut found = found.into_iter().peekable();
        while found.peek().is_some() {
            let part: Vec<_> = found.by_ref().take(ADD_AT_ONCE).collect();
            self.lease.adding.push_back(part.len());
            self.lease.adding_requests += part.len();
            self.p.frontier.add(part);
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

    /// Tells the observers of a job, where there are any of both.
    fn tell<'a>(&'a self, now: Instant, job: JobId, what: impl FnOnce(&'a Record) -> What<'a>) {
        let Some(observers) = &self.p.observers else { return };
        if let Some(record) = self.records.get(job.index()).and_then(Option::as_ref).filter(|r| r.id == job) {
            let attempt = self.p.engine.attempts(job);
            observers.tell(now, record.number, record.current().url(), attempt, what(record));
        }
    }

    /// Tells the observers of a host.
    fn tell_of_host(&self, now: Instant, host: HostId, what: What<'_>) {
        if let Some(observers) = &self.p.observers {
            observers.tell(now, 0, self.p.engine.host_key(host).unwrap_or_default(), 0, what);
        }
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.p.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&mut self, now: Instant, reason: FinishReason, how: Shutdown) {
        self.finish.get_or_insert(reason);
        self.withdraw_question();
        self.p.engine.shutdown(now, how);
        let within = match how {
            Shutdown::Graceful { within } => within,
            Shutdown::Now => Duration::ZERO,
        };
        let give_up = later(later(now, within), self.p.settings.close_limit);
        self.give_up_at = Some(self.give_up_at.map_or(give_up, |at| at.min(give_up)));
    }

    /// The crawl cannot go on: leases return, and no item is delivered any more. Outcomes still are.
    fn fail(&mut self, now: Instant, error: Error) {
        self.fatal.get_or_insert(error);
        self.end(now, FinishReason::Shutdown, Shutdown::Now);
        if let Some(lane) = &self.p.items {
            lane.close(Close::Failed);
        }
    }

    /// Nobody takes outcomes any more: what waits for an acknowledgement is not waited for.
    fn lose_outcomes(&mut self, now: Instant) {
        if let Some(lane) = self.p.outcomes.take() {
            lane.close(Close::Failed);
            self.lost_outcomes = Some(lane);
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

    /// The crawl ends: what the frontier leases now would come too late, and might be what was just given back.
    fn withdraw_question(&mut self) {
        if self.lease.asked {
            self.p.frontier.withdraw();
        }
    }

    fn is_done(&self) -> bool {
        if !self.p.engine.is_idle() || !self.refused.is_empty() {
            return false;
        }
        // Nothing that it was asked is answered any more.
        if self.frontier_failed {
            return true;
        }
        if !self.lease.adding.is_empty() {
            return false;
        }
        if self.finish.is_none() {
            return self.lease.drained && !self.lease.worth_asking;
        }
        !self.lease.asked
    }

    fn begin_to_close(&mut self) {
        let why = match (&self.fatal, self.finish) {
            (Some(_), _) => Close::Failed,
            (None, None | Some(FinishReason::Done)) => Close::Done,
            _ => Close::Stopped,
        };
        self.p.items.iter().for_each(|lane| lane.close(why));
        self.p.outcomes.iter().for_each(|lane| lane.close(why));
        self.p.frontier.close();
        self.closing = Some(why);
        // Time may still run out while the sinks close, and they were told another reason.
        self.finish.get_or_insert(FinishReason::Done);
        let give_up = later(self.p.runtime.now(), self.p.settings.close_limit);
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
            self.withdraw_question();
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
        if self.parsers_due.is_some_and(|at| at <= now) {
            self.give_up_parsers(now);
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
        let own = [self.give_up_at, self.drain_until, self.offer_again, self.parsers_due];
        [self.p.engine.poll_timeout(), due, end].into_iter().chain(own).flatten().min()
    }

    /// Makes the state of this moment known, all of it at once.
    fn publish(&mut self, now: Instant) {
        self.p.probe.set_active(self.p.engine.counters().in_flight > 0);
        let bytes = self.p.ledger.bytes();
        let mut stats = self.p.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.publish(now, &self.p.engine, &mut self.tally, bytes, || self.p.runtime.cpu_time());
    }

    /// Ends what is left of the sinks, in the middle of a delivery where need be.
    fn abandon_lanes(&mut self) {
        self.p.items.take().iter().for_each(|lane| lane.abandon());
        let outcomes = [self.p.outcomes.take(), self.lost_outcomes.take()];
        outcomes.iter().flatten().for_each(|lane| lane.abandon());
    }

    fn finish_up(&mut self, now: Instant) {
        self.p.inbox.close();
        self.mail.clear();
        self.p.loops.iter().for_each(FetchLoop::close);
        self.p.probe.close();
        self.p.frontier.abandon();
        self.abandon_lanes();
        let booked = Booked::read(self.p.fetcher.as_ref().and_then(|fetcher| fetcher.ledger()), &self.p.ledger);
        // Closing thousands of sockets takes tens of milliseconds: not on this thread, where there is another.
        if let Some(fetcher) = self.p.fetcher.take() {
            let _ = self.p.runtime.offload().submit(Box::new(move || drop(fetcher)));
        }
        self.publish(now);
        let lag = self.p.probe.snapshot(now);
        let totals = {
            let mut stats = self.stats();
            stats.stop(now);
            stats.snapshot(now, lag, booked, || self.p.runtime.cpu_time())
        };
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
        let mut untimed = 0;
        loop {
            self.on_time(now);
            self.event(now, Event::FrontierBehind(self.lease.is_behind()));
            for _ in 0..REFUSED_AT_ONCE {
                let Some(request) = self.refused.pop_front() else { break };
                self.submit_settled(now, None, request, JobVerdict::Skipped(SkipReason::FrontierFull), None);
            }
            while let Some(message) = self.p.inbox.poll_next(&mut self.mail, cx.waker()) {
                let (began, job) = (now, message.job().map(key));
                if self.goes_untimed(&mut untimed, message.is_short()) {
                    self.contained(now, |driver| driver.on_message(now, message));
                    if self.ended {
                        return true;
                    }
                    continue;
                }
                self.p.worker.enter(StallCause::Driver, job);
                self.contained(now, |driver| driver.on_message(now, message));
                now = self.p.runtime.now();
                self.p.worker.leave_slice(now >= end, job, began, now);
                if self.ended {
                    return true;
                }
                if now >= end {
                    return false;
                }
            }
            // Bodies are given back on other threads, so the sum is asked for and not told: after the inbox was found empty,
            // since who gives back wakes its reader.
            let bytes = self.p.ledger.bytes();
            self.event(now, Event::Bytes(bytes));
            self.event(now, Event::Short { of: Bound::Bytes, short: self.p.ledger.is_short() });
            // Whoever waits in the ledger is in flight, and so is who has what it waits for: its end wakes this task.
            let ledger = self.p.fetcher.as_ref().and_then(|f| f.ledger());
            let (short, lookups) = ledger.map_or((false, 0), |ledger| (ledger.is_short(), ledger.lookups_in_line()));
            self.event(now, Event::Short { of: Bound::Descriptors, short });
            self.event(now, Event::LookupsInLine(lookups));
            self.ask_frontier();
            let mut acted = false;
            while let Some(action) = self.p.engine.poll(now) {
                acted = true;
                let is_short = matches!(action, Action::Fetch { .. } | Action::Deliver(_) | Action::Settle { .. });
                if self.goes_untimed(&mut untimed, is_short) {
                    self.contained(now, |driver| driver.act(now, action));
                    continue;
                }
                let (began, (cause, job)) = (now, self.work_of(&action));
                self.p.worker.enter(cause, job);
                self.contained(now, |driver| driver.act(now, action));
                now = self.p.runtime.now();
                self.p.worker.leave_slice(now >= end, job, began, now);
                if now >= end {
                    return false;
                }
            }
            if !acted && self.refused.is_empty() {
                return true;
            }
            if self.p.runtime.now() >= end {
                return false;
            }
        }
    }

    /// Whether the next step is short, and not the last of as many as there may be.
    fn goes_untimed(&self, untimed: &mut u32, is_short: bool) -> bool {
        *untimed = if is_short && self.p.observers.is_none() { (*untimed + 1) % STEPS_AT_ONCE } else { 0 };
        *untimed > 0
    }

    /// Runs what may call code of the embedder's (a filter, rules of a host, a drop). A panic in it ends the crawl, and
    /// says so.
    fn contained(&mut self, now: Instant, work: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(self))) {
            let attempted = format!("go on after a panic on the loop: {}", panic_message(panic));
            self.fail(now, Error::new(ErrorKind::Other, attempted));
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
            driver.publish(now);
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
        self.p.frontier.abandon();
        self.abandon_lanes();
    }
}
