//! Pages that somebody waits for, as lists of literals: a sink may be who waits.

use super::*;

fn awaited() -> JobSpec {
    JobSpec { awaited: true, ..JobSpec::default() }
}

/// An engine in which nothing moves before the sink does: one page before the sink, one waits for it, and one for its parser.
fn behind_a_sink(config: Config) -> Bench {
    let mut b = Bench::new(Config { deliver_permits: 1, parse_permits: 1, ..config });
    (0..5).for_each(|i| _ = b.submit(&format!("h{i}")));
    for job in b.fetches() {
        b.event(Event::Fetched { job });
    }
    for _ in 0..2 {
        let parsed = b.actions().into_iter().find_map(|action| match action {
            Action::Parse(job) => Some(job),
            _ => None,
        });
        b.event(Event::Parsed { job: parsed.expect("a page is parsed"), deliver: true });
    }
    b.actions();
    b
}

/// From its submission to its verdict, whatever stands before the sink.
fn comes_to_its_end(mut b: Bench, host: &str) {
    let job = b.submit_with(host, awaited());
    assert_eq!(b.fetches(), [job]);
    b.finish(job);
    b.actions();
    assert_eq!(b.settled, [(job, JobVerdict::Ok)]);
}

// J1
#[test]
fn what_somebody_waits_for_passes_what_waits_for_the_sinks() {
    // Backlog of parser and sink, a budget that is spent, fetches that wait for it, a frontier that is behind.
    let shortages: [fn(&mut Bench); 4] = [
        |_| {},
        |b| b.event(Event::Bytes(u64::MAX)),
        |b| b.event(Event::Short { of: Bound::Bytes, short: true }),
        |b| b.event(Event::FrontierBehind(true)),
    ];
    for shortage in shortages {
        let mut b = behind_a_sink(Config { backlog: 3, ..plain() });
        shortage(&mut b);
        comes_to_its_end(b, "h0");
        let mut b = behind_a_sink(plain());
        let other = b.submit("other");
        assert_eq!(b.fetches(), [other], "a fetch is in flight");
        shortage(&mut b);
        comes_to_its_end(b, "h1");
    }
}

#[test]
fn what_somebody_waits_for_goes_first_and_keeps_to_the_limits() {
    let mut b = Bench::new(Config { max_in_flight: 1, per_host: Some(1), gap: 100 * MS, ..plain() });
    let first = b.submit("a");
    assert_eq!(b.fetches(), [first]);
    ["a", "c"]
        .into_iter()
        .for_each(|host| _ = b.submit_with(host, JobSpec { priority: i32::MAX, ..JobSpec::default() }));
    let (second, third) = (b.submit_with("c", awaited()), b.submit_with("a", awaited()));
    assert_eq!(b.fetches(), [], "the limit over all");
    b.finish(first);
    assert_eq!(b.fetches(), [second], "before its elders, and the other must wait for its gap");
    b.finish(second);
    b.advance(100 * MS);
    assert_eq!(b.fetches(), [third]);
}

#[test]
fn a_host_of_which_somebody_waits_for_a_page_is_prepared_while_the_gate_is_shut() {
    let mut b = Bench::new(Config { prepare_hosts: true, ..plain() });
    b.event(Event::Gate { signal: Bound::Memory, open: false });
    b.submit("a");
    b.submit_with("b", awaited());
    let host = b.engine.host("b");
    assert_eq!(b.actions(), [Action::Prepare(host)]);
}

#[test]
fn pages_that_somebody_waits_for_are_bounded_before_the_parser() {
    let mut b = Bench::new(Config { parse_permits: 1, backlog: 2, ..plain() });
    (0..9).for_each(|i| _ = b.submit_with(&format!("h{i}"), awaited()));
    let mut fetched = 0;
    loop {
        let started = b.fetches();
        if started.is_empty() {
            break;
        }
        fetched += started.len();
        started.into_iter().for_each(|job| b.event(Event::Fetched { job }));
    }
    assert_eq!(fetched, 9, "all at once, as nothing was fetched yet");
    b.submit_with("late", awaited());
    assert_eq!(b.fetches(), []);
    assert!(b.engine.bound.is(Bound::Parser));
}
