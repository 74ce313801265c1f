//! Models of the pool: jobs run once, room comes back and threads end, whatever is given up meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

fn counting(ran: &Arc<AtomicUsize>) -> Job {
    let ran = Arc::clone(ran);
    Box::new(move || _ = ran.fetch_add(1, Ordering::Relaxed))
}

/// Drops the pool and waits until its threads have let go of what they share: loom itself waits for threads, and says so
/// where one never ends.
fn ended(pool: ThreadPool) -> Arc<Shared> {
    let shared = Arc::clone(&pool.shared);
    drop(pool);
    while Arc::strong_count(&shared) > 1 {
        loom::thread::yield_now();
    }
    shared
}

#[test]
fn every_job_runs_once_and_gives_its_room_back() {
    for threads in [NonZeroUsize::MIN, TWO] {
        let mut model = loom::model::Builder::new();
        // Three threads at one lock: all interleavings are a quarter of a minute.
        model.preemption_bound = Some(4);
        model.check(move || {
            let pool = ThreadPool::new(threads).with_queue(1);
            let ran = Arc::default();
            (0..2).for_each(|_| _ = pool.submit(counting(&ran)).expect("room for two"));
            let shared = ended(pool);
            let state = shared.lock();
            assert_eq!((ran.load(Ordering::Relaxed), state.under_way, state.running.len()), (2, 0, 0));
        });
    }
}

#[test]
fn a_thread_that_goes_to_sleep_sees_the_next_job() {
    loom::model(|| {
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(0);
        let ran = Arc::new(AtomicUsize::new(0));
        pool.submit(counting(&ran)).expect("a thread is free");
        let mut job = counting(&ran);
        while let Err(Rejected(back)) = pool.submit(job) {
            job = back;
            loom::thread::yield_now();
        }
        while ran.load(Ordering::Relaxed) < 2 {
            loom::thread::yield_now();
        }
        ended(pool);
    });
}

#[test]
fn a_job_that_ends_as_it_is_given_up_gives_its_room_back_once() {
    loom::model(|| {
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(1);
        let ran = Arc::default();
        let first = pool.submit(counting(&ran)).expect("a thread is free");
        let given_up = pool.give_up(first);
        pool.submit(counting(&ran)).expect("one may wait");
        let shared = ended(pool);
        let state = shared.lock();
        assert_eq!((ran.load(Ordering::Relaxed), state.under_way, state.running.len()), (2, 0, 0));
        assert_eq!(state.lost, usize::from(given_up));
    });
}

#[test]
fn two_who_give_up_the_same_job_start_one_thread_for_it() {
    loom::model(|| {
        let pool = Arc::new(ThreadPool::new(NonZeroUsize::MIN).with_queue(0));
        let ran = Arc::default();
        let job = pool.submit(counting(&ran)).expect("a thread is free");
        let other = {
            let pool = Arc::clone(&pool);
            loom::thread::spawn(move || pool.give_up(job))
        };
        let here = pool.give_up(job);
        let there = other.join().expect("no panic");
        assert!(!(here && there));
        let shared = ended(Arc::into_inner(pool).expect("the other thread has ended"));
        let state = shared.lock();
        assert_eq!((state.under_way, state.lost), (0, usize::from(here || there)));
    });
}

#[test]
fn a_thread_that_comes_back_from_a_job_given_up_makes_no_room() {
    loom::model(|| {
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(0);
        let lost = pool.submit(Box::new(|| {})).expect("a thread is free");
        if !pool.give_up(lost) {
            return;
        }
        let release = Arc::new(AtomicUsize::new(0));
        let held = Arc::clone(&release);
        let holds = Box::new(move || {
            while held.load(Ordering::Relaxed) == 0 {
                loom::thread::yield_now();
            }
        });
        pool.submit(holds).expect("the thread was replaced");
        assert!(pool.submit(Box::new(|| {})).is_err(), "one more than there is room for");
        release.store(1, Ordering::Relaxed);
        ended(pool);
    });
}
