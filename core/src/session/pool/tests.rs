use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::rt::manual::Manual;

fn pool(sessions: u32, uses: u64, age: u64) -> (Pool, Instant) {
    let sessions = NonZeroU32::new(sessions).expect("not zero");
    (
        Pool::new(PoolLimits { sessions, uses, age: Duration::from_secs(age), opening: Duration::MAX }),
        Manual::new().runtime().now(),
    )
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// What is to be done, as text.
fn take(pool: &mut Pool, now: Instant, job: u64) -> String {
    match pool.take(now, job) {
        Take::Use(id, _) => format!("use {id}"),
        Take::Open { id, why, previous } => format!("open {id} {why:?} {}", previous.is_some()),
        Take::Wait => "wait".into(),
        Take::Fail(error) => format!("fail {:?}", error.retry_time()),
    }
}

fn open(pool: &mut Pool, now: Instant, id: u64) {
    assert!(pool.opened(now, id, Ok(Session::new())).is_none());
}

fn fail(pool: &mut Pool, now: Instant, id: u64) {
    assert!(pool.opened(now, id, Err(Error::new(ErrorKind::Other, "log in"))).is_some());
}

#[test]
fn one_is_opened_and_the_others_wait_for_it() {
    let (mut pool, now) = pool(1, u64::MAX, 99);
    assert_eq!(take(&mut pool, now, 1), "open 1 New false");
    assert_eq!([take(&mut pool, now, 2), take(&mut pool, now, 1)], ["wait", "wait"]);
    open(&mut pool, now, 1);
    assert_eq!([1, 2, 0, 0].map(|job| take(&mut pool, now, job)), ["use 1"; 4]);
    assert_eq!((pool.open(), pool.openings()), (1, 1));
}

#[test]
fn one_more_is_opened_where_each_is_in_use_and_a_job_keeps_its_own() {
    let (mut pool, now) = pool(3, u64::MAX, 99);
    assert_eq!(take(&mut pool, now, 1), "open 1 New false");
    // Two are needed at once, and the third where both are in use.
    assert_eq!(take(&mut pool, now, 2), "open 2 New false");
    open(&mut pool, now, 1);
    open(&mut pool, now, 2);
    assert_eq!([1, 2].map(|job| take(&mut pool, now, job)), ["use 1", "use 2"]);
    assert_eq!(take(&mut pool, now, 1), "use 1", "another hop of it");
    pool.release(1);
    pool.release(1);
    assert_eq!(take(&mut pool, now, 3), "use 1", "it is free");
    assert_eq!(take(&mut pool, now, 4), "open 3 New false");
    assert_eq!(take(&mut pool, now, 5), "use 2", "no more than three, and it was used less");
    open(&mut pool, now, 3);
    assert_eq!(take(&mut pool, now, 4), "use 3");
}

#[test]
fn what_a_page_refuses_is_replaced_once() {
    let (mut pool, now) = pool(1, u64::MAX, 99);
    take(&mut pool, now, 1);
    open(&mut pool, now, 1);
    for job in 1..=3 {
        assert_eq!(take(&mut pool, now, job), "use 1");
    }
    pool.refused(1, Why::Expired);
    assert_eq!(take(&mut pool, now, 1), "open 2 Expired true");
    pool.refused(2, Why::Expired);
    open(&mut pool, now, 2);
    pool.refused(3, Why::Blocked);
    assert_eq!([1, 2, 3].map(|job| take(&mut pool, now, job)), ["use 2"; 3], "they were of the one before");
    pool.refused(9, Why::Blocked);
    pool.ended(3);
    pool.refused(3, Why::Blocked);
    assert_eq!(take(&mut pool, now, 4), "use 2", "nobody knows of those jobs");
    pool.refused(1, Why::Blocked);
    assert_eq!(take(&mut pool, now, 1), "open 3 Blocked true");
}

#[test]
fn what_is_worn_is_replaced_at_the_use_and_at_the_second() {
    let (mut uses, now) = pool(1, 2, 99);
    take(&mut uses, now, 1);
    open(&mut uses, now, 1);
    assert_eq!([1, 1, 1].map(|job| take(&mut uses, now, job)), ["use 1", "use 1", "open 2 Worn true"]);
    let (mut aged, now) = pool(1, u64::MAX, 10);
    take(&mut aged, now, 1);
    open(&mut aged, after(now, 5), 1);
    assert_eq!(take(&mut aged, after(now, 14), 1), "use 1");
    assert_eq!(take(&mut aged, after(now, 15), 1), "open 2 Worn true");
    aged.release(1);
}

#[test]
fn after_a_failure_nothing_is_opened_for_a_while_each_time_longer() {
    let (mut pool, start) = pool(1, u64::MAX, 999);
    let mut now = start;
    take(&mut pool, now, 1);
    open(&mut pool, now, 1);
    take(&mut pool, now, 1);
    pool.refused(1, Why::Expired);
    for (nth, pause) in [(2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (9, 60)] {
        assert_eq!(take(&mut pool, now, 1), format!("open {nth} Expired true"), "what it is for is not forgotten");
        fail(&mut pool, now, nth);
        assert_eq!(take(&mut pool, now, 1), format!("fail After({pause}s)"));
        now = after(now, pause);
        let before = now - Duration::from_nanos(1);
        assert_eq!(take(&mut pool, before, 1), "fail After(1ns)");
    }
    assert_eq!(take(&mut pool, now, 1), "open 10 Expired true");
    open(&mut pool, now, 10);
    pool.take(now, 1);
    pool.refused(1, Why::Blocked);
    assert_eq!(take(&mut pool, now, 1), "open 11 Blocked true");
    fail(&mut pool, now, 11);
    assert_eq!(take(&mut pool, now, 1), "fail After(1s)", "one that went well ends it");
}

#[test]
fn a_failure_keeps_nobody_from_those_that_are_open() {
    let (mut pool, now) = pool(2, u64::MAX, 99);
    take(&mut pool, now, 1);
    open(&mut pool, now, 1);
    assert_eq!([take(&mut pool, now, 1), take(&mut pool, now, 2)], ["use 1", "open 2 New false"]);
    fail(&mut pool, now, 2);
    assert_eq!(take(&mut pool, now, 2), "use 1");
}

#[test]
fn an_opening_that_is_given_up_is_the_next_ones() {
    let (mut pool, now) = pool(1, u64::MAX, 99);
    take(&mut pool, now, 1);
    open(&mut pool, now, 1);
    take(&mut pool, now, 1);
    pool.refused(1, Why::Blocked);
    assert_eq!(take(&mut pool, now, 1), "open 2 Blocked true");
    pool.given_up(2);
    assert!(!pool.is_opening());
    assert_eq!(take(&mut pool, now, 2), "open 3 Blocked true");
    pool.given_up(2);
    assert_eq!(take(&mut pool, now, 3), "wait");
}

#[test]
fn jobs_whose_end_is_not_told_are_forgotten() {
    let (mut pool, now) = pool(1, u64::MAX, 99);
    take(&mut pool, now, 1);
    open(&mut pool, now, 1);
    for job in 1..=JOBS as u64 + 10 {
        take(&mut pool, now, job);
    }
    assert_eq!(pool.jobs.len(), JOBS);
    pool.refused(10, Why::Blocked);
    assert_eq!(pool.open(), 1, "it is one of the forgotten");
    pool.refused(11, Why::Blocked);
    assert_eq!(pool.open(), 0);
}

proptest! {
    #[test]
    fn the_bounds_hold_whatever_happens(
        most in 1_u32..4, uses in 1_u64..6, steps in proptest::collection::vec((0_u8..8, 1_u64..8, 0_u64..30), 0..200),
    ) {
        let (mut pool, mut now) = pool(most, uses, 60);
        let (mut opening, mut in_use) = (Vec::new(), Vec::new());
        for (what, job, seconds) in steps {
            now = after(now, seconds / 10);
            match what {
                0..3 => match pool.take(now, job) {
                    Take::Use(id, _) => in_use.push(id),
                    Take::Open { id, .. } => opening.push(id),
                    Take::Wait => prop_assert!(pool.is_opening(), "somebody must end it"),
                    Take::Fail(error) => prop_assert!(matches!(error.retry_time(), crate::RetryTime::After(_))),
                },
                3 => if let Some(id) = in_use.pop() { pool.release(id) },
                4 => if let Some(id) = opening.pop() { open(&mut pool, now, id) },
                5 => if let Some(id) = opening.pop() { fail(&mut pool, now, id) },
                6 => if let Some(id) = opening.pop() { pool.given_up(id) },
                _ => pool.refused(job, if seconds % 2 == 0 { Why::Blocked } else { Why::Expired }),
            }
            prop_assert!(pool.slots.len() <= most as usize && pool.due.len() <= most as usize);
            prop_assert_eq!(pool.slots.len() - pool.open(), opening.len());
            for slot in &pool.slots {
                prop_assert!(slot.uses <= uses);
                prop_assert_eq!(slot.in_flight as usize, in_use.iter().filter(|id| **id == slot.id).count());
            }
        }
    }
}
