//! The heartbeat: a timer that should fire every 5 ms while something is in flight, and how late it is.

use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::inbox::{Inbox, Message};
use crate::engine::{Bound, LagMonitor};
use crate::rt::Runtime;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, keep_waker};

/// Time between two beats.
pub(super) const BEAT: Duration = Duration::from_millis(5);

/// The door to the probe.
pub(super) struct LagProbe {
    shared: Arc<Shared>,
}

struct Shared {
    active: AtomicBool,
    state: Mutex<State>,
}

struct State {
    monitor: LagMonitor,
    waker: Option<Waker>,
    closed_since: Option<Instant>,
    closed: Duration,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// How often the gate closed.
    pub gate_closed_count: u64,
    /// For how long in all.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub gate_closed: Duration,
}

impl LagProbe {
    pub(super) fn start(runtime: &Runtime, inbox: Arc<Inbox>, limit: Duration) -> Self {
        let shared = Arc::new(Shared {
            active: AtomicBool::new(false),
            state: Mutex::new(State {
                monitor: LagMonitor::new(limit),
                waker: None,
                closed_since: None,
                closed: Duration::ZERO,
                ended: false,
            }),
        });
        runtime.spawn(beat(runtime.clone(), Task { shared: Arc::clone(&shared), inbox }));
        Self { shared }
    }

    /// Beats only while something is in flight: an idle crawl polls nothing.
    pub(super) fn set_active(&self, active: bool) {
        if self.shared.active.swap(active, Ordering::AcqRel) != active && active {
            let waker = self.shared.lock().waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
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
            gate_closed_count: state.monitor.closed_count(),
            gate_closed: state.closed + open_interval,
        }
    }
}

/// What the beating task owns.
struct Task {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
}

impl Drop for Task {
    fn drop(&mut self) {
        let ended = self.shared.lock().ended;
        // Nobody would close the gate any more, or open it again.
        if !ended {
            self.inbox.push(Message::TaskLost);
        }
    }
}

async fn beat(runtime: Runtime, task: Task) {
    let shared = &task.shared;
    let resolution = runtime.timer().resolution();
    let mut sleep = runtime.sleep_until(runtime.now() + BEAT);
    loop {
        let active = poll_fn(|cx| {
            let mut state = shared.lock();
            if state.ended {
                return Poll::Ready(false);
            }
            // While the gate is closed the samples must keep coming, or it would never open.
            if shared.active.load(Ordering::Acquire) || state.monitor.is_overloaded() {
                return Poll::Ready(true);
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
        let expected = runtime.now() + BEAT;
        sleep.as_mut().reset(expected);
        sleep.as_mut().await;
        let now = runtime.now();
        let lag = now.saturating_duration_since(expected).saturating_sub(resolution);
        let mut state = shared.lock();
        let change = state.monitor.record(lag);
        match change {
            Some(false) => state.closed_since = Some(now),
            Some(true) => {
                if let Some(since) = state.closed_since.take() {
                    state.closed += now.saturating_duration_since(since);
                }
            }
            None => {}
        }
        drop(state);
        if let Some(open) = change {
            task.inbox.push(Message::Gate { signal: Bound::Lag, open });
        }
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const MS: Duration = Duration::from_millis(1);

    fn gates(inbox: &Inbox) -> Vec<bool> {
        let gate = |message| match message {
            Message::Gate { open, .. } => Some(open),
            _ => None,
        };
        std::iter::from_fn(|| inbox.poll_next(Waker::noop())).filter_map(gate).collect()
    }

    // H7
    #[test]
    fn a_stall_closes_the_gate_and_twenty_beats_open_it() {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let probe = LagProbe::start(&manual.runtime(), Arc::clone(&inbox), 50 * MS);
        probe.set_active(true);
        manual.settle();
        (0..100).for_each(|_| manual.advance(MS));
        assert!(gates(&inbox).is_empty());
        manual.advance(300 * MS);
        assert_eq!(gates(&inbox), [false]);
        let snapshot = probe.snapshot(manual.runtime().now());
        assert!(snapshot.max >= 294 * MS && snapshot.gate_closed_count == 1, "{snapshot:?}");
        (0..150).for_each(|_| manual.advance(MS));
        assert_eq!(gates(&inbox), [true]);
    }

    // K6
    #[test]
    fn a_probe_that_the_runtime_drops_is_missed() {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let probe = LagProbe::start(&manual.runtime(), Arc::clone(&inbox), 50 * MS);
        let task = || Task { shared: Arc::clone(&probe.shared), inbox: Arc::clone(&inbox) };
        drop(beat(manual.runtime(), task()));
        assert!(matches!(inbox.poll_next(Waker::noop()), Some(Message::TaskLost)));
        probe.close();
        drop(beat(manual.runtime(), task()));
        assert!(inbox.poll_next(Waker::noop()).is_none());
    }

    #[test]
    fn an_idle_crawl_beats_not_at_all() {
        let manual = Manual::new();
        let inbox = Arc::new(Inbox::default());
        let probe = LagProbe::start(&manual.runtime(), Arc::clone(&inbox), 50 * MS);
        probe.set_active(true);
        manual.settle();
        probe.set_active(false);
        manual.advance(BEAT);
        let before = probe.snapshot(manual.runtime().now());
        manual.advance(Duration::from_secs(10));
        assert_eq!(probe.snapshot(manual.runtime().now()).max, before.max);
        assert!(gates(&inbox).is_empty());
    }
}
