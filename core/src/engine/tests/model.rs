//! A naive reference of the engine: plain maps, each rule as the documentation has it, and nothing kept that can be counted.

mod judge;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::SkipReason;
use crate::engine::host::HostState;
use crate::engine::limiter::RAMP;

#[derive(Clone, Debug)]
pub(super) struct ModelJob {
    pub(super) host: HostId,
    pub(super) spec: JobSpec,
    pub(super) stage: Stage,
    pub(super) attempts: u32,
    pub(super) address: Option<IpAddr>,
    /// When a delayed job comes back.
    pub(super) until: Option<Instant>,
    /// Age among all jobs.
    age: u64,
    /// Order in which jobs came to their stage, and timers were set.
    order: u64,
    hop: bool,
    backoff: Duration,
    pressed_since: Option<Instant>,
    started: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelHost {
    pub(super) key: String,
    pub(super) state: HostState,
    pub(super) gap: Duration,
    pub(super) not_before: Option<Instant>,
    pub(super) address: Option<IpAddr>,
    valid_until: Option<Instant>,
    failures: u32,
    backoff: Duration,
    pressed_since: Option<Instant>,
    until: Option<Instant>,
    order: u64,
    /// Starts of each other host since it could start itself.
    overtaken: BTreeMap<HostId, u32>,
    /// The same, whatever the limit of its address, for starts at that address.
    passed: usize,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) config: Config,
    pub(super) jobs: BTreeMap<JobId, ModelJob>,
    pub(super) hosts: BTreeMap<HostId, ModelHost>,
    /// What must be asked for before anything else.
    pub(super) owed: Vec<Action>,
    /// Hosts in line to be prepared.
    line: VecDeque<HostId>,
    pub(super) limit: u32,
    /// Where growth slows down, answers since the limit grew, and when it fell.
    threshold: u32,
    /// What it is so low for, what it was before, by how much it grows by itself, and when.
    pub(super) held: Option<(Option<Bound>, u32, u32, Instant)>,
    answers: u32,
    cut: Option<Instant>,
    pub(super) first_starts: u64,
    retries: u64,
    /// When the next start would come if all came evenly.
    pub(super) rate_next: Option<Instant>,
    pub(super) bytes: u64,
    pub(super) shut: std::collections::BTreeSet<Bound>,
    pub(super) short: std::collections::BTreeSet<Bound>,
    pub(super) behind: bool,
    pub(super) paused: bool,
    /// Ending, and until when what is in flight may go on.
    pub(super) ending: Option<Option<Instant>>,
    pub(super) counters: Counters,
    /// Whether there was ever a job that somebody waits for, and how many of those ended before their start.
    met_awaited: bool,
    unstarted_awaited: u32,
    /// Hosts remembered at a time, at most so far.
    most_hosts: usize,
    /// The latest time that was told.
    latest: Option<Instant>,
    count: u64,
}

impl Model {
    pub(super) fn new(config: Config) -> Self {
        let max = config.most_in_flight();
        let limit = config.ramp_from.unwrap_or(max).clamp(1, max);
        Self {
            config,
            jobs: BTreeMap::new(),
            hosts: BTreeMap::new(),
            owed: Vec::new(),
            line: VecDeque::new(),
            limit,
            threshold: max,
            held: None,
            answers: 0,
            cut: None,
            first_starts: 0,
            retries: 0,
            rate_next: None,
            bytes: 0,
            shut: Default::default(),
            short: Default::default(),
            behind: false,
            paused: false,
            ending: None,
            counters: Counters::default(),
            met_awaited: false,
            unstarted_awaited: 0,
            most_hosts: 0,
            latest: None,
            count: 0,
        }
    }

    pub(super) fn count(&self, which: impl Fn(&ModelJob) -> bool) -> u32 {
        self.jobs.values().filter(|job| which(job)).count() as u32
    }

    pub(super) fn in_stage(&self, stage: Stage) -> u32 {
        self.count(|job| job.stage == stage)
    }

    pub(super) fn waiting(&self) -> u32 {
        self.count(|job| job.stage.waits())
    }

    /// Those in line too: only the permit of the crawl is given back.
    pub(super) fn host_in_flight(&self, host: HostId) -> u32 {
        self.count(|job| job.stage.is_fetch() && job.host == host)
    }

    pub(super) fn address_in_flight(&self, address: IpAddr) -> u32 {
        self.count(|job| job.stage.is_fetch() && job.address == Some(address))
    }

    pub(super) fn in_line(&self) -> u32 {
        self.in_stage(Stage::InLine) + self.in_stage(Stage::ToReadmit)
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.config.max_starts.is_some_and(|max| self.first_starts >= max)
    }

    fn has_budget(&self) -> bool {
        let earned = f64::from(self.config.retry_floor) + self.first_starts as f64 * self.config.retry_budget;
        self.retries < earned.floor() as u64
    }

    pub(super) fn may_retry(&self, id: JobId) -> bool {
        let left = self.jobs.get(&id).is_some_and(|job| job.attempts < self.attempts_of(job));
        self.ending.is_none() && self.has_budget() && left
    }

    fn attempts_of(&self, job: &ModelJob) -> u32 {
        if job.spec.attempts == 0 { self.config.attempts.max(1) } else { job.spec.attempts }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn job(&mut self, id: JobId) -> &mut ModelJob {
        self.jobs.get_mut(&id).expect("the job lives")
    }

    fn host(&mut self, id: HostId) -> &mut ModelHost {
        self.hosts.get_mut(&id).expect("the host is remembered")
    }

    fn is(&self, id: JobId, stages: &[Stage]) -> bool {
        self.jobs.get(&id).is_some_and(|job| stages.contains(&job.stage))
    }

    fn is_fetched(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.stage.is_fetch())
    }

    fn set(&mut self, id: JobId, stage: Stage) {
        let order = self.next();
        let job = self.job(id);
        (job.stage, job.order) = (stage, order);
        if !stage.is_fetch() {
            job.address = None;
        }
    }

    /// Notes a host that the engine knows.
    pub(super) fn meet(&mut self, id: HostId, key: &str) {
        self.hosts.entry(id).or_insert_with(|| ModelHost {
            key: key.to_owned(),
            state: HostState::New,
            gap: Duration::ZERO,
            not_before: None,
            address: None,
            valid_until: None,
            failures: 0,
            backoff: Duration::ZERO,
            pressed_since: None,
            until: None,
            order: 0,
            overtaken: BTreeMap::new(),
            passed: 0,
        });
        self.most_hosts = self.most_hosts.max(self.hosts.len());
    }

    pub(super) fn submit(&mut self, now: Instant, id: JobId, host: HostId, spec: JobSpec) {
        self.insert(id, host, spec);
        if self.ending.is_some() {
            self.settle(id, JobVerdict::Cancelled);
        } else if let Some(until) = spec.not_before.filter(|time| *time > now) {
            self.delay(id, until);
        } else {
            self.arrive(now, id);
        }
    }

    pub(super) fn insert(&mut self, id: JobId, host: HostId, spec: JobSpec) {
        let age = self.next();
        let job = ModelJob {
            host,
            spec,
            stage: Stage::Arriving,
            attempts: 0,
            address: None,
            until: None,
            age,
            order: age,
            hop: false,
            backoff: Duration::ZERO,
            pressed_since: None,
            started: None,
        };
        assert!(self.jobs.insert(id, job).is_none(), "{id:?} was given twice");
        self.counters.submitted += 1;
        self.met_awaited |= spec.awaited;
    }

    fn delay(&mut self, id: JobId, until: Instant) {
        self.set(id, Stage::Delayed);
        self.job(id).until = Some(until);
    }

    fn arrive(&mut self, now: Instant, id: JobId) {
        self.set(id, Stage::Arriving);
        let host = self.job(id).host;
        let known = self.host(host);
        if known.state == HostState::Ready && known.valid_until.is_some_and(|until| until <= now) {
            known.state = HostState::New;
        }
        self.advance(host);
    }

    fn advance(&mut self, id: HostId) {
        if self.host(id).state == HostState::New {
            self.host(id).state = HostState::Prepared;
            if self.config.prepare_hosts {
                self.host(id).state = HostState::ToPrepare;
                self.line.push_back(id);
            }
        }
        if self.host(id).state == HostState::Prepared {
            self.host(id).state = HostState::Ready;
            if self.config.resolve_hosts {
                self.host(id).state = HostState::ToResolve;
                self.line.push_back(id);
            }
        }
        if self.host(id).state == HostState::Ready {
            for job in self.ordered(|job| job.stage == Stage::Arriving && job.host == id) {
                if self.job(job).spec.vet {
                    self.set(job, Stage::Vetting);
                    self.owed.push(Action::Vet(job));
                } else {
                    self.set(job, Stage::Queued);
                }
            }
        }
    }

    fn ordered(&self, which: impl Fn(&ModelJob) -> bool) -> Vec<JobId> {
        let mut list: Vec<_> =
            self.jobs.iter().filter(|(_, job)| which(job)).map(|(id, job)| (job.order, *id)).collect();
        list.sort_unstable();
        list.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn settle(&mut self, id: JobId, verdict: JobVerdict) {
        assert!(!self.is(id, &[Stage::Settling]), "{id:?} has its verdict");
        self.unstarted_awaited += u32::from(self.jobs[&id].spec.awaited && self.jobs[&id].stage.waits());
        self.set(id, Stage::Settling);
        match verdict {
            JobVerdict::Ok => self.counters.ok += 1,
            JobVerdict::Error | JobVerdict::HostError => self.counters.error += 1,
            JobVerdict::Skipped(_) => self.counters.skipped += 1,
            JobVerdict::Cancelled => self.counters.cancelled += 1,
        }
        self.owed.push(Action::Settle { job: id, verdict });
    }

    /// `drawn`: the back-off that was drawn, for the host or job of the event.
    pub(super) fn event(&mut self, now: Instant, event: Event, drawn: Duration) {
        match event {
            Event::Prepared { host, gap, valid_until } => {
                let Some(known) = self.hosts.get_mut(&host).filter(|h| h.state == HostState::Preparing) else { return };
                (known.gap, known.valid_until) = (gap.unwrap_or_default(), valid_until);
                (known.failures, known.backoff, known.pressed_since) = (0, Duration::ZERO, None);
                known.state = HostState::Prepared;
                self.advance(host);
            }
            Event::Resolved { host, address } => {
                let Some(known) = self.hosts.get_mut(&host).filter(|h| h.state == HostState::Resolving) else { return };
                known.address = address;
                (known.failures, known.backoff, known.pressed_since) = (0, Duration::ZERO, None);
                known.state = HostState::Ready;
                self.advance(host);
            }
            Event::HostFailed { host, retry } => self.host_failed(now, host, retry, drawn),
            Event::Vetted { job } if self.is(job, &[Stage::Vetting]) => {
                self.set(job, Stage::Queued);
                let host = self.job(job).host;
                self.advance(host);
            }
            Event::Skipped { job, reason }
                if self.is_fetched(job) || self.is(job, &[Stage::Vetting, Stage::Parsing]) =>
            {
                self.settle(job, JobVerdict::Skipped(reason));
            }
            Event::Waits { job } if self.is(job, &[Stage::Fetching]) => self.set(job, Stage::InLine),
            Event::Turn { job } if self.is(job, &[Stage::InLine]) => self.set(job, Stage::ToReadmit),
            Event::Fetched { job } if self.is_fetched(job) => {
                self.success();
                self.set(job, Stage::ToParse);
                let queued = self.in_stage(Stage::ToParse);
                self.counters.parse_queued_peak = self.counters.parse_queued_peak.max(queued);
            }
            Event::Redirected { job, host } if self.is_fetched(job) => {
                self.success();
                self.job(job).host = host;
                self.job(job).hop = true;
                self.set(job, Stage::Arriving);
                if self.ending.is_some() {
                    self.settle(job, JobVerdict::Cancelled);
                } else {
                    self.arrive(now, job);
                }
            }
            Event::Failed { job, retry, blame } if self.is_fetched(job) || self.is(job, &[Stage::Parsing]) => {
                let throttled = matches!(blame, Blame::Throttled | Blame::Ports) && self.is_fetched(job);
                let ports = blame == Blame::Ports && self.is_fetched(job);
                self.failed(now, job, retry, (throttled, ports), drawn);
            }
            Event::Throttled { job, wait } => {
                if let Some(host) = self.jobs.get(&job).map(|job| job.host) {
                    self.host_waits(host, now + wait.min(self.config.retry_after_cap));
                }
            }
            Event::Parsed { job, deliver } if self.is(job, &[Stage::Parsing]) => {
                if deliver {
                    self.set(job, Stage::ToDeliver);
                } else {
                    self.settle(job, JobVerdict::Ok);
                }
            }
            Event::Delivered { job, rejected } if self.is(job, &[Stage::Delivering]) => {
                self.settle(job, if rejected { JobVerdict::Error } else { JobVerdict::Ok });
            }
            Event::Closed { job } if self.is(job, &[Stage::Settling]) => {
                self.jobs.remove(&job);
            }
            Event::Bytes(bytes) => self.bytes = bytes,
            Event::FrontierBehind(behind) => self.behind = behind,
            Event::Gate { signal, open: false } => _ = self.shut.insert(signal),
            Event::Gate { signal, open: true } => {
                let by = self.shut.first().copied();
                if self.shut.remove(&signal) && self.shut.is_empty() {
                    self.restart(now, by);
                }
            }
            Event::Short { of, short: true } => _ = self.short.insert(of),
            Event::Short { of, short: false } => _ = self.short.remove(&of),
            _ => {}
        }
    }

    fn success(&mut self) {
        self.answers += 1;
        if self.limit < self.threshold || self.answers == 32 {
            self.answers = 0;
            self.limit = (self.limit + 1).min(self.config.most_in_flight());
        }
        self.held = self.held.filter(|(_, before, ..)| self.limit < *before);
    }

    /// `by`: the signal that held the crawl back.
    fn restart(&mut self, now: Instant, by: Option<Bound>) {
        let before = self.held.map_or(self.limit, |(_, before, ..)| before);
        let floor = self.config.gate_floor.clamp(1, self.config.most_in_flight());
        self.limit = self.limit.min(self.in_stage(Stage::Fetching).saturating_add(floor));
        self.held = Some((by, before, floor, now + RAMP)).filter(|_| self.limit < before);
    }

    fn host_waits(&mut self, id: HostId, until: Instant) {
        let host = self.host(id);
        host.not_before = host.not_before.max(Some(until));
    }

    fn drawn_backoff(&self, before: Duration, drawn: Duration) -> Duration {
        let (base, cap) = (self.config.backoff_base, self.config.backoff_cap);
        let high = (before.max(base) * 3).min(cap);
        assert!(drawn >= base.min(high) && drawn <= high, "a back-off of {drawn:?} after {before:?}");
        drawn
    }

    fn host_failed(&mut self, now: Instant, id: HostId, retry: RetryTime, drawn: Duration) {
        let Some(host) = self.hosts.get(&id).cloned() else { return };
        let prepared = match host.state {
            HostState::Preparing => false,
            HostState::Resolving => true,
            _ => return,
        };
        let known = self.host(id);
        let mut is_last = retry == RetryTime::Never;
        if retry == RetryTime::WhenRoom {
            let since = *known.pressed_since.get_or_insert(now);
            is_last = now >= since + self.config.room_patience;
        } else {
            known.pressed_since = None;
            known.failures += 1;
            is_last |= known.failures >= self.config.attempts;
        }
        let wait = match retry {
            RetryTime::After(wait) => wait,
            _ => drawn,
        };
        is_last |= wait > self.config.retry_after_cap && matches!(retry, RetryTime::After(_));
        if is_last {
            let host = self.host(id);
            host.state = HostState::New;
            (host.failures, host.backoff, host.pressed_since) = (0, Duration::ZERO, None);
            for job in self.ordered(|job| job.host == id && matches!(job.stage, Stage::Arriving | Stage::Queued)) {
                self.settle(job, JobVerdict::HostError);
            }
            return;
        }
        if !matches!(retry, RetryTime::After(_)) {
            self.host(id).backoff = self.drawn_backoff(host.backoff, drawn);
        }
        let order = self.next();
        let host = self.host(id);
        host.state = HostState::BackingOff { prepared };
        (host.until, host.order) = (Some(now + wait), order);
    }

    fn failed(&mut self, now: Instant, id: JobId, retry: RetryTime, (throttled, ports): (bool, bool), drawn: Duration) {
        let before = self.jobs[&id].clone();
        let honoured = self.config.retry_after_cap;
        // From here on it is in flight no more.
        self.set(id, Stage::Arriving);
        let (mut again, mut pause) = (None, None);
        match retry {
            RetryTime::Never => {}
            RetryTime::AfterBackoff => {
                let wait = self.drawn_backoff(before.backoff, drawn);
                self.job(id).backoff = wait;
                (again, pause) = (Some(wait), Some(wait));
            }
            RetryTime::After(wait) => {
                (again, pause) = (Some(wait).filter(|wait| *wait <= honoured), Some(wait.min(honoured)));
            }
            RetryTime::WhenRoom => {
                self.job(id).attempts -= 1;
                self.first_starts -= u64::from(before.attempts == 1);
                // Once for all that was in flight at that time.
                if !ports && self.cut.is_none_or(|cut| before.started.is_none_or(|at| at >= cut)) {
                    let in_flight = self.in_stage(Stage::Fetching);
                    let lower = self.limit.min(in_flight) / 4 * 3;
                    let floor = self.config.gate_floor.clamp(1, self.config.most_in_flight());
                    self.limit = self.limit.min(lower.max(floor));
                    (self.cut, self.threshold, self.held) = (Some(now), self.limit, None);
                }
                let since = *self.job(id).pressed_since.get_or_insert(now);
                if now < since + self.config.room_patience {
                    again = Some(self.config.backoff_base / 10);
                    pause = again;
                }
            }
        }
        if retry != RetryTime::WhenRoom {
            self.job(id).pressed_since = None;
        }
        if let (true, Some(pause)) = (throttled, pause) {
            self.host_waits(before.host, now + pause);
        }
        let tries = self.attempts_of(&before);
        let may = self.job(id).attempts < tries && self.ending.is_none();
        match again.filter(|_| may) {
            Some(wait) if retry == RetryTime::WhenRoom => self.delay(id, now + wait),
            Some(wait) if self.has_budget() => {
                self.retries += 1;
                self.delay(id, now + wait);
            }
            _ => self.settle(id, JobVerdict::Error),
        }
    }

    pub(super) fn timeout(&mut self, now: Instant) {
        self.latest = self.latest.max(Some(now));
        let mut due = Vec::new();
        for (id, job) in &self.jobs {
            if let Some(until) = job.until.filter(|until| job.stage == Stage::Delayed && *until <= now) {
                due.push((until, job.order, Due::Job(*id)));
            }
        }
        for (id, host) in &self.hosts {
            if let Some(until) = host.until.filter(|until| *until <= now) {
                due.push((until, host.order, Due::HostRetry(*id)));
            }
        }
        due.sort_unstable();
        for (_, _, due) in due {
            match due {
                Due::Job(id) => self.arrive(now, id),
                Due::HostRetry(id) | Due::Host(id) => {
                    let host = self.host(id);
                    host.until = None;
                    let HostState::BackingOff { prepared } = host.state else { panic!("{id:?} does not back off") };
                    host.state = if prepared { HostState::Prepared } else { HostState::New };
                    self.advance(id);
                }
            }
        }
        self.end_if_due(now);
    }

    pub(super) fn shutdown(&mut self, now: Instant, how: Shutdown) {
        let until = match how {
            Shutdown::Graceful { within } => now + within,
            Shutdown::Now => now,
        };
        match self.ending {
            Some(None) => return,
            Some(Some(before)) if before <= until => return,
            _ => self.ending = Some(Some(until)),
        }
        for id in self.ordered(|job| job.stage.waits()) {
            self.settle(id, JobVerdict::Cancelled);
        }
        self.end_if_due(now);
    }

    fn end_if_due(&mut self, now: Instant) {
        if let Some((by, before, step, at)) = self.held.filter(|_| self.shut.is_empty() && !self.paused)
            && at <= now
        {
            self.limit = (self.limit + step).min(before);
            self.held = Some((by, before, step * 2, now + RAMP)).filter(|_| self.limit < before);
        }
        if self.ending.flatten().is_some_and(|until| until <= now) {
            self.ending = Some(None);
            for id in self.ordered(|_| true) {
                self.cancel(id);
            }
        }
    }

    pub(super) fn cancel_unstarted(&mut self) {
        for id in self.ordered(|job| job.stage.waits() && job.attempts == 0) {
            self.settle(id, JobVerdict::Cancelled);
        }
    }

    pub(super) fn cancel(&mut self, id: JobId) {
        let Some(stage) = self.jobs.get(&id).map(|job| job.stage).filter(|stage| *stage != Stage::Settling) else {
            return;
        };
        if !stage.waits() {
            self.owed.push(Action::Abort(id));
        }
        self.settle(id, JobVerdict::Cancelled);
    }

    pub(super) fn resume(&mut self, now: Instant) {
        if std::mem::take(&mut self.paused) {
            self.restart(now, None);
        }
    }
}

/// A reason that the tests use.
pub(super) const ROBOTS: SkipReason = SkipReason::Robots;
