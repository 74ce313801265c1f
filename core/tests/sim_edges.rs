//! Where a simulation could hang, lie or leak: closures that come back to it, its end, its limits.
#![cfg(feature = "http")]

use std::future::{pending, poll_fn};
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tidegate::rt::Runtime;
use tidegate::sim::{Host, Lookup, Op, Reply, Sim};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const AT: [u8; 4] = [192, 0, 2, 1];

/// What a panic says.
fn panic_of(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("a text")
}

async fn connect(runtime: &Runtime) -> io::Result<tidegate::rt::TcpConn> {
    runtime.tcp().connect((AT, 80).into(), &Default::default()).await
}

/// Comes back to its simulation when it is dropped.
struct ComesBack(Sim);

impl Drop for ComesBack {
    fn drop(&mut self) {
        self.0.random();
    }
}

#[test]
fn closures_may_come_back_to_the_simulation_and_so_may_what_they_drop() {
    let sim = Sim::new(1);
    let runtime = sim.runtime();
    for op in [Op::Connect, Op::Read, Op::Write, Op::Resolve] {
        let own = sim.clone();
        sim.fail_with(op, sim.count(op), move || io::Error::other(own.random().to_string()));
    }
    assert!(sim.block_on(connect(&runtime)).is_err());
    let resolved = runtime.resolver().resolve(&tidegate::rt::Name::new("a.test").expect("a name"));
    assert!(sim.block_on(resolved).is_err());
    for _ in 0..2 {
        let (host, names) = (ComesBack(sim.clone()), ComesBack(sim.clone()));
        sim.net().hosts_by(move |_| {
            let comes_back = ComesBack(host.0.clone());
            let answers = move |_: &_| Reply::ok(comes_back.0.random().to_string());
            Some(Host::http(answers).with_connections(1))
        });
        sim.names_by(move |_| {
            names.0.random();
            Lookup::not_found()
        });
    }
    let accepted = sim.block_on(connect(&runtime)).expect("one is accepted");
    assert!(sim.block_on(connect(&runtime)).is_err(), "a second is refused, and what would have answered is dropped");
    let mut given_up = Box::pin(connect(&runtime));
    sim.block_on(async { assert!(futures::poll!(&mut given_up).is_pending()) });
    drop((given_up, accepted));
    sim.run_for(MS * 10);
}

#[test]
fn two_listeners_at_one_address_are_a_mistake_that_harms_none() {
    let sim = Sim::new(1);
    let runtime = sim.runtime();
    let mut listener = sim.net().listen((AT, 80));
    let first = sim.block_on(connect(&runtime)).expect("it waits to be accepted");
    assert!(panic_of(|| drop(sim.net().listen((AT, 80)))).contains("listens at 192.0.2.1:80 already"));
    assert_eq!(sim.block_on(listener.accept()).peer(), first.local);
}

#[test]
fn a_host_learns_that_its_client_has_gone() {
    let sim = Sim::new(1);
    let runtime = sim.runtime();
    sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::ok("").then_close_after(HOUR)).with_connections(1));
    let fetcher = tidegate::http::HttpFetcher::builder(&runtime).build().expect("valid");
    let cx = tidegate::FetchCx::detached(&runtime);
    let request = tidegate::Request::get("http://a.test/");
    sim.block_on(tidegate::Fetcher::fetch(&fetcher, &request, &cx)).expect("it answers");
    drop(fetcher);
    sim.run_for(MS * 10);
    let again = tidegate::http::HttpFetcher::builder(&runtime).build().expect("valid");
    sim.block_on(tidegate::Fetcher::fetch(&again, &request, &cx)).expect("its place is free");
}

#[test]
fn the_end_may_come_from_anywhere_and_is_whole() {
    // From a job, on a worker's thread.
    let sim = Sim::new(1);
    let ender = sim.clone();
    sim.runtime().offload().submit(Box::new(move || ender.end())).map_err(drop).expect("a worker is free");
    let text = panic_of(|| sim.run_for(MS));
    assert!(text.starts_with("the simulation was ended"), "{text}");
    sim.end();

    // Nothing is taken afterwards, and nothing is confused.
    let (sim, kept) = (Sim::new(1), Arc::new(()));
    let runtime = sim.runtime();
    sim.net().host(AT, Host::http(|_| Reply::ok("")));
    let open = sim.block_on(connect(&runtime)).expect("it is accepted");
    let half = connect(&runtime);
    let mut half = Box::pin(half);
    sim.block_on(async { assert!(futures::poll!(&mut half).is_pending()) });
    let (of_names, of_rule, of_fault, own) = (Arc::clone(&kept), Arc::clone(&kept), Arc::clone(&kept), sim.clone());
    sim.names_by(move |_| {
        let _kept = (&of_names, &own);
        Lookup::never()
    });
    sim.net().hosts_by(move |_| {
        let _kept = &of_rule;
        None
    });
    sim.fail_with(Op::Read, 1_000, move || {
        let _kept = &of_fault;
        io::ErrorKind::TimedOut.into()
    });
    runtime.offload().submit(Box::new(|| {})).map_err(drop).expect("a worker is free");
    sim.run_for(MS);
    sim.end();
    assert_eq!(Arc::strong_count(&kept), 1, "what the user gave is dropped");
    assert!(runtime.offload().submit(Box::new(|| {})).is_err());
    assert_eq!(sim.block_on(connect(&runtime)).expect_err("it has ended").kind(), io::ErrorKind::NetworkDown);
    assert_eq!(sim.net().open_sockets(), 2);
    drop((open, half));
    assert_eq!(sim.net().open_sockets(), 0);
}

#[test]
fn a_destructor_may_spend_while_its_job_unwinds_at_the_end() {
    struct Spends(Sim);
    impl Drop for Spends {
        fn drop(&mut self) {
            self.0.spend(MS);
        }
    }
    let sim = Sim::new(1);
    let own = sim.clone();
    let job = Box::new(move || {
        let spends = Spends(own.clone());
        own.spend(HOUR);
        drop(spends);
    });
    sim.runtime().offload().submit(job).map_err(drop).expect("a worker is free");
    sim.run_for(MS);
    sim.end();
}

#[test]
fn what_never_rests_is_ended() {
    // The clock goes on, but nothing else ever has a turn.
    let text = panic_of(|| {
        let sim = Sim::builder().poll_cost(MS * 1000).max_time(MS * 60_000).build();
        let runtime = sim.runtime();
        sim.block_on(async move {
            loop {
                runtime.spawner().yield_now().await;
            }
        });
    });
    assert!(text.starts_with("more than 60s of the simulation's time have passed"), "{text}");

    // The clock stands still.
    for of_job in [true, false] {
        let text = panic_of(|| {
            let sim = Sim::builder().max_polls_at_once(1000).build();
            let own = sim.clone();
            if of_job {
                let job = Box::new(move || {
                    loop {
                        own.spend(Duration::ZERO);
                    }
                });
                sim.runtime().offload().submit(job).map_err(drop).expect("a worker is free");
            } else {
                sim.spawn(poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }));
            }
            sim.block_on(pending::<()>());
        });
        assert!(text.starts_with("livelock: 1000 polls and events"), "{text}");
    }

    // Nothing would happen in time.
    let text = panic_of(|| {
        let sim = Sim::new(1);
        sim.block_on(sim.sleep(HOUR * 25));
    });
    assert!(text.starts_with("nothing happens before 90000s"), "{text}");
}

#[test]
fn a_report_counts_polls_and_is_short() {
    let text = panic_of(|| {
        let sim = Sim::new(1);
        for _ in 0..10_000 {
            sim.spawn(pending());
        }
        sim.block_on(async {
            sim.sleep(MS).await;
            sim.sleep(MS).await;
            pending::<()>().await;
        });
    });
    assert!(text.contains("block_on, polled 3 times"), "{text}");
    assert!(text.contains("10000 x task spawned at core/tests/sim_edges.rs:"), "{text}");
    assert!(text.lines().count() < 10, "{text}");
}

#[test]
fn a_check_fails_where_a_destructor_panics_at_the_end() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let text = panic_of(|| {
        Sim::check(4..5, |sim| async move {
            let panics = Panics;
            sim.spawn(async move {
                let _kept = panics;
                pending().await
            });
            sim.sleep(MS).await;
        });
    });
    assert!(text.starts_with("seed 4, fifo: in a destructor"), "{text}");
}

#[test]
fn one_world_is_run_by_one() {
    let sim = Sim::new(1);
    let (own, polls) = (sim.clone(), sim.clone());
    let text = panic_of(|| sim.block_on(async move { own.run_for(MS) }));
    assert!(text.contains("from within itself"), "{text}");
    let text = panic_of(|| sim.block_on(async move { _ = polls.run_polls(1) }));
    assert!(text.contains("from within itself"), "{text}");
    sim.run_for(MS);
}

#[test]
fn times_without_end_are_far_away_and_not_long_ago() {
    let sim = Sim::builder().max_time(Duration::MAX).build();
    sim.name("late.test", Lookup::found([AT.into()]).after(Duration::MAX));
    let late = sim.runtime().resolver().resolve(&tidegate::rt::Name::new("late.test").expect("a name"));
    let link = tidegate::sim::Link::new().latency(Duration::MAX);
    sim.net().host(AT, Host::refuses().with_link(link));
    let runtime = sim.runtime();
    let mut connecting = Box::pin(connect(&runtime));
    let mut late = late;
    sim.block_on(async {
        assert!(futures::poll!(&mut connecting).is_pending());
        assert!(futures::poll!(&mut late).is_pending());
        sim.sleep(HOUR).await;
    });
    let before = sim.now();
    sim.spend(Duration::MAX);
    assert!(sim.now() > before);
}

/// Invariant 22, on any machine: a new scheduler has another trace, and says so here.
#[test]
fn a_trace_is_the_same_everywhere_and_knows_every_byte() {
    let trace = |text: &'static str| {
        let sim = Sim::builder().seed(7).threads(NonZeroUsize::MIN).build();
        sim.net().hosts_by(move |_| Some(Host::http(move |_| Reply::ok(text).after(MS))));
        let runtime = sim.runtime();
        let fetcher = tidegate::http::HttpFetcher::builder(&runtime).user_agent("trace/1").build().expect("valid");
        let cx = tidegate::FetchCx::detached(&runtime);
        for n in 0..3 {
            let request = tidegate::Request::get(format!("http://h{n}.test/"));
            sim.block_on(tidegate::Fetcher::fetch(&fetcher, &request, &cx)).expect("it answers");
        }
        let trace = sim.trace_hash();
        sim.end();
        trace
    };
    assert_eq!(trace("hello"), trace("hello"));
    assert_ne!(trace("hello"), trace("world"));
    assert_eq!(trace("hello"), PINNED);
}

const PINNED: u64 = 13_481_763_076_327_890_293;

#[test]
fn seeds_draw_the_crawls_own_choices_too() {
    let wall = |seed| Sim::new(seed).runtime().wall_clock();
    assert_ne!(wall(1), wall(2), "the seed of a crawl that was given none is drawn from this clock");
    assert_eq!(wall(1), wall(1));
}
