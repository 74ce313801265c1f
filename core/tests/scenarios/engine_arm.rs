//! The bare engine, through its public interface, with a heap of answers that are due.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use tidegate::engine::{Action, Blame, Bound, Config, Engine, Event, HostId, JobId, JobSpec, JobVerdict};
use tidegate::{ErrorKind, RetryTime, Shutdown, SkipReason};

use super::Outcome;
use super::format::{Answer, Command, Lookup, Millis, Parse, Scenario, Start, Verdict, nth_or_last};

/// How long what was started may go on after the last page, as a crawl has it.
const DRAIN: Duration = Duration::from_secs(30);

/// How long a page may be parsed, an address be looked up, and an attempt take, as a crawl has it.
const PARSE_LIMIT: Duration = Duration::from_secs(30);
const DNS_DEADLINE: Duration = Duration::from_secs(5);
const TOTAL_DEADLINE: Duration = Duration::from_secs(120);

/// Runs a scenario on a bare engine.
pub(crate) fn run(scenario: &Scenario) -> Outcome {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    let start = Instant::now();
    let mut world = World::new(scenario, start);
    world.run();
    world.outcome
}

struct World<'a> {
    scenario: &'a Scenario,
    engine: Engine,
    start: Instant,
    now: Instant,
    due: BTreeMap<(Instant, u64), Due>,
    order: u64,
    /// What the frontier has, by the time at which it comes.
    left: VecDeque<usize>,
    jobs: HashMap<JobId, Known>,
    hosts: HashMap<HostId, KnownHost>,
    /// Items at the sink, the first of them being taken.
    at_sink: VecDeque<JobId>,
    was_exhausted: bool,
    outcome: Outcome,
}

struct Known {
    index: usize,
    starts: usize,
    parses: usize,
    hops: u32,
    host: String,
    error: Option<ErrorKind>,
}

#[derive(Default)]
struct KnownHost {
    name: String,
    prepares: usize,
    resolves: usize,
    error: Option<ErrorKind>,
}

enum Due {
    Event(Event),
    Prepared(HostId, Lookup),
    Resolved(HostId, Lookup),
    Answered(JobId, Answer),
    Taken,
    Command(Command),
    /// A job of the frontier comes.
    Arrival,
    /// What was started has had its time.
    Drained,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, start: Instant) -> Self {
        let mut left: Vec<_> = (0..scenario.jobs.len()).collect();
        left.sort_by_key(|index| scenario.jobs[*index].at);
        let mut world = Self {
            scenario,
            engine: Engine::new(config(scenario)),
            start,
            now: start,
            due: BTreeMap::new(),
            order: 0,
            left: left.into(),
            jobs: HashMap::new(),
            hosts: HashMap::new(),
            at_sink: VecDeque::new(),
            was_exhausted: false,
            outcome: Outcome::default(),
        };
        for job in &scenario.jobs {
            world.after(job.at.into(), Due::Arrival);
        }
        for command in &scenario.commands {
            world.after(command.at.into(), Due::Command(command.command.clone()));
        }
        world
    }

    /// `wait` from now.
    fn after(&mut self, wait: Duration, due: Due) {
        self.order += 1;
        self.due.insert((self.now + wait, self.order), due);
    }

    fn run(&mut self) {
        for turn in 0.. {
            assert!(turn < 100_000, "it goes on for ever");
            self.engine.handle_timeout(self.now);
            while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let due = entry.remove();
                self.take(due);
            }
            self.lease();
            if self.engine.is_exhausted() && !std::mem::replace(&mut self.was_exhausted, true) {
                self.engine.cancel_unstarted();
                // Before the answers of that moment.
                self.due.insert((self.now + DRAIN, 0), Due::Drained);
            }
            let mut acted = false;
            while let Some(action) = self.engine.poll(self.now) {
                self.act(action);
                acted = true;
            }
            if acted {
                continue;
            }
            if self.engine.is_idle() && (self.left.is_empty() || self.engine.want() == 0) {
                break;
            }
            let answer = self.due.keys().next().map(|(time, _)| *time);
            let next = [answer, self.engine.poll_timeout()].into_iter().flatten().min();
            self.now = self.now.max(next.expect("something is due while jobs are left"));
        }
        for index in std::mem::take(&mut self.left) {
            let verdict = Verdict { outcome: "unvisited".to_owned(), attempts: 0 };
            self.outcome.verdicts.insert(self.scenario.jobs[index].name.clone(), verdict);
        }
    }

    /// Takes what has come and for which there is room.
    fn lease(&mut self) {
        while let Some(index) = self.left.front().copied() {
            let job = &self.scenario.jobs[index];
            if self.start + Duration::from(job.at) > self.now || self.engine.want() == 0 {
                break;
            }
            self.left.pop_front();
            let mut spec = JobSpec::default();
            spec.priority = job.priority;
            spec.not_before = job.not_before.map(|at| self.start + Duration::from(at));
            spec.attempts = job.attempts.unwrap_or_default();
            spec.vet = self.scenario.has_rules();
            let host = self.host(&job.host);
            let id = self.engine.submit(self.now, host, spec);
            let known = Known { index, starts: 0, parses: 0, hops: 0, host: job.host.clone(), error: None };
            self.jobs.insert(id, known);
        }
    }

    fn host(&mut self, name: &str) -> HostId {
        let id = self.engine.host(name);
        self.hosts.entry(id).or_insert_with(|| KnownHost { name: name.to_owned(), ..KnownHost::default() });
        id
    }

    fn event(&mut self, event: Event) {
        self.engine.handle_event(self.now, event);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Prepare(host) => {
                let known = self.hosts.get_mut(&host).expect("it was named");
                let said = self.scenario.host(&known.name);
                let answer = nth_or_last(&said.prepares, known.prepares).unwrap_or(Lookup::Ok);
                known.prepares += 1;
                self.after(said.lookup_latency.into(), Due::Prepared(host, answer));
            }
            Action::Resolve(host) => {
                let known = self.hosts.get_mut(&host).expect("it was named");
                let said = self.scenario.host(&known.name);
                let mut answer = nth_or_last(&said.resolves, known.resolves).unwrap_or(Lookup::Ok);
                known.resolves += 1;
                if Duration::from(said.lookup_latency) > DNS_DEADLINE {
                    answer = Lookup::Error(ErrorKind::TimeoutDns);
                }
                self.after(Duration::from(said.lookup_latency).min(DNS_DEADLINE), Due::Resolved(host, answer));
            }
            Action::Vet(job) => {
                let known = &self.jobs[&job];
                let disallows = self.scenario.host(&known.host).disallows;
                let is_allowed = !disallows.contains(&self.scenario.jobs[known.index].name);
                let reason = SkipReason::Robots;
                self.event(if is_allowed { Event::Vetted { job } } else { Event::Skipped { job, reason } });
            }
            Action::Fetch { job, attempt } => {
                let at = (self.now - self.start).as_millis() as u64;
                let known = self.jobs.get_mut(&job).expect("it was submitted");
                let said = &self.scenario.jobs[known.index];
                let hop = (known.hops > 0).then(|| known.host.clone());
                let (mut answer, latency) = self.scenario.answer(said, &known.host, known.starts);
                if latency > TOTAL_DEADLINE {
                    answer = Answer::Error(ErrorKind::TimeoutTotal);
                }
                known.starts += 1;
                self.outcome.starts.push(Start { at: Millis(at), job: said.name.clone(), attempt, hop });
                self.after(latency.min(TOTAL_DEADLINE), Due::Answered(job, answer));
            }
            Action::Parse(job) => self.parse(job),
            Action::Deliver(job) => {
                self.at_sink.push_back(job);
                if self.at_sink.len() == 1 {
                    self.sink_takes();
                }
            }
            Action::Settle { job, verdict } => self.settle(job, verdict),
            _ => {}
        }
    }

    fn parse(&mut self, job: JobId) {
        let known = self.jobs.get_mut(&job).expect("it was submitted");
        let said = &self.scenario.jobs[known.index];
        let result = nth_or_last(&said.parses, known.parses).unwrap_or(Parse::Ok);
        known.parses += 1;
        let failed = |retry| Event::Failed { job, retry, blame: Blame::Nobody };
        let (error, event) = match result {
            Parse::Ok => (None, Event::Parsed { job, deliver: self.scenario.sink.is_some() }),
            Parse::Retry { after } => {
                let retry = after.map_or(RetryTime::AfterBackoff, |wait| RetryTime::After(wait.into()));
                (Some(ErrorKind::ParserRetry), failed(retry))
            }
            Parse::Fail => (Some(ErrorKind::ParserFailed), failed(RetryTime::Never)),
            Parse::Panic => (Some(ErrorKind::ParserPanic), failed(RetryTime::Never)),
            Parse::Undecodable(kind) => (Some(kind), failed(kind.retry_time())),
        };
        let takes = Duration::from(said.parse_takes);
        let is_overdue = takes > PARSE_LIMIT;
        known.error = if is_overdue { Some(ErrorKind::ParserTimeout) } else { error };
        let event = if is_overdue { failed(RetryTime::Never) } else { event };
        self.after(takes.min(PARSE_LIMIT), Due::Event(event));
    }

    fn sink_takes(&mut self) {
        let takes = self.scenario.sink.map_or(Duration::ZERO, |sink| sink.takes.into());
        self.after(takes, Due::Taken);
    }

    fn take(&mut self, due: Due) {
        match due {
            Due::Event(event) => self.event(event),
            Due::Prepared(host, answer) => {
                let known = self.hosts.get_mut(&host).expect("it was named");
                let said = self.scenario.host(&known.name);
                match answer {
                    Lookup::Ok => {
                        let valid = said.valid_for.map_or(Duration::from_secs(86_400), Into::into);
                        let gap = said.crawl_delay.map(Into::into);
                        self.event(Event::Prepared { host, gap, valid_until: Some(self.now + valid) });
                    }
                    Lookup::Error(kind) => {
                        known.error = Some(kind);
                        self.event(Event::HostFailed { host, retry: kind.retry_time() });
                    }
                }
            }
            Due::Resolved(host, answer) => {
                let known = self.hosts.get_mut(&host).expect("it was named");
                match answer {
                    Lookup::Ok => {
                        let address = self.scenario.host(&known.name).address;
                        self.event(Event::Resolved { host, address });
                    }
                    Lookup::Error(kind) => {
                        known.error = Some(kind);
                        self.event(Event::HostFailed { host, retry: kind.retry_time() });
                    }
                }
            }
            Due::Answered(job, answer) => self.answered(job, answer),
            Due::Taken => {
                let job = self.at_sink.pop_front().expect("an item was taken");
                let known = self.jobs.get_mut(&job).expect("it was submitted");
                let rejected = self.scenario.jobs[known.index].rejected;
                known.error = rejected.then_some(ErrorKind::SinkRejected);
                self.event(Event::Delivered { job, rejected });
                if !self.at_sink.is_empty() {
                    self.sink_takes();
                }
            }
            Due::Command(command) => self.command(command),
            Due::Arrival => {}
            Due::Drained => self.engine.shutdown(self.now, Shutdown::Now),
        }
    }

    /// What a crawl makes of an answer.
    fn answered(&mut self, job: JobId, answer: Answer) {
        let (may_retry, may_wait) = (self.engine.may_retry(job), self.engine.may_wait(job));
        let known = self.jobs.get_mut(&job).expect("it was submitted");
        let is_post = self.scenario.jobs[known.index].post;
        let failed = |retry, blame| Event::Failed { job, retry, blame };
        match answer {
            Answer::Redirect { .. } if known.hops >= self.scenario.crawl.redirects => {
                known.error = Some(ErrorKind::RedirectTooMany);
                self.event(failed(RetryTime::Never, Blame::Url));
            }
            Answer::Redirect { host } => {
                known.hops += 1;
                known.host.clone_from(&host);
                let host = self.host(&host);
                self.event(Event::Redirected { job, host });
            }
            Answer::Error(kind) => {
                known.error = Some(kind);
                // A request that may have arrived is sent again only where that does no harm.
                let was_sent = !(kind == ErrorKind::ConnectRefused || kind.retry_time() == RetryTime::WhenRoom);
                let retry = if is_post && was_sent { RetryTime::Never } else { kind.retry_time() };
                let blame = match kind {
                    ErrorKind::LocalResource => Blame::Nobody,
                    ErrorKind::BodyTooLarge | ErrorKind::HttpFraming | ErrorKind::BodyEncoding => Blame::Url,
                    _ => Blame::Host,
                };
                self.event(failed(retry, blame));
            }
            Answer::Status { status, .. } if status < 400 => self.event(Event::Fetched { job }),
            Answer::Status { status, retry_after } => {
                known.error = Some(ErrorKind::HttpStatus);
                let wait = retry_after.map(Duration::from_secs);
                let throttled = matches!(status, 429 | 503);
                let blame = match status {
                    429 | 503 => Blame::Throttled,
                    502 | 504 => Blame::Host,
                    _ => Blame::Url,
                };
                if (may_retry || throttled && may_wait) && !is_post && matches!(status, 408 | 425 | 429 | 500..=504) {
                    return self.event(failed(wait.map_or(RetryTime::AfterBackoff, RetryTime::After), blame));
                }
                if let Some(wait) = wait.filter(|_| throttled) {
                    self.event(Event::Throttled { job, wait });
                }
                self.event(failed(RetryTime::Never, blame));
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Pause => self.engine.pause(),
            Command::Resume => self.engine.resume(self.now),
            Command::Cancel(name) => {
                let named = |(_, known): &(&JobId, &Known)| self.scenario.jobs[known.index].name == name;
                let id = *self.jobs.iter().find(named).expect("it was submitted").0;
                self.engine.cancel(self.now, id);
            }
            Command::Shutdown(within) => {
                self.engine.shutdown(self.now, Shutdown::Graceful { within: within.into() });
            }
            Command::Gate { open } => self.event(Event::Gate { signal: Bound::Lag, open }),
            Command::Bytes(bytes) => self.event(Event::Bytes(bytes)),
            Command::FrontierBehind(behind) => self.event(Event::FrontierBehind(behind)),
        }
    }

    fn settle(&mut self, job: JobId, verdict: JobVerdict) {
        let attempts = self.engine.attempts(job);
        let host_error = self.engine.host_of(job).and_then(|host| self.hosts[&host].error);
        let known = &self.jobs[&job];
        let code = |error: Option<ErrorKind>| format!("error {}", error.expect("an error was told").code());
        let outcome = match verdict {
            JobVerdict::Ok => "ok".to_owned(),
            JobVerdict::Error => code(known.error),
            JobVerdict::HostError => code(host_error),
            JobVerdict::Skipped(reason) => format!("skipped {}", reason.code()),
            JobVerdict::Cancelled => "cancelled".to_owned(),
            other => panic!("{other:?} is no verdict that is known"),
        };
        let name = self.scenario.jobs[known.index].name.clone();
        let before = self.outcome.verdicts.insert(name.clone(), Verdict { outcome, attempts });
        assert_eq!(before, None, "{name} has one verdict");
        self.event(Event::Closed { job });
    }
}

fn config(scenario: &Scenario) -> Config {
    let s = &scenario.crawl;
    let mut config = Config::default();
    config.max_in_flight = s.max_in_flight;
    config.ramp_from = s.ramp_from;
    config.per_host = s.per_host;
    config.breaker = Some(16);
    config.per_address = s.per_address;
    config.gap = s.gap.into();
    config.gap_jitter = 0.0;
    config.rate = s.rate;
    config.parse_permits = s.parsers;
    config.attempts = s.attempts;
    config.backoff_base = s.backoff.into();
    config.backoff_cap = s.backoff.into();
    config.retry_budget = s.retry_budget;
    config.max_starts = s.max_pages;
    config.prepare_hosts = scenario.has_rules();
    config.resolve_hosts = true;
    config.backlog = s.backlog.unwrap_or(config.backlog);
    config.byte_budget = s.byte_budget.unwrap_or(config.byte_budget);
    config.gate_floor = s.gate_floor.unwrap_or(config.gate_floor);
    config.deliver_permits = s.deliver_permits.unwrap_or(config.deliver_permits);
    config.prepare_permits = s.prepare_permits.unwrap_or(config.prepare_permits);
    config.max_hosts = s.max_hosts.unwrap_or(config.max_hosts);
    config
}
