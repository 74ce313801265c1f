//! An engine against servers that are a rule: how many it asks for, and what becomes of the jobs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::RetryTime;
use crate::engine::{Action, Blame, Config, Engine, Event, JobId, JobSpec, JobVerdict};
use crate::rt::manual::Manual;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What a server makes of a fetch that comes at this time while so many are there: how long it takes, and its failure.
type Server<'a> = Box<dyn FnMut(Duration, u32, JobId) -> (Duration, Option<(RetryTime, Blame)>) + 'a>;

struct World<'a> {
    engine: Engine,
    start: Instant,
    now: Instant,
    server: Server<'a>,
    hosts: u32,
    open: u32,
    jobs: u32,
    pending: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    /// Starts and good answers by tenths of a second, and the most in flight in each.
    starts: Vec<u32>,
    answers: Vec<u32>,
    most: Vec<u32>,
    verdicts: BTreeMap<JobId, JobVerdict>,
}

impl<'a> World<'a> {
    fn new(
        config: Config,
        jobs: u32,
        server: impl FnMut(Duration, u32, JobId) -> (Duration, Option<(RetryTime, Blame)>) + 'a,
    ) -> Self {
        let now = Manual::new().runtime().now();
        let config = Config { parse_permits: u32::MAX, backlog: u32::MAX, ..config };
        Self {
            engine: Engine::new(config),
            start: now,
            now,
            server: Box::new(server),
            hosts: 1,
            open: 0,
            jobs,
            pending: BTreeMap::new(),
            serial: 0,
            starts: Vec::new(),
            answers: Vec::new(),
            most: Vec::new(),
            verdicts: BTreeMap::new(),
        }
    }

    fn passed(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    fn count(list: &mut Vec<u32>, at: Duration) -> &mut u32 {
        let tenth = (at.as_millis() / 100) as usize;
        list.resize(list.len().max(tenth + 1), 0);
        &mut list[tenth]
    }

    /// Runs until then, or until nothing is left to do.
    fn run(&mut self, until: Duration) {
        loop {
            while self.jobs > 0 && self.engine.want() > 0 && self.engine.waiting() < 2_000 {
                self.jobs -= 1;
                let host = self.engine.host(&format!("h{}", self.jobs % self.hosts));
                self.engine.submit(self.now, host, JobSpec::default());
            }
            self.engine.handle_timeout(self.now);
            while let Some(action) = self.engine.poll(self.now) {
                self.act(action);
            }
            if self.jobs > 0 && self.engine.waiting() < 2_000 && self.engine.want() > 0 {
                continue;
            }
            let answer = self.pending.first_key_value().map(|((time, _), _)| *time);
            let timeout = self.engine.poll_timeout();
            let Some(next) = [answer, timeout].into_iter().flatten().min() else {
                assert!(self.engine.is_idle(), "nothing will ever happen: {:?}", self.engine.counters());
                return;
            };
            if next.saturating_duration_since(self.start) > until {
                self.now = self.start + until;
                return;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.pending.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let event = entry.remove();
                self.open -= 1;
                if matches!(event, Event::Fetched { .. }) {
                    let at = self.passed();
                    *Self::count(&mut self.answers, at) += 1;
                }
                self.engine.handle_event(self.now, event);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Fetch { job, .. } => {
                self.open += 1;
                let at = self.passed();
                let (takes, failure) = (self.server)(at, self.open, job);
                let event = match failure {
                    None => Event::Fetched { job },
                    Some((retry, blame)) => Event::Failed { job, retry, blame },
                };
                self.serial += 1;
                self.pending.insert((self.now + takes, self.serial), event);
                *Self::count(&mut self.starts, at) += 1;
                let most = Self::count(&mut self.most, at);
                *most = self.open.max(*most);
            }
            Action::Parse(job) => self.engine.handle_event(self.now, Event::Parsed { job, deliver: false }),
            Action::Settle { job, verdict } => {
                self.verdicts.insert(job, verdict);
                self.engine.handle_event(self.now, Event::Closed { job });
            }
            _ => {}
        }
    }

    fn verdicts(&self, of: JobVerdict) -> usize {
        self.verdicts.values().filter(|verdict| **verdict == of).count()
    }

    /// Answers a second from tenth to tenth.
    fn rate(&self, from: usize, to: usize) -> f64 {
        10.0 * f64::from(self.answers[from..to].iter().sum::<u32>()) / (to - from) as f64
    }
}

/// A server that serves `k` at a time, each in `takes`, and the others after them.
fn queueing(k: u32, takes: Duration) -> impl FnMut(Duration, u32, JobId) -> (Duration, Option<(RetryTime, Blame)>) {
    let mut free = vec![Duration::ZERO; k as usize];
    let mut rng = fastrand::Rng::with_seed(7);
    move |at, _, _| {
        let first = free.iter_mut().min().expect("it serves one at least");
        let ends = at.max(*first) + takes.mul_f64(0.9 + 0.2 * rng.f64());
        *first = ends;
        (ends - at, None)
    }
}

#[test]
fn a_limit_settles_at_what_the_server_bears() {
    for k in [1, 4, 20, 200] {
        let mut world = World::new(Config { ramp_from: None, ..Config::default() }, u32::MAX, queueing(k, 100 * MS));
        world.run(30 * SECOND);
        let most = &world.most[150..300];
        let rate = world.rate(150, 300);
        let best = f64::from(k) * 10.0;
        let mean = most.iter().map(|most| f64::from(*most)).sum::<f64>() / 150.0;
        let spread = (most.iter().map(|most| (f64::from(*most) - mean).powi(2)).sum::<f64>() / 150.0).sqrt() / mean;
        println!("{k}: mean {mean} cv {spread} rate {rate} of {best}; first {:?}", &world.most[..20]);
        assert!(rate >= 0.95 * best, "{rate} of {best} a second");
    }
}

#[test]
fn a_server_without_limits_is_given_all_there_is_within_seconds() {
    let config = Config { ramp_from: Some(1), host_ramp_from: 1, ..Config::default() };
    let mut world = World::new(config, u32::MAX, |_, _, _| (100 * MS, None));
    world.run(3 * SECOND);
    println!("{:?}", world.most);
    assert_eq!(world.most.iter().max(), Some(&10_000));
}

#[test]
fn a_host_that_dies_is_tried_and_then_given_up() {
    let mut world = World::new(
        Config {
            backoff_cap: SECOND,
            attempts: 1,
            max_in_flight: 100,
            per_host: Some(8),
            queue: 100,
            ..Config::default()
        },
        20_000,
        |_, _, job| {
            let dead = job.as_u64() > 10_000;
            (10 * MS, dead.then_some((RetryTime::AfterBackoff, Blame::Host)))
        },
    );
    world.hosts = 50;
    world.run(600 * SECOND);
    assert_eq!(world.verdicts.len(), 20_000);
    println!("{} {}", world.verdicts(JobVerdict::HostError), world.starts.iter().sum::<u32>());
}
