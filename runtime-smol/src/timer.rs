//! The clock, and sleeps that share one timer of async-io.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use tidegate::rt::{Sleep, Timer};

use crate::Smol;

impl Timer for Smol {
    fn now(&self) -> Instant {
        now()
    }

    fn wall_clock(&self) -> SystemTime {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is told to ask")]
        SystemTime::now()
    }

    fn resolution(&self) -> Duration {
        Duration::from_micros(100)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(SmolSleep { timers: Arc::clone(&self.timers), deadline, number: None })
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is told to ask")]
    Instant::now()
}

/// The sleeps of a runtime, on a timer that is set anew only for an earlier instant: each setting writes to a descriptor, and
/// the reactor turns once more for it.
pub(crate) struct Timers {
    /// Wakes those that are due. The reactor calls it, so that nobody need drive an executor.
    alarm: Waker,
    state: Mutex<State>,
}

struct State {
    /// By deadline, and by number where several have the same.
    sleeping: BTreeMap<(Instant, u64), Waker>,
    numbers: u64,
    timer: async_io::Timer,
    /// When the timer fires next; it may be that nobody waits for it any more.
    set_for: Option<Instant>,
}

impl Timers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|timers| Self {
            alarm: Waker::from(Arc::new(Alarm(Weak::clone(timers)))),
            state: Mutex::new(State {
                sleeping: BTreeMap::new(),
                numbers: 0,
                timer: async_io::Timer::never(),
                set_for: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_due(&self) {
        let mut due = Vec::new();
        let mut state = self.lock();
        state.set_for = None;
        loop {
            let now = now();
            while let Some(first) = state.sleeping.first_entry().filter(|first| first.key().0 <= now) {
                due.push(first.remove());
            }
            let next = state.sleeping.keys().next().map(|(deadline, _)| *deadline);
            if next.is_none_or(|next| state.set(next, &self.alarm)) {
                break;
            }
        }
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Sees to it that the timer fires at `deadline` or before; `false` where that is past.
    fn set(&mut self, deadline: Instant, alarm: &Waker) -> bool {
        if self.set_for.is_some_and(|set_for| set_for <= deadline) {
            return true;
        }
        self.timer.set_at(deadline);
        let is_ahead = Pin::new(&mut self.timer).poll(&mut Context::from_waker(alarm)).is_pending();
        self.set_for = is_ahead.then_some(deadline);
        is_ahead
    }
}

/// The reactor holds it until the timer fires, and must not hold the sleeps for so long.
struct Alarm(Weak<Timers>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(timers) = self.0.upgrade() {
            timers.wake_due();
        }
    }
}

struct SmolSleep {
    timers: Arc<Timers>,
    deadline: Instant,
    /// While it is among those that sleep.
    number: Option<u64>,
}

impl SmolSleep {
    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            // A waker may be the last hold on a task that has sleeps of its own: it is dropped without the lock.
            let left = self.timers.lock().sleeping.remove(&(self.deadline, number));
            drop(left);
        }
    }
}

impl Future for SmolSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.get_mut();
        if now() >= sleep.deadline {
            sleep.leave();
            return Poll::Ready(());
        }
        let mut guard = sleep.timers.lock();
        let state = &mut *guard;
        let number = *sleep.number.get_or_insert_with(|| {
            state.numbers += 1;
            state.numbers
        });
        let waker = state.sleeping.entry((sleep.deadline, number)).or_insert_with(|| cx.waker().clone());
        let replaced = (!waker.will_wake(cx.waker())).then(|| mem::replace(waker, cx.waker().clone()));
        let is_ahead = state.set(sleep.deadline, &sleep.timers.alarm);
        drop(guard);
        drop(replaced);
        if is_ahead {
            return Poll::Pending;
        }
        sleep.leave();
        Poll::Ready(())
    }
}

impl Sleep for SmolSleep {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        let sleep = self.get_mut();
        let before = mem::replace(&mut sleep.deadline, deadline);
        let Some(number) = sleep.number else { return };
        let mut state = sleep.timers.lock();
        let Some(waker) = state.sleeping.remove(&(before, number)) else { return };
        if state.set(deadline, &sleep.timers.alarm) {
            state.sleeping.insert((deadline, number), waker);
        } else {
            drop(state);
            waker.wake();
        }
    }
}

impl Drop for SmolSleep {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn sleep(timers: &Arc<Timers>, deadline: Instant) -> Pin<Box<SmolSleep>> {
        Box::pin(SmolSleep { timers: Arc::clone(timers), deadline, number: None })
    }

    fn poll(sleep: &mut Pin<Box<SmolSleep>>) -> Poll<()> {
        sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn only_an_earlier_deadline_sets_the_timer() {
        let (timers, now) = (Timers::new(), now());
        let set_for = || timers.lock().set_for.map(|at| at - now);
        let mut first = sleep(&timers, now + 2 * HOUR);
        assert_eq!((poll(&mut first), set_for()), (Poll::Pending, Some(2 * HOUR)));
        let mut later = sleep(&timers, now + 3 * HOUR);
        assert_eq!((poll(&mut later), set_for()), (Poll::Pending, Some(2 * HOUR)));
        let mut earlier = sleep(&timers, now + HOUR);
        assert_eq!((poll(&mut earlier), set_for()), (Poll::Pending, Some(HOUR)));
        drop(earlier);
        first.as_mut().reset(now + 4 * HOUR);
        assert_eq!((poll(&mut first), set_for()), (Poll::Pending, Some(HOUR)), "it may fire for nobody");
        assert_eq!(timers.lock().sleeping.len(), 2);
        timers.wake_due();
        assert_eq!(set_for(), Some(3 * HOUR), "for the next, once it has fired");
    }

    #[test]
    fn what_is_over_is_ready_and_sleeps_no_more() {
        let (timers, now) = (Timers::new(), now());
        let mut one = sleep(&timers, now + HOUR);
        assert_eq!((poll(&mut one), timers.lock().sleeping.len()), (Poll::Pending, 1));
        one.as_mut().reset(now);
        assert_eq!(poll(&mut one), Poll::Ready(()));
        assert!(timers.lock().sleeping.is_empty());
        timers.wake_due();
        assert_eq!(timers.lock().set_for, None);
    }

    #[test]
    fn the_reactor_does_not_hold_the_sleeps() {
        let timers = Timers::new();
        let mut one = sleep(&timers, now() + HOUR);
        assert_eq!(poll(&mut one), Poll::Pending);
        let known = Arc::downgrade(&timers);
        drop((one, timers));
        assert_eq!(known.strong_count(), 0);
    }
}
