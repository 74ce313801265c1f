//! The rules of a crawl as a pure state machine: no async, no clock, no randomness but a seeded one, no I/O.
//!
//! It is told what happens by [`Engine::submit`], [`Engine::handle_event`] and [`Engine::handle_timeout`], each with the
//! time, and asked what to do by [`Engine::poll`] until that gives `None`, and [`Engine::poll_timeout`]. It stores ids, sizes,
//! priorities and times; requests and bodies stay with the driver.
//!
//! The life of a job: submitted, its host prepared (rules) and resolved (address) while nobody holds a permit for it,
//! vetted, queued, started when its host, the crawl and the loop allow it, fetched, parsed, delivered, and settled with
//! exactly one verdict.

mod adaptive;
mod admission;
mod bound;
mod config;
mod counters;
mod event;
mod host;
mod lag;
mod limiter;
mod line;
mod littles;
mod pacing;
mod queue;
mod retry;
mod settlement;
mod shutdown;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slab::Slab;

pub use self::bound::Bound;
pub(crate) use self::bound::BoundClock;
use self::bound::BoundSet;
pub use self::config::Config;
pub use self::counters::Counters;
pub use self::event::{Action, Blame, Event, HostId, JobId, JobSpec, JobVerdict};
use self::host::{Host, HostState, Place};
pub use self::lag::LagMonitor;
use self::limiter::Limiter;
pub(crate) use self::littles::InFlight;
pub use self::littles::LittlesLaw;
use self::pacing::Rate;
use self::retry::Budget;
pub use self::shutdown::Shutdown;
use crate::hash::KeyedState;
use crate::time::later;

/// The state machine. See the [module](self) for its life, and `engine/tests/` for tests as lists of literals.
///
/// ```
/// use std::time::Instant;
/// use tidegate::engine::{Action, Config, Engine, JobSpec};
///
/// # #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
/// let now = Instant::now();
/// let mut engine = Engine::new(Config::default());
/// let host = engine.host("http://a.test");
/// let job = engine.submit(now, host, JobSpec::default());
/// assert_eq!(engine.poll(now), Some(Action::Fetch { job, attempt: 1 }));
/// assert_eq!(engine.poll(now), None);
/// ```
#[derive(Debug)]
pub struct Engine {
    config: Config,
    jobs: Slab<Job>,
    hosts: Slab<Host>,
    names: HashMap<Box<str>, HostId, KeyedState>,
    serial: u32,
    seq: u64,
    /// Hosts that may start a job now, in turn.
    ready: VecDeque<HostId>,
    /// Hosts without jobs, longest idle first; may name hosts that are busy again.
    idle: VecDeque<HostId>,
    addresses: HashMap<IpAddr, Address, KeyedState>,
    timers: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    actions: VecDeque<Action>,
    /// Hosts in line for their rules or address.
    to_prepare: VecDeque<HostId>,
    /// Jobs of any stage that somebody waits for.
    awaited: u32,
    preparing: u32,
    to_parse: VecDeque<JobId>,
    /// The same for pages that somebody waits for.
    to_parse_awaited: VecDeque<JobId>,
    to_deliver: VecDeque<JobId>,
    /// Fetches whose turn for a port or a descriptor has come, and that wait for a permit.
    to_readmit: VecDeque<JobId>,
    limiter: Limiter,
    rate: Option<Rate>,
    budget: Budget,
    rng: fastrand::Rng,
    counters: Counters,
    bound: BoundClock,
    in_flight: InFlight,
    /// The job that was delayed last, and until when.
    delayed: Option<(JobId, Instant)>,
    first_starts: u64,
    /// Jobs in a host's queue, arriving or delayed.
    waiting: u32,
    /// Hosts at their limit; and who wait for their time, for politeness and because they fail.
    host_limited: u32,
    timed: [u32; 2],
    /// Hosts with a fetch that waits for a port or a descriptor.
    hosts_in_line: u32,
    /// How many wait for a lookup.
    lookups_in_line: u32,
    /// When this machine was last known to be in the way of its own measurements.
    disturbed: Option<Instant>,
    delivering: u32,
    settling: u32,
    bytes: u64,
    /// Signals that hold the gate shut.
    shut: BoundSet,
    /// What this machine lacks now: nothing is started while anything is in flight that may give it back.
    short: BoundSet,
    frontier_behind: bool,
    paused: bool,
    ending: Option<Ending>,
}

#[derive(Debug, Default)]
struct Address {
    in_flight: u32,
    /// Permits that are kept for hosts that waited for one and are ready now.
    offered: u32,
    waiting: VecDeque<HostId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// What is in flight may end until then.
    Drains { until: Instant },
    /// Nothing is in flight any more.
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Host(HostId),
    HostRetry(HostId),
    Job(JobId),
}

#[derive(Debug)]
struct Job {
    serial: u32,
    seq: u64,
    host: HostId,
    /// Whose permit it holds while it is fetched; the host may be given another one meanwhile.
    address: Option<IpAddr>,
    priority: i32,
    stage: Stage,
    /// Attempts started; a hop is not one.
    attempts: u32,
    max_attempts: u32,
    backoff: Duration,
    /// Since when only local pressure keeps it from being fetched.
    pressed_since: Option<Instant>,
    vet: bool,
    awaited: bool,
    /// The next start is another hop of the same attempt.
    hop: bool,
    /// When its last fetch was started.
    started: Option<Instant>,
    /// That fetch had to wait for a port or a descriptor, which is no time of its host's.
    stood_in_line: bool,
    /// What its host had answered when it last failed by the fault of that.
    turned_away_at: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Arriving,
    Vetting,
    Queued,
    Delayed,
    Fetching,
    /// Waits in the ledger, without a permit.
    InLine,
    /// Its turn there has come.
    ToReadmit,
    ToParse,
    Parsing,
    ToDeliver,
    Delivering,
    Settling,
}

impl Stage {
    fn waits(self) -> bool {
        matches!(self, Self::Arriving | Self::Vetting | Self::Queued | Self::Delayed)
    }

    /// Whether a fetch of it is under way.
    fn is_fetch(self) -> bool {
        matches!(self, Self::Fetching | Self::InLine | Self::ToReadmit)
    }
}

impl Engine {
    /// An engine with nothing to do. Of what would keep it from starting anything at 0, it has 1.
    pub fn new(config: Config) -> Self {
        let config = config.clamped();
        Self {
            jobs: Slab::new(),
            hosts: Slab::new(),
            names: HashMap::with_hasher(KeyedState::new(config.seed)),
            serial: 0,
            seq: 0,
            ready: VecDeque::new(),
            idle: VecDeque::new(),
            addresses: HashMap::with_hasher(KeyedState::new(config.seed)),
            timers: BinaryHeap::new(),
            actions: VecDeque::new(),
            to_prepare: VecDeque::new(),
            awaited: 0,
            preparing: 0,
            to_parse: VecDeque::new(),
            to_parse_awaited: VecDeque::new(),
            to_deliver: VecDeque::new(),
            to_readmit: VecDeque::new(),
            limiter: Limiter::new(config.ramp_from, config.most_in_flight(), config.gate_floor),
            rate: config.rate.map(Rate::per_second),
            budget: Budget::new(config.retry_budget, config.retry_floor),
            rng: fastrand::Rng::with_seed(config.seed),
            counters: Counters::default(),
            bound: BoundClock::default(),
            in_flight: InFlight::default(),
            delayed: None,
            first_starts: 0,
            waiting: 0,
            host_limited: 0,
            timed: [0; 2],
            hosts_in_line: 0,
            lookups_in_line: 0,
            disturbed: None,
            delivering: 0,
            settling: 0,
            bytes: 0,
            shut: BoundSet::default(),
            short: BoundSet::default(),
            frontier_behind: false,
            paused: false,
            ending: None,
            config,
        }
    }

    /// The id of the host with this key, which is made where it is new.
    pub fn host(&mut self, key: &str) -> HostId {
        if let Some(id) = self.names.get(key) {
            return *id;
        }
        self.serial = self.serial.wrapping_add(1);
        let index = self.hosts.insert(Host::new(key.into(), self.serial));
        let id = HostId { index: u32::try_from(index).expect("fewer than 2^32 hosts"), serial: self.serial };
        self.names.insert(key.into(), id);
        id
    }

    /// Takes a job for `host`. The id is valid until [`Event::Closed`].
    ///
    /// # Panics
    /// Where the host was forgotten ([`Action::Forget`]): ask [`host`](Self::host) for its id again.
    pub fn submit(&mut self, now: Instant, host: HostId, spec: JobSpec) -> JobId {
        let id = self.insert(host, spec);
        if self.ending.is_some() {
            self.settle(id, JobVerdict::Cancelled);
        } else if let Some(time) = spec.not_before.filter(|time| *time > now) {
            self.delay(id, time);
        } else {
            self.arrive(now, id);
        }
        id
    }

    fn insert(&mut self, host: HostId, spec: JobSpec) -> JobId {
        let known = self.known_host(host).expect("a host that is remembered");
        known.jobs += 1;
        known.awaited += u32::from(spec.awaited);
        self.awaited += u32::from(spec.awaited);
        self.serial = self.serial.wrapping_add(1);
        self.seq += 1;
        let index = self.jobs.insert(Job {
            serial: self.serial,
            seq: self.seq,
            host,
            address: None,
            priority: spec.priority,
            stage: Stage::Arriving,
            attempts: 0,
            max_attempts: if spec.attempts == 0 { self.config.attempts } else { spec.attempts }.max(1),
            backoff: Duration::ZERO,
            pressed_since: None,
            vet: spec.vet,
            awaited: spec.awaited,
            hop: false,
            started: None,
            stood_in_line: false,
            turned_away_at: None,
        });
        let id = JobId { index: u32::try_from(index).expect("fewer than 2^32 jobs"), serial: self.serial };
        self.counters.submitted += 1;
        self.counters.jobs += 1;
        self.waiting += 1;
        id
    }

    /// Takes what happened. An event for a job that is gone, or in a stage where it cannot be, is ignored.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Prepared { host, gap, valid_until } => {
                let Some(known) = self.known_host(host).filter(|h| h.state == HostState::Preparing) else { return };
                known.gap = gap.unwrap_or_default();
                known.valid_until = valid_until;
                known.recovered();
                known.state = HostState::Prepared;
                self.preparing -= 1;
                self.advance_host(now, host);
            }
            Event::Resolved { host, address } => {
                let Some(known) = self.known_host(host).filter(|h| h.state == HostState::Resolving) else { return };
                let before = std::mem::replace(&mut known.address, address);
                known.recovered();
                known.state = HostState::Ready;
                self.preparing -= 1;
                if before != address {
                    self.leave_line_of(now, host, before);
                }
                self.advance_host(now, host);
            }
            Event::HostFailed { host, retry } => self.host_failed(now, host, retry),
            Event::Vetted { job } => {
                if self.in_stage(job, Stage::Vetting) {
                    self.enqueue(now, job);
                    // Its rules may have been lost meanwhile, and nobody else may ask for them.
                    let host = self.job_mut(job).host;
                    self.advance_host(now, host);
                }
            }
            Event::Skipped { job, reason } => {
                let Some(stage) = self.job(job).map(|j| j.stage) else { return };
                if stage.is_fetch() || matches!(stage, Stage::Vetting | Stage::Parsing) {
                    if stage.is_fetch() {
                        self.host_answered(now, job);
                    }
                    self.leave_stage(now, job);
                    self.settle(job, JobVerdict::Skipped(reason));
                }
            }
            Event::Waits { job } => self.stand_in_line(job),
            Event::Turn { job } => self.turn(job),
            Event::Fetched { job } => {
                if self.is_fetched(job) {
                    self.limiter.success();
                    self.host_answered(now, job);
                    self.leave_stage(now, job);
                    self.set_stage(job, Stage::ToParse);
                    let is_awaited = self.job_mut(job).awaited;
                    if is_awaited { &mut self.to_parse_awaited } else { &mut self.to_parse }.push_back(job);
                    self.counters.parse_queued += 1;
                    self.counters.parse_queued_peak = self.counters.parse_queued_peak.max(self.counters.parse_queued);
                }
            }
            Event::Redirected { job, host } => self.redirected(now, job, host),
            Event::Failed { job, retry, blame } => {
                let Some(stage) = self.job(job).map(|j| j.stage) else { return };
                if stage.is_fetch() || stage == Stage::Parsing {
                    let blame = if stage.is_fetch() { blame } else { Blame::Nobody };
                    self.failed(now, job, retry, blame);
                }
            }
            Event::Throttled { job, wait } => {
                let wait = wait.min(self.config.retry_after_cap);
                if let Some(host) = self.host_of(job) {
                    self.host_mut(host).wait_until(later(now, wait));
                }
            }
            Event::Parsed { job, deliver } => {
                if self.in_stage(job, Stage::Parsing) {
                    self.leave_stage(now, job);
                    if deliver {
                        self.set_stage(job, Stage::ToDeliver);
                        self.to_deliver.push_back(job);
                    } else {
                        self.settle(job, JobVerdict::Ok);
                    }
                }
            }
            Event::Delivered { job, rejected } => {
                if self.in_stage(job, Stage::Delivering) {
                    self.leave_stage(now, job);
                    self.settle(job, if rejected { JobVerdict::Error } else { JobVerdict::Ok });
                }
            }
            Event::Closed { job } => {
                if self.in_stage(job, Stage::Settling) {
                    self.close(now, job);
                }
            }
            Event::Bytes(bytes) => self.bytes = bytes,
            Event::FrontierBehind(behind) => self.frontier_behind = behind,
            Event::Gate { signal, open } => {
                let by = self.shut.first();
                self.shut.set(signal, !open);
                self.disturbed = Some(now);
                if by.is_some() && self.shut.is_empty() {
                    self.limiter.restart(now, self.counters.in_flight, by);
                }
            }
            Event::Short { of, short } => self.short.set(of, short),
            Event::LookupsInLine(lookups) => self.lookups_in_line = lookups,
        }
    }

    /// Takes that time passed. Call it at [`poll_timeout`](Self::poll_timeout), or whenever; an early call does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(Reverse((time, _, due))) = self.timers.peek().copied() {
            if time > now {
                break;
            }
            self.timers.pop();
            match due {
                Due::Host(id) => {
                    if self.known_host(id).is_some_and(|h| h.place == Place::Timed(time)) {
                        self.count_timed(id, None);
                        self.offer(now, id);
                    }
                }
                Due::HostRetry(id) => {
                    let Some(host) = self.known_host(id) else { continue };
                    if let HostState::BackingOff { prepared } = host.state {
                        host.state = if prepared { HostState::Prepared } else { HostState::New };
                        self.advance_host(now, id);
                    }
                }
                Due::Job(id) => {
                    if self.in_stage(id, Stage::Delayed) {
                        self.set_stage(id, Stage::Arriving);
                        self.arrive(now, id);
                    }
                }
            }
        }
        if self.may_ramp() {
            self.limiter.grow(now);
        }
        self.end_if_due(now);
    }

    /// Whether nothing holds the crawl back that begins it anew.
    fn may_ramp(&self) -> bool {
        self.shut.is_empty() && !self.paused
    }

    /// What to do next; `None` when there is nothing until the next event or [`poll_timeout`](Self::poll_timeout).
    ///
    /// May give something again after any other call.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(action) = self.prepare_next() {
            return Some(action);
        }
        if self.delivering < self.config.deliver_permits
            && let Some(job) = self.to_deliver.pop_front()
        {
            self.delivering += 1;
            self.set_stage(job, Stage::Delivering);
            return Some(Action::Deliver(job));
        }
        if let Some(job) = self.next_to_parse() {
            self.counters.parse_queued -= 1;
            self.counters.parsing += 1;
            self.set_stage(job, Stage::Parsing);
            return Some(Action::Parse(job));
        }
        if let Some(action) = self.readmit_next(now) {
            return Some(action);
        }
        match self.start(now) {
            Ok(action) => Some(action),
            Err(bound) => {
                self.bound.set(bound, now);
                self.actions.pop_front()
            }
        }
    }

    /// A page that somebody waits for goes first, and gives nothing to sinks and frontier. Another one that is parsed while its
    /// items have nowhere to go would only move the heap one stage on.
    fn next_to_parse(&mut self) -> Option<JobId> {
        if self.counters.parsing >= self.config.parse_permits {
            return None;
        }
        let others = self.to_deliver.is_empty() && !self.frontier_behind;
        self.to_parse_awaited.pop_front().or_else(|| if others { self.to_parse.pop_front() } else { None })
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do. May change after any other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((time, ..))| *time);
        let rate = self.rate.as_ref().filter(|_| self.bound.is(Bound::Rate)).and_then(Rate::next_start);
        let end = match self.ending {
            Some(Ending::Drains { until }) => Some(until),
            _ => None,
        };
        let ramp = self.limiter.grows_at().filter(|_| self.may_ramp());
        [timer, rate, end, ramp].into_iter().flatten().min()
    }

    /// Takes a job that is settled already: one that is out of scope, or whose URL is none.
    pub fn submit_settled(&mut self, verdict: JobVerdict) -> JobId {
        let host = self.host("");
        let id = self.insert(host, JobSpec::default());
        self.settle(id, verdict);
        id
    }

    /// Whether another attempt of this job would be granted now.
    pub fn may_retry(&self, id: JobId) -> bool {
        self.ending.is_none() && self.budget.is_left() && self.job(id).is_some_and(|j| j.attempts < j.max_attempts)
    }

    /// How many more jobs the engine has room for: for many where hosts keep their own from starting, so that others are found.
    pub fn want(&self) -> u32 {
        let limit = self.config.max_starts.map_or(u64::MAX, |max| max.saturating_sub(self.first_starts));
        let most = if self.ready.is_empty() { self.config.queue } else { self.config.queue.min(self.config.lookahead) };
        let room = most.saturating_sub(self.waiting);
        let wanted = limit.saturating_sub(u64::from(self.waiting)).min(u64::from(room)) as u32;
        if self.paused || self.ending.is_some() { 0 } else { wanted }
    }

    /// How many jobs wait for their start.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Whether no job lives.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether all the first attempts that [`Config::max_starts`] allows were started.
    pub fn is_exhausted(&self) -> bool {
        self.config.max_starts.is_some_and(|max| self.first_starts >= max)
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        Counters { waiting: self.waiting, ..self.counters }
    }

    /// Each bound with the time spent under it, the longest first.
    pub fn bound_by(&self, now: Instant) -> Vec<(Bound, Duration)> {
        self.bound.spent(now)
    }

    /// The same as a clock, which goes on while nothing happens.
    pub(crate) fn bound_clock(&self) -> BoundClock {
        self.bound
    }

    /// The fetches in flight as a meter, which goes on while nothing happens.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight
    }

    /// Until when this job waits, where no other was delayed since.
    pub(crate) fn delayed_until(&self, job: JobId) -> Option<Instant> {
        self.delayed.filter(|(id, _)| *id == job && self.in_stage(job, Stage::Delayed)).map(|(_, until)| until)
    }

    /// How many attempts of this job were started.
    pub fn attempts(&self, job: JobId) -> u32 {
        self.job(job).map_or(0, |j| j.attempts)
    }

    /// The host of this job's next or current fetch.
    pub fn host_of(&self, job: JobId) -> Option<HostId> {
        self.job(job).map(|j| j.host)
    }

    /// Whether somebody waits for a page of this host.
    pub(crate) fn is_awaited(&self, host: HostId) -> bool {
        self.hosts.get(host.index as usize).is_some_and(|h| h.serial == host.serial && h.awaited > 0)
    }

    /// The key of a host.
    pub fn host_key(&self, host: HostId) -> Option<&str> {
        self.hosts.get(host.index as usize).filter(|h| h.serial == host.serial).map(|h| &*h.key)
    }

    /// The busiest hosts: key, jobs, fetches in flight, and how long each must wait.
    pub fn hosts(&self, top: usize, now: Instant) -> Vec<(&str, u32, u32, Duration)> {
        let wait = |h: &Host| h.not_before.map_or(Duration::ZERO, |time| time.saturating_duration_since(now));
        // The host without a key has the jobs that were settled before they had one.
        let named = self.hosts.iter().filter(|(_, h)| !h.key.is_empty());
        let mut list: Vec<_> = named.map(|(_, h)| (&*h.key, h.jobs, h.in_flight, wait(h))).collect();
        list.sort_by_key(|(key, jobs, ..)| (Reverse(*jobs), *key));
        list.truncate(top);
        list
    }

    fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(id.index as usize).filter(|j| j.serial == id.serial)
    }

    fn in_stage(&self, id: JobId, stage: Stage) -> bool {
        self.job(id).is_some_and(|j| j.stage == stage)
    }

    /// Notes how many fetches are under way, those in line too: what a fetch measures of itself has that time in it.
    fn meter(&mut self, now: Instant) {
        self.in_flight.set(self.counters.in_flight + self.counters.in_line, now);
    }

    fn is_fetched(&self, id: JobId) -> bool {
        self.job(id).is_some_and(|j| j.stage.is_fetch())
    }

    /// A job that is known to live.
    fn job_mut(&mut self, id: JobId) -> &mut Job {
        &mut self.jobs[id.index as usize]
    }

    fn set_stage(&mut self, id: JobId, stage: Stage) {
        self.job_mut(id).stage = stage;
    }

    fn known_host(&mut self, id: HostId) -> Option<&mut Host> {
        self.hosts.get_mut(id.index as usize).filter(|h| h.serial == id.serial)
    }

    /// A host that a job names, and that therefore lives.
    fn host_mut(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.index as usize]
    }

    fn at(&mut self, time: Instant, due: Due) {
        self.seq += 1;
        self.timers.push(Reverse((time, self.seq, due)));
    }

    fn delay(&mut self, id: JobId, until: Instant) {
        self.set_stage(id, Stage::Delayed);
        self.delayed = Some((id, until));
        self.at(until, Due::Job(id));
    }
}
