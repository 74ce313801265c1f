//! How many jobs the engine asks for, as lists of literals.

use super::*;

fn bench(config: Config) -> Bench {
    Bench::new(Config { queue: 10, lookahead: 3, ..config })
}

#[test]
fn what_could_start_waits_in_the_frontier() {
    let mut b = bench(Config { max_in_flight: 2, ..plain() });
    assert_eq!(b.engine.want(), 10);
    let jobs = [(); 4].map(|()| b.submit("a"));
    assert_eq!(b.fetches(), jobs[..2]);
    assert_eq!((b.engine.waiting(), b.engine.want()), (2, 1));
    b.submit("b");
    assert_eq!(b.engine.want(), 0);
    b.finish(jobs[0]);
    assert_eq!(b.fetches(), [jobs[2]]);
    assert_eq!(b.engine.want(), 1);
    b.event(Event::Gate { signal: Bound::Lag, open: false });
    assert_eq!((b.fetches().len(), b.engine.want()), (0, 1));
}

// H8
#[test]
fn hosts_that_must_wait_keep_no_others_from_being_found() {
    for config in [Config { per_host: Some(1), ..plain() }, Config { gap: 500 * MS, ..plain() }] {
        let mut b = bench(config);
        let jobs = [(); 9].map(|()| b.submit("a"));
        assert_eq!(b.fetches(), jobs[..1]);
        assert_eq!((b.engine.waiting(), b.engine.want()), (8, 2));
    }
    let mut b = bench(Config { prepare_hosts: true, ..plain() });
    (0..9).for_each(|host| _ = b.submit(&host.to_string()));
    assert_eq!((b.actions().len(), b.engine.want()), (9, 1), "their rules are asked for");
}
