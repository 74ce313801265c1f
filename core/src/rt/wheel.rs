//! A coarse timer wheel for phase deadlines: tens of thousands of them cost the runtime one timer.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Moment, Runtime, Sleep, StallClock};
use crate::sync::{Mutex, MutexGuard, keep_waker};
use crate::time::later;

const SLOTS: usize = 512;

const TICK_NANOS: u64 = 8_000_000;

/// A hashed timer wheel. Adding, extending and dropping a timer are O(1); extending moves nothing, because an entry is
/// put further on only when its slot comes round. Timers fire up to one [`TICK`](Self::TICK) late, never early.
///
/// The fetch loop that owns it calls [`advance`](Self::advance); see there.
///
/// ```
/// use std::time::Duration;
/// use tidegate::rt::{Runtime, Wheel};
///
/// /// Turns the wheel until no timer is left.
/// async fn turn(runtime: Runtime, wheel: Wheel) {
///     while let Some(next) = wheel.advance(runtime.now()) {
///         runtime.sleep_until(next).await;
///     }
/// }
///
/// async fn two_phases(runtime: Runtime) {
///     let wheel = Wheel::new(&runtime);
///     let (head, mut body) = (wheel.timer(runtime.now()), wheel.timer(runtime.now()));
///     body.reset(runtime.now() + Duration::from_secs(1));
///     futures::join!(head, body, turn(runtime.clone(), wheel));
/// }
/// ```
#[derive(Clone)]
pub struct Wheel(Arc<Shared>);

struct Shared {
    origin: Instant,
    runtime: Runtime,
    /// Where the loop stands still now and then.
    stalls: Option<Arc<StallClock>>,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Vec<u32>>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The first tick that has not been looked at.
    tick: u64,
    live: usize,
    /// The task that turns the wheel, and until which tick it sleeps: 0 while it is awake.
    turner: Option<Waker>,
    sleeps_until: u64,
}

struct Entry {
    deadline: u64,
    waker: Option<Waker>,
    phase: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Armed,
    /// Dropped by its owner while a slot still names it.
    Dropped,
    Fired,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticks that are over at `now`.
    fn ticks(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos() / Wheel::TICK.as_nanos();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }

    /// The tick at whose end `at` is over.
    fn tick_of(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(since.div_ceil(Wheel::TICK.as_nanos())).unwrap_or(u64::MAX)
    }
}

impl Wheel {
    /// The resolution.
    pub const TICK: Duration = Duration::from_nanos(TICK_NANOS);

    /// An empty wheel by the clock of `runtime`.
    pub fn new(runtime: &Runtime) -> Self {
        Self::make(runtime, None)
    }

    /// One whose [`phase`](Self::phase)s are put off by these stalls.
    pub(crate) fn with_stalls(runtime: &Runtime, stalls: Arc<StallClock>) -> Self {
        Self::make(runtime, Some(stalls))
    }

    fn make(runtime: &Runtime, stalls: Option<Arc<StallClock>>) -> Self {
        Self(Arc::new(Shared {
            origin: runtime.now(),
            runtime: runtime.clone(),
            stalls,
            state: Mutex::new(State {
                slots: (0..SLOTS).map(|_| Vec::new()).collect(),
                entries: Vec::new(),
                free: Vec::new(),
                tick: 0,
                live: 0,
                turner: None,
                sleeps_until: 0,
            }),
        }))
    }

    /// A timer for `at`.
    pub fn timer(&self, at: Instant) -> PhaseTimer {
        PhaseTimer { kind: Kind::Wheel { wheel: self.clone(), at, entry: None }, credit: Allowance::None }
    }

    /// A timer for the end of a phase that begins at `now`: put off by the time that the loop stands still meanwhile, at most
    /// by the phase's own length. [`PhaseTimer::reset`] begins the phase anew.
    pub(crate) fn phase(&self, now: Instant, length: Duration) -> PhaseTimer {
        let at = later(now, length);
        let credit = match &self.0.stalls {
            Some(stalls) => {
                let stalled = Moment::stalled(|now| stalls.stalled(now)).unwrap_or_else(|| stalls.stalled(now));
                Allowance::unused(stalled, length)
            }
            None => Allowance::None,
        };
        PhaseTimer { kind: Kind::Wheel { wheel: self.clone(), at, entry: None }, credit }
    }

    /// The time that the loop stood still, up to `now`.
    pub(crate) fn stalled(&self, now: Instant) -> Duration {
        self.0.stalls.as_ref().map_or(Duration::ZERO, |stalls| stalls.stalled(now))
    }

    /// Fires what is due at `now` and says when to call again; `None` while no timer is armed.
    pub fn advance(&self, now: Instant) -> Option<Instant> {
        self.turn(now, None)
    }

    /// Does the same for a task that then sleeps until that time: `waker` is used where a timer comes that is due before,
    /// on another thread or from another task of this one.
    pub(crate) fn advance_and_sleep(&self, now: Instant, waker: &Waker) -> Option<Instant> {
        self.turn(now, Some(waker))
    }

    fn turn(&self, now: Instant, sleeper: Option<&Waker>) -> Option<Instant> {
        let mut due = Vec::new();
        let mut state = self.0.lock();
        let next = state.turn_to(self.0.ticks(now), &mut due);
        state.sleeps_until = 0;
        let mut replaced = None;
        if let Some(waker) = sleeper {
            state.sleeps_until = next.unwrap_or(u64::MAX);
            replaced = keep_waker(&mut state.turner, waker);
        }
        drop(state);
        drop(replaced);
        due.into_iter().for_each(Waker::wake);
        next.map(|tick| self.0.origin + Duration::from_nanos(TICK_NANOS.saturating_mul(tick)))
    }

    /// Timers that are armed.
    pub fn len(&self) -> usize {
        self.0.lock().live
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Arms a timer. Gives the task to wake where it sleeps for longer.
    fn insert(&mut self, deadline: u64, waker: Waker) -> (u32, Option<Waker>) {
        let entry = Entry { deadline, waker: Some(waker), phase: Life::Armed };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 timers")
            }
        };
        self.live += 1;
        self.place(index, deadline);
        if deadline >= self.sleeps_until {
            return (index, None);
        }
        self.sleeps_until = 0;
        (index, self.turner.take())
    }

    fn place(&mut self, index: u32, deadline: u64) {
        let slot = deadline.max(self.tick) % SLOTS as u64;
        self.slots[slot as usize].push(index);
    }

    /// Looks at all ticks up to this one, and says which is the next with anything in it.
    fn turn_to(&mut self, until: u64, due: &mut Vec<Waker>) -> Option<u64> {
        if self.live == 0 && self.slots.iter().all(Vec::is_empty) {
            self.tick = self.tick.max(until);
            return None;
        }
        // After a long gap each slot is looked at once.
        let first = self.tick.max(until.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=until {
            self.look_at(tick, until, due);
        }
        self.tick = self.tick.max(until + 1);
        self.next_tick()
    }

    fn look_at(&mut self, tick: u64, until: u64, due: &mut Vec<Waker>) {
        let slot = (tick % SLOTS as u64) as usize;
        let mut names = std::mem::take(&mut self.slots[slot]);
        names.retain(|&index| {
            let entry = &mut self.entries[index as usize];
            if entry.phase == Life::Dropped {
                self.free.push(index);
                return false;
            }
            if entry.deadline <= until {
                entry.phase = Life::Fired;
                self.live -= 1;
                due.extend(entry.waker.take());
                return false;
            }
            if entry.deadline % SLOTS as u64 == slot as u64 {
                return true;
            }
            let target = (entry.deadline % SLOTS as u64) as usize;
            self.slots[target].push(index);
            false
        });
        let moved = std::mem::replace(&mut self.slots[slot], names);
        self.slots[slot].extend(moved);
    }

    fn next_tick(&self) -> Option<u64> {
        (self.tick..self.tick + SLOTS as u64).find(|tick| !self.slots[(tick % SLOTS as u64) as usize].is_empty())
    }

    /// Lets a timer go; its waker is dropped by the caller, without the lock.
    fn release(&mut self, index: u32) -> Option<Waker> {
        let entry = &mut self.entries[index as usize];
        let waker = entry.waker.take();
        match entry.phase {
            Life::Armed => {
                entry.phase = Life::Dropped;
                self.live -= 1;
            }
            Life::Fired => self.free.push(index),
            Life::Dropped => {}
        }
        waker
    }
}

impl std::fmt::Debug for Wheel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wheel").field("armed", &self.len()).finish_non_exhaustive()
    }
}

/// A deadline: ready once the clock says so, and never before. That of a phase is put off by our own stalls.
pub struct PhaseTimer {
    kind: Kind,
    credit: Allowance,
}

/// What a timer knows of our stalls: a fetch is small.
enum Allowance {
    /// Nothing puts it off.
    None,
    /// That of a phase whose end has not come: the loop's stalls when it began, in nanoseconds, and its length.
    Unused { before: u64, most: Duration },
    /// That of one whose end has come, which is rare.
    Used(Box<Credit>),
}

enum Kind {
    Wheel { wheel: Wheel, at: Instant, entry: Option<u32> },
    Sleep { runtime: Runtime, at: Instant, sleep: Option<Pin<Box<dyn Sleep>>> },
}

/// By how much a phase is put off.
#[derive(Clone, Copy)]
struct Credit {
    /// The loop's stalls when the phase began.
    before: Duration,
    /// The length of the phase: no more is granted.
    most: Duration,
    /// By how much the timer's deadline is later than the phase's own end.
    granted: Duration,
    /// The stalls within the phase when it was judged last.
    seen: Duration,
    /// It had the turn of I/O that comes after a stall which is longer than what may be granted.
    had_turn: bool,
}

impl Allowance {
    fn unused(before: Duration, most: Duration) -> Self {
        Self::Unused { before: u64::try_from(before.as_nanos()).unwrap_or(u64::MAX), most }
    }

    /// The length of the phase.
    fn most(&self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Unused { most, .. } => Some(*most),
            Self::Used(credit) => Some(credit.most),
        }
    }

    fn credit(&mut self) -> Option<&mut Credit> {
        if let Self::Unused { before, most } = *self {
            *self = Self::Used(Box::new(Credit::new(Duration::from_nanos(before), most)));
        }
        match self {
            Self::Used(credit) => Some(credit),
            _ => None,
        }
    }
}

impl Credit {
    fn new(before: Duration, most: Duration) -> Self {
        Self { before, most, granted: Duration::ZERO, seen: Duration::ZERO, had_turn: false }
    }

    /// Until when the phase that ends at `end` by itself goes on, where it does: what came during a stall was not read yet, so
    /// there is one more turn of I/O after it in any case.
    fn judge(&mut self, end: Instant, now: Instant, stalled: Duration) -> Option<Instant> {
        let within = stalled.saturating_sub(self.before);
        let is_new = within > self.seen;
        self.seen = within;
        let until = end + within.min(self.most);
        let goes_on = until > now || (is_new && !std::mem::replace(&mut self.had_turn, true));
        let until = goes_on.then(|| until.max(now + Wheel::TICK))?;
        self.granted = until.saturating_duration_since(end);
        Some(until)
    }
}

impl PhaseTimer {
    /// A deadline on a timer of the runtime's own.
    pub fn from_sleep(runtime: Runtime, at: Instant) -> Self {
        Self { kind: Kind::Sleep { runtime, at, sleep: None }, credit: Allowance::None }
    }

    /// When it is over, as far as is known.
    pub fn deadline(&self) -> Instant {
        match &self.kind {
            Kind::Wheel { at, .. } | Kind::Sleep { at, .. } => *at,
        }
    }

    /// Sets another deadline, before which no stall has been. A later one costs nothing until the one before is over.
    pub fn reset(&mut self, to: Instant) {
        if let (Some(most), Kind::Wheel { wheel, .. }) = (self.credit.most(), &self.kind) {
            self.credit = Allowance::unused(wheel.stalled(wheel.0.runtime.now()), most);
        }
        self.set(to);
    }

    fn set(&mut self, to: Instant) {
        match &mut self.kind {
            Kind::Wheel { wheel, at, entry } => {
                let later = to >= *at;
                *at = to;
                let Some(index) = *entry else { return };
                let tick = wheel.0.tick_of(to);
                let mut state = wheel.0.lock();
                if later && state.entries[index as usize].phase == Life::Armed {
                    state.entries[index as usize].deadline = tick;
                } else {
                    // Armed anew at the next poll: the slot that names it would come too late, or has passed.
                    let waker = state.release(index);
                    drop(state);
                    drop(waker);
                    *entry = None;
                }
            }
            Kind::Sleep { at, sleep, .. } => {
                let is_earlier = to < *at;
                *at = to;
                // One that fires too early is set again then.
                if let Some(sleep) = sleep.as_mut().filter(|_| is_earlier) {
                    sleep.as_mut().reset(to);
                }
            }
        }
    }

    /// Puts off a deadline that is over by the clock, where the loop stood still within its phase.
    fn put_off(&mut self) -> bool {
        let (Some(credit), Kind::Wheel { wheel, at, .. }) = (self.credit.credit(), &self.kind) else { return false };
        let now = wheel.0.runtime.now();
        let Some(end) = at.checked_sub(credit.granted) else { return false };
        let Some(until) = credit.judge(end, now, wheel.stalled(now)) else { return false };
        self.set(until);
        true
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            Kind::Wheel { wheel, at, entry } => {
                let Some(index) = *entry else {
                    if Moment::now().unwrap_or_else(|| wheel.0.runtime.now()) >= *at {
                        return Poll::Ready(());
                    }
                    let tick = wheel.0.tick_of(*at);
                    let (index, turner) = wheel.0.lock().insert(tick, cx.waker().clone());
                    *entry = Some(index);
                    turner.into_iter().for_each(Waker::wake);
                    return Poll::Pending;
                };
                let mut state = wheel.0.lock();
                let known = &mut state.entries[index as usize];
                if known.phase == Life::Fired {
                    return Poll::Ready(());
                }
                let replaced = keep_waker(&mut known.waker, cx.waker());
                drop(state);
                drop(replaced);
                Poll::Pending
            }
            Kind::Sleep { runtime, at, sleep } => {
                let sleep = sleep.get_or_insert_with(|| runtime.sleep_until(*at));
                loop {
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if runtime.now() >= *at {
                        return Poll::Ready(());
                    }
                    sleep.as_mut().reset(*at);
                }
            }
        }
    }
}

impl Future for PhaseTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timer = &mut *self;
        loop {
            if timer.poll_once(cx).is_pending() {
                return Poll::Pending;
            }
            if !timer.put_off() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for PhaseTimer {
    fn drop(&mut self) {
        if let Kind::Wheel { wheel, entry: Some(index), .. } = &self.kind {
            let waker = wheel.0.lock().release(*index);
            drop(waker);
        }
    }
}

impl std::fmt::Debug for PhaseTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PhaseTimer").field("deadline", &self.deadline()).finish_non_exhaustive()
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::rt::manual::Manual;

    /// A wheel with a task that turns it, as the fetch loop does.
    fn turning(manual: &Manual) -> Wheel {
        let wheel = Wheel::new(&manual.runtime());
        let (turned, runtime) = (wheel.clone(), manual.runtime());
        manual.runtime().spawn(async move {
            loop {
                let next = turned.advance(runtime.now()).unwrap_or_else(|| runtime.now() + Wheel::TICK);
                runtime.sleep_until(next).await;
            }
        });
        wheel
    }

    fn count_fired(manual: &Manual, timers: Vec<PhaseTimer>) -> Arc<AtomicUsize> {
        let fired = Arc::new(AtomicUsize::new(0));
        for mut timer in timers {
            let (fired, runtime) = (Arc::clone(&fired), manual.runtime());
            manual.runtime().spawn(async move {
                (&mut timer).await;
                assert!(runtime.now() >= timer.deadline(), "early");
                fired.fetch_add(1, Ordering::Relaxed);
            });
        }
        fired
    }

    #[test]
    fn never_early_and_at_most_a_tick_late_near_and_far() {
        let manual = Manual::new();
        let wheel = turning(&manual);
        let start = manual.runtime().now();
        // Across several turns of the wheel.
        let at = |i: u64| start + Duration::from_millis(i * 37);
        let fired = count_fired(&manual, (0..400).map(|i| wheel.timer(at(i))).collect());
        manual.settle();
        for millis in 1..=15_000u64 {
            manual.advance(Duration::from_millis(1));
            let fired = fired.load(Ordering::Relaxed) as u64;
            let due = (millis / 37 + 1).min(400);
            let surely = (millis.saturating_sub(2 * Wheel::TICK.as_millis() as u64) / 37 + 1).min(400);
            assert!(fired <= due && fired >= surely, "{millis} ms: {fired} fired, {due} due");
        }
        assert!(wheel.is_empty());
    }

    #[test]
    fn a_long_stall_fires_everything_at_once() {
        let manual = Manual::new();
        let wheel = turning(&manual);
        let start = manual.runtime().now();
        let timers = (0..1000).map(|i| wheel.timer(start + Duration::from_millis(i * 10))).collect();
        let fired = count_fired(&manual, timers);
        manual.settle();
        manual.advance(Duration::from_secs(60));
        assert_eq!(fired.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn reset_moves_a_timer_either_way() {
        let manual = Manual::new();
        let wheel = turning(&manual);
        let start = manual.runtime().now();
        for (first, second) in [(100, 300), (300, 100), (100, 10_000), (10_000, 100)] {
            let now = manual.runtime().now();
            let timer = Arc::new(Mutex::new(wheel.timer(now + Duration::from_millis(first))));
            let fired = Arc::new(AtomicUsize::new(0));
            let (polled, counted) = (Arc::clone(&timer), Arc::clone(&fired));
            let woken = Arc::new(Mutex::new(None::<Waker>));
            let task_waker = Arc::clone(&woken);
            manual.runtime().spawn(async move {
                std::future::poll_fn(|cx| {
                    *task_waker.lock().unwrap() = Some(cx.waker().clone());
                    Pin::new(&mut *polled.lock().unwrap()).poll(cx)
                })
                .await;
                counted.fetch_add(1, Ordering::Relaxed);
            });
            manual.settle();
            timer.lock().unwrap().reset(now + Duration::from_millis(second));
            woken.lock().unwrap().take().unwrap().wake();
            manual.settle();
            for _ in 0..second / 10 - 1 {
                manual.advance(Duration::from_millis(10));
            }
            assert_eq!(fired.load(Ordering::Relaxed), 0, "{first} to {second}: early");
            manual.advance(Duration::from_millis(10) + 2 * Wheel::TICK);
            assert_eq!(fired.load(Ordering::Relaxed), 1, "{first} to {second}");
        }
        assert!(manual.runtime().now() > start);
    }

    #[test]
    fn turns_after_years() {
        let manual = Manual::new();
        let wheel = Wheel::new(&manual.runtime());
        // 2^32 ticks are less than 398 days.
        for days in [397, 1, 3650] {
            manual.pass(Duration::from_secs(days * 24 * 3600));
            let now = manual.runtime().now();
            wheel.advance(now);
            let mut timer = std::pin::pin!(wheel.timer(now + Duration::from_secs(1)));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(timer.as_mut().poll(&mut cx).is_pending());
            let next = wheel.advance(now).expect("armed");
            assert!(next > now && next <= now + Duration::from_secs(1) + Wheel::TICK, "{:?}", next - now);
            wheel.advance(next + Duration::from_secs(1));
            assert!(timer.as_mut().poll(&mut cx).is_ready());
        }
    }

    // H10
    #[test]
    fn dropped_timers_leave_nothing_behind() {
        let manual = Manual::new();
        let wheel = turning(&manual);
        for round in 0..100 {
            let now = manual.runtime().now();
            let timers = (0..50).map(|i| wheel.timer(now + Duration::from_millis(i * 100))).collect();
            let fired = count_fired(&manual, timers);
            manual.settle();
            manual.advance(Duration::from_millis(4_900) + 2 * Wheel::TICK);
            assert_eq!(fired.load(Ordering::Relaxed), 50, "round {round}");
        }
        let state = wheel.0.lock();
        assert!(state.entries.len() <= 200, "{} entries for 50 timers", state.entries.len());
    }

    #[test]
    fn a_sleeping_turner_is_woken_for_an_earlier_timer_alone() {
        struct Woken(AtomicUsize);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let manual = Manual::new();
        let (wheel, now) = (Wheel::new(&manual.runtime()), manual.runtime().now());
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let mut timers = Vec::new();
        // Without a timer it sleeps for ever.
        for (ticks, wakes) in [(10, 1), (20, 1), (10, 1), (5, 2)] {
            wheel.advance_and_sleep(now, &Waker::from(Arc::clone(&woken)));
            let mut timer = wheel.timer(now + Wheel::TICK * ticks);
            assert!(Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop())).is_pending());
            timers.push(timer);
            assert_eq!(woken.0.load(Ordering::Relaxed), wakes, "{ticks} ticks");
        }
    }
}
