//! Long runs: every action is answered after a time that is drawn, with faults and commands, until all is quiet.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::auditor::Audited;
use super::scripts::{configs, runs};
use super::*;
use crate::SkipReason;

/// How the world behaves while there are faults.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    hosts: u32,
    jobs: u32,
    /// Longest time until an answer, in ms.
    latency: u32,
    /// Answers of a hundred that are no plain success.
    faults: u32,
    /// Commands of a hundred answers.
    commands: u32,
    /// Jobs come within so many ms.
    spread: u32,
    /// Whether answers that are due together come in the order in which they were asked for, or in another.
    shuffles: bool,
}

fn plans() -> impl Strategy<Value = Plan> {
    let numbers = (1..7u32, 1..60u32, 1..400u32, 0..60u32, 0..30u32);
    (any::<u64>(), numbers, 0..2000u32, any::<bool>()).prop_map(|(seed, numbers, spread, shuffles)| Plan {
        seed,
        hosts: numbers.0,
        jobs: numbers.1,
        latency: numbers.2,
        faults: numbers.3,
        commands: numbers.4,
        spread,
        shuffles,
    })
}

struct World {
    a: Audited,
    plan: Plan,
    rng: fastrand::Rng,
    due: BTreeMap<(Instant, u64), Event>,
    order: u64,
    jobs: Vec<JobId>,
    /// When which origin was asked, and which gap its rules asked for.
    starts: BTreeMap<String, Vec<Instant>>,
    asked: BTreeMap<String, Duration>,
    /// Where the redirect that is under way for a job leads.
    targets: BTreeMap<JobId, String>,
}

impl World {
    fn new(config: Config, plan: Plan) -> Self {
        Self {
            a: Audited::new(config),
            rng: fastrand::Rng::with_seed(plan.seed),
            plan,
            due: BTreeMap::new(),
            order: 0,
            jobs: Vec::new(),
            starts: BTreeMap::new(),
            asked: BTreeMap::new(),
            targets: BTreeMap::new(),
        }
    }

    fn percent(&mut self, part: u32) -> bool {
        self.rng.u32(0..100) < part
    }

    fn any_host(&mut self) -> String {
        format!("h{}", self.rng.u32(0..self.plan.hosts))
    }

    fn later(&mut self, event: Event) {
        let wait = MS * self.rng.u32(0..=self.plan.latency);
        self.order += 1;
        let order = if self.plan.shuffles { self.rng.u64(..) } else { self.order };
        self.due.insert((self.a.now + wait, order), event);
    }

    /// Until nothing is under way.
    fn run(&mut self) {
        let mut left = self.plan.jobs;
        let began = self.a.now;
        let mut quiet_from = None;
        for turn in 0_u32.. {
            assert!(turn < 200_000, "it goes on for ever");
            for action in self.a.drain() {
                self.take(action);
            }
            let arrives =
                (left > 0).then(|| began + MS * (self.plan.spread * (self.plan.jobs - left) / self.plan.jobs));
            let answer = self.due.keys().next().map(|(time, _)| *time);
            let Some(next) = [arrives, answer, self.a.engine.poll_timeout()].into_iter().flatten().min() else { break };
            self.a.now = next.max(self.a.now);
            if arrives.is_some_and(|time| time <= self.a.now) {
                left -= 1;
                self.submit();
            } else if let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= self.a.now) {
                let event = match entry.remove() {
                    Event::Waits { job } => {
                        self.later(Event::Turn { job });
                        Event::Waits { job }
                    }
                    // The host that was there when the answer began may be forgotten.
                    Event::Redirected { job, .. } => Event::Redirected { job, host: self.a.host(&self.targets[&job]) },
                    event => event,
                };
                self.a.event(event);
                let commands = self.plan.commands;
                if self.percent(commands) {
                    self.command();
                }
            }
            if left == 0 && quiet_from.is_none() {
                // Invariant 11: from here on there are no faults.
                (self.plan.faults, self.plan.commands) = (0, 0);
                self.calm();
                quiet_from = Some(self.a.now);
            }
        }
        assert!(self.a.engine.is_idle(), "{:?} are left", self.a.model.jobs);
        assert_eq!(self.a.verdicts.len(), self.jobs.len(), "one verdict for each job");
        let bound = (MS * (self.plan.latency * 8) + Duration::from_secs(5)) * (self.plan.jobs + 4);
        let spent: BTreeMap<_, _> = self.a.engine.bound_by(self.a.now).into_iter().collect();
        self.a.spent.retain(|_, time| !time.is_zero());
        assert_eq!(spent, self.a.spent, "the time spent under each bound");
        let took = self.a.now - quiet_from.unwrap_or(began);
        assert!(took <= bound, "quiet after {took:?}, {bound:?} is the bound");
    }

    fn submit(&mut self) {
        let key = self.any_host();
        let delayed = self.percent(10).then(|| self.a.now + MS * self.rng.u32(0..1000));
        let spec = JobSpec {
            priority: self.rng.i32(-1..2),
            vet: self.rng.bool(),
            attempts: self.rng.u32(0..4),
            not_before: delayed,
            awaited: self.percent(5),
        };
        let job = self.a.submit(&key, spec);
        self.jobs.push(job);
    }

    fn command(&mut self) {
        match self.rng.u32(0..12) {
            0 => self.a.event(Event::Gate { signal: Bound::Lag, open: false }),
            1 => self.a.event(Event::Bytes(self.rng.u64(998..1002))),
            2 => self.a.event(Event::FrontierBehind(true)),
            3 => self.a.pause(),
            4 | 5 if !self.jobs.is_empty() => self.a.cancel(self.jobs[self.rng.usize(0..self.jobs.len())]),
            _ => self.calm(),
        }
    }

    fn calm(&mut self) {
        self.a.event(Event::Gate { signal: Bound::Lag, open: true });
        self.a.event(Event::Bytes(0));
        self.a.event(Event::FrontierBehind(false));
        self.a.resume();
    }

    fn take(&mut self, action: Action) {
        if let Action::Fetch { job, .. } = action {
            let host = self.a.model.jobs[&job].host;
            let key = self.a.model.hosts[&host].key.clone();
            self.starts.entry(key).or_default().push(self.a.now);
        }
        let faults = self.plan.faults;
        if let Action::Fetch { job, .. } = action
            && self.percent(faults / 2)
        {
            return self.later(Event::Waits { job });
        }
        let event = if self.percent(faults) { self.fault(action) } else { self.success(action) };
        if let Some(event) = event {
            self.later(event);
        }
    }

    fn success(&mut self, action: Action) -> Option<Event> {
        Some(match action {
            Action::Prepare(host) => {
                let gap = self.asked.get(&self.a.model.hosts[&host].key).copied();
                Event::Prepared { host, gap, valid_until: None }
            }
            Action::Resolve(host) => {
                // Two addresses, each for the hosts that always have it.
                let number = self.a.model.hosts[&host].key.bytes().last().unwrap_or_default() % 2;
                Event::Resolved { host, address: Some([127, 0, 0, number].into()) }
            }
            Action::Vet(job) => Event::Vetted { job },
            Action::Fetch { job, .. } | Action::Readmit(job) => Event::Fetched { job },
            Action::Parse(job) => Event::Parsed { job, deliver: self.rng.bool() },
            Action::Deliver(job) => Event::Delivered { job, rejected: false },
            Action::Settle { job, .. } => Event::Closed { job },
            Action::Abort(_) | Action::Forget(_) => return None,
        })
    }

    fn fault(&mut self, action: Action) -> Option<Event> {
        let retries = [
            RetryTime::Never,
            RetryTime::AfterBackoff,
            RetryTime::AfterBackoff,
            RetryTime::After(MS * self.rng.u32(0..2500)),
            RetryTime::WhenRoom,
        ];
        let (retry, blame) = (retries[self.rng.usize(0..5)], BLAMES[self.rng.usize(0..5)]);
        Some(match action {
            Action::Prepare(host) if self.rng.bool() => {
                // The rules of a host ask for the same gap always, so that the starts can be judged afterwards.
                let key = self.a.model.hosts[&host].key.clone();
                let drawn = MS * self.rng.u32(0..500);
                let gap = *self.asked.entry(key).or_insert(drawn);
                let valid_until = self.rng.bool().then(|| self.a.now + MS * self.rng.u32(0..500));
                Event::Prepared { host, gap: Some(gap), valid_until }
            }
            Action::Prepare(host) | Action::Resolve(host) => Event::HostFailed { host, retry },
            Action::Vet(job) => Event::Skipped { job, reason: SkipReason::Robots },
            Action::Fetch { job, .. } | Action::Readmit(job) if self.rng.bool() => {
                let key = self.any_host();
                let host = self.a.host(&key);
                self.targets.insert(job, key);
                Event::Redirected { job, host }
            }
            Action::Fetch { job, .. } | Action::Readmit(job) | Action::Parse(job) => {
                Event::Failed { job, retry, blame }
            }
            Action::Deliver(job) => Event::Delivered { job, rejected: true },
            _ => return self.success(action),
        })
    }

    /// Invariant 8, over the whole run.
    fn was_polite(&self) {
        let config = &self.a.model.config;
        let least = config.gap.mul_f64(1.0 - config.gap_jitter);
        for (key, starts) in &self.starts {
            for pair in starts.windows(2) {
                assert!(pair[1] - pair[0] >= least, "{key} was asked again after {:?}", pair[1] - pair[0]);
            }
        }
    }

    /// Invariant 7, by what the engine still does: every permit there is can be used, on hosts old and new.
    fn has_all_permits(&mut self) {
        let config = self.a.model.config.clone();
        if config.max_starts.is_some() {
            return;
        }
        let most = config.most_in_flight();
        self.a.now += Duration::from_secs(60);
        // Successes bring the limit back to the top, whatever pressure, pauses and the gate did to it.
        let enough = most + 32 * (most - self.a.engine.limiter.limit());
        let warm: Vec<_> = (0..enough).map(|i| format!("warm{i}")).collect();
        self.submit_to(&warm, enough);
        self.settle_all();
        for old in 0..self.plan.hosts {
            let mut may = config.per_host.unwrap_or(most).min(most);
            if config.resolve_hosts {
                may = may.min(config.per_address.unwrap_or(most));
            }
            self.fill(&[format!("h{old}")], most + 1, may);
            self.settle_all();
        }
        let fresh: Vec<_> = (0..most + 2).map(|i| format!("fresh{i}")).collect();
        self.fill(&fresh, most + 2, most);
        let flying = self.fetching();
        flying.iter().for_each(|job| self.a.event(Event::Fetched { job: *job }));
        self.a.drain();
        assert_eq!(self.a.engine.counters().parsing, config.parse_permits.min(most), "parse permits");
        self.settle_all();
    }

    fn submit_to(&mut self, hosts: &[String], jobs: u32) {
        for (host, _) in hosts.iter().cycle().zip(0..jobs) {
            let job = self.a.submit(host, JobSpec::default());
            self.jobs.push(job);
        }
    }

    /// Submits so many jobs over these hosts and answers no fetch; `may` must be in flight in the end.
    fn fill(&mut self, hosts: &[String], jobs: u32, may: u32) {
        self.submit_to(hosts, jobs);
        let mut number = 0;
        loop {
            let actions = self.a.drain();
            let rests = actions.is_empty();
            for action in actions {
                match action {
                    Action::Prepare(host) => self.a.event(Event::Prepared { host, gap: None, valid_until: None }),
                    Action::Resolve(host) => {
                        number += 1;
                        let address = if hosts.len() > 1 { [10, 0, 0, number] } else { [127, 0, 0, 1] };
                        self.a.event(Event::Resolved { host, address: Some(address.into()) });
                    }
                    Action::Settle { job, .. } => self.a.event(Event::Closed { job }),
                    _ => {}
                }
            }
            if !rests {
                continue;
            }
            let Some(next) = self.a.engine.poll_timeout() else { break };
            self.a.now = next.max(self.a.now);
        }
        assert_eq!(self.fetching().len(), may as usize, "of {jobs} jobs on {hosts:?}");
    }

    fn fetching(&self) -> Vec<JobId> {
        let fetching = |id: &&JobId| self.a.model.jobs.get(id).is_some_and(|job| job.stage == Stage::Fetching);
        self.jobs.iter().filter(fetching).copied().collect()
    }

    /// Everything goes well and at once.
    fn settle_all(&mut self) {
        for turn in 0.. {
            if self.a.engine.is_idle() {
                break;
            }
            assert!(turn < 10_000, "{:?} are left", self.a.model.jobs);
            for job in self.fetching() {
                self.a.event(Event::Fetched { job });
            }
            for job in self.jobs.clone() {
                let Some(stage) = self.a.model.jobs.get(&job).map(|job| job.stage) else { continue };
                match stage {
                    Stage::Parsing => self.a.event(Event::Parsed { job, deliver: true }),
                    Stage::Delivering => self.a.event(Event::Delivered { job, rejected: false }),
                    Stage::Settling if self.a.verdicts.contains_key(&job) => self.a.event(Event::Closed { job }),
                    _ => {}
                }
            }
            for action in self.a.drain() {
                match action {
                    Action::Prepare(host) => self.a.event(Event::Prepared { host, gap: None, valid_until: None }),
                    Action::Resolve(host) => {
                        self.a.event(Event::Resolved { host, address: Some([127, 0, 0, 1].into()) });
                    }
                    _ => {}
                }
            }
            if let Some(next) = self.a.engine.poll_timeout() {
                self.a.now = next.max(self.a.now);
            }
        }
    }
}

/// Answers all but the deliveries, which are put before the sink, until there is nothing more to do; gives the fetches.
fn until_the_sink(a: &mut Audited, at_sink: &mut VecDeque<JobId>) -> u32 {
    let mut fetched = 0;
    loop {
        let actions = a.drain();
        if actions.is_empty() {
            return fetched;
        }
        for action in actions {
            match action {
                Action::Fetch { job, .. } => {
                    fetched += 1;
                    a.event(Event::Fetched { job });
                }
                Action::Parse(job) => a.event(Event::Parsed { job, deliver: true }),
                Action::Deliver(job) => at_sink.push_back(job),
                Action::Settle { job, .. } => a.event(Event::Closed { job }),
                _ => {}
            }
        }
    }
}

/// A crawl whose sink takes one item each `item` ms; gives fetches and items taken after each second.
fn behind_a_slow_sink(config: Config, item: u32, seconds: u32) -> Vec<(u32, u32)> {
    let mut a = Audited::new(config);
    (0..400).for_each(|i| _ = a.submit(&format!("h{}", i % 40), JobSpec::default()));
    let (mut at_sink, mut counts) = (VecDeque::new(), Vec::new());
    let (mut fetched, mut taken) = (0, 0);
    for tick in 1..=seconds * 1000 / item {
        fetched += until_the_sink(&mut a, &mut at_sink);
        a.now += MS * item;
        if let Some(job) = at_sink.pop_front() {
            taken += 1;
            a.event(Event::Delivered { job, rejected: false });
        }
        if (tick * item).is_multiple_of(1000) {
            counts.push((fetched, taken));
        }
    }
    counts
}

// J1
#[test]
fn a_sink_that_takes_nothing_stops_fetching() {
    let config = Config { max_in_flight: 4, deliver_permits: 2, parse_permits: 2, backlog: 8, ..plain() };
    let mut a = Audited::new(config);
    (0..100).for_each(|i| _ = a.submit(&format!("h{i}"), JobSpec::default()));
    let fetched = until_the_sink(&mut a, &mut VecDeque::new());
    // What may be in flight when the backlog fills, and the stages behind it.
    assert!(fetched <= 4 + 8 + 2 + 2, "{fetched} were fetched although the sink took none");
    assert_eq!(a.engine.bound_by(a.now + MS)[0].0, Bound::Sink);
}

// J1, invariant 10
#[test]
fn the_sink_sets_the_pace_of_the_fetches() {
    let config = Config { max_in_flight: 20, parse_permits: 2, deliver_permits: 3, backlog: 8, ..plain() };
    let buffers = 20 + 8 + 2 + 3;
    for (fetched, taken) in behind_a_slow_sink(config, 100, 20) {
        assert!(fetched <= taken + buffers, "{fetched} fetched, {taken} taken, {buffers} may be under way");
        assert!(taken > 0);
    }
}

// H8, invariant 9
#[test]
fn a_failing_host_delays_no_other() {
    let first_visits = |fails: bool| {
        let mut a = Audited::new(Config { max_in_flight: 4, attempts: 3, retry_budget: 10.0, ..plain() });
        (0..200).for_each(|_| _ = a.submit("bad", JobSpec::default()));
        let good: Vec<_> = (0..20).map(|i| a.submit(&format!("h{i}"), JobSpec::default())).collect();
        while good.iter().any(|job| !a.verdicts.contains_key(job)) {
            let bad = a.host("bad");
            for action in a.drain() {
                match action {
                    Action::Fetch { job, .. } if fails && a.engine.host_of(job) == Some(bad) => {
                        a.event(Event::Failed { job, retry: RetryTime::AfterBackoff, blame: Blame::Host });
                    }
                    Action::Fetch { job, .. } => a.event(Event::Fetched { job }),
                    Action::Parse(job) => a.event(Event::Parsed { job, deliver: false }),
                    Action::Settle { job, .. } => a.event(Event::Closed { job }),
                    _ => {}
                }
            }
            a.now += MS;
        }
        let first = |job: &JobId| a.starts.iter().position(|(_, started, _)| started == job);
        good.iter().map(first).collect::<Vec<_>>()
    };
    assert_eq!(first_visits(true), first_visits(false));
}

proptest! {
    #![proptest_config(runs(80))]

    /// Invariants 6 to 9 and 11, over whole runs.
    #[test]
    fn a_run_is_polite_and_ends_with_all_permits(config in configs(), plan in plans()) {
        let mut world = World::new(config, plan);
        world.run();
        world.was_polite();
        world.has_all_permits();
    }

    /// Invariant 22.
    #[test]
    fn equal_seeds_give_equal_runs(config in configs(), plan in plans()) {
        let run = || {
            let mut world = World::new(config.clone(), plan.clone());
            world.run();
            (world.a.trace(), world.a.now - world.a.start)
        };
        prop_assert_eq!(run(), run());
    }
}
