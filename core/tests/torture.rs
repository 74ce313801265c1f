//! The n-th connection, read, write, lookup, spawn and offload of a crawl fails, for every n: the crawl ends, its books
//! balance, and one fault changes no outcome.
#![cfg(feature = "http")]

mod audit;

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use audit::{Audit, CLEAN, Call, How, at};
use tidegate::http::HttpFetcher;
use tidegate::sim::{Op, Scheduling, Sim};
use tidegate::{Crawl, Error, ErrorKind, Handle, Report, Shutdown, Verdict};

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
const FOUR: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);

/// When a crawl is shut down that would not end by itself.
const SHUT_DOWN: Duration = Duration::from_secs(200);

/// The orders in which everything is run.
const ORDERS: [(Scheduling, u64); 4] =
    [(Scheduling::Fifo, 0), (Scheduling::Lifo, 0), (Scheduling::Random, 1), (Scheduling::Random, 2)];

/// A crawl that is over, in a world that is at rest.
struct Run {
    sim: Sim,
    audit: Audit,
    handle: Handle,
    result: Result<Report, Error>,
}

/// A crawl of the site that has begun.
struct Begun {
    sim: Sim,
    audit: Audit,
    fetcher: HttpFetcher,
    crawl: Crawl,
}

/// Begins to crawl the site in a world with these faults.
fn begin((scheduling, seed): (Scheduling, u64), plan: impl FnOnce(&Sim, &Audit)) -> Begun {
    let sim = audit::sim(scheduling, seed);
    audit::site(&sim);
    let audit = Audit::default();
    plan(&sim, &audit);
    let fetcher = audit::fetcher(&sim);
    let crawl = audit.crawl_to_sink(&sim, fetcher.clone());
    let crawl = crawl.max_in_flight(FOUR).max_in_flight_per_host(Some(TWO)).start().expect("valid");
    Begun { sim, audit, fetcher, crawl }
}

impl Begun {
    /// Whatever failed, the crawl ends, nothing is left, and nothing happened twice.
    fn end(self) -> Run {
        let Self { sim, audit, fetcher, crawl } = self;
        let handle = crawl.handle();
        let result = sim.block_on(crawl);
        audit::assert_nothing_left(&sim, Some(&handle), fetcher);
        audit.assert_nothing_twice();
        Run { sim, audit, handle, result }
    }
}

fn crawl(order: (Scheduling, u64), plan: impl FnOnce(&Sim, &Audit)) -> Run {
    begin(order, plan).end()
}

impl Run {
    /// The crawl went on to its end, and every URL has its outcome.
    fn assert_complete(&self) {
        let report = self.result.as_ref().expect("the run could go on");
        self.audit.assert_conserved(&self.handle, Verdict::Return);
        assert_eq!(report.totals.counters, self.handle.snapshot().counters);
    }

    /// Nothing of the faults is to be seen in the outcomes but further attempts, and not even those where the attempt never
    /// left the machine.
    fn assert_clean(&self, counts_as_attempt: bool) {
        self.assert_complete();
        let told = self.audit.told();
        let told: Vec<_> = told.iter().map(|t| (t.url.as_str(), t.outcome, t.attempts, t.items)).collect();
        if !counts_as_attempt {
            assert_eq!(told, CLEAN);
            return;
        }
        let attempts = |list: &[(&str, &str, u32, u64)]| list.iter().map(|(.., attempts, _)| *attempts).sum::<u32>();
        // There may be fewer: an answer that is lost on a parked connection is asked for again, for free, and `/busy` is
        // busy only once.
        assert!(attempts(&told) <= attempts(&CLEAN) + 1, "{told:?}");
        let same = told.iter().zip(&CLEAN).all(|(told, clean)| (told.0, told.1, told.3) == (clean.0, clean.1, clean.3));
        assert!(same && told.len() == CLEAN.len(), "{told:?}");
    }

    /// The runtime lost a task, and the crawl says so.
    fn assert_shut_down(&self) {
        let error = self.result.as_ref().expect_err("a task is gone");
        assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
    }
}

/// Runs the crawl once for each call of `op` that it makes, and makes that call fail with `error`.
fn every(op: Op, error: Option<fn() -> io::Error>, check: impl Fn(&Run)) {
    for order in ORDERS {
        let clean = at("clean", order, || {
            let run = crawl(order, |_, _| {});
            run.assert_clean(false);
            run.sim.count(op)
        });
        assert!(clean > 0, "{op:?} is never called");
        for nth in 0..clean {
            at(&format!("{op:?} {nth}"), order, || {
                let run = crawl(order, |sim, _| match error {
                    Some(error) => sim.fail_with(op, nth, error),
                    None => sim.fail(op, nth),
                });
                assert!(run.sim.count(op) > nth, "it did not come to it");
                check(&run);
            });
        }
    }
}

#[test]
fn a_connection_that_fails_for_want_of_something_here_is_no_attempt() {
    every(Op::Connect, None, |run| run.assert_clean(false));
    every(Op::Connect, Some(|| io::ErrorKind::AddrNotAvailable.into()), |run| run.assert_clean(false));
    every(Op::Connect, Some(|| io::ErrorKind::OutOfMemory.into()), |run| run.assert_clean(false));
}

#[test]
fn a_connection_that_fails_is_made_again() {
    let errors: [fn() -> io::Error; 4] = [
        || io::ErrorKind::ConnectionRefused.into(),
        || io::ErrorKind::HostUnreachable.into(),
        || io::ErrorKind::TimedOut.into(),
        || io::ErrorKind::PermissionDenied.into(),
    ];
    for error in errors {
        every(Op::Connect, Some(error), |run| run.assert_clean(true));
    }
}

#[test]
fn a_read_that_fails_costs_an_attempt_at_most() {
    every(Op::Read, None, |run| run.assert_clean(true));
}

#[test]
fn a_write_that_fails_costs_an_attempt_at_most() {
    every(Op::Write, None, |run| run.assert_clean(true));
    every(Op::Write, Some(|| io::ErrorKind::BrokenPipe.into()), |run| run.assert_clean(true));
}

#[test]
fn a_lookup_that_fails_is_made_again() {
    every(Op::Resolve, None, |run| run.assert_clean(false));
}

#[test]
fn a_job_that_finds_no_room_is_offered_again() {
    every(Op::Offload, None, |run| run.assert_clean(false));
}

#[test]
fn a_task_that_the_runtime_drops_ends_the_crawl() {
    every(Op::Spawn, None, Run::assert_shut_down);
}

#[test]
fn one_descriptor_and_one_port_are_enough() {
    for order in ORDERS {
        at("one descriptor", order, || crawl(order, |sim, _| sim.net().limit_descriptors(Some(1))).assert_clean(false));
        at("one port", order, || crawl(order, |sim, _| sim.net().limit_ports(Some(1))).assert_clean(false));
    }
}

/// The same for a call of the frontier or of a sink.
fn every_call(call: Call, how: How, check: impl Fn(&Run)) {
    for order in ORDERS {
        let clean = at("clean", order, || crawl(order, |_, _| {}).audit.count(call));
        assert!(clean > 0, "{call:?} is never called");
        for nth in 0..clean {
            at(&format!("{call:?} {nth} {how:?}"), order, || {
                let begun = begin(order, |_, audit| audit.fail(call, nth, how));
                if how == How::Hang {
                    begun.sim.run_for(SHUT_DOWN);
                    begun.crawl.handle().shutdown(Shutdown::Graceful { within: audit::MS });
                }
                let run = begun.end();
                assert!(run.audit.count(call) > nth, "it did not come to it");
                check(&run);
            });
        }
    }
}

// J
#[test]
fn a_frontier_that_fails_ends_the_crawl_and_every_url_has_its_outcome() {
    for call in [Call::Lease, Call::Settle, Call::Add] {
        for how in [How::Fatal, How::Panic] {
            every_call(call, how, |run| {
                let error = run.result.as_ref().expect_err("it cannot go on");
                assert_eq!(error.kind(), ErrorKind::FrontierFailed, "{error}");
                run.audit.assert_counted(&run.handle);
            });
        }
    }
}

// J2
#[test]
fn a_sink_that_fails_for_now_is_asked_again() {
    every_call(Call::Items, How::Retry, |run| run.assert_clean(false));
    every_call(Call::Outcomes, How::Retry, |run| run.assert_clean(false));
}

// J2
#[test]
fn an_item_that_is_rejected_fails_its_url_alone() {
    every_call(Call::Items, How::Reject, |run| {
        run.assert_complete();
        let rejected = run.audit.told().into_iter().filter(|told| told.items == 1 && told.outcome == "error").count();
        assert_eq!(rejected, 1, "{:?}", run.audit.told());
    });
}

// J2
#[test]
fn a_sink_that_cannot_go_on_ends_the_crawl_and_leases_return() {
    for how in [How::Fatal, How::Panic] {
        let failed = |run: &Run| {
            let error = run.result.as_ref().expect_err("it cannot go on");
            assert_eq!(error.kind(), ErrorKind::SinkFailed, "{error}");
        };
        every_call(Call::Items, how, |run| {
            failed(run);
            run.audit.assert_conserved(&run.handle, Verdict::Return);
        });
        every_call(Call::Outcomes, how, |run| {
            failed(run);
            // Nobody was told, so nobody but the frontier knows what is not done.
            run.audit.assert_all_leases_settled();
        });
        every_call(Call::CloseItems, how, |run| {
            failed(run);
            run.audit.assert_conserved(&run.handle, Verdict::Return);
        });
        every_call(Call::CloseOutcomes, how, |run| {
            failed(run);
            run.audit.assert_conserved(&run.handle, Verdict::Return);
        });
    }
}

/// A call that never ends holds up nothing but the end of the crawl, and that not for ever.
// J2, K4
#[test]
fn what_hangs_is_dropped_when_the_crawl_is_shut_down() {
    for call in [Call::Items, Call::Outcomes, Call::CloseItems, Call::CloseOutcomes, Call::Settle, Call::Add] {
        every_call(call, How::Hang, |run| {
            let error = run.result.as_ref().expect_err("not everything was closed");
            assert_eq!(error.kind(), ErrorKind::SinkFailed, "{error}");
        });
    }
    // A lease that waits may be dropped at any time, and is where there is something else to do.
    every_call(Call::Lease, How::Hang, Run::assert_complete);
}

/// A fault, and the end at any moment before or after it.
#[test]
fn a_fault_and_a_shutdown() {
    let mut rng = fastrand::Rng::with_seed(4);
    let clean = crawl(ORDERS[0], |_, _| {}).sim;
    let faults = [Op::Connect, Op::Read, Op::Write, Op::Resolve, Op::Offload].map(|op| (op, clean.count(op)));
    for pair in 0..300 {
        let order = ORDERS[pair % ORDERS.len()];
        let (op, count) = faults[rng.usize(..faults.len())];
        let (nth, polls) = (rng.u64(..count), rng.u64(..clean.polls()));
        let how = if rng.bool() { Shutdown::Now } else { Shutdown::Graceful { within: audit::MS * rng.u32(..50) } };
        at(&format!("{op:?} {nth}, {how:?} after {polls} polls"), order, || {
            let begun = begin(order, |sim, _| sim.fail(op, nth));
            begun.sim.run_polls(polls);
            begun.crawl.handle().shutdown(how);
            begun.end().assert_complete();
        });
    }
}

#[test]
fn two_faults_at_once() {
    let mut rng = fastrand::Rng::with_seed(3);
    let counts = [Op::Connect, Op::Read, Op::Write, Op::Resolve, Op::Spawn, Op::Offload]
        .map(|op| (op, crawl(ORDERS[0], |_, _| {}).sim.count(op)));
    for pair in 0..300 {
        let order = ORDERS[pair % ORDERS.len()];
        let faults = [0; 2].map(|_| {
            let (op, count) = counts[rng.usize(..counts.len())];
            // A little beyond what a clean run does: the first fault makes it do more.
            (op, rng.u64(..count + 2))
        });
        at(&format!("{faults:?}"), order, || {
            let run = crawl(order, |sim, _| faults.iter().for_each(|(op, nth)| sim.fail(*op, *nth)));
            let lost = faults.iter().any(|(op, nth)| *op == Op::Spawn && run.sim.count(Op::Spawn) > *nth);
            if lost {
                run.assert_shut_down();
            } else {
                run.assert_complete();
            }
        });
    }
}
