//! Models of the wheel: timers are made, polled, set anew and dropped while another thread turns it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use loom::thread;

use super::*;
use crate::rt::manual::Manual;

const TICK: Duration = Wheel::TICK;

/// A waker that counts.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn poll(timer: &mut PhaseTimer, woken: &Arc<Woken>) -> Poll<()> {
    Pin::new(timer).poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
}

struct Fixture {
    wheel: Wheel,
    start: Instant,
}

impl Fixture {
    fn new() -> Self {
        let manual = Manual::new();
        let wheel = Wheel::new(&manual.runtime());
        let start = manual.runtime().now();
        wheel.advance(start);
        Self { wheel, start }
    }

    /// Another thread that turns the wheel as the clock stands at so many ticks.
    fn turned_to(&self, ticks: u32) -> thread::JoinHandle<()> {
        let (wheel, now) = (self.wheel.clone(), self.start + TICK * ticks);
        thread::spawn(move || _ = wheel.advance(now))
    }
}

#[test]
fn a_timer_that_is_polled_as_the_wheel_turns_is_woken() {
    loom::model(|| {
        let f = Fixture::new();
        let mut timer = f.wheel.timer(f.start + TICK);
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        assert!(poll(&mut timer, &first).is_pending());
        let other = f.turned_to(1);
        let polled = poll(&mut timer, &second);
        other.join().expect("no panic");
        assert!(polled.is_ready() || second.count() == 1, "its last waker was not used");
        assert!(poll(&mut timer, &second).is_ready());
    });
}

#[test]
fn a_timer_that_is_made_as_the_wheel_turns_is_woken_by_the_next_turn() {
    loom::model(|| {
        let f = Fixture::new();
        // A wheel that is empty does not turn.
        let mut far = f.wheel.timer(f.start + 9 * TICK);
        assert!(poll(&mut far, &Arc::default()).is_pending());
        let mut timer = f.wheel.timer(f.start + TICK);
        let woken = Arc::<Woken>::default();
        let other = f.turned_to(1);
        assert!(poll(&mut timer, &woken).is_pending(), "the clock has not moved");
        other.join().expect("no panic");
        f.wheel.advance(f.start + 2 * TICK);
        assert_eq!((woken.count(), f.wheel.len()), (1, 1));
    });
}

#[test]
fn a_timer_set_to_later_as_the_wheel_turns_is_not_early_and_not_lost() {
    loom::model(|| {
        let f = Fixture::new();
        let mut timer = f.wheel.timer(f.start + TICK);
        let woken = Arc::<Woken>::default();
        assert!(poll(&mut timer, &woken).is_pending());
        let other = f.turned_to(1);
        timer.reset(f.start + 3 * TICK);
        other.join().expect("no panic");
        let before = woken.count();
        assert!(poll(&mut timer, &woken).is_pending(), "early");
        f.wheel.advance(f.start + 2 * TICK);
        assert!(poll(&mut timer, &woken).is_pending(), "early");
        f.wheel.advance(f.start + 3 * TICK);
        assert_eq!(woken.count(), before + 1, "lost");
        assert!(poll(&mut timer, &woken).is_ready());
    });
}

/// The entry of a timer that is dropped may be given to the next one at once, or only when its slot comes round.
#[test]
fn a_timer_that_is_dropped_as_the_wheel_turns_takes_no_other_with_it() {
    loom::model(|| {
        let f = Fixture::new();
        let mut first = f.wheel.timer(f.start + TICK);
        let (dropped, lives) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        assert!(poll(&mut first, &dropped).is_pending());
        let other = f.turned_to(1);
        drop(first);
        let mut second = f.wheel.timer(f.start + 3 * TICK);
        assert!(poll(&mut second, &lives).is_pending());
        other.join().expect("no panic");
        f.wheel.advance(f.start + 2 * TICK);
        assert_eq!(lives.count(), 0, "woken in another's place");
        assert!(poll(&mut second, &lives).is_pending(), "early");
        f.wheel.advance(f.start + 3 * TICK);
        assert_eq!(lives.count(), 1, "lost");
        assert!(f.wheel.is_empty());
        drop(second);
        let state = f.wheel.0.lock();
        assert_eq!(state.free.len(), state.entries.len(), "an entry is lost, or free twice");
    });
}

#[test]
fn a_timer_that_comes_as_the_turning_task_goes_to_sleep_wakes_it() {
    loom::model(|| {
        let f = Fixture::new();
        let turner = Arc::<Woken>::default();
        let timer = |ticks| f.wheel.timer(f.start + TICK * ticks);
        let mut far = timer(3);
        assert!(poll(&mut far, &Arc::default()).is_pending());
        let mut near = timer(1);
        let other = thread::spawn(move || {
            assert!(poll(&mut near, &Arc::default()).is_pending());
            near
        });
        let until = f.wheel.advance_and_sleep(f.start, &Waker::from(Arc::clone(&turner))).expect("armed");
        let _near = other.join().expect("no panic");
        assert!(until <= f.start + TICK || turner.count() == 1, "it sleeps for too long");
    });
}

/// What a waker is the last hold on may have timers of its own.
#[test]
fn wakers_of_timers_are_not_dropped_under_the_lock() {
    struct Task {
        _owns: std::sync::Mutex<PhaseTimer>,
    }
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    loom::model(|| {
        let f = Fixture::new();
        let timer = || {
            let mut timer = f.wheel.timer(f.start + 2 * TICK);
            assert!(poll(&mut timer, &Arc::default()).is_pending());
            timer
        };
        let polled_by_task = |timer: &mut PhaseTimer, owned: PhaseTimer| {
            let waker = Waker::from(Arc::new(Task { _owns: owned.into() }));
            assert!(Pin::new(timer).poll(&mut Context::from_waker(&waker)).is_pending());
        };
        let mut replaced = timer();
        polled_by_task(&mut replaced, timer());
        assert!(poll(&mut replaced, &Arc::default()).is_pending());
        let mut dropped = timer();
        polled_by_task(&mut dropped, timer());
        drop(dropped);
        let mut set_anew = timer();
        polled_by_task(&mut set_anew, timer());
        set_anew.reset(f.start + TICK);
    });
}
