//! [`Ticker`]: an independent witness of how long a thread's other tasks wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::channel::oneshot;
use tidegate::rt::Runtime;

/// A task that should wake every [`TICK`](Self::TICK), and records how late each of these times it did. A tick that was
/// missed counts as late as it was noticed, so that one stall weighs as much as it lasted.
///
/// ```
/// use tidegate_benches::Ticker;
///
/// let runtime = tidegate_smol::dedicated()?;
/// let lateness = Ticker::start(&runtime).stop()?;
/// assert!(lateness.p50 <= lateness.max);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Ticker {
    stop: Arc<AtomicBool>,
    late: oneshot::Receiver<Vec<Duration>>,
}

/// How late ticks were, in milliseconds.
///
/// ```
/// assert_eq!(tidegate_benches::Lateness::of(Vec::new()).ticks, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Lateness {
    /// Half of the ticks were not later.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// The latest.
    pub max: f64,
    /// Ticks that should have been.
    pub ticks: usize,
}

impl Ticker {
    /// Time between two ticks.
    pub const TICK: Duration = Duration::from_millis(2);

    /// Starts to tick on this runtime.
    pub fn start(runtime: &Runtime) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (done, late) = oneshot::channel();
        let (stopped, clock) = (Arc::clone(&stop), runtime.clone());
        runtime.spawn(async move {
            let mut ticks = Vec::new();
            let mut expected = clock.now() + Self::TICK;
            let mut sleep = clock.sleep_until(expected);
            while !stopped.load(Ordering::Relaxed) {
                sleep.as_mut().reset(expected);
                sleep.as_mut().await;
                let now = clock.now();
                while expected <= now {
                    ticks.push(now - expected);
                    expected += Self::TICK;
                }
            }
            let _ = done.send(ticks);
        });
        Self { stop, late }
    }

    /// Ends with the next tick, and blocks until then: not for the thread that it ticks on.
    ///
    /// # Errors
    /// Where the runtime has ended.
    pub fn stop(self) -> Result<Lateness, oneshot::Canceled> {
        async_io::block_on(self.ended())
    }

    /// Ends with the next tick.
    ///
    /// # Errors
    /// Where the runtime has ended.
    pub async fn ended(self) -> Result<Lateness, oneshot::Canceled> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(Lateness::of(self.late.await?))
    }
}

impl Lateness {
    /// Sums up the lateness of each tick.
    pub fn of(mut ticks: Vec<Duration>) -> Self {
        ticks.sort_unstable();
        let at = |part: f64| {
            let index = (ticks.len() as f64 * part) as usize;
            ticks.get(index.min(ticks.len().saturating_sub(1))).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0), ticks: ticks.len() }
    }

    /// The median of each figure over several runs, and the sum of their ticks.
    pub fn median(runs: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(runs.iter().map(part));
        Self {
            p50: of(|run| run.p50),
            p99: of(|run| run.p99),
            p999: of(|run| run.p999),
            max: of(|run| run.max),
            ticks: runs.iter().map(|run| run.ticks).sum(),
        }
    }
}

/// The median; 0 where there is nothing.
///
/// ```
/// assert_eq!(tidegate_benches::median([3.0, 1.0, 2.0]), 2.0);
/// ```
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_hundred_ticks() {
        let ticks = (0..100).map(Duration::from_millis).collect();
        let lateness = Lateness::of(ticks);
        assert_eq!((lateness.p50, lateness.p99, lateness.max, lateness.ticks), (50.0, 99.0, 99.0, 100));
    }

    #[test]
    fn medians_are_taken_figure_by_figure() {
        let run = |p50, p99, max| Lateness { p50, p99, p999: p99, max, ticks: 10 };
        let median = Lateness::median(&[run(1.0, 9.0, 10.0), run(2.0, 7.0, 30.0), run(3.0, 8.0, 20.0)]);
        assert_eq!(median, Lateness { p50: 2.0, p99: 8.0, p999: 8.0, max: 20.0, ticks: 30 });
    }
}
