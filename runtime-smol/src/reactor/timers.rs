//! The sleeps of a thread, which it looks at with each turn.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tidegate::rt::Sleep;

use super::{Sleeper, lock};
use crate::timer::now;

pub(super) struct Timers {
    /// It may wait for longer than a new sleep allows.
    thread: Arc<Sleeper>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By deadline, and by number where several have the same.
    sleeping: BTreeMap<(Instant, u64), Waker>,
    numbers: u64,
    /// When the thread looks next. It stays where that sleep is dropped: who waits for what comes is often gone before.
    looks_at: Option<Instant>,
}

impl Timers {
    pub(super) fn new(thread: Arc<Sleeper>) -> Self {
        Self { thread, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// When to call [`wake_due`](Self::wake_due).
    pub(super) fn looks_at(&self) -> Option<Instant> {
        self.lock().looks_at
    }

    /// Wakes those whose deadline is past.
    pub(super) fn wake_due(&self) {
        let mut state = self.lock();
        let Some(looks_at) = state.looks_at else { return };
        let now = now();
        if now < looks_at {
            return;
        }
        let mut due = Vec::new();
        while let Some(first) = state.sleeping.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        state.looks_at = state.sleeping.keys().next().map(|(deadline, _)| *deadline);
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    /// The thread looks at `deadline`, or before. Called with the lock, which it takes when it falls asleep.
    fn look_at(&self, state: &mut State, deadline: Instant) {
        if state.looks_at.is_none_or(|looks_at| deadline < looks_at) {
            state.looks_at = Some(deadline);
            self.thread.rouse();
        }
    }

    pub(super) fn sleep_until(self: &Arc<Self>, deadline: Instant) -> OwnSleep {
        OwnSleep { timers: Arc::clone(self), deadline, number: None }
    }
}

pub(crate) struct OwnSleep {
    timers: Arc<Timers>,
    deadline: Instant,
    /// Once it has slept.
    number: Option<u64>,
}

impl OwnSleep {
    /// Gives the waker: it may be the last hold on a task that has sleeps of its own, and is not dropped under the lock.
    fn leave(&self) -> Option<Waker> {
        self.timers.lock().sleeping.remove(&(self.deadline, self.number?))
    }
}

impl Future for OwnSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.get_mut();
        if now() >= sleep.deadline {
            drop(sleep.leave());
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
        sleep.timers.look_at(state, sleep.deadline);
        drop(guard);
        drop(replaced);
        Poll::Pending
    }
}

impl Sleep for OwnSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let waker = self.leave();
        self.deadline = deadline;
        if let (Some(waker), Some(number)) = (waker, self.number) {
            let mut state = self.timers.lock();
            state.sleeping.insert((deadline, number), waker);
            self.timers.look_at(&mut state, deadline);
        }
    }
}

impl Drop for OwnSleep {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Counted {
        fn wakes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fixture() -> (Arc<Sleeper>, Arc<Timers>, Instant) {
        let thread = Arc::new(Sleeper::new().expect("a descriptor"));
        let timers = Arc::new(Timers::new(Arc::clone(&thread)));
        (thread, timers, now())
    }

    fn poll(sleep: &mut Pin<Box<OwnSleep>>, waker: &Waker) -> Poll<()> {
        sleep.as_mut().poll(&mut Context::from_waker(waker))
    }

    #[test]
    fn only_an_earlier_deadline_wakes_the_thread() {
        let (thread, timers, now) = fixture();
        assert!(thread.falls_asleep());
        let mut sleeps = [2, 3, 1].map(|hours| Box::pin(timers.sleep_until(now + hours * HOUR)));
        let seen = sleeps.each_mut().map(|sleep| {
            assert_eq!(poll(sleep, Waker::noop()), Poll::Pending);
            let slept = thread.awake();
            assert!(thread.falls_asleep());
            (slept, timers.looks_at())
        });
        assert_eq!(seen, [(false, 2), (true, 2), (false, 1)].map(|(slept, hours)| (slept, Some(now + hours * HOUR))));
        sleeps[0].as_mut().reset(now + 4 * HOUR);
        drop(sleeps);
        assert_eq!((thread.awake(), timers.looks_at()), (true, Some(now + HOUR)), "it may look for nobody");
    }

    #[test]
    fn who_is_due_is_woken_once_and_the_others_wait() {
        let (_, timers, now) = fixture();
        let task = Arc::new(Counted::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut sleeps = [1, 2].map(|hours| Box::pin(timers.sleep_until(now + hours * HOUR)));
        for sleep in &mut sleeps {
            assert_eq!(poll(sleep, &waker), Poll::Pending);
        }
        timers.wake_due();
        assert_eq!(task.wakes(), 0);
        sleeps[0].as_mut().reset(now);
        timers.wake_due();
        timers.wake_due();
        assert_eq!((task.wakes(), timers.looks_at()), (1, Some(now + 2 * HOUR)));
        assert_eq!(poll(&mut sleeps[0], &waker), Poll::Ready(()));
        drop(sleeps);
        assert!(timers.lock().sleeping.is_empty());
    }
}
