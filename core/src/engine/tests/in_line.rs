//! Fetches that wait for a port or a descriptor, as lists of literals.

use super::*;

/// Permits, hosts, and the slots of those that wait for a port.
#[test]
fn a_fetch_in_line_has_no_permit_and_nothing_is_started_behind_it() {
    let mut b = Bench::new(Config { max_in_flight: 2, ..plain() });
    let spent: Vec<_> = (0..5).map(|_| b.submit("spent")).collect();
    let other: Vec<_> = (0..3).map(|_| b.submit("other")).collect();
    assert_eq!(b.fetches(), [spent[0], other[0]]);
    b.event(Event::Waits { job: spent[0] });
    assert_eq!(b.fetches(), [other[1]], "the permit is another's, and the host starts nothing more");
    assert_eq!((b.engine.counters().in_flight, b.engine.counters().in_line), (2, 1));
    b.event(Event::Turn { job: spent[0] });
    assert_eq!(b.actions(), [], "there is no permit for it");
    b.finish(other[0]);
    assert_eq!(b.actions(), [Action::Readmit(spent[0])], "it was started before the others");
    b.finish(other[1]);
    assert_eq!(b.fetches(), [other[2]]);
    b.finish(other[2]);
    assert_eq!(b.fetches(), [spent[1]], "nothing of its host is in line any more");
    assert_eq!(b.engine.counters().in_flight_peak, 2);
}

#[test]
fn what_waits_for_ports_is_bounded_and_says_so() {
    let mut b = Bench::new(Config { max_in_flight: 3, ..plain() });
    (0..9).for_each(|i| _ = b.submit(&format!("h{i}")));
    let mut waiting = Vec::new();
    for wave in [3, 3, 0] {
        let started = b.fetches();
        assert_eq!(started.len(), wave, "{waiting:?} wait");
        started.iter().for_each(|job| b.event(Event::Waits { job: *job }));
        waiting.extend(started);
    }
    assert_eq!(b.engine.bound_by(b.now + MS)[0].0, Bound::Ports);
    // One that is given up makes room as one that goes on does.
    b.event(Event::Failed { job: waiting[0], retry: RetryTime::WhenRoom, blame: Blame::Ports });
    assert_eq!(b.fetches().len(), 1);
    b.engine.cancel(b.now, waiting[1]);
    b.event(Event::Turn { job: waiting[1] });
    assert_eq!(b.actions().iter().filter(|action| matches!(action, Action::Fetch { .. })).count(), 1);
}

#[test]
fn a_shut_gate_readmits_up_to_its_floor() {
    let mut b = Bench::new(Config { gate_floor: 1, ..plain() });
    let jobs = ["a", "b", "c"].map(|host| b.submit(host));
    assert_eq!(b.fetches(), jobs);
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    jobs.iter().for_each(|job| b.event(Event::Waits { job: *job }));
    jobs.iter().for_each(|job| b.event(Event::Turn { job: *job }));
    assert_eq!(b.actions(), [Action::Readmit(jobs[0])]);
    b.event(Event::Gate { signal: Bound::Lag, open: true });
    b.finish(jobs[0]);
    assert_eq!(b.actions().first(), Some(&Action::Readmit(jobs[1])));
}
