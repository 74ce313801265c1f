//! The simulated executor, clock and workers.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;
use tidegate::rt::Runtime;
use tidegate::sim::{Op, Scheduling, Sim};

const MS: Duration = Duration::from_millis(1);
const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// What a panic says.
fn panic_of(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .expect("text")
}

/// Runs a job and gives what came of it.
async fn offloaded<T: Send + 'static>(runtime: &Runtime, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    let job = Box::new(move || _ = sender.send(job()));
    runtime.offload().submit(job).map_err(drop).expect("there is room");
    receiver.await.expect("the job ends")
}

#[test]
fn the_clock_jumps_to_what_happens_next_and_no_further() {
    Sim::check(0..4, |sim| async move {
        let (runtime, wall) = (sim.runtime(), sim.runtime().wall_clock());
        let seen = Arc::new(Mutex::new(Vec::new()));
        for millis in [30, 10, 20, 10] {
            let (sim, seen) = (sim.clone(), Arc::clone(&seen));
            runtime.spawn(async move {
                sim.sleep(MS * millis).await;
                seen.lock().expect("not poisoned").push(sim.elapsed());
            });
        }
        sim.sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(*seen.lock().expect("not poisoned"), [MS * 10, MS * 10, MS * 20, MS * 30]);
        assert_eq!(runtime.wall_clock(), wall + sim.elapsed());
    });
}

// H6
#[test]
fn the_clock_on_the_wall_may_jump_and_the_other_does_not() {
    let sim = Sim::new(1);
    let (now, wall) = (sim.now(), sim.runtime().wall_clock());
    sim.set_wall_clock(wall - Duration::from_secs(3600));
    assert_eq!((sim.now(), sim.runtime().wall_clock()), (now, wall - Duration::from_secs(3600)));
    sim.run_for(MS);
    assert_eq!(sim.runtime().wall_clock(), wall - Duration::from_secs(3600) + MS);
}

/// The order in which ten tasks are polled that are ready together.
fn order(scheduling: Scheduling, seed: u64) -> Vec<u32> {
    let sim = Sim::builder().scheduling(scheduling).seed(seed).build();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for n in 0..10 {
        let seen = Arc::clone(&seen);
        sim.spawn(async move { seen.lock().expect("not poisoned").push(n) });
    }
    sim.run_for(MS);
    let seen = seen.lock().expect("not poisoned");
    seen.clone()
}

#[test]
fn each_order_is_what_its_name_says() {
    assert_eq!(order(Scheduling::Fifo, 1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    // The future of `run_for` became ready last, and the first poll of all is always the oldest one's.
    assert_eq!(order(Scheduling::Lifo, 1)[1..], [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    let random: Vec<_> = (0..20).map(|seed| order(Scheduling::Random, seed)).collect();
    assert!(random.iter().any(|order| *order != random[0]), "seeds differ");
    assert_eq!(random[7], order(Scheduling::Random, 7), "a seed does not");
}

#[test]
fn a_task_that_wakes_itself_for_ever_keeps_no_other_from_running() {
    Sim::check(0..4, |sim| async move {
        let stop = Arc::new(AtomicU32::new(0));
        let stopped = Arc::clone(&stop);
        sim.spawn(std::future::poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            if stopped.load(SeqCst) > 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        }));
        let yields = sim.runtime();
        yields.spawner().yield_now().await;
        stop.store(1, SeqCst);
        sim.sleep(MS).await;
        assert_eq!(sim.tasks(), 0);
    });
}

#[test]
fn a_deadlock_names_who_waits_where_and_for_what() {
    let text = panic_of(|| {
        let sim = Sim::new(1);
        let (sender, receiver) = oneshot::channel::<()>();
        let runtime = sim.runtime();
        let connects = runtime.tcp().connect(([192, 0, 2, 1], 80).into(), &Default::default());
        sim.net().host([192, 0, 2, 1], tidegate::sim::Host::black_hole());
        let connects_later = runtime.tcp().connect(([192, 0, 2, 1], 80).into(), &Default::default());
        drop(connects);
        runtime.spawn(async move {
            let _kept = sender;
            let _ = connects_later.await;
        });
        let _ = sim.block_on(receiver);
    });
    assert!(text.starts_with("deadlock"), "{text}");
    assert!(text.contains("spawned at core/tests/sim_runtime.rs:"), "{text}");
    assert!(text.contains("a connection to 192.0.2.1:80"), "{text}");
    assert!(text.contains("block_on, polled"), "{text}");
}

#[test]
fn a_simulation_that_never_ends_is_ended() {
    let text = panic_of(|| {
        let sim = Sim::builder().max_time(Duration::from_secs(60)).build();
        let ticking = sim.clone();
        sim.block_on(async move {
            loop {
                ticking.sleep(Duration::from_secs(7)).await;
            }
        });
    });
    assert!(text.contains("60s") && text.contains("56s"), "{text}");
}

#[test]
fn a_failure_says_how_to_run_it_alone() {
    let text = panic_of(|| {
        Sim::check(3..9, |sim| async move {
            assert!(sim.seed() != 5 || sim.scheduling() != Scheduling::Lifo, "the bug");
        });
    });
    assert!(text.starts_with("seed 5, lifo: the bug"), "{text}");
    assert!(text.ends_with("TIDEGATE_SIM_SEED=5:lifo"), "{text}");
}

#[test]
fn a_task_that_panics_fails_the_check_and_takes_no_other_down() {
    let text = panic_of(|| {
        Sim::check(0..1, |sim| async move {
            sim.spawn(async { panic!("in a task") });
            sim.sleep(MS).await;
            let alive = sim.clone();
            sim.spawn(async move { alive.sleep(MS).await });
            sim.sleep(MS * 2).await;
        });
    });
    assert!(text.contains("spawned at core/tests/sim_runtime.rs:") && text.contains("in a task"), "{text}");
}

// H7
#[test]
fn work_on_the_loop_delays_timers_by_exactly_its_time() {
    Sim::check(0..4, |sim| async move {
        let (ticking, busy) = (sim.clone(), sim.clone());
        sim.spawn(async move {
            busy.sleep(MS * 3).await;
            busy.spend(MS * 40);
        });
        ticking.sleep(MS * 5).await;
        assert_eq!(ticking.elapsed(), MS * 43);
    });
}

#[test]
fn work_on_a_worker_delays_nobody_and_ends_when_it_has_spent_its_time() {
    Sim::check(0..4, |sim| async move {
        let runtime = sim.runtime();
        let (late, working) = (Arc::new(AtomicU32::new(0)), sim.clone());
        let (ticking, seen) = (sim.clone(), Arc::clone(&late));
        sim.spawn(async move {
            for n in 1..=100 {
                ticking.sleep(MS).await;
                seen.fetch_add(u32::from(ticking.elapsed() != MS * n), SeqCst);
            }
        });
        let took = offloaded(&runtime, move || {
            let began = working.elapsed();
            working.spend(MS * 30);
            working.spend(MS * 12);
            working.elapsed() - began
        });
        assert_eq!((took.await, sim.elapsed()), (MS * 42, MS * 42));
        sim.sleep(MS * 100).await;
        assert_eq!(late.load(SeqCst), 0);
    });
}

// I7
#[test]
fn two_workers_share_the_jobs_and_a_third_waits() {
    let builder = Sim::builder().threads(TWO).queue(1);
    builder.check(0..4, |sim| async move {
        let runtime = sim.runtime();
        let job = |sim: &Sim| {
            let sim = sim.clone();
            move || {
                sim.spend(MS * 10);
                sim.elapsed()
            }
        };
        let three = (offloaded(&runtime, job(&sim)), offloaded(&runtime, job(&sim)), offloaded(&runtime, job(&sim)));
        let full = async { assert!(runtime.offload().submit(Box::new(|| {})).is_err(), "two run and one waits") };
        let ((a, b, c), ()) = futures::future::join(futures::future::join3(three.0, three.1, three.2), full).await;
        let mut ends = [a, b, c];
        ends.sort();
        assert_eq!(ends, [MS * 10, MS * 10, MS * 20]);
    });
}

// I3
#[test]
fn a_job_that_is_given_up_frees_its_place_and_ends_unheard() {
    Sim::builder().queue(0).check(0..4, |sim| async move {
        let runtime = sim.runtime();
        let stuck = sim.clone();
        let ticket = runtime.offload().submit(Box::new(move || stuck.spend(Duration::from_secs(100))));
        let ticket = ticket.map_err(drop).expect("a worker is free");
        sim.sleep(MS).await;
        assert!(runtime.offload().submit(Box::new(|| {})).is_err());
        assert!(runtime.offload().give_up(ticket));
        assert!(!runtime.offload().give_up(ticket));
        assert_eq!(offloaded(&runtime, || 42).await, 42);
        sim.sleep(Duration::from_secs(200)).await;
        assert_eq!(offloaded(&runtime, || 43).await, 43);
    });
}

#[test]
fn the_end_unwinds_jobs_and_drops_tasks() {
    let (sim, dropped) = (Sim::new(1), Arc::new(()));
    let (of_job, of_task, working) = (Arc::clone(&dropped), Arc::clone(&dropped), sim.clone());
    let job = Box::new(move || {
        let _of_job = of_job;
        working.spend(Duration::from_secs(3600));
        unreachable!("the simulation ends before");
    });
    sim.runtime().offload().submit(job).map_err(drop).expect("a worker is free");
    let keeps = sim.clone();
    sim.spawn(async move {
        let _kept = (keeps, of_task);
        std::future::pending().await
    });
    sim.run_for(MS);
    assert_eq!((Arc::strong_count(&dropped), sim.tasks()), (3, 1));
    sim.end();
    assert_eq!((Arc::strong_count(&dropped), sim.tasks()), (1, 0));
    let late = Arc::clone(&dropped);
    sim.spawn(async move { drop(late) });
    assert_eq!(Arc::strong_count(&dropped), 1, "a task that is spawned afterwards is dropped");
}

#[test]
fn planned_faults_strike_the_call_that_was_named() {
    let sim = Sim::new(1);
    sim.fail(Op::Spawn, 1);
    sim.fail(Op::Offload, 0);
    let ran = Arc::new(AtomicU32::new(0));
    for n in 0..3 {
        let ran = Arc::clone(&ran);
        sim.spawn(async move { _ = ran.fetch_add(10_u32.pow(n), SeqCst) });
    }
    assert!(sim.runtime().offload().submit(Box::new(|| {})).is_err());
    assert!(sim.runtime().offload().submit(Box::new(|| {})).is_ok());
    sim.run_for(MS);
    assert_eq!((ran.load(SeqCst), sim.count(Op::Spawn), sim.count(Op::Offload)), (101, 3, 2));
}

// Invariant 22
#[test]
fn the_same_seed_gives_the_same_trace_and_another_does_not() {
    let trace = |seed, scheduling| {
        let sim = Sim::builder().seed(seed).scheduling(scheduling).build();
        for n in 0..20 {
            let own = sim.clone();
            sim.spawn(async move {
                for _ in 0..5 {
                    own.sleep(Duration::from_micros(own.random() % 1000 + n)).await;
                }
            });
        }
        sim.run_for(Duration::from_secs(1));
        let trace = sim.trace_hash();
        sim.end();
        trace
    };
    for &scheduling in Scheduling::ALL {
        assert_eq!(trace(1, scheduling), trace(1, scheduling));
        assert_ne!(trace(1, scheduling), trace(2, scheduling));
    }
}
