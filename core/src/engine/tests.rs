//! The engine as lists of literals: what is submitted, what is asked, what time it is.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{RetryTime, SkipReason};

const MS: Duration = Duration::from_millis(1);
const NS: Duration = Duration::from_nanos(1);

fn origin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    Instant::now()
}

/// Everything adaptive off.
fn plain() -> Config {
    Config { ramp_from: None, gap_jitter: 0.0, parse_permits: 8, retry_budget: 1.0, ..Config::default() }
}

struct Bench {
    engine: Engine,
    now: Instant,
    settled: Vec<(JobId, JobVerdict)>,
    /// Actions that came while something else was looked for.
    kept: Vec<Action>,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self { engine: Engine::new(config), now: origin(), settled: Vec::new(), kept: Vec::new() }
    }

    fn submit(&mut self, host: &str) -> JobId {
        self.submit_with(host, JobSpec::default())
    }

    fn submit_with(&mut self, host: &str, spec: JobSpec) -> JobId {
        let host = self.engine.host(host);
        self.engine.submit(self.now, host, spec)
    }

    fn event(&mut self, event: Event) {
        self.engine.handle_event(self.now, event);
    }

    /// All actions that there are now; settlements are closed at once and kept apart.
    fn actions(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.kept);
        while let Some(action) = self.engine.poll(self.now) {
            match action {
                Action::Settle { job, verdict } => {
                    self.settled.push((job, verdict));
                    self.event(Event::Closed { job });
                }
                other => actions.push(other),
            }
        }
        actions
    }

    fn fetches(&mut self) -> Vec<JobId> {
        let fetch = |action| match action {
            Action::Fetch { job, .. } => Some(job),
            _ => None,
        };
        self.actions().into_iter().filter_map(fetch).collect()
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.engine.handle_timeout(self.now);
    }

    fn fail(&mut self, job: JobId, retry: RetryTime) {
        self.event(Event::Failed { job, retry, throttled: false });
    }

    /// From the answer to the verdict, without items.
    fn finish(&mut self, job: JobId) {
        self.event(Event::Fetched { job });
        let mut actions = self.actions();
        let parse = actions.iter().position(|action| *action == Action::Parse(job)).expect("it is parsed next");
        actions.remove(parse);
        self.kept = actions;
        self.event(Event::Parsed { job, deliver: false });
    }
}

#[test]
fn a_job_goes_through_all_stages_to_one_verdict() {
    let mut b = Bench::new(Config { prepare_hosts: true, resolve_hosts: true, ..plain() });
    let job = b.submit_with("a", JobSpec { vet: true, ..JobSpec::default() });
    let host = b.engine.host("a");
    assert_eq!(b.actions(), [Action::Prepare(host)]);
    b.event(Event::Prepared { host, gap: None, valid_until: None });
    assert_eq!(b.actions(), [Action::Resolve(host)]);
    b.event(Event::Resolved { host, address: None });
    assert_eq!(b.actions(), [Action::Vet(job)]);
    b.event(Event::Vetted { job });
    assert_eq!(b.actions(), [Action::Fetch { job, attempt: 1 }]);
    b.event(Event::Fetched { job });
    assert_eq!(b.actions(), [Action::Parse(job)]);
    b.event(Event::Parsed { job, deliver: true });
    assert_eq!(b.actions(), [Action::Deliver(job)]);
    b.event(Event::Delivered { job, rejected: false });
    assert_eq!(b.actions(), []);
    assert_eq!(b.settled, [(job, JobVerdict::Ok)]);
    assert!(b.engine.is_idle());
}

#[test]
fn a_host_that_is_prepared_holds_no_slot() {
    let mut b = Bench::new(Config { prepare_hosts: true, max_in_flight: 1, ..plain() });
    let slow = b.submit("slow");
    let fast = b.submit("fast");
    let host = b.engine.host("fast");
    b.actions();
    b.event(Event::Prepared { host, gap: None, valid_until: None });
    assert_eq!(b.fetches(), [fast]);
    assert!(b.engine.attempts(slow) == 0);
}

#[test]
fn the_gap_is_kept_to_the_tick() {
    let mut b = Bench::new(Config { gap: 500 * MS, ..plain() });
    let (first, second) = (b.submit("a"), b.submit("a"));
    assert_eq!(b.fetches(), [first]);
    assert_eq!(b.engine.poll_timeout(), Some(b.now + 500 * MS));
    b.advance(500 * MS - NS);
    assert_eq!(b.fetches(), []);
    b.advance(NS);
    assert_eq!(b.fetches(), [second]);
}

#[test]
fn the_gap_holds_for_a_retry_and_for_a_hop_too() {
    let mut b = Bench::new(Config { gap: 500 * MS, ..plain() });
    let job = b.submit("a");
    assert_eq!(b.fetches(), [job]);
    let host = b.engine.host("a");
    b.event(Event::Redirected { job, host });
    assert_eq!(b.fetches(), []);
    b.advance(500 * MS);
    assert_eq!(b.fetches(), [job]);
    b.fail(job, RetryTime::After(100 * MS));
    b.advance(500 * MS - NS);
    assert_eq!(b.fetches(), []);
    b.advance(NS);
    assert_eq!(b.actions(), [Action::Fetch { job, attempt: 2 }], "a hop is no attempt, a retry is");
}

#[test]
fn a_crawl_delay_lengthens_the_gap_and_never_shortens_it() {
    for (asked, gap) in [(2000 * MS, 2000 * MS), (100 * MS, 500 * MS)] {
        let mut b = Bench::new(Config { gap: 500 * MS, prepare_hosts: true, ..plain() });
        let (_, second) = (b.submit("a"), b.submit("a"));
        let host = b.engine.host("a");
        b.actions();
        b.event(Event::Prepared { host, gap: Some(asked), valid_until: None });
        assert_eq!(b.fetches().len(), 1);
        b.advance(gap - NS);
        assert_eq!(b.fetches(), []);
        b.advance(NS);
        assert_eq!(b.fetches(), [second]);
    }
}

#[test]
fn limits_hold_per_host_per_address_and_over_all() {
    let mut b = Bench::new(Config { per_host: Some(2), ..plain() });
    let jobs: Vec<_> = (0..3).map(|_| b.submit("a")).collect();
    assert_eq!(b.fetches(), jobs[..2]);
    b.finish(jobs[0]);
    assert_eq!(b.fetches(), jobs[2..]);

    let mut b = Bench::new(Config { per_address: Some(1), resolve_hosts: true, ..plain() });
    let jobs = [b.submit("a"), b.submit("b")];
    b.actions();
    for name in ["a", "b"] {
        let host = b.engine.host(name);
        b.event(Event::Resolved { host, address: Some([127, 0, 0, 1].into()) });
    }
    assert_eq!(b.fetches(), jobs[..1]);
    b.finish(jobs[0]);
    assert_eq!(b.fetches(), jobs[1..]);

    let mut b = Bench::new(Config { max_in_flight: 3, ..plain() });
    let jobs: Vec<_> = (0..5).map(|i| b.submit(&format!("h{i}"))).collect();
    assert_eq!(b.fetches(), jobs[..3]);
}

// H8
#[test]
fn hosts_take_turns_whatever_the_length_of_their_queues() {
    let mut b = Bench::new(Config { max_in_flight: 2, ..plain() });
    (0..1000).for_each(|_| _ = b.submit("long"));
    let other = b.submit("short");
    assert!(b.fetches().contains(&other));
}

#[test]
fn priority_goes_first_within_a_host() {
    let mut b = Bench::new(Config { per_host: Some(1), ..plain() });
    let low = b.submit("a");
    let high = b.submit_with("a", JobSpec { priority: 1, ..JobSpec::default() });
    assert_eq!(b.fetches(), [high]);
    b.finish(high);
    assert_eq!(b.fetches(), [low]);
}

#[test]
fn attempts_end_after_the_last() {
    let mut b = Bench::new(Config { attempts: 3, ..plain() });
    let job = b.submit("a");
    for attempt in 1..=3 {
        assert_eq!(b.actions(), [Action::Fetch { job, attempt }]);
        assert_eq!(b.engine.may_retry(job), attempt < 3);
        b.fail(job, RetryTime::AfterBackoff);
        b.advance(Duration::from_secs(60));
    }
    assert_eq!(b.actions(), []);
    assert_eq!(b.settled, [(job, JobVerdict::Error)]);
    assert_eq!(b.engine.counters().retries, 2);
}

#[test]
fn a_throttled_host_waits_as_a_whole_and_others_go_on() {
    let mut b = Bench::new(Config { max_in_flight: 1, ..plain() });
    let (first, second) = (b.submit("a"), b.submit("a"));
    assert_eq!(b.fetches(), [first]);
    b.event(Event::Failed { job: first, retry: RetryTime::After(2000 * MS), throttled: true });
    let other = b.submit("b");
    assert_eq!(b.fetches(), [other], "a host that waits holds no slot");
    b.finish(other);
    b.advance(2000 * MS - NS);
    assert_eq!(b.fetches(), []);
    b.advance(NS);
    assert!([first, second].contains(&b.fetches()[0]));
}

// C12
#[test]
fn a_retry_after_beyond_the_cap_settles() {
    for (wait, settles) in [(600_000 * MS, 0), (600_000 * MS + NS, 1)] {
        let mut b = Bench::new(plain());
        let job = b.submit("a");
        b.actions();
        b.fail(job, RetryTime::After(wait));
        b.actions();
        assert_eq!(b.settled.len(), settles);
    }
}

#[test]
fn a_pause_beyond_the_cap_settles_the_url_and_still_holds_for_its_host() {
    let mut b = Bench::new(Config { per_host: Some(1), ..plain() });
    let (first, second) = (b.submit("a"), b.submit("a"));
    assert_eq!(b.fetches(), [first]);
    b.event(Event::Failed { job: first, retry: RetryTime::After(Duration::from_secs(3600)), throttled: true });
    assert_eq!(b.fetches(), []);
    assert_eq!(b.settled, [(first, JobVerdict::Error)]);
    b.advance(600_000 * MS - NS);
    assert_eq!(b.fetches(), []);
    b.advance(NS);
    assert_eq!(b.fetches(), [second]);
}

#[test]
fn hosts_are_prepared_a_few_at_a_time_and_not_while_the_gate_is_closed() {
    let mut b = Bench::new(Config { prepare_hosts: true, prepare_permits: 2, ..plain() });
    (0..5).for_each(|i| _ = b.submit(&format!("h{i}")));
    let hosts: Vec<_> = (0..5).map(|i| b.engine.host(&format!("h{i}"))).collect();
    assert_eq!(b.actions(), [Action::Prepare(hosts[0]), Action::Prepare(hosts[1])]);
    b.event(Event::Gate { open: false });
    b.event(Event::HostFailed { host: hosts[0], retry: RetryTime::Never });
    assert_eq!(b.actions(), []);
    b.event(Event::Gate { open: true });
    assert_eq!(b.actions(), [Action::Prepare(hosts[2])]);
}

// J1
#[test]
fn a_frontier_that_is_behind_stops_fetching_and_parsing() {
    let mut b = Bench::new(plain());
    let first = b.submit("a");
    assert_eq!(b.fetches(), [first]);
    b.event(Event::FrontierBehind(true));
    b.event(Event::Fetched { job: first });
    let second = b.submit("b");
    assert_eq!(b.actions(), []);
    b.event(Event::FrontierBehind(false));
    assert_eq!(b.actions(), [Action::Parse(first), Action::Fetch { job: second, attempt: 1 }]);
}

#[test]
fn local_pressure_that_does_not_end_settles() {
    for (wait, settles) in [(600_000 * MS - NS, 0), (600_000 * MS, 1)] {
        let mut b = Bench::new(plain());
        let job = b.submit("a");
        b.actions();
        b.fail(job, RetryTime::WhenRoom);
        b.advance(100 * MS);
        b.actions();
        b.advance(wait - 100 * MS);
        b.fail(job, RetryTime::WhenRoom);
        b.actions();
        assert_eq!(b.settled.len(), settles, "{wait:?}");
    }
}

// H1, H2
#[test]
fn local_pressure_is_not_an_attempt_and_shrinks_what_is_in_flight() {
    let mut b = Bench::new(Config { max_in_flight: 100, gate_floor: 4, ..plain() });
    let jobs: Vec<_> = (0..100).map(|i| b.submit(&format!("h{i}"))).collect();
    assert_eq!(b.fetches().len(), 100);
    for job in &jobs[50..] {
        b.fail(*job, RetryTime::WhenRoom);
    }
    b.advance(Duration::from_secs(1));
    let again = b.actions();
    assert!(again.is_empty(), "50 are in flight and fewer than that are allowed now");
    for job in &jobs[..50] {
        b.finish(*job);
    }
    assert!(b.actions().iter().all(|a| matches!(a, Action::Fetch { attempt: 1, .. })));
}

// J1
#[test]
fn a_sink_that_takes_nothing_stops_fetching() {
    let mut b = Bench::new(Config { max_in_flight: 4, deliver_permits: 2, parse_permits: 2, backlog: 8, ..plain() });
    let mut fetched = 0;
    for i in 0..1000 {
        b.submit(&format!("h{i}"));
    }
    loop {
        let actions = b.actions();
        if actions.is_empty() {
            break;
        }
        for action in actions {
            match action {
                Action::Fetch { job, .. } => {
                    fetched += 1;
                    b.event(Event::Fetched { job });
                }
                Action::Parse(job) => b.event(Event::Parsed { job, deliver: true }),
                _ => {}
            }
        }
    }
    // What may be in flight when the backlog fills, and the stages behind it.
    assert!(fetched <= 4 + 8 + 2 + 2, "{fetched} were fetched although the sink took none");
    assert_eq!(b.engine.bound_by(b.now + MS)[0].0, Bound::Sink);
}

// H5
#[test]
fn a_full_byte_budget_starts_nothing_while_something_is_in_flight() {
    let mut b = Bench::new(Config { byte_budget: 1000, ..plain() });
    let first = b.submit("a");
    assert_eq!(b.fetches(), [first]);
    b.event(Event::Bytes(1000));
    let second = b.submit("b");
    assert_eq!(b.fetches(), []);
    b.event(Event::Bytes(999));
    assert_eq!(b.fetches(), [second]);
}

// H7
#[test]
fn a_closed_gate_keeps_the_floor_and_opens_as_a_ramp() {
    let mut b = Bench::new(Config { max_in_flight: 1000, gate_floor: 2, ..plain() });
    b.event(Event::Gate { open: false });
    let jobs: Vec<_> = (0..100).map(|i| b.submit(&format!("h{i}"))).collect();
    assert_eq!(b.fetches(), jobs[..2]);
    b.event(Event::Gate { open: true });
    assert_eq!(b.fetches(), [], "nothing has succeeded yet");
    b.finish(jobs[0]);
    assert_eq!(b.fetches().len(), 2);
}

#[test]
fn a_ramp_doubles_each_round_trip() {
    let mut b = Bench::new(Config { ramp_from: Some(16), max_in_flight: 100, parse_permits: 1000, ..plain() });
    (0..1000).for_each(|i| _ = b.submit(&format!("h{i}")));
    let mut rounds = Vec::new();
    let mut flying = b.fetches();
    while rounds.len() < 5 {
        rounds.push(flying.len());
        let done = std::mem::take(&mut flying);
        done.into_iter().for_each(|job| b.event(Event::Fetched { job }));
        flying = b.fetches();
    }
    assert_eq!(rounds, [16, 32, 64, 100, 100]);
}

#[test]
fn a_dead_host_settles_all_that_waits_for_it() {
    let mut b = Bench::new(Config { resolve_hosts: true, attempts: 2, ..plain() });
    let jobs = [b.submit("a"), b.submit("a")];
    let host = b.engine.host("a");
    for _ in 0..2 {
        assert_eq!(b.actions(), [Action::Resolve(host)]);
        b.event(Event::HostFailed { host, retry: RetryTime::AfterBackoff });
        b.advance(Duration::from_secs(60));
    }
    assert_eq!(b.actions(), []);
    assert_eq!(b.settled, jobs.map(|job| (job, JobVerdict::HostError)));
}

#[test]
fn rules_that_ran_out_are_asked_for_again() {
    let mut b = Bench::new(Config { prepare_hosts: true, ..plain() });
    let first = b.submit("a");
    let host = b.engine.host("a");
    b.actions();
    let valid_until = Some(b.now + 1000 * MS);
    b.event(Event::Prepared { host, gap: None, valid_until });
    assert_eq!(b.fetches(), [first]);
    b.advance(1000 * MS - NS);
    let second = b.submit("a");
    assert_eq!(b.fetches(), [second]);
    b.advance(NS);
    b.submit("a");
    assert_eq!(b.actions(), [Action::Prepare(host)]);
}

#[test]
fn max_starts_is_inclusive_and_the_rest_is_cancelled() {
    let mut b = Bench::new(Config { max_starts: Some(2), ..plain() });
    let jobs: Vec<_> = (0..4).map(|_| b.submit("a")).collect();
    assert_eq!(b.fetches(), jobs[..2]);
    assert!(b.engine.is_exhausted() && b.engine.want() == 0);
    b.engine.cancel_unstarted();
    b.actions();
    assert_eq!(b.settled.len(), 2);
    jobs[..2].iter().for_each(|job| b.finish(*job));
    b.actions();
    assert!(b.engine.is_idle());
}

// K4, K5
#[test]
fn a_graceful_end_lets_what_is_in_flight_end_until_its_deadline() {
    let mut b = Bench::new(Config { max_in_flight: 2, ..plain() });
    let jobs: Vec<_> = (0..3).map(|_| b.submit("a")).collect();
    assert_eq!(b.fetches(), jobs[..2]);
    b.engine.shutdown(b.now, Shutdown::Graceful { within: 100 * MS });
    assert_eq!(b.fetches(), []);
    assert_eq!(b.settled, [(jobs[2], JobVerdict::Cancelled)]);
    b.finish(jobs[0]);
    b.advance(100 * MS - NS);
    assert_eq!(b.actions(), []);
    b.advance(NS);
    assert_eq!(b.actions(), [Action::Abort(jobs[1])]);
    assert_eq!(b.settled.last(), Some(&(jobs[1], JobVerdict::Cancelled)));
    b.engine.shutdown(b.now, Shutdown::Now);
    let late = b.submit("a");
    b.actions();
    assert_eq!(b.settled.last(), Some(&(late, JobVerdict::Cancelled)));
    assert!(b.engine.is_idle());
}

#[test]
fn a_pause_starts_nothing_and_resume_ramps() {
    let mut b = Bench::new(plain());
    b.engine.pause();
    let job = b.submit("a");
    assert_eq!(b.fetches(), []);
    b.engine.resume();
    assert_eq!(b.fetches(), [job]);
}

// H9
#[test]
fn idle_hosts_are_forgotten_but_not_while_they_must_wait() {
    let mut b = Bench::new(Config { max_hosts: 2, gap: 1000 * MS, ..plain() });
    for i in 0..4 {
        let job = b.submit(&format!("h{i}"));
        b.actions();
        b.finish(job);
        b.actions();
    }
    let remembered = b.engine.hosts(10, b.now).len();
    assert_eq!(remembered, 4, "all of them must still wait");
    b.advance(1000 * MS);
    let job = b.submit("h9");
    b.actions();
    b.finish(job);
    let forgotten = b.actions().iter().filter(|a| matches!(a, Action::Forget(_))).count();
    assert!(forgotten >= 3, "{forgotten}");
    assert_eq!(b.submit("h1").index(), b.submit("h1").index() - 1);
}

#[test]
fn a_whole_crawl_rate_holds() {
    let mut b = Bench::new(Config { rate: Some(100.0), ..plain() });
    (0..1000).for_each(|i| _ = b.submit(&format!("h{i}")));
    let mut starts = b.fetches().len();
    let end = b.now + 1000 * MS;
    while let Some(next) = b.engine.poll_timeout().filter(|next| *next <= end) {
        assert!(next > b.now, "a wake-up in the past would spin");
        b.advance(next - b.now);
        starts += b.fetches().len();
    }
    assert!((99..=103).contains(&starts), "{starts}");
}

/// What may happen to an engine, with indices for ids.
#[derive(Clone, Debug)]
enum Step {
    Submit { host: u8, priority: i8, vet: bool },
    Answer { pick: u8, how: u8 },
    Advance(u16),
    Back(u16),
    Gate(bool),
    Behind(bool),
    Bytes(u16),
    Pause(bool),
    Cancel(u8),
    Shutdown(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5u8, any::<i8>(), any::<bool>()).prop_map(|(host, priority, vet)| Step::Submit { host, priority, vet }),
        20 => (any::<u8>(), any::<u8>()).prop_map(|(pick, how)| Step::Answer { pick, how }),
        8 => (0..3000u16).prop_map(Step::Advance),
        1 => (0..3000u16).prop_map(Step::Back),
        1 => any::<bool>().prop_map(Step::Gate),
        1 => any::<bool>().prop_map(Step::Behind),
        1 => (0..2000u16).prop_map(Step::Bytes),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => any::<u8>().prop_map(Step::Cancel),
        1 => (0..5000u16).prop_map(Step::Shutdown),
    ]
}

/// Answers one open action in one of the ways in which it can be.
fn answer(action: Action, how: u8) -> Event {
    let retry = [
        RetryTime::Never,
        RetryTime::AfterBackoff,
        RetryTime::After(Duration::from_millis(u64::from(how) * 10)),
        RetryTime::WhenRoom,
    ][usize::from(how / 4) % 4];
    match action {
        Action::Prepare(host) | Action::Resolve(host) if how.is_multiple_of(4) => Event::HostFailed { host, retry },
        Action::Prepare(host) => Event::Prepared { host, gap: None, valid_until: None },
        Action::Resolve(host) => Event::Resolved { host, address: Some([127, 0, 0, how % 2].into()) },
        Action::Vet(job) if how.is_multiple_of(5) => Event::Skipped { job, reason: SkipReason::Robots },
        Action::Vet(job) => Event::Vetted { job },
        Action::Fetch { job, .. } | Action::Parse(job) if how % 4 == 1 => {
            Event::Failed { job, retry, throttled: how.is_multiple_of(3) }
        }
        Action::Fetch { job, .. } => Event::Fetched { job },
        Action::Parse(job) => Event::Parsed { job, deliver: how.is_multiple_of(2) },
        Action::Deliver(job) => Event::Delivered { job, rejected: how.is_multiple_of(7) },
        Action::Settle { job, .. } | Action::Abort(job) => Event::Closed { job },
        Action::Forget(_) => Event::Bytes(0),
    }
}

fn check(b: &Engine, config: &Config, open: &[Action]) {
    let c = b.counters();
    let finished = c.ok + c.error + c.skipped + c.cancelled;
    let settling = open.iter().filter(|a| matches!(a, Action::Settle { .. })).count() as u64;
    assert_eq!(c.submitted, finished + u64::from(c.jobs) - settling, "conservation");
    assert!(c.in_flight <= config.max_in_flight);
    for (name, _, in_flight, _) in b.hosts(10, origin()) {
        assert!(in_flight <= config.per_host.unwrap_or(u32::MAX), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Invariants 1, 2, 6 and 11: whatever happens in whatever order, nothing is lost, no job ends twice, no limit is
    /// passed, and once the faults stop everything settles.
    #[test]
    fn conservation_limits_and_liveness(steps in prop::collection::vec(step(), 0..200), prepare: bool) {
        let config = Config {
            max_in_flight: 6, per_host: Some(2), per_address: Some(3), gap: 100 * MS, gap_jitter: 0.5, attempts: 3,
            parse_permits: 2, deliver_permits: 2, backlog: 8, byte_budget: 1000, gate_floor: 1, max_hosts: 3, prepare_permits: 2,
            prepare_hosts: prepare, resolve_hosts: prepare, ramp_from: Some(1), rate: Some(50.0), ..Config::default()
        };
        let mut b = Bench::new(config.clone());
        let mut open: Vec<Action> = Vec::new();
        let mut jobs = Vec::new();
        let mut settled = std::collections::HashSet::new();
        let mut drain = |b: &mut Bench, open: &mut Vec<Action>| {
            while let Some(action) = b.engine.poll(b.now) {
                if let Action::Settle { job, .. } = action {
                    assert!(settled.insert(job), "{job:?} settled twice");
                }
                if !matches!(action, Action::Abort(_) | Action::Forget(_)) {
                    open.push(action);
                }
            }
            assert!(b.engine.poll_timeout().is_none_or(|at| at > b.now), "a wake-up in the past would spin");
            check(&b.engine, &config, open);
        };
        for step in steps {
            match step {
                Step::Submit { host, priority, vet } => {
                    let spec = JobSpec { priority: priority.into(), vet, ..JobSpec::default() };
                    jobs.push(b.submit_with(&format!("h{host}"), spec));
                }
                Step::Answer { pick, how } if !open.is_empty() => {
                    let action = open.swap_remove(usize::from(pick) % open.len());
                    b.event(answer(action, how));
                }
                Step::Answer { .. } => {}
                Step::Advance(millis) => b.advance(MS * millis.into()),
                Step::Back(millis) => {
                    let before = b.now;
                    b.now = b.now.checked_sub(MS * millis.into()).unwrap_or(b.now);
                    drain_events(&mut b);
                    b.now = before;
                }
                Step::Gate(gate) => b.event(Event::Gate { open: gate }),
                Step::Behind(behind) => b.event(Event::FrontierBehind(behind)),
                Step::Bytes(bytes) => b.event(Event::Bytes(bytes.into())),
                Step::Pause(true) => b.engine.pause(),
                Step::Pause(false) => b.engine.resume(),
                Step::Cancel(pick) if !jobs.is_empty() => b.engine.cancel(b.now, jobs[usize::from(pick) % jobs.len()]),
                Step::Cancel(_) => {}
                Step::Shutdown(millis) => {
                    b.engine.shutdown(b.now, Shutdown::Graceful { within: MS * millis.into() });
                }
            }
            b.engine.handle_timeout(b.now);
            drain(&mut b, &mut open);
        }
        b.engine.resume();
        b.event(Event::Gate { open: true });
        b.event(Event::FrontierBehind(false));
        b.event(Event::Bytes(0));
        for _ in 0..100_000 {
            drain(&mut b, &mut open);
            if let Some(action) = open.pop() {
                b.event(answer(action, 3));
            } else if let Some(next) = b.engine.poll_timeout() {
                let by = next.saturating_duration_since(b.now);
                b.advance(by);
            } else {
                break;
            }
        }
        prop_assert!(b.engine.is_idle(), "{:?}", b.engine.counters());
        let c = b.engine.counters();
        prop_assert_eq!(c.submitted, c.ok + c.error + c.skipped + c.cancelled);
        prop_assert_eq!((c.in_flight, c.parse_queued), (0, 0));
    }

    /// Invariant 22: the same seed and the same events give the same actions.
    #[test]
    fn equal_seeds_give_equal_traces(seed: u64) {
        let trace = || {
            let mut b = Bench::new(Config { seed, gap: 100 * MS, gap_jitter: 0.5, ..Config::default() });
            let start = b.now;
            (0..20).for_each(|i| _ = b.submit(&format!("h{}", i % 3)));
            let mut trace = Vec::new();
            for _ in 0..200 {
                for action in b.actions() {
                    trace.push((b.now - start, action));
                    if let Action::Fetch { job, attempt } = action {
                        b.fail(job, if attempt == 1 { RetryTime::AfterBackoff } else { RetryTime::Never });
                    }
                }
                let Some(next) = b.engine.poll_timeout() else { break };
                b.advance(next - b.now);
            }
            trace
        };
        prop_assert_eq!(trace(), trace());
    }
}

/// A clock that goes backwards is harmless.
fn drain_events(b: &mut Bench) {
    b.engine.handle_timeout(b.now);
    b.event(Event::Bytes(0));
}
