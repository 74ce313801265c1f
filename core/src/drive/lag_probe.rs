//! The heartbeat: a timer that should fire every 5 ms while something is in flight, and how late it is. The watchdog looks at
//! it, and at what the tasks of the crawl do, from a thread of its own.

use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::cell::Cell;
use super::fetch_loop::SLICE;
use super::inbox::{Inbox, Message};
use super::latency::Quantiles;
use super::load::Signals;
use super::stall::Seen;
use super::times::Times;
use crate::StallCause;
use crate::engine::LagMonitor;
use crate::machine;
use crate::rt::{Runtime, StallClock};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, keep_waker};
use crate::time::later;

/// Time between two beats, and between two looks of the watchdog where it has something to see.
pub(super) const BEAT: Duration = Duration::from_millis(5);

/// How long after a beat has become too late the watchdog looks.
const PAST: Duration = Duration::from_millis(1);

/// How late a beat may be, above the timer's resolution, before its lateness is no server's time.
const TOLERANCE: Duration = Duration::from_millis(2);

/// The door to the probe.
pub(super) struct LagProbe {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    inbox: Arc<Inbox>,
    limit: Duration,
    /// How late a timer may be by itself.
    resolution: Duration,
    active: AtomicBool,
    /// Beats so far: with each, one wake-up of a fetch is measured.
    beats: AtomicU64,
    stalls: Arc<StallClock>,
    /// What the quota's counter showed when it was read last, in nanoseconds. Reading it is a file's, so no lock is held.
    throttled: AtomicU64,
    state: Mutex<State>,
}

struct State {
    monitor: LagMonitor,
    late: Times,
    waits: Times,
    waker: Option<Waker>,
    closed_since: Option<Instant>,
    closed: Duration,
    /// The watchdog looks.
    watched: bool,
    workers: Vec<Worked>,
    /// The beat for which the watchdog has closed the gate.
    missed: Option<Instant>,
    ended: bool,
}

/// What the watchdog knows of a task.
struct Worked {
    cell: Arc<Cell>,
    epoch: u64,
    since: Instant,
    /// It has worked for longer than the limit, on this, and nobody was told.
    over: Option<(StallCause, Option<u64>)>,
}

impl Shared {
    fn new(runtime: &Runtime, inbox: Arc<Inbox>, limit: Duration) -> Self {
        let resolution = runtime.timer().resolution();
        let now = runtime.now();
        Self {
            runtime: runtime.clone(),
            inbox,
            limit,
            resolution,
            active: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            stalls: Arc::new(StallClock::new(resolution + TOLERANCE)),
            throttled: AtomicU64::new(throttled_in_all(runtime)),
            state: Mutex::new(State {
                monitor: LagMonitor::new(limit),
                late: Times::new(now),
                waits: Times::new(now),
                waker: None,
                closed_since: None,
                closed: Duration::ZERO,
                watched: false,
                workers: Vec::new(),
                missed: None,
                ended: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By how much a beat that was due at `expected` is late.
    fn lag(&self, expected: Instant, now: Instant) -> Duration {
        now.saturating_duration_since(expected).saturating_sub(self.resolution)
    }

    /// Whether a quota explains this stall, up to now. Asked while no lock is held.
    fn is_throttled(&self, stall: Duration) -> bool {
        let since = throttled_in_all(&self.runtime).saturating_sub(self.throttled.load(Ordering::Relaxed));
        machine::explains(Duration::from_nanos(since), stall)
    }

    /// Notes what the monitor decided; gives what to tell, once the lock is gone: whoever is woken may end the crawl.
    fn gate(state: &mut State, now: Instant, change: Option<bool>) -> Option<Message> {
        let open = change?;
        if !open {
            state.closed_since = Some(now);
        } else if let Some(since) = state.closed_since.take() {
            state.closed += now.saturating_duration_since(since);
        }
        Some(Message::LagGate)
    }

    fn tell(&self, state: MutexGuard<'_, State>, messages: Vec<Message>) {
        drop(state);
        if !messages.is_empty() {
            self.inbox.push_all(messages);
        }
    }

    /// A beat came. The signals belong to the task that beats: what they do is the user's, so no lock is held meanwhile.
    fn beat(&self, expected: Instant, now: Instant, signals: &mut Signals) {
        let lag = self.lag(expected, now);
        self.beats.fetch_add(1, Ordering::Relaxed);
        let is_late = lag > self.limit;
        let throttled = is_late && self.is_throttled(lag);
        let mut messages = Vec::new();
        let mut state = self.lock();
        // Under the lock, or the watchdog would tell of the stall that this beat tells of.
        self.stalls.end(now);
        state.late.record(now, lag);
        if throttled {
            state.monitor.observe(lag);
        } else {
            let change = state.monitor.record(lag);
            messages.extend(Self::gate(&mut state, now, change));
        }
        if is_late {
            // It was one stall, whoever saw it too.
            state.workers.iter_mut().for_each(|worker| worker.over = None);
            let seen = Seen { began: expected, ended: now, lag, throttled };
            messages.push(Message::Stall { seen, by: None });
        }
        self.tell(state, messages);
        if signals.is_due(now) || is_late {
            self.throttled.store(throttled_in_all(&self.runtime), Ordering::Relaxed);
            let changes = signals.look();
            if !changes.is_empty() {
                self.inbox.push_all(changes);
            }
        }
    }

    /// What the watchdog does; gives when it looks next.
    fn look(&self) -> ControlFlow<(), Duration> {
        let now = self.runtime.now();
        let mut messages = Vec::new();
        let mut guard = self.lock();
        let state = &mut *guard;
        let expected = self.stalls.expected();
        if state.ended || (expected.is_none() && !self.active.load(Ordering::Acquire)) {
            state.watched = false;
            return ControlFlow::Break(());
        }
        let late = expected.map_or(Duration::ZERO, |expected| self.lag(expected, now));
        let is_late = late > self.limit;
        // The longest sign of a stall that nobody has seen yet, or that lasts.
        let mut sign = Duration::ZERO;
        if is_late && state.missed != expected {
            state.missed = expected;
            sign = late;
        }
        for worker in &mut state.workers {
            let shown = worker.cell.show();
            let worked = now.saturating_duration_since(worker.since);
            if shown.epoch != worker.epoch {
                let began = std::mem::replace(&mut worker.since, now);
                worker.epoch = shown.epoch;
                // A beat that is late tells by itself.
                if let Some(by) = worker.over.take().filter(|_| !is_late) {
                    let seen = Seen { began, ended: now, lag: worked, throttled: false };
                    messages.push(Message::Stall { seen, by: Some(by) });
                }
            } else if let Some(by) = shown.busy.filter(|_| worked > self.limit) {
                if !is_late {
                    worker.over.get_or_insert(by);
                }
                sign = sign.max(worked);
            }
        }
        // On one thread whatever holds up a task holds up the beat, and before that is too late there is nothing to see.
        let is_quiet = !is_late && self.runtime.spawner().parallelism() == NonZeroUsize::MIN;
        let is_quiet = is_quiet && state.workers.iter().all(|worker| worker.over.is_none());
        self.tell(guard, messages);
        if sign > self.limit {
            self.press(now, sign);
        }
        let bearable = self.limit.saturating_add(self.resolution + PAST);
        let too_late = expected.filter(|_| is_quiet).map(|expected| later(expected, bearable));
        ControlFlow::Continue(too_late.map_or(BEAT, |at| at.saturating_duration_since(now)))
    }

    /// A sign of lag that is no beat, unless it is the quota's.
    fn press(&self, now: Instant, sign: Duration) {
        if self.is_throttled(sign) {
            return;
        }
        let mut state = self.lock();
        let change = state.monitor.press(sign);
        let message = Self::gate(&mut state, now, change);
        self.tell(state, message.into_iter().collect());
    }
}

/// Nanoseconds.
fn throttled_in_all(runtime: &Runtime) -> u64 {
    let throttled = runtime.watch().and_then(crate::rt::Watch::throttled).unwrap_or_default();
    u64::try_from(throttled.as_nanos()).unwrap_or(u64::MAX)
}

/// What the probe has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LagSnapshot {
    /// Half of the beats were not later than this.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub p50: Duration,
    /// 99 of 100.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub p99: Duration,
    /// 999 of 1,000.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub p999: Duration,
    /// The latest.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub max: Duration,
    /// How late the beats of the last 5 to 10 s were.
    pub last: Quantiles,
    /// How long fetches waited from being woken to being polled; one is measured with each beat.
    pub wait: Quantiles,
    /// The same in the last 5 to 10 s.
    pub wait_last: Quantiles,
    /// The time in which the loop stood still: by so much deadlines of phases were put off.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub stalled: Duration,
    /// How often the gate closed for lag.
    pub gate_closed_count: u64,
    /// For how long in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub gate_closed: Duration,
}

impl LagProbe {
    pub(super) fn start(runtime: &Runtime, inbox: Arc<Inbox>, limit: Duration, signals: Signals) -> Self {
        let shared = Arc::new(Shared::new(runtime, inbox, limit));
        runtime.spawn(beat(runtime.clone(), Task { shared: Arc::clone(&shared), signals }));
        Self { shared }
    }

    /// A task whose work is watched.
    pub(super) fn worker(&self) -> Worker {
        let cell = Arc::new(Cell::new());
        let since = self.shared.runtime.now();
        self.shared.lock().workers.push(Worked { cell: Arc::clone(&cell), epoch: 0, since, over: None });
        Worker { cell, shared: Arc::clone(&self.shared) }
    }

    /// Beats only while something is in flight: an idle crawl polls nothing.
    pub(super) fn set_active(&self, active: bool) {
        if self.shared.active.swap(active, Ordering::AcqRel) == active || !active {
            return;
        }
        // The task may be polled late already.
        self.shared.stalls.begin(self.shared.runtime.now() + BEAT);
        let mut state = self.shared.lock();
        let waker = state.waker.take();
        let starts = !state.ended && !std::mem::replace(&mut state.watched, true);
        drop(state);
        if starts && let Some(watch) = self.shared.runtime.watch() {
            let shared = Arc::downgrade(&self.shared);
            let look = move || shared.upgrade().map_or(ControlFlow::Break(()), |shared| shared.look());
            watch.watch(BEAT, Box::new(look));
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the gate is open, as far as lag goes.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.lock().monitor.is_overloaded()
    }

    pub(super) fn close(&self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn snapshot(&self, now: Instant) -> LagSnapshot {
        let state = self.shared.lock();
        let open_interval = state.closed_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        LagSnapshot {
            p50: state.monitor.quantile(0.5),
            p99: state.monitor.quantile(0.99),
            p999: state.monitor.quantile(0.999),
            max: state.monitor.max(),
            last: state.late.last(now),
            wait: state.waits.total(),
            wait_last: state.waits.last(now),
            stalled: self.shared.stalls.stalled(now),
            gate_closed_count: state.monitor.closed_count(),
            gate_closed: state.closed + open_interval,
        }
    }
}

/// What a task of the crawl tells of its work.
pub(super) struct Worker {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
}

impl Worker {
    /// One that nobody watches.
    #[cfg(test)]
    pub(super) fn alone(runtime: &Runtime, inbox: &Arc<Inbox>) -> Self {
        let limit = Duration::from_secs(3600);
        let shared = Shared::new(runtime, Arc::clone(inbox), limit);
        Self { cell: Arc::new(Cell::new()), shared: Arc::new(shared) }
    }

    /// Another door to the same task, for what it calls.
    pub(super) fn share(&self) -> Self {
        Self { cell: Arc::clone(&self.cell), shared: Arc::clone(&self.shared) }
    }

    pub(super) fn now(&self) -> Instant {
        self.shared.runtime.now()
    }

    pub(super) fn stalls(&self) -> Arc<StallClock> {
        Arc::clone(&self.shared.stalls)
    }

    /// The number of the beat.
    pub(super) fn beat(&self) -> u64 {
        self.shared.beats.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self, cause: StallCause, job: Option<u64>) {
        self.cell.enter(cause, job);
    }

    /// The work is over. Tells of it where it may explain a stall; `true` where it did.
    pub(super) fn leave(&self, job: Option<u64>, began: Instant, ended: Instant) -> bool {
        let cause = self.cell.cause();
        self.cell.leave();
        let is_slow = self.is_slow(began, ended);
        if is_slow {
            self.shared.inbox.push(Message::Slow { cause, job, began, ended });
        }
        is_slow
    }

    /// As [`leave`](Self::leave), for work that began in a slice: unless that is over, it was not slow.
    pub(super) fn leave_slice(&self, is_over: bool, job: Option<u64>, began: Instant, ended: Instant) {
        if is_over || self.shared.limit < 2 * SLICE {
            self.leave(job, began, ended);
        } else {
            self.cell.leave();
        }
    }

    fn is_slow(&self, began: Instant, ended: Instant) -> bool {
        ended.saturating_duration_since(began) > self.shared.limit / 2
    }

    /// Calls what should be quick, in the middle of a poll. Where it was not, the poll was about it.
    pub(super) fn hook<T>(&self, call: impl FnOnce() -> T) -> T {
        let was = self.cell.cause();
        self.cell.set_cause(StallCause::Hook);
        let began = self.shared.runtime.now();
        let out = call();
        if !self.is_slow(began, self.shared.runtime.now()) {
            self.cell.set_cause(was);
        }
        out
    }

    /// Polls `work` as this task's.
    pub(super) async fn watch<F: Future>(&self, cause: StallCause, job: Option<u64>, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            let began = self.shared.runtime.now();
            self.enter(cause, job);
            let polled = work.as_mut().poll(cx);
            self.leave(job, began, self.shared.runtime.now());
            polled
        })
        .await
    }

    /// A fetch was polled so long after it was woken.
    pub(super) fn waited(&self, now: Instant, wait: Duration) {
        self.shared.lock().waits.record(now, wait);
        if wait > self.shared.limit {
            self.shared.press(now, wait);
        }
    }
}

/// What the beating task owns.
struct Task {
    shared: Arc<Shared>,
    signals: Signals,
}

impl Drop for Task {
    fn drop(&mut self) {
        let ended = self.shared.lock().ended;
        // Nobody would close the gate any more, or open it again.
        if !ended {
            self.shared.inbox.push(Message::TaskLost);
        }
    }
}

async fn beat(runtime: Runtime, mut task: Task) {
    let Task { shared, signals } = &mut task;
    let mut sleep = None;
    loop {
        let held_shut = signals.is_shut();
        let active = poll_fn(|cx| {
            let now = runtime.now();
            let mut state = shared.lock();
            if state.ended {
                return Poll::Ready(false);
            }
            // While the gate is closed the samples must keep coming, or it would never open.
            let shut = state.monitor.is_overloaded() || held_shut;
            if shared.active.load(Ordering::Acquire) || shut {
                return Poll::Ready(true);
            }
            if shared.stalls.expected().is_some() {
                shared.stalls.end(now);
            }
            let replaced = keep_waker(&mut state.waker, cx.waker());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await;
        if !active {
            return;
        }
        let expected = shared.stalls.begin(runtime.now() + BEAT);
        let sleep = sleep.get_or_insert_with(|| runtime.sleep_until(expected));
        sleep.as_mut().reset(expected);
        sleep.as_mut().await;
        shared.beat(expected, runtime.now(), signals);
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::rt::manual::Manual;

    const MS: Duration = Duration::from_millis(1);

    fn gates(inbox: &Inbox, probe: &LagProbe) -> Vec<bool> {
        let gate = |message| match message {
            Message::LagGate => Some(probe.is_open()),
            _ => None,
        };
        let mut taken = VecDeque::new();
        std::iter::from_fn(move || inbox.poll_next(&mut taken, Waker::noop())).filter_map(gate).collect()
    }

    // H7
    #[test]
    fn a_stall_closes_the_gate_and_twenty_beats_open_it() {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let probe = LagProbe::start(&manual.runtime(), Arc::clone(&inbox), 50 * MS, Signals::new());
        probe.set_active(true);
        manual.settle();
        (0..100).for_each(|_| manual.advance(MS));
        assert!(gates(&inbox, &probe).is_empty());
        manual.advance(300 * MS);
        assert_eq!(gates(&inbox, &probe), [false]);
        let snapshot = probe.snapshot(manual.runtime().now());
        assert!(snapshot.max >= 294 * MS && snapshot.gate_closed_count == 1, "{snapshot:?}");
        (0..150).for_each(|_| manual.advance(MS));
        assert_eq!(gates(&inbox, &probe), [true]);
    }

    #[test]
    fn the_watchdog_of_one_thread_looks_once_a_beat_is_too_late() {
        let manual = Manual::new();
        let probe = LagProbe::start(&manual.runtime(), Arc::default(), 50 * MS, Signals::new());
        probe.set_active(true);
        manual.settle();
        assert_eq!(probe.shared.look(), ControlFlow::Continue(BEAT + 50 * MS + PAST));
        manual.pass(BEAT + 50 * MS);
        assert_eq!(probe.shared.look(), ControlFlow::Continue(PAST));
        assert!(probe.is_open(), "the beat is as late as it may be");
        manual.pass(PAST);
        assert_eq!(probe.shared.look(), ControlFlow::Continue(BEAT));
        assert!(!probe.is_open());
        manual.advance(BEAT);
        assert_eq!(probe.shared.look(), ControlFlow::Continue(BEAT + 50 * MS + PAST));
    }

    // K6
    #[test]
    fn a_probe_that_the_runtime_drops_is_missed() {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let probe = LagProbe::start(&manual.runtime(), Arc::clone(&inbox), 50 * MS, Signals::new());
        let task = || Task { shared: Arc::clone(&probe.shared), signals: Signals::new() };
        drop(beat(manual.runtime(), task()));
        assert!(matches!(inbox.poll_next(&mut VecDeque::new(), Waker::noop()), Some(Message::TaskLost)));
        probe.close();
        drop(beat(manual.runtime(), task()));
        assert!(inbox.poll_next(&mut VecDeque::new(), Waker::noop()).is_none());
    }

    #[test]
    fn an_idle_crawl_beats_not_at_all() {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let probe = LagProbe::start(&manual.runtime(), Arc::clone(&inbox), 50 * MS, Signals::new());
        probe.set_active(true);
        manual.settle();
        probe.set_active(false);
        manual.advance(BEAT);
        let before = probe.snapshot(manual.runtime().now());
        manual.advance(Duration::from_secs(10));
        assert_eq!(probe.snapshot(manual.runtime().now()).max, before.max);
        assert!(gates(&inbox, &probe).is_empty());
    }
}
