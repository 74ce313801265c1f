//! Whatever happens in whatever order: conservation, limits, liveness, equal traces.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::SkipReason;

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
            Event::Failed { job, retry, blame: BLAMES[how as usize % 5] }
        }
        Action::Fetch { job, .. } => Event::Fetched { job },
        Action::Parse(job) => Event::Parsed { job, deliver: how.is_multiple_of(2) },
        Action::Deliver(job) => Event::Delivered { job, rejected: how.is_multiple_of(7) },
        Action::Settle { job, .. } | Action::Abort(job) => Event::Closed { job },
        Action::Forget(_) | Action::Readmit(_) => Event::Bytes(0),
    }
}

fn check(b: &Engine, config: &Config) {
    let c = b.counters();
    let finished = c.ok + c.error + c.skipped + c.cancelled;
    assert_eq!(c.submitted, finished + u64::from(c.jobs), "conservation");
    assert!(c.in_flight <= config.max_in_flight);
    for (name, _, in_flight, _) in b.hosts(10, origin()) {
        assert!(in_flight <= config.per_host.unwrap_or(u32::MAX), "{name}");
    }
}

proptest! {
    #![proptest_config(scripts::runs(512))]

    /// Invariants 1, 2, 6 and 11: whatever happens in whatever order, nothing is lost, no job ends twice, no limit is
    /// passed, and once the faults stop everything settles.
    #[test]
    fn conservation_limits_and_liveness(
        steps in prop::collection::vec(step(), 0..200),
        prepare: bool,
        adaptive: bool,
        breaker in prop::sample::select(vec![None, Some(1), Some(4), Some(16)]),
        per_host in prop::sample::select(vec![None, Some(2), Some(100)]),
    ) {
        let config = Config {
            adaptive, breaker, host_ramp_from: 2, max_in_flight: 6, per_host, per_address: Some(3), gap: 100 * MS, gap_jitter: 0.5, attempts: 3,
            parse_permits: 2, deliver_permits: 2, backlog: 8, byte_budget: 1000, gate_floor: 1, max_hosts: 3, prepare_permits: 2,
            prepare_hosts: prepare, resolve_hosts: prepare, ramp_from: Some(1), rate: Some(50.0), ..Config::default()
        };
        let mut b = Bench::new(config.clone());
        let mut open: Vec<Action> = Vec::new();
        let mut jobs = Vec::new();
        let mut settled = HashSet::new();
        // Until when each host asked to be left alone, by its key: it may be forgotten meanwhile.
        let mut waits = HashMap::<String, Instant>::new();
        let note_wait = |b: &Bench, event: &Event, waits: &mut HashMap<String, Instant>| {
            let Event::Failed { job, retry: RetryTime::After(wait), blame: Blame::Throttled } = *event else { return };
            if let (true, Some(host)) = (b.engine.in_stage(job, Stage::Fetching), key_of(b, job)) {
                let until = waits.entry(host).or_insert(b.now);
                *until = (b.now + wait).max(*until);
            }
        };
        let mut drain = |b: &mut Bench, open: &mut Vec<Action>, waits: &HashMap<String, Instant>| {
            while let Some(action) = b.engine.poll(b.now) {
                if let Action::Settle { job, .. } = action {
                    assert!(settled.insert(job), "{job:?} settled twice");
                }
                if let Action::Fetch { job, .. } = action {
                    let until = key_of(b, job).and_then(|host| waits.get(&host).copied());
                    assert!(until.is_none_or(|until| until <= b.now), "{job:?} is fetched within a Retry-After");
                    let host = b.engine.host_of(job).expect("it lives");
                    let host = b.engine.known_host(host).expect("it is remembered");
                    let before = host.in_flight - 1;
                    let admitted = host.adaptive.as_ref().is_none_or(|learnt| learnt.admits(&config, before));
                    assert!(admitted, "{job:?} is one more than its host was found to bear");
                }
                if !matches!(action, Action::Abort(_) | Action::Forget(_)) {
                    open.push(action);
                }
            }
            assert!(b.engine.poll_timeout().is_none_or(|at| at > b.now), "a wake-up in the past would spin");
            check(&b.engine, &config);
        };
        for step in steps {
            match step {
                Step::Submit { host, priority, vet } => {
                    let spec = JobSpec { priority: priority.into(), vet, ..JobSpec::default() };
                    jobs.push(b.submit_with(&format!("h{host}"), spec));
                }
                Step::Answer { pick, how } if !open.is_empty() => {
                    let event = answer(open.swap_remove(usize::from(pick) % open.len()), how);
                    note_wait(&b, &event, &mut waits);
                    b.event(event);
                }
                Step::Answer { .. } => {}
                Step::Advance(millis) => b.advance(MS * millis.into()),
                Step::Back(millis) => {
                    let before = b.now;
                    b.now = b.now.checked_sub(MS * millis.into()).unwrap_or(b.now);
                    drain_events(&mut b);
                    b.now = before;
                }
                Step::Gate(gate) => b.event(Event::Gate { signal: Bound::Lag, open: gate }),
                Step::Behind(behind) => b.event(Event::FrontierBehind(behind)),
                Step::Bytes(bytes) => b.event(Event::Bytes(bytes.into())),
                Step::Pause(true) => b.engine.pause(),
                Step::Pause(false) => b.engine.resume(b.now),
                Step::Cancel(pick) if !jobs.is_empty() => b.engine.cancel(b.now, jobs[usize::from(pick) % jobs.len()]),
                Step::Cancel(_) => {}
                Step::Shutdown(millis) => {
                    b.engine.shutdown(b.now, Shutdown::Graceful { within: MS * millis.into() });
                }
            }
            b.engine.handle_timeout(b.now);
            drain(&mut b, &mut open, &waits);
        }
        b.engine.resume(b.now);
        b.event(Event::Gate { signal: Bound::Lag, open: true });
        b.event(Event::FrontierBehind(false));
        b.event(Event::Bytes(0));
        for _ in 0..100_000 {
            drain(&mut b, &mut open, &waits);
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

fn key_of(b: &Bench, job: JobId) -> Option<String> {
    b.engine.host_of(job).and_then(|host| b.engine.host_key(host)).map(str::to_owned)
}

/// A clock that goes backwards is harmless.
fn drain_events(b: &mut Bench) {
    b.engine.handle_timeout(b.now);
    b.event(Event::Bytes(0));
}
