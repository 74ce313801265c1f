//! The engine as lists of literals: what is submitted, what is asked, what time it is.

use super::*;
use crate::engine::limiter::RAMP;

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
    b.event(Event::Failed { job: first, retry: RetryTime::After(2000 * MS), blame: Blame::Throttled });
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
    b.event(Event::Failed { job: first, retry: RetryTime::After(Duration::from_secs(3600)), blame: Blame::Throttled });
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
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    b.event(Event::HostFailed { host: hosts[0], retry: RetryTime::Never });
    assert_eq!(b.actions(), []);
    b.event(Event::Gate { signal: Bound::Lag, open: true });
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
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    let jobs: Vec<_> = (0..100).map(|i| b.submit(&format!("h{i}"))).collect();
    assert_eq!(b.fetches(), jobs[..2]);
    b.event(Event::Gate { signal: Bound::Lag, open: true });
    // Although nothing has succeeded yet: what is in flight may never end (A9).
    assert_eq!(b.fetches(), jobs[2..4]);
    b.finish(jobs[0]);
    assert_eq!(b.fetches().len(), 2);
}

// A9
#[test]
fn a_ramp_goes_on_where_nothing_answers() {
    let mut b = Bench::new(Config { max_in_flight: 100, gate_floor: 2, ..plain() });
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    (0..100).for_each(|i| _ = b.submit(&format!("h{i}")));
    assert_eq!(b.fetches().len(), 2);
    b.event(Event::Gate { signal: Bound::Lag, open: true });
    let mut steps = vec![b.fetches().len()];
    while let Some(at) = b.engine.poll_timeout() {
        assert_eq!(at, b.now + RAMP);
        b.advance(RAMP);
        steps.push(b.fetches().len());
    }
    assert_eq!(steps, [2, 2, 4, 8, 16, 32, 34]);
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    b.event(Event::Gate { signal: Bound::Lag, open: true });
    assert_eq!(b.engine.poll_timeout(), None, "nothing is held back");
}

// A9
#[test]
fn no_ramp_goes_on_behind_a_gate_or_a_pause() {
    let mut b = Bench::new(Config { max_in_flight: 100, gate_floor: 2, ..plain() });
    (0..100).for_each(|i| _ = b.submit(&format!("h{i}")));
    b.engine.pause();
    assert_eq!(b.fetches(), []);
    b.engine.resume(b.now);
    assert_eq!(b.fetches().len(), 2);
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    b.engine.pause();
    assert_eq!(b.engine.poll_timeout(), None);
    b.event(Event::Gate { signal: Bound::Lag, open: true });
    assert_eq!(b.engine.poll_timeout(), None);
    b.advance(RAMP);
    b.engine.resume(b.now);
    assert_eq!((b.fetches().len(), b.engine.poll_timeout()), (0, Some(b.now + RAMP)));
    b.advance(RAMP);
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
    b.engine.resume(b.now);
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

#[test]
fn a_host_is_not_prepared_for_jobs_that_were_cancelled() {
    let mut b = Bench::new(Config { prepare_hosts: true, prepare_permits: 1, ..plain() });
    let (first, second) = (b.submit("a"), b.submit("b"));
    let hosts = [b.engine.host("a"), b.engine.host("b")];
    assert_eq!(b.actions(), [Action::Prepare(hosts[0])]);
    b.engine.cancel(b.now, second);
    b.event(Event::Prepared { host: hosts[0], gap: None, valid_until: None });
    assert_eq!(b.fetches(), [first]);
    b.submit("b");
    assert_eq!(b.actions(), [Action::Prepare(hosts[1])], "and asked for when somebody waits");
}

#[test]
fn a_job_that_is_vetted_after_its_rules_were_lost_has_them_asked_for() {
    let mut b = Bench::new(Config { prepare_hosts: true, ..plain() });
    let spec = JobSpec { vet: true, ..JobSpec::default() };
    let job = b.submit_with("a", spec);
    let host = b.engine.host("a");
    b.actions();
    b.event(Event::Prepared { host, gap: None, valid_until: Some(b.now + MS) });
    assert_eq!(b.actions(), [Action::Vet(job)]);
    b.advance(MS);
    let late = b.submit_with("a", spec);
    assert_eq!(b.actions(), [Action::Prepare(host)]);
    b.event(Event::HostFailed { host, retry: RetryTime::Never });
    b.event(Event::Vetted { job });
    assert_eq!(b.actions(), [Action::Prepare(host)]);
    assert_eq!(b.settled, [(late, JobVerdict::HostError)]);
}

#[test]
fn local_pressure_neither_counts_for_a_dead_host_nor_forgives_it() {
    let mut b = Bench::new(Config { resolve_hosts: true, attempts: 2, ..plain() });
    let job = b.submit("a");
    let host = b.engine.host("a");
    for retry in [RetryTime::WhenRoom, RetryTime::AfterBackoff, RetryTime::WhenRoom, RetryTime::AfterBackoff] {
        assert_eq!(b.actions(), [Action::Resolve(host)]);
        b.event(Event::HostFailed { host, retry });
        b.advance(Duration::from_secs(60));
    }
    assert_eq!(b.actions(), []);
    assert_eq!(b.settled, [(job, JobVerdict::HostError)]);
}

#[test]
fn a_host_that_came_back_is_tried_again_soon() {
    let (base, cap) = (MS, Duration::from_secs(600));
    let mut b =
        Bench::new(Config { prepare_hosts: true, attempts: 100, backoff_base: base, backoff_cap: cap, ..plain() });
    let host = b.engine.host("a");
    b.submit("a");
    let fail = |b: &mut Bench| {
        assert_eq!(b.actions(), [Action::Prepare(host)]);
        b.event(Event::HostFailed { host, retry: RetryTime::AfterBackoff });
        let wait = b.engine.poll_timeout().expect("it is tried again") - b.now;
        b.advance(wait);
        wait
    };
    assert!((0..60).map(|_| fail(&mut b)).max() > Some(Duration::from_secs(1)));
    assert_eq!(b.actions(), [Action::Prepare(host)]);
    b.event(Event::Prepared { host, gap: None, valid_until: Some(b.now) });
    b.actions();
    b.submit("a");
    assert!(fail(&mut b) <= 3 * base);
}

// H1
#[test]
fn local_pressure_earns_no_retries() {
    let mut b = Bench::new(Config { retry_budget: 1.0, retry_floor: 0, ..plain() });
    let job = b.submit("a");
    for _ in 0..5 {
        assert_eq!(b.actions(), [Action::Fetch { job, attempt: 1 }]);
        b.fail(job, RetryTime::WhenRoom);
        b.advance(100 * MS);
    }
    b.actions();
    b.fail(job, RetryTime::After(MS));
    b.advance(MS);
    assert_eq!(b.actions(), [Action::Fetch { job, attempt: 2 }], "one start earned one retry");
    b.fail(job, RetryTime::After(MS));
    b.actions();
    assert_eq!(b.settled, [(job, JobVerdict::Error)]);
}

// H1
#[test]
fn local_pressure_never_raises_the_limit() {
    let mut b = Bench::new(Config { ramp_from: Some(1), gate_floor: 16, ..plain() });
    let jobs: Vec<_> = (0..20).map(|i| b.submit(&format!("h{i}"))).collect();
    assert_eq!(b.fetches(), jobs[..1]);
    b.fail(jobs[0], RetryTime::WhenRoom);
    assert_eq!(b.fetches().len(), 1);
}

// H10
#[test]
fn a_cancelled_page_counts_for_no_backlog() {
    let mut b = Bench::new(Config { parse_permits: 1, deliver_permits: 1, backlog: 2, ..plain() });
    let jobs: Vec<_> = (0..2).map(|_| b.submit("a")).collect();
    assert_eq!(b.fetches(), jobs);
    jobs.iter().for_each(|job| b.event(Event::Fetched { job: *job }));
    assert_eq!(b.actions(), [Action::Parse(jobs[0])]);
    let next = b.submit("a");
    assert_eq!(b.actions(), [], "the backlog is full");
    b.engine.cancel(b.now, jobs[1]);
    assert_eq!(b.fetches(), [next]);
    assert_eq!(b.engine.counters().parse_queued, 0);

    // Nor does it keep pages from the parser.
    for job in [jobs[0], next] {
        b.event(Event::Fetched { job: next });
        b.event(Event::Parsed { job, deliver: true });
        b.actions();
    }
    let last = b.submit("a");
    b.engine.cancel(b.now, next);
    assert_eq!(b.fetches(), [last]);
    b.event(Event::Fetched { job: last });
    assert_eq!(b.actions(), [Action::Parse(last)]);
}

#[test]
fn a_rate_that_is_nearly_nothing_is_not_without_limit() {
    for rate in [1e-300, 1e-18, 0.0, -1.0, f64::NAN] {
        let mut b = Bench::new(Config { rate: Some(rate), ..plain() });
        (0..3).for_each(|_| _ = b.submit("a"));
        assert_eq!(b.fetches().len(), 1, "{rate}");
        b.advance(Duration::from_secs(3600));
        assert_eq!(b.fetches().len(), 0, "{rate}");
    }
}

/// Hosts that share the address 127.0.0.1, which is known.
fn at_one_address<const N: usize>(b: &mut Bench, names: [&str; N], jobs: u32) -> [Vec<JobId>; N] {
    let submitted = names.map(|name| (0..jobs).map(|_| b.submit(name)).collect());
    b.actions();
    for name in names {
        let host = b.engine.host(name);
        b.event(Event::Resolved { host, address: Some([127, 0, 0, 1].into()) });
    }
    submitted
}

// H8
#[test]
fn hosts_at_one_address_take_turns() {
    let mut b = Bench::new(Config { per_host: Some(1), per_address: Some(1), resolve_hosts: true, ..plain() });
    let jobs = at_one_address(&mut b, ["a", "b", "c"], 2);
    for (turn, host) in (0..2).flat_map(|turn| (0..3).map(move |host| (turn, host))) {
        let job = jobs[host][turn];
        assert_eq!(b.fetches(), [job]);
        b.finish(job);
    }
}

#[test]
fn a_permit_of_an_address_goes_to_who_waits_for_it_and_not_to_who_comes() {
    let config = Config { gap: 100 * MS, per_address: Some(1), resolve_hosts: true, ..plain() };
    let mut b = Bench::new(config);
    let [a, other] = at_one_address(&mut b, ["a", "b"], 2);
    assert_eq!(b.fetches(), [a[0]]);
    // The gap of the one ends in the moment in which the other is offered the permit.
    b.advance(100 * MS);
    b.finish(a[0]);
    assert_eq!(b.fetches(), [other[0]]);
}

#[test]
fn a_host_that_moves_waits_no_more_for_its_old_address() {
    let config = Config { per_address: Some(1), resolve_hosts: true, prepare_hosts: true, ..plain() };
    let mut b = Bench::new(config);
    let hosts = ["a", "b", "c"].map(|name| b.engine.host(name));
    let [first, _, moved] = ["a", "b", "c"].map(|name| b.submit(name));
    b.actions();
    let valid_until = Some(b.now + MS);
    hosts.iter().for_each(|host| b.event(Event::Prepared { host: *host, gap: None, valid_until }));
    b.actions();
    let address = Some([127, 0, 0, 1].into());
    hosts.iter().for_each(|host| b.event(Event::Resolved { host: *host, address }));
    assert_eq!(b.fetches(), [first]);
    b.advance(MS);
    b.submit("c");
    assert_eq!(b.actions(), [Action::Prepare(hosts[2])]);
    b.event(Event::Prepared { host: hosts[2], gap: None, valid_until: None });
    assert_eq!(b.actions(), [Action::Resolve(hosts[2])]);
    b.event(Event::Resolved { host: hosts[2], address: Some([127, 0, 0, 2].into()) });
    assert_eq!(b.fetches()[0], moved);
}

#[test]
fn a_host_that_must_wait_passes_the_permit_of_its_address_on() {
    let mut b = Bench::new(Config { per_address: Some(1), resolve_hosts: true, ..plain() });
    let [first, second, third] = at_one_address(&mut b, ["a", "b", "c"], 1).map(|jobs| jobs[0]);
    assert_eq!(b.fetches(), [first]);
    b.engine.pause();
    b.finish(first);
    b.event(Event::Throttled { job: second, wait: 1000 * MS });
    b.engine.resume(b.now);
    assert_eq!(b.fetches(), [third]);
    b.finish(third);
    assert_eq!(b.fetches(), []);
    b.advance(1000 * MS);
    assert_eq!(b.fetches(), [second]);
}

#[test]
fn another_seed_draws_other_gaps() {
    let first_gap = |seed| {
        let mut b = Bench::new(Config { seed, gap: Duration::from_secs(1), gap_jitter: 0.5, ..plain() });
        (0..2).for_each(|_| _ = b.submit("a"));
        b.actions();
        b.engine.poll_timeout().map(|time| time - b.now)
    };
    assert_eq!(first_gap(1), first_gap(1));
    assert_ne!(first_gap(1), first_gap(2));
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let seconds = Duration::from_secs;
    let documented = Config {
        sockets: None,
        adaptive: true,
        host_ramp_from: 16,
        breaker: Some(16),
        host_patience: None,
        max_in_flight: 10_000,
        ramp_from: Some(16),
        per_host: None,
        per_address: None,
        gap: Duration::ZERO,
        gap_jitter: 0.5,
        rate: None,
        parse_permits: 1,
        deliver_permits: 256,
        backlog: 1024,
        byte_budget: 256 * 1024 * 1024,
        gate_floor: 16,
        attempts: 3,
        backoff_base: seconds(1),
        backoff_cap: seconds(60),
        retry_after_cap: seconds(600),
        retry_budget: 0.2,
        retry_floor: 10,
        max_starts: None,
        prepare_permits: 256,
        room_patience: seconds(600),
        queue: 10_000,
        lookahead: 1024,
        max_hosts: 100_000,
        prepare_hosts: false,
        resolve_hosts: false,
        seed: 0,
    };
    assert_eq!(Config::default(), documented);
}

// H1
#[test]
fn patience_with_local_pressure_begins_anew_after_another_failure() {
    let mut b = Bench::new(plain());
    let job = b.submit("a");
    b.actions();
    b.fail(job, RetryTime::WhenRoom);
    b.advance(100 * MS);
    b.actions();
    b.fail(job, RetryTime::After(600_000 * MS));
    b.advance(600_000 * MS);
    assert_eq!(b.actions(), [Action::Fetch { job, attempt: 2 }]);
    b.fail(job, RetryTime::WhenRoom);
    b.advance(100 * MS);
    assert_eq!(b.actions(), [Action::Fetch { job, attempt: 2 }]);
}

#[test]
fn a_permit_that_is_kept_survives_a_host_that_needs_none() {
    let mut b = Bench::new(Config { per_address: Some(2), resolve_hosts: true, ..plain() });
    let known = at_one_address(&mut b, ["a", "b", "c", "d", "e"], 1).map(|jobs| jobs[0]);
    assert_eq!(b.fetches(), known[..2]);
    known.into_iter().for_each(|job| b.finish(job));
    b.fetches();
    let [first, second, waits] = ["a", "b", "c"].map(|host| b.submit(host));
    assert_eq!(b.fetches(), [first, second]);
    b.engine.pause();
    let [cancelled, other] = ["d", "e"].map(|host| b.submit(host));
    b.finish(first);
    b.finish(second);
    b.engine.cancel(b.now, cancelled);
    b.engine.resume(b.now);
    assert_eq!(b.fetches(), [other, waits]);
}

#[test]
fn a_permit_is_not_kept_for_a_host_that_must_wait() {
    let mut b = Bench::new(Config { per_address: Some(1), resolve_hosts: true, ..plain() });
    let [first, second, third] = at_one_address(&mut b, ["a", "b", "c"], 1).map(|jobs| jobs[0]);
    assert_eq!(b.fetches(), [first]);
    b.event(Event::Throttled { job: second, wait: 1000 * MS });
    b.finish(first);
    assert_eq!(b.fetches(), [third]);
    b.finish(third);
    b.advance(1000 * MS);
    assert_eq!(b.fetches(), [second]);
}

#[test]
#[should_panic(expected = "a host that is remembered")]
fn a_forgotten_host_takes_no_jobs() {
    let mut b = Bench::new(Config { max_hosts: 1, ..plain() });
    let host = b.engine.host("a");
    let visit = |b: &mut Bench, name| {
        let job = b.submit(name);
        b.actions();
        b.finish(job);
        b.actions()
    };
    assert_eq!(visit(&mut b, "a"), []);
    assert_eq!(visit(&mut b, "b"), [Action::Forget(host)]);
    // Another host may have its place.
    b.engine.host("c");
    b.engine.submit(b.now, host, JobSpec::default());
}

// H1
#[test]
fn local_pressure_on_a_host_is_borne_to_the_tick() {
    for (wait, settles) in [(600_000 * MS - NS, 0), (600_000 * MS, 1)] {
        let mut b = Bench::new(Config { resolve_hosts: true, attempts: 1, ..plain() });
        b.submit("a");
        let host = b.engine.host("a");
        b.actions();
        b.event(Event::HostFailed { host, retry: RetryTime::WhenRoom });
        b.advance(60_000 * MS);
        assert_eq!(b.actions(), [Action::Resolve(host)]);
        b.advance(wait - 60_000 * MS);
        b.event(Event::HostFailed { host, retry: RetryTime::WhenRoom });
        b.actions();
        assert_eq!(b.settled.len(), settles, "{wait:?}");
    }
}

// H1
#[test]
fn patience_with_a_host_begins_anew_after_another_failure() {
    let mut b = Bench::new(Config { resolve_hosts: true, backoff_cap: Duration::from_secs(1), ..plain() });
    b.submit("a");
    let host = b.engine.host("a");
    for (retry, wait) in [(RetryTime::WhenRoom, 1), (RetryTime::After(600_000 * MS), 600), (RetryTime::WhenRoom, 1)] {
        assert_eq!(b.actions(), [Action::Resolve(host)]);
        b.event(Event::HostFailed { host, retry });
        b.advance(Duration::from_secs(wait));
    }
    assert_eq!(b.actions(), [Action::Resolve(host)]);
}
