//! The fetch loop: one task that owns all fetches of an I/O thread and its own ready queue.
//!
//! An executor with a task a fetch looks at its timers after a count of polls, and the timer's task stands behind every
//! ready one. This loop looks at the clock instead: it polls ready fetches for a slice of 500 us, then gives the thread
//! back until I/O and timers were looked at.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::inbox::{Inbox, Message};
use super::lag_probe::Worker;
use crate::StallCause;
use crate::rt::{BoxFuture, Moment, Runtime, Sleep, SliceClock, Wheel};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, keep_waker};

/// How long fetches are polled before the thread is given back.
pub(super) const SLICE: Duration = Duration::from_micros(500);

/// New fetches that begin in one slice at most: a dial is a handful of system calls, and 5,000 at once are seconds.
const STARTS: usize = 32;

/// Work of the loop: a fetch, a lookup, a robots.txt; its message goes to the driver.
type Work = BoxFuture<'static, Message>;

/// The door to a fetch loop.
#[derive(Clone)]
pub(super) struct FetchLoop {
    shared: Arc<Shared>,
    wheel: Wheel,
    slice: Arc<SliceClock>,
    worker: Arc<Worker>,
}

struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    ready: VecDeque<u32>,
    waker: Option<Waker>,
    closed: bool,
    /// `None` once the loop has ended: whoever holds a waker must not keep its runtime.
    worker: Option<Arc<Worker>>,
    /// The beat with which a wake-up was measured, and which one is: its slot, and when.
    measured: u64,
    woken: Option<(u32, Instant)>,
}

enum Order {
    Start { key: Option<u64>, work: Work },
    Abort(u64),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl FetchLoop {
    /// Starts a loop on `runtime`; it ends with [`close`](Self::close).
    pub(super) fn start(runtime: &Runtime, inbox: Arc<Inbox>, worker: Worker) -> Self {
        let wheel = Wheel::with_stalls(runtime, worker.stalls());
        let worker = Arc::new(worker);
        let state = State { worker: Some(Arc::clone(&worker)), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let slice = Arc::new(SliceClock::new(runtime.now()));
        runtime.spawn(Task {
            shared: Arc::clone(&shared),
            runtime: runtime.clone(),
            inbox,
            wheel: wheel.clone(),
            slice: Arc::clone(&slice),
            worker: Arc::clone(&worker),
            slots: Slab::new(),
            wakers: Vec::new(),
            places: Vec::new(),
            done: Vec::new(),
            timer: None,
            yielding: None,
        });
        Self { shared, wheel, slice, worker }
    }

    /// The loop's timers, for the contexts of its fetches.
    pub(super) fn wheel(&self) -> Wheel {
        self.wheel.clone()
    }

    /// The loop's slices, for the contexts of its fetches.
    pub(super) fn slice(&self) -> Arc<SliceClock> {
        Arc::clone(&self.slice)
    }

    /// What the loop tells of its work, for what its fetches call.
    pub(super) fn worker(&self) -> Arc<Worker> {
        Arc::clone(&self.worker)
    }

    /// Begins `work` when the loop has nothing ready; `key` names it for [`abort`](Self::abort).
    pub(super) fn begin(&self, key: Option<u64>, work: Work) {
        let mut order = Some(Order::Start { key, work });
        self.shared.change(|state| {
            if !state.closed {
                state.orders.extend(order.take());
            }
        });
    }

    /// Drops the work with this key, where it is still under way.
    pub(super) fn abort(&self, key: u64) {
        self.shared.change(|state| state.orders.push_back(Order::Abort(key)));
    }

    /// Drops all work, that which comes later too, and ends the loop.
    pub(super) fn close(&self) {
        self.shared.change(|state| state.closed = true);
    }
}

struct Task {
    shared: Arc<Shared>,
    runtime: Runtime,
    inbox: Arc<Inbox>,
    wheel: Wheel,
    slice: Arc<SliceClock>,
    worker: Arc<Worker>,
    slots: Slab<Slot>,
    /// One for each place in `slots`, kept for the next work there.
    wakers: Vec<Arc<SlotWaker>>,
    /// The slot that the last work with a key of this [`place`] had.
    places: Vec<usize>,
    /// Messages of this slice, sent together.
    done: Vec<Message>,
    timer: Option<(Instant, Pin<Box<dyn Sleep>>)>,
    yielding: Option<BoxFuture<'static, ()>>,
}

/// Keys are ids of jobs: the lower half is a small number, of one job that lives.
fn place(key: u64) -> usize {
    key as u32 as usize
}

struct Slot {
    key: Option<u64>,
    work: Work,
}

/// Puts its slot into the ready queue, once until it is polled. A wake that comes after the slot was given to other
/// work costs that one poll.
struct SlotWaker {
    index: u32,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shared.change(|state| {
                if let Some(worker) = state.worker.as_ref().filter(|worker| worker.beat() != state.measured) {
                    state.measured = worker.beat();
                    state.woken = Some((self.index, worker.now()));
                }
                state.ready.push_back(self.index);
            });
        }
    }
}

enum Next {
    Poll(usize),
    Begin,
    Wait,
    Ended,
}

impl Task {
    fn next(&mut self, started: usize, now: Instant, cx: &mut Context<'_>) -> Next {
        let mut state = self.shared.lock();
        if state.closed {
            return Next::Ended;
        }
        if let Some(index) = state.ready.pop_front() {
            let woken = state.woken.take_if(|(measured, _)| *measured == index);
            drop(state);
            if let Some((_, woken)) = woken {
                self.worker.waited(now, now.saturating_duration_since(woken));
            }
            return Next::Poll(index as usize);
        }
        if !state.orders.is_empty() && started < STARTS {
            return Next::Begin;
        }
        let replaced = keep_waker(&mut state.waker, cx.waker());
        drop(state);
        drop(replaced);
        Next::Wait
    }

    /// Polls one fetch; `false` where it is done or gone.
    fn poll_slot(&mut self, index: usize) -> bool {
        let (Some(slot), Some(waker)) = (self.slots.get_mut(index), self.wakers.get(index)) else { return false };
        // Not a store: a wake that finds the flag set asks for this poll, which must see what was written before that wake.
        waker.queued.swap(false, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(waker));
        match slot.work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => true,
            Poll::Ready(message) => {
                self.done.push(message);
                self.slots.remove(index);
                false
            }
        }
    }

    /// Takes one order: begins its work, or drops what it names.
    fn take_order(&mut self) -> Option<usize> {
        let order = self.shared.lock().orders.pop_front()?;
        match order {
            Order::Start { key, work } => {
                let entry = self.slots.vacant_entry();
                let index = entry.key();
                if index == self.wakers.len() {
                    self.wakers.push(Arc::new(SlotWaker {
                        index: u32::try_from(index).expect("fewer than 2^32 fetches"),
                        queued: AtomicBool::new(false),
                        shared: Arc::clone(&self.shared),
                    }));
                }
                entry.insert(Slot { key, work });
                if let Some(key) = key {
                    let place = place(key);
                    if self.places.len() <= place {
                        self.places.resize(place + 1, usize::MAX);
                    }
                    self.places[place] = index;
                }
                Some(index)
            }
            Order::Abort(key) => {
                let index = self.places.get(place(key)).copied();
                if let Some(index) = index.filter(|index| self.slots.get(*index).is_some_and(|s| s.key == Some(key))) {
                    self.slots.remove(index);
                    // It sends no message, and what it had booked is free.
                    self.inbox.nudge();
                }
                None
            }
        }
    }

    /// A fetch that gave way at the end of its slice is the first of the next, so that a body is read to its end
    /// before another is begun.
    fn prefer(&self, index: usize) {
        let mut state = self.shared.lock();
        if let Some(place) = state.ready.iter().rposition(|i| *i as usize == index)
            && let Some(index) = state.ready.remove(place)
        {
            state.ready.push_front(index);
        }
    }

    fn send_done(&mut self) {
        if !self.done.is_empty() {
            self.inbox.push_all(self.done.drain(..));
        }
    }

    /// Sets the one timer of the runtime to the wheel's next tick. Only an earlier one is worth a call.
    fn arm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.wheel.advance_and_sleep(self.runtime.now(), cx.waker()) else { return Poll::Pending };
        let (armed, timer) = self.timer.get_or_insert_with(|| (at, self.runtime.sleep_until(at)));
        if at < *armed {
            timer.as_mut().reset(at);
            *armed = at;
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        timer.as_mut().reset(at);
        *armed = at;
        timer.as_mut().poll(cx)
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        loop {
            if let Some(yielding) = &mut task.yielding {
                if yielding.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                task.yielding = None;
            }
            let mut now = task.runtime.now();
            let end = now + SLICE;
            task.slice.begin(now, SLICE);
            task.wheel.advance(now);
            let mut started = 0;
            loop {
                let index = match task.next(started, now, cx) {
                    Next::Poll(index) => Some(index),
                    Next::Begin => {
                        started += 1;
                        task.take_order()
                    }
                    Next::Ended => {
                        task.slots.clear();
                        task.send_done();
                        return Poll::Ready(());
                    }
                    Next::Wait if started >= STARTS => {
                        task.send_done();
                        task.yielding = Some(task.runtime.spawner().yield_now());
                        break;
                    }
                    Next::Wait => {
                        task.send_done();
                        if task.arm(cx).is_pending() {
                            return Poll::Pending;
                        }
                        break;
                    }
                };
                let Some(index) = index else { continue };
                let began = now;
                let key = task.slots.get(index).and_then(|slot| slot.key);
                task.worker.enter(StallCause::Fetch, key);
                let lives = Moment::during(now, || task.poll_slot(index));
                now = task.runtime.now();
                let is_over = now >= end;
                task.worker.leave_slice(is_over, key, began, now);
                if is_over {
                    if lives {
                        task.prefer(index);
                    }
                    task.send_done();
                    task.yielding = Some(task.runtime.spawner().yield_now());
                    break;
                }
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let was_closed = std::mem::replace(&mut state.closed, true);
        // Wakers of slots outlive the loop, in connections that are parked, and with them what is shared.
        let (orders, worker) = (std::mem::take(&mut state.orders), state.worker.take());
        drop(state);
        drop((orders, worker));
        if !was_closed {
            self.inbox.push(Message::TaskLost);
        }
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::rt::manual::Manual;

    /// Work that takes so long on each of so many polls, asking for the next by itself.
    fn busy(manual: &Manual, log: &Arc<Mutex<Vec<u32>>>, name: u32, polls: u32, each: Duration) -> Work {
        let (manual, log) = (manual.clone(), Arc::clone(log));
        let mut left = polls;
        Box::pin(poll_fn(move |cx| {
            manual.pass(each);
            log.lock().unwrap().push(name);
            left -= 1;
            if left == 0 {
                return Poll::Ready(Message::TaskLost);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    fn fixture() -> (Manual, FetchLoop, Arc<Inbox>, Arc<Mutex<Vec<u32>>>) {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let fetch_loop =
            FetchLoop::start(&manual.runtime(), Arc::clone(&inbox), Worker::alone(&manual.runtime(), &inbox));
        (manual, fetch_loop, inbox, Arc::default())
    }

    fn answers(inbox: &Inbox) -> usize {
        let mut taken = VecDeque::new();
        std::iter::from_fn(move || inbox.poll_next(&mut taken, Waker::noop())).count()
    }

    #[test]
    fn a_timer_is_no_later_than_a_slice_and_a_poll_whatever_is_ready() {
        let (manual, fetch_loop, inbox, log) = fixture();
        let late = Arc::new(Mutex::new(Duration::ZERO));
        let (runtime, seen) = (manual.runtime(), Arc::clone(&late));
        runtime.clone().spawn(async move {
            for _ in 0..50 {
                let at = runtime.now() + Duration::from_millis(2);
                runtime.sleep_until(at).await;
                let lag = runtime.now() - at;
                let mut worst = seen.lock().unwrap();
                *worst = lag.max(*worst);
            }
        });
        let each = Duration::from_micros(100);
        (0..1000).for_each(|i| fetch_loop.begin(None, busy(&manual, &log, i, 3, each)));
        manual.settle();
        assert_eq!(answers(&inbox), 1000);
        assert!(*late.lock().unwrap() <= SLICE + each, "{late:?}");
    }

    #[test]
    fn what_gives_way_at_the_end_of_a_slice_goes_on_first() {
        let (manual, fetch_loop, inbox, log) = fixture();
        (0..3).for_each(|i| fetch_loop.begin(None, busy(&manual, &log, i, 3, SLICE)));
        manual.settle();
        assert_eq!(answers(&inbox), 3);
        assert_eq!(*log.lock().unwrap(), [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    }

    // H10
    #[test]
    fn aborted_and_closed_work_is_dropped() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (manual, fetch_loop, inbox, _) = fixture();
        let dropped = Arc::new(AtomicUsize::new(0));
        for key in 0..10 {
            let held = Counted(Arc::clone(&dropped));
            let work = async move {
                let _held = held;
                std::future::pending().await
            };
            fetch_loop.begin(Some(key), Box::pin(work));
        }
        manual.settle();
        fetch_loop.abort(3);
        fetch_loop.abort(99);
        manual.settle();
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
        fetch_loop.close();
        manual.settle();
        assert_eq!((dropped.load(Ordering::Relaxed), answers(&inbox)), (10, 0));
    }

    #[test]
    fn a_deadline_of_the_wheel_wakes_its_fetch() {
        let (manual, fetch_loop, inbox, _) = fixture();
        let timer = fetch_loop.wheel().timer(manual.runtime().now() + Duration::from_millis(100));
        fetch_loop.begin(
            None,
            Box::pin(async move {
                timer.await;
                Message::TaskLost
            }),
        );
        manual.settle();
        manual.advance(Duration::from_millis(99));
        assert_eq!(answers(&inbox), 0);
        manual.advance(Wheel::TICK);
        manual.advance(Wheel::TICK);
        assert_eq!(answers(&inbox), 1);
    }

    // The driver asks how many bytes are booked when it is polled, and nothing else tells it that these are free.
    #[test]
    fn the_driver_is_woken_once_aborted_work_is_dropped() {
        struct Reader(AtomicUsize, Arc<()>);
        impl Wake for Reader {
            fn wake(self: Arc<Self>) {
                self.0.store(Arc::strong_count(&self.1), Ordering::Relaxed);
            }
        }
        let (manual, fetch_loop, inbox, _) = fixture();
        let held = Arc::new(());
        let reader = Arc::new(Reader(AtomicUsize::new(0), Arc::clone(&held)));
        let work = async move {
            let _held = held;
            std::future::pending().await
        };
        fetch_loop.begin(Some(1), Box::pin(work));
        manual.settle();
        assert!(inbox.poll_next(&mut VecDeque::new(), &Waker::from(Arc::clone(&reader))).is_none());
        fetch_loop.abort(1);
        manual.settle();
        assert_eq!(reader.0.load(Ordering::Relaxed), 1, "not woken, or before the work was gone");
    }

    #[test]
    fn a_deadline_that_a_task_outside_of_the_loop_waits_for_comes_too() {
        let (manual, fetch_loop, _, _) = fixture();
        manual.settle();
        let start = manual.runtime().now();
        let wait_for = |millis| {
            let timer = fetch_loop.wheel().timer(start + Duration::from_millis(millis));
            let over = Arc::new(AtomicUsize::new(0));
            let told = Arc::clone(&over);
            manual.runtime().spawn(async move {
                timer.await;
                told.store(1, Ordering::Relaxed);
            });
            manual.settle();
            over
        };
        let (late, early) = (wait_for(1000), wait_for(100));
        for (time, over) in [(100, &early), (1000, &late)] {
            manual.advance(start + Duration::from_millis(time - 1) - manual.runtime().now());
            assert_eq!(over.load(Ordering::Relaxed), 0);
            (0..3).for_each(|_| manual.advance(Wheel::TICK));
            assert_eq!(over.load(Ordering::Relaxed), 1, "{time}");
        }
    }
}
