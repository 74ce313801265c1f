//! An engine with an auditor beside it: every call and every action is told to the reference, and both are compared.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::model::Model;
use super::*;

/// An engine that panics where it breaks a rule.
pub(super) struct Audited {
    pub(super) engine: Engine,
    pub(super) model: Model,
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) starts: Vec<(Instant, JobId, u32)>,
    pub(super) verdicts: HashMap<JobId, JobVerdict>,
    /// The latest time that was told.
    latest: Instant,
    /// Waits of hosts by their keys, those of forgotten hosts too.
    waits: HashMap<String, Instant>,
    jobs: HashSet<JobId>,
    trace: DefaultHasher,
    /// What bound the engine since the last rest, and what did how long before.
    bound: Option<(Bound, Instant)>,
    pub(super) spent: BTreeMap<Bound, Duration>,
}

impl Audited {
    pub(super) fn new(config: Config) -> Self {
        let now = origin();
        Self {
            engine: Engine::new(config.clone()),
            model: Model::new(config),
            now,
            start: now,
            starts: Vec::new(),
            verdicts: HashMap::new(),
            latest: now,
            waits: HashMap::new(),
            jobs: HashSet::new(),
            trace: DefaultHasher::new(),
            bound: None,
            spent: BTreeMap::new(),
        }
    }

    /// A number for all that was asked, and when.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn host(&mut self, key: &str) -> HostId {
        let id = self.engine.host(key);
        assert_eq!((self.engine.host(key), self.engine.host_key(id)), (id, Some(key)));
        self.model.meet(id, key);
        id
    }

    pub(super) fn submit(&mut self, key: &str, spec: JobSpec) -> JobId {
        let host = self.host(key);
        let job = self.engine.submit(self.now, host, spec);
        assert!(self.jobs.insert(job), "{job:?} was given before");
        self.model.submit(self.now, job, host, spec);
        self.compare();
        job
    }

    pub(super) fn submit_settled(&mut self, verdict: JobVerdict) -> JobId {
        let host = self.host("");
        let job = self.engine.submit_settled(verdict);
        assert!(self.jobs.insert(job), "{job:?} was given before");
        self.model.insert(job, host, JobSpec::default());
        self.model.settle(job, verdict);
        self.compare();
        job
    }

    pub(super) fn event(&mut self, event: Event) {
        self.engine.handle_event(self.now, event);
        let drawn = match event {
            Event::Failed { job, .. } => self.engine.job(job).map(|job| job.backoff),
            Event::HostFailed { host, .. } => self.engine.known_host(host).map(|host| host.backoff),
            _ => None,
        };
        self.model.event(self.now, event, drawn.unwrap_or_default());
        for id in self.model.hosts.keys().copied().collect::<Vec<_>>() {
            if self.engine.known_host(id).is_none() {
                self.model.forget(self.now, id);
            }
        }
        self.compare();
    }

    pub(super) fn timeout(&mut self) {
        self.engine.handle_timeout(self.now);
        self.model.timeout(self.now);
        self.compare();
    }

    pub(super) fn pause(&mut self) {
        self.engine.pause();
        self.model.paused = true;
    }

    pub(super) fn resume(&mut self) {
        self.engine.resume(self.now);
        self.model.resume(self.now);
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) {
        self.engine.shutdown(self.now, how);
        self.model.shutdown(self.now, how);
        self.compare();
    }

    pub(super) fn cancel(&mut self, job: JobId) {
        self.engine.cancel(self.now, job);
        self.model.cancel(job);
        self.compare();
    }

    pub(super) fn cancel_unstarted(&mut self) {
        self.engine.cancel_unstarted();
        self.model.cancel_unstarted();
        self.compare();
    }

    /// All that is to be done now, judged one by one; then nothing is left that could be done.
    pub(super) fn drain(&mut self) -> Vec<Action> {
        self.timeout();
        let mut actions = Vec::new();
        while let Some(action) = self.engine.poll(self.now) {
            self.judge(action);
            actions.push(action);
            assert!(actions.len() < 100_000, "the engine asks without end");
        }
        let bound = Bound::ALL.into_iter().find(|bound| self.engine.bound.is(*bound)).expect("it says what binds it");
        self.model.rests(self.now, bound, self.engine.poll_timeout());
        self.compare();
        self.compare_overview();
        if let Some((before, since)) = self.bound.replace((bound, self.now)) {
            *self.spent.entry(before).or_default() += self.now.saturating_duration_since(since);
        }
        self.latest = self.latest.max(self.now);
        actions
    }

    /// The list of hosts: by their jobs, then by name.
    fn compare_overview(&self) {
        let named = self.model.hosts.iter().filter(|(_, host)| !host.key.is_empty());
        let mut hosts: Vec<_> = named
            .map(|(id, host)| {
                let wait = host.not_before.map_or(Duration::ZERO, |time| time.saturating_duration_since(self.now));
                let jobs = self.model.count(|job| job.host == *id);
                (host.key.as_str(), jobs, self.model.host_in_flight(*id), wait)
            })
            .collect();
        hosts.sort_by_key(|(key, jobs, ..)| (Reverse(*jobs), *key));
        hosts.truncate(3);
        assert_eq!(self.engine.hosts(3, self.now), hosts);
    }

    fn judge(&mut self, action: Action) {
        format!("{:?} {action:?}", self.now.saturating_duration_since(self.start)).hash(&mut self.trace);
        let mut drawn = None;
        if let Action::Fetch { job, attempt } = action {
            let host = self.model.jobs[&job].host;
            let key = self.model.hosts[&host].key.clone();
            if let Some(until) = self.waits.get(&key).filter(|_| self.now >= self.latest) {
                assert!(*until <= self.now, "{key} must wait, whether it is remembered or not");
            }
            drawn = self.engine.known_host(host).and_then(|host| host.not_before);
            self.starts.push((self.now, job, attempt));
        }
        if let Action::Settle { job, verdict } = action {
            assert_eq!(self.verdicts.insert(job, verdict), None, "{job:?} is settled twice");
        }
        self.model.act(self.now, action, drawn);
    }

    /// What the engine keeps, against what can be counted.
    fn compare(&mut self) {
        let (engine, model) = (&mut self.engine, &self.model);
        assert_eq!(engine.jobs.len(), model.jobs.len());
        for (id, job) in &model.jobs {
            let known = engine.job(*id).expect("it lives");
            let (mine, its) = ((job.stage, job.attempts, job.host), (known.stage, known.attempts, known.host));
            assert_eq!(its, mine, "{id:?}");
            assert_eq!(known.address, job.address, "{id:?} holds a permit of its address");
            assert_eq!(engine.may_retry(*id), model.may_retry(*id), "{id:?}");
            assert_eq!((engine.attempts(*id), engine.host_of(*id)), (job.attempts, Some(job.host)));
        }
        for (id, host) in &model.hosts {
            let (in_flight, jobs) = (model.host_in_flight(*id), model.count(|job| job.host == *id));
            let known = engine.known_host(*id).expect("it is remembered");
            assert_eq!((known.in_flight, known.jobs), (in_flight, jobs), "{id:?}");
            assert_eq!((known.state, known.gap, known.not_before), (host.state, host.gap, host.not_before), "{id:?}");
            if let Some(until) = host.not_before {
                let wait = self.waits.entry(host.key.clone()).or_insert(until);
                *wait = until.max(*wait);
            }
        }
        for (address, entry) in &engine.addresses {
            assert_eq!(entry.in_flight, model.address_in_flight(*address), "{address}");
        }
        assert_eq!(engine.hosts.len(), model.hosts.len());
        assert_eq!(engine.names.len(), model.hosts.len());
        assert_eq!(engine.delivering, model.in_stage(Stage::Delivering), "deliver permits");
        assert_eq!(engine.settling, model.in_stage(Stage::Settling));
        assert_eq!(engine.waiting(), model.waiting());
        assert_eq!(engine.limiter.limit(), model.limit, "the limit of fetches in flight");
        assert_eq!((engine.is_idle(), engine.is_exhausted()), (model.jobs.is_empty(), model.is_exhausted()));
        let counters = Counters {
            in_flight: model.in_stage(Stage::Fetching),
            in_line: model.in_line(),
            jobs: model.jobs.len() as u32 - model.in_stage(Stage::Settling),
            waiting: model.waiting(),
            parse_queued: model.in_stage(Stage::ToParse),
            parsing: model.in_stage(Stage::Parsing),
            ..model.counters
        };
        assert_eq!(engine.counters(), counters);
        let finished = counters.ok + counters.error + counters.skipped + counters.cancelled;
        assert_eq!(counters.submitted, finished + u64::from(counters.jobs), "conservation");
        let most = if engine.ready.is_empty() { u32::MAX } else { model.config.lookahead };
        let room = model.config.queue.min(most).saturating_sub(model.waiting()).into();
        let starts = model.config.max_starts.map_or(u64::MAX, |max| max.saturating_sub(model.first_starts));
        let want = if model.paused || model.ending.is_some() {
            0
        } else {
            starts.saturating_sub(model.waiting().into()).min(room)
        };
        assert_eq!(u64::from(engine.want()), want);
    }
}
