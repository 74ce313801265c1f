//! An engine against servers that are a rule: how many it asks for, and what becomes of the jobs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::RetryTime;
use crate::engine::{Action, Blame, Config, Engine, Event, JobId, JobSpec, JobVerdict};
use crate::rt::manual::Manual;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What a server makes of a fetch that comes at this time while so many are there, for which of its hosts: how long it
/// takes, and its failure.
type Server<'a> = Box<dyn FnMut(Duration, u32, usize) -> (Duration, Option<(RetryTime, Blame)>) + 'a>;

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
        server: impl FnMut(Duration, u32, usize) -> (Duration, Option<(RetryTime, Blame)>) + 'a,
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
                // A loop that starts many takes its time, too.
                self.now += Duration::from_micros(1);
                let at = self.passed();
                let id = self.engine.host_of(job).expect("it lives");
                let host = id.index();
                let most = self.engine.config.per_host.unwrap_or(u32::MAX);
                let of = self.engine.known_host(id).expect("it is remembered");
                assert!(of.in_flight <= most, "{} in flight", of.in_flight);
                let (takes, failure) = (self.server)(at, self.open, host);
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
        10.0 * f64::from(self.answers[from..to.min(self.answers.len())].iter().sum::<u32>()) / (to - from) as f64
    }
}

/// A server that serves `k` at a time, each in `takes`, and the others after them.
fn queueing(k: u32, takes: Duration) -> impl FnMut(Duration, u32, usize) -> (Duration, Option<(RetryTime, Blame)>) {
    let mut free = vec![Duration::ZERO; k as usize];
    let mut rng = fastrand::Rng::with_seed(7);
    move |at, _, _| {
        let first = free.iter_mut().min().expect("it serves one at least");
        let ends = at.max(*first) + takes.mul_f64(0.9 + 0.2 * rng.f64());
        *first = ends;
        (ends - at, None)
    }
}

/// Mean and coefficient of variation.
fn spread(list: &[u32]) -> (f64, f64) {
    let n = list.len() as f64;
    let mean = list.iter().map(|one| f64::from(*one)).sum::<f64>() / n;
    let variance = list.iter().map(|one| (f64::from(*one) - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt() / mean)
}

fn free() -> Config {
    Config { ramp_from: None, adaptive: true, breaker: Some(16), ..Config::default() }
}

#[test]
fn a_limit_settles_at_what_the_server_bears() {
    for (k, low, high) in [(1, 1.0, 10.0), (4, 4.0, 10.0), (20, 20.0, 28.0), (200, 200.0, 225.0)] {
        let mut world = World::new(free(), u32::MAX, queueing(k, 100 * MS));
        world.run(30 * SECOND);
        let (mean, cv) = spread(&world.most[150..290]);
        let (rate, best) = (world.rate(150, 300), f64::from(k) * 10.0);
        assert!(rate >= 0.99 * best, "{rate} of {best} a second");
        assert!((low..=high).contains(&mean), "{mean} in flight where {k} are served at a time");
        assert!(k < 20 || cv < 0.05, "{cv}: it swings");
        let most = world.most.iter().max().copied().unwrap_or_default();
        assert!(most <= 8 * k.max(4), "{most} at a time while it found out");
    }
}

#[test]
fn a_server_without_limits_is_given_all_there_is_within_seconds() {
    let config = Config { ramp_from: Some(1), ..free() };
    let mut world = World::new(config, u32::MAX, |_, _, _| (100 * MS, None));
    world.run(2 * SECOND);
    assert_eq!(world.most.iter().max(), Some(&10_000), "{:?}", world.most);
}

/// All answers take three times as long from one moment on, however few are asked for.
#[test]
fn latency_that_is_not_ours_costs_moments() {
    let takes = |at: Duration, _, _| (if at < 10 * SECOND { 100 * MS } else { 300 * MS }, None);
    let mut world = World::new(Config { per_host: Some(200), ..free() }, u32::MAX, takes);
    world.run(40 * SECOND);
    assert!(world.rate(50, 100) > 1_990.0);
    assert!(world.rate(150, 400) > 0.95 * 666.0, "{}", world.rate(150, 400));
}

/// A server loses three quarters of what it can do, and gets it back.
#[test]
fn a_limit_follows_what_the_server_bears() {
    let mut large = queueing(200, 100 * MS);
    let mut small = queueing(50, 100 * MS);
    let mut world = World::new(free(), u32::MAX, move |at: Duration, open, host| {
        if (20..40).contains(&at.as_secs()) { small(at, open, host) } else { large(at, open, host) }
    });
    world.run(60 * SECOND);
    assert!(spread(&world.most[250..400]).0 < 65.0, "{:?}", spread(&world.most[250..400]));
    assert!(
        world.rate(250, 400) > 495.0 && world.rate(440, 600) > 1_980.0,
        "{} {}",
        world.rate(250, 400),
        world.rate(440, 600)
    );
}

/// Above 50 a second it says 429 and to come back in two seconds.
fn at_most_50_a_second() -> impl FnMut(Duration, u32, usize) -> (Duration, Option<(RetryTime, Blame)>) {
    let mut tokens = (0, 0);
    move |at, _, _| {
        let second = at.as_secs();
        tokens = if tokens.0 == second { (second, tokens.1 + 1) } else { (second, 1) };
        (20 * MS, (tokens.1 > 50).then_some((RetryTime::After(2 * SECOND), Blame::Throttled)))
    }
}

#[test]
fn the_pace_that_a_host_allows_is_learnt_from_its_refusals() {
    let mut world = World::new(free(), 4_000, at_most_50_a_second());
    world.run(600 * SECOND);
    let starts: u32 = world.starts.iter().sum();
    assert_eq!(world.verdicts(JobVerdict::Ok), 4_000, "no URL is lost");
    assert!(f64::from(starts) / 4_000.0 < 1.05, "{starts} requests for 4,000 URLs");
    assert!(world.passed() < 115 * SECOND, "{:?}", world.passed());
}

/// A bucket of `burst` tokens, which fills by `rate` a second. What finds it empty is told so at once, so that hardly more
/// than one URL is refused before the crawl stops asking.
fn token_bucket(
    rate: f64,
    burst: f64,
    wait: Duration,
) -> impl FnMut(Duration, u32, usize) -> (Duration, Option<(RetryTime, Blame)>) {
    let (mut tokens, mut filled) = (burst, Duration::ZERO);
    move |at, _, _| {
        tokens = (tokens + rate * at.saturating_sub(filled).as_secs_f64()).min(burst);
        filled = at;
        if tokens < 1.0 {
            return (MS, Some((RetryTime::After(wait), Blame::Throttled)));
        }
        tokens -= 1.0;
        (100 * MS, None)
    }
}

#[test]
fn a_pace_is_learnt_where_one_url_at_a_time_is_refused() {
    for (rate, burst, wait, least) in
        [(50.0, 50.0, 2, 0.93), (50.0, 5.0, 2, 0.8), (5.0, 30.0, 10, 0.8), (200.0, 200.0, 1, 0.95)]
    {
        let mut world = World::new(free(), u32::MAX, token_bucket(rate, burst, wait * SECOND));
        world.run(121 * SECOND);
        let late = |of: &[u32]| of[200..1_200].iter().sum::<u32>();
        let (answers, refused) = (late(&world.answers), late(&world.starts) - late(&world.answers));
        assert!(f64::from(answers) > 100.0 * least * rate, "{answers} answers of {rate} a second, bursts of {burst}");
        assert!(refused < 12, "{refused} refused, of {rate} a second, bursts of {burst}");
    }
}

/// So many in each window of ten seconds, and after that the rest of it is to be waited for.
#[test]
fn a_quota_of_a_window_is_learnt_as_a_pace() {
    let mut window = (0, 0);
    let mut world = World::new(free(), u32::MAX, move |at: Duration, _, _| {
        let n = at.as_secs() / 10;
        window = if window.0 == n { (n, window.1 + 1) } else { (n, 1) };
        let rest = Duration::from_secs(10 * (n + 1)) - at;
        let refused = window.1 > 100;
        (if refused { MS } else { 50 * MS }, refused.then_some((RetryTime::After(rest), Blame::Throttled)))
    });
    world.run(301 * SECOND);
    let seconds: Vec<u32> = world.answers[1_500..3_000].chunks(10).map(|second| second.iter().sum()).collect();
    assert!(seconds.iter().sum::<u32>() > 1_350, "{seconds:?}");
    assert!(seconds.iter().filter(|answers| **answers == 0).count() < 15, "it is not spent at once: {seconds:?}");
}

#[test]
fn a_host_that_is_down_for_half_a_minute_costs_no_url_and_hardly_a_request() {
    for asked in [None, Some(5 * SECOND)] {
        let retry = asked.map_or(RetryTime::AfterBackoff, RetryTime::After);
        let mut world = World::new(Config { per_host: Some(50), ..free() }, 20_000, move |at: Duration, _, _| {
            let is_down = (10..40).contains(&at.as_secs());
            (100 * MS, is_down.then_some((retry, Blame::Throttled)))
        });
        world.run(600 * SECOND);
        let starts: u32 = world.starts.iter().sum();
        let while_down: u32 = world.starts[101..400].iter().sum();
        assert_eq!(world.verdicts(JobVerdict::Ok), 20_000, "no URL is lost");
        assert!(while_down < 15, "{while_down} requests while it was down");
        assert!(starts < 20_100, "{starts}");
        let back = world.answers.iter().skip(400).position(|answers| *answers >= 35).expect("it comes back");
        assert!(back < 400, "{back} tenths of a second until 70 % of its rate");
    }
}

/// The same with connections that are refused: the first failures count, and then the host is tried by one at a time.
#[test]
fn a_host_that_refuses_is_left_alone_until_it_answers() {
    let mut world = World::new(Config { per_host: Some(20), ..free() }, 20_000, move |at: Duration, _, _| {
        let is_down = (10..40).contains(&at.as_secs());
        (100 * MS, is_down.then_some((RetryTime::AfterBackoff, Blame::Host)))
    });
    world.run(600 * SECOND);
    let while_down: u32 = world.starts[100..400].iter().sum();
    assert!(while_down < 100, "{while_down} requests while it was down");
    assert!(world.verdicts(JobVerdict::Ok) > 19_980);
}

/// Half of the hosts die in the middle and stay dead.
#[test]
fn a_host_that_stays_dead_is_given_up() {
    let mut world = World::new(Config { per_host: Some(8), ..free() }, 20_000, |at: Duration, _, host| {
        let dead = at > SECOND && host == 0;
        (10 * MS, dead.then_some((RetryTime::AfterBackoff, Blame::Host)))
    });
    world.hosts = 2;
    world.run(600 * SECOND);
    assert_eq!(
        world.verdicts(JobVerdict::Ok) + world.verdicts(JobVerdict::HostError) + world.verdicts(JobVerdict::Error),
        20_000
    );
    assert!(world.verdicts(JobVerdict::HostError) > 9_000, "{}", world.verdicts(JobVerdict::HostError));
    assert!(world.starts.iter().sum::<u32>() < 11_500, "the dead host is asked {}", world.starts.iter().sum::<u32>());
}

/// Failures cut the limit, also where no breaker leaves the host alone.
#[test]
fn a_server_that_fails_above_twenty_is_not_asked_for_more() {
    let config = Config { breaker: None, retry_budget: 10.0, attempts: 100, ..free() };
    let mut world = World::new(config, u32::MAX, |_, open, _| {
        (100 * MS, (open > 20).then_some((RetryTime::AfterBackoff, Blame::Host)))
    });
    world.run(30 * SECOND);
    let (mean, _) = spread(&world.most[100..290]);
    assert!((15.0..40.0).contains(&mean), "{mean} in flight");
}

/// Answers that take no time at all are no reason to ask for nothing.
#[test]
fn a_limit_is_a_number() {
    let mut n = 0;
    let mut world = World::new(Config { per_host: Some(8), attempts: 1, ..free() }, 3_000, move |_, _, _| {
        n += 1;
        (Duration::ZERO, (n % 3 == 0).then_some((RetryTime::AfterBackoff, Blame::Host)))
    });
    world.run(600 * SECOND);
    assert_eq!((world.verdicts(JobVerdict::Ok), world.verdicts(JobVerdict::Error)), (2_000, 1_000));
}

/// Whatever hosts do, every job has one verdict in the end, no host is asked by more than may, and none before its time.
#[test]
fn whatever_hosts_do_every_job_ends() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let config = Config {
            per_host: [None, Some(1), Some(3), Some(50)][rng.usize(0..4)],
            adaptive: rng.u8(0..4) > 0,
            breaker: [None, Some(1), Some(16)][rng.usize(0..3)],
            attempts: rng.u32(1..4),
            gap: [Duration::ZERO, 20 * MS][rng.usize(0..2)],
            host_patience: [None, Some(Duration::ZERO), Some(SECOND), Some(60 * SECOND)][rng.usize(0..4)],
            backoff_cap: [SECOND, 10 * SECOND][rng.usize(0..2)],
            seed,
            ..free()
        };
        let (failing, mut dice) = (rng.f64(), rng.fork());
        let mut world = World::new(config, 500, move |at, _, host| {
            let is_bad = (at.as_secs() / 7 + host as u64).is_multiple_of(2);
            let retry = [
                RetryTime::AfterBackoff,
                RetryTime::After(SECOND),
                RetryTime::After(3_600 * SECOND),
                RetryTime::WhenRoom,
                RetryTime::Never,
            ][dice.usize(0..5)];
            let blame = [Blame::Nobody, Blame::Url, Blame::Host, Blame::Throttled, Blame::Ports][dice.usize(0..5)];
            (MS * dice.u32(0..300), (is_bad && dice.f64() < failing).then_some((retry, blame)))
        });
        world.hosts = rng.u32(1..5);
        world.run(86_400 * SECOND);
        assert_eq!(world.verdicts.len(), 500, "seed {seed}: {:?}", world.engine.counters());
    }
}
