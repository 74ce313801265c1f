//! Pausing and ending a crawl.

use std::time::{Duration, Instant};

use super::{Action, Bound, Ending, Engine, JobId, JobVerdict, Stage};
use crate::time::later;

/// How to end a crawl.
///
/// ```
/// use std::time::Duration;
/// use tidegate::Shutdown;
/// let default = Shutdown::Graceful { within: Duration::from_secs(30) };
/// assert_ne!(default, Shutdown::Now);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// Start nothing; let what is in flight end within this time, then stop it.
    Graceful {
        /// The time it is given.
        within: Duration,
    },
    /// Stop everything now.
    Now,
}

impl Engine {
    /// Starts no fetch until [`resume`](Self::resume); what is in flight goes on.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Ends a pause; the crawl ramps up again from what is in flight.
    pub fn resume(&mut self, now: Instant) {
        if std::mem::take(&mut self.paused) {
            self.limiter.restart(now, self.counters.in_flight, None);
        }
    }

    /// Ends the crawl: what waits is cancelled at once, the rest as `how` says. A second call can only be stricter.
    pub fn shutdown(&mut self, now: Instant, how: Shutdown) {
        let until = match how {
            Shutdown::Graceful { within } => later(now, within),
            Shutdown::Now => now,
        };
        match self.ending {
            Some(Ending::Aborted) => return,
            Some(Ending::Drains { until: before }) if before <= until => return,
            _ => self.ending = Some(Ending::Drains { until }),
        }
        self.bound.set(Bound::Stopped, now);
        for id in self.living(Stage::waits) {
            self.settle(id, JobVerdict::Cancelled);
        }
        self.end_if_due(now);
    }

    /// Cancels what was never started, for a crawl that has started as much as it may.
    pub fn cancel_unstarted(&mut self) {
        for id in self.living(Stage::waits) {
            if self.job(id).is_some_and(|job| job.attempts == 0) {
                self.settle(id, JobVerdict::Cancelled);
            }
        }
    }

    /// Cancels one job, wherever it is.
    pub fn cancel(&mut self, now: Instant, id: JobId) {
        let Some(stage) = self.job(id).map(|j| j.stage).filter(|stage| *stage != Stage::Settling) else { return };
        self.leave_stage(now, id);
        if !stage.waits() {
            self.actions.push_back(Action::Abort(id));
        }
        self.settle(id, JobVerdict::Cancelled);
    }

    /// Whether the crawl is ending.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    pub(super) fn end_if_due(&mut self, now: Instant) {
        let Some(Ending::Drains { until }) = self.ending else { return };
        if until > now {
            return;
        }
        self.ending = Some(Ending::Aborted);
        for id in self.living(|stage| stage != Stage::Settling) {
            self.cancel(now, id);
        }
    }

    fn living(&self, which: impl Fn(Stage) -> bool) -> Vec<JobId> {
        let of = |(index, job): (usize, &super::Job)| JobId { index: index as u32, serial: job.serial };
        self.jobs.iter().filter(|(_, job)| which(job.stage)).map(of).collect()
    }
}
