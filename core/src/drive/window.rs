//! The last window of a run: sums that were put down at every tenth of it, so that a difference is what happened since.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::{Bound, LittlesLaw};

/// Marks in a window.
const MARKS: u32 = 10;

/// Marks after which half of a window is over.
pub(super) const HALF: u32 = MARKS / 2;

/// What is summed up, at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub(super) at: Instant,
    pub(super) starts: u64,
    pub(super) settled: u64,
    pub(super) bytes_wire: u64,
    /// Fetches that ended, and how long they took together.
    pub(super) ended: u64,
    pub(super) took: Duration,
    /// Nanoseconds times fetches in flight.
    pub(super) area: u128,
    pub(super) bounds: [Duration; Bound::ALL.len()],
    /// CPU time of the process, and when it was asked for.
    pub(super) cpu: Option<(Instant, Duration)>,
}

/// What happened in the last window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recent {
    /// How long it was: the window that was asked for and up to a tenth more, or less where the run is younger.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub span: Duration,
    /// Attempts and hops that were started, a second.
    pub starts_per_second: f64,
    /// URLs that got their verdict, a second.
    pub settled_per_second: f64,
    /// Bytes of bodies on the wire, a second; counted where a URL is settled.
    pub bytes_per_second: f64,
    /// CPU time of this process, all its threads, for each second: 2.0 is two cores. Nothing where it cannot be known,
    /// as on a simulated runtime.
    pub cpu: Option<f64>,
    /// Whether what begins also ends.
    pub littles_law: LittlesLaw,
}

/// The marks of the last window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    step: Duration,
    next: Instant,
    /// From one to `MARKS + 1`, the oldest first.
    marks: VecDeque<Sums>,
}

impl Window {
    pub(super) fn new(span: Duration, start: Sums) -> Self {
        let step = (span / MARKS).max(Duration::from_millis(1));
        let next = crate::time::later(start.at, step);
        Self { step, next, marks: VecDeque::from([start]) }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Puts down the sums at each mark that is due, as `at` gives them; the number of marks that passed.
    ///
    /// Nothing has changed but by time since the last call, so that marks of an idle time are made up exactly.
    pub(super) fn mark(&mut self, now: Instant, at: impl Fn(Instant) -> Sums) -> u32 {
        if !self.is_due(now) {
            return 0;
        }
        let steps = now.saturating_duration_since(self.next).as_nanos() / self.step.as_nanos().max(1);
        let passed = u32::try_from(steps).unwrap_or(u32::MAX).saturating_add(1);
        // More than a window of them says nothing more.
        let skipped = passed.saturating_sub(MARKS + 1);
        self.next += self.step * skipped;
        for _ in skipped..passed {
            self.marks.push_back(at(self.next));
            self.next += self.step;
        }
        let surplus = self.marks.len().saturating_sub(MARKS as usize + 1);
        self.marks.drain(..surplus);
        passed
    }

    /// What happened from the oldest mark to `now`.
    pub(super) fn recent(&self, now: &Sums) -> Recent {
        let Some(then) = self.marks.front() else { return Recent::default() };
        let span = now.at.saturating_duration_since(then.at);
        let seconds = span.as_secs_f64();
        if seconds <= 0.0 {
            return Recent::default();
        }
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let cpu = now.cpu.zip(then.cpu).and_then(|((at, cpu), (then_at, then_cpu))| {
            let wall = at.saturating_duration_since(then_at).as_secs_f64();
            (wall > 0.0).then(|| cpu.saturating_sub(then_cpu).as_secs_f64() / wall)
        });
        let in_flight = u64::try_from(now.area.saturating_sub(then.area)).unwrap_or(u64::MAX);
        let ended = now.ended.saturating_sub(then.ended);
        let took = now.took.saturating_sub(then.took);
        Recent {
            span,
            starts_per_second: rate(now.starts, then.starts),
            settled_per_second: rate(now.settled, then.settled),
            bytes_per_second: rate(now.bytes_wire, then.bytes_wire),
            cpu,
            littles_law: LittlesLaw::over(span, Duration::from_nanos(in_flight), ended, took),
        }
    }

    /// The time under each bound from the oldest mark to `now`.
    pub(super) fn bounds(&self, now: &Sums) -> [Duration; Bound::ALL.len()] {
        let then = self.marks.front().map_or([Duration::ZERO; Bound::ALL.len()], |then| then.bounds);
        std::array::from_fn(|of| now.bounds[of].saturating_sub(then[of]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const SECOND: Duration = Duration::from_secs(1);

    fn sums(at: Instant, n: u64) -> Sums {
        Sums {
            at,
            starts: n,
            settled: n,
            bytes_wire: 1_000 * n,
            ended: n,
            took: SECOND * n as u32,
            area: u128::from(n) * SECOND.as_nanos(),
            bounds: [SECOND * n as u32; Bound::ALL.len()],
            cpu: Some((at, SECOND * n as u32 / 2)),
        }
    }

    #[test]
    fn a_window_is_what_happened_since_its_oldest_mark() {
        let start = Manual::new().runtime().now();
        let mut window = Window::new(10 * SECOND, sums(start, 0));
        assert_eq!(window.recent(&sums(start, 0)), Recent::default());
        // One a second at first: the run is younger than a window.
        for n in 1..=4_u32 {
            let now = start + SECOND * n;
            assert!(!window.is_due(now - Duration::from_nanos(1)));
            assert_eq!(window.mark(now, |at| sums(at, n.into())), 1);
        }
        let recent = window.recent(&sums(start + 4 * SECOND, 4));
        assert_eq!((recent.span, recent.starts_per_second, recent.cpu), (4 * SECOND, 1.0, Some(0.5)));
        assert_eq!((recent.bytes_per_second, recent.littles_law.ratio), (1_000.0, Some(1.0)));
        // Then ten a second: after eleven seconds nothing is left of what was before.
        for n in 5..=15_u32 {
            window.mark(start + SECOND * n, |at| sums(at, u64::from(n - 4) * 10 + 4));
        }
        let recent = window.recent(&sums(start + 15 * SECOND, 114));
        assert_eq!((recent.span, recent.starts_per_second), (10 * SECOND, 10.0));
    }

    #[test]
    fn an_idle_time_is_made_up_mark_by_mark() {
        let start = Manual::new().runtime().now();
        let mut window = Window::new(10 * SECOND, sums(start, 0));
        window.mark(start + SECOND, |at| sums(at, 100));
        let passed = window.mark(start + 3_600 * SECOND, |at| sums(at, 100));
        assert_eq!((passed, window.marks.len()), (3_599, 11));
        let recent = window.recent(&sums(start + 3_600 * SECOND, 100));
        assert_eq!((recent.span, recent.starts_per_second), (10 * SECOND, 0.0));
        assert!(!window.is_due(start + 3_600 * SECOND), "the next is a step away");
        assert!(window.is_due(start + 3_601 * SECOND));
    }

    #[test]
    fn bounds_of_the_window_are_differences() {
        let start = Manual::new().runtime().now();
        let mut window = Window::new(10 * SECOND, sums(start, 0));
        (1..=20_u32).for_each(|n| _ = window.mark(start + SECOND * n, |at| sums(at, n.into())));
        assert_eq!(window.bounds(&sums(start + 20 * SECOND, 20))[0], 10 * SECOND);
    }
}
