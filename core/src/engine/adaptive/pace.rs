//! How many requests a second a host allows, learnt from what it did before it said "too many".

use std::time::{Duration, Instant};

use crate::engine::pacing::Rate;

/// What is left of a pace that was too fast.
const BACK: f64 = 0.9;
/// The part of the highest pace so far that is reached again soon.
const PLATEAU: f64 = 0.97;
/// Of the way to the plateau, a second.
const APPROACH: f64 = 0.2;
/// Growth a second between the plateau and the highest pace, where a mistake costs a wait; and beyond, where it was none.
const CREEP: f64 = 0.002;
const BEYOND: f64 = 0.05;
/// A pace so far above what the host refused is none.
const FORGOTTEN: f64 = 3.0;
/// Requests a second that are tried whatever was refused.
const SLOWEST: f64 = 0.01;
const SECOND: Duration = Duration::from_secs(1);

/// None until the host throttles. Then what it answered in the time until then and its wait, and from there on as CUBIC
/// does (RFC 9438): fast towards what was too much, slowly past it, and fast beyond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Answers since the host was asked again.
    all: Count,
    /// Those of this second, and a second in the one before.
    recent: Count,
    before: Option<f64>,
    learnt: Option<Learnt>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    answers: u32,
}

impl Count {
    fn new(since: Instant) -> Self {
        Self { since, answers: 0 }
    }

    /// Answers a second, as if it had lasted longer by `wait`.
    fn rate(&self, now: Instant, wait: Duration) -> Option<f64> {
        let time = now.saturating_duration_since(self.since) + wait;
        (self.answers > 0 && !time.is_zero()).then(|| f64::from(self.answers) / time.as_secs_f64())
    }
}

#[derive(Clone, Copy, Debug)]
struct Learnt {
    rate: Rate,
    per_second: f64,
    /// What was too much.
    refused: f64,
    updated: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { all: Count::new(now), recent: Count::new(now), before: None, learnt: None }
    }

    pub(super) fn answered(&mut self, now: Instant) {
        self.all.answers = self.all.answers.saturating_add(1);
        self.recent.answers += 1;
        if now.saturating_duration_since(self.recent.since) >= SECOND {
            self.before = self.recent.rate(now, Duration::ZERO);
            self.recent = Count::new(now);
        }
    }

    /// The host is asked again after a wait.
    pub(super) fn resume(&mut self, now: Instant) {
        *self = Self { learnt: self.learnt.map(|learnt| Learnt { updated: now, ..learnt }), ..Self::new(now) };
    }

    /// The host refused, and is left alone for `wait`.
    pub(super) fn throttled(&mut self, now: Instant, wait: Duration) {
        // It has answered nothing since it was asked again: there is no pace that it bore.
        let Some(lowest) = self.all.rate(now, wait) else { return };
        let Some(measured) = self.before.or_else(|| self.recent.rate(now, Duration::ZERO)) else { return };
        let (per_second, refused) = match self.learnt {
            Some(learnt) => {
                let refused = learnt.per_second.min(1.1 * measured);
                (BACK * refused, refused)
            }
            None => (lowest, measured),
        };
        let per_second = per_second.max(SLOWEST);
        // A probe that fails has nothing to add.
        (self.all, self.recent, self.before) = (Count::new(now), Count::new(now), None);
        self.learnt = Some(Learnt { rate: Rate::per_second(per_second), per_second, refused, updated: now });
    }

    /// A fetch was started; gives the earliest time of the next one.
    pub(super) fn started(&mut self, now: Instant) -> Option<Instant> {
        let learnt = self.learnt.as_mut()?;
        let passed = now.saturating_duration_since(learnt.updated).as_secs_f64().min(1.0);
        learnt.updated = now;
        let (pace, plateau) = (learnt.per_second, PLATEAU * learnt.refused);
        learnt.per_second = if pace < plateau {
            pace + (plateau - pace) * APPROACH * passed + pace * CREEP * passed
        } else {
            pace * (1.0 + passed * if pace < learnt.refused { CREEP } else { BEYOND })
        };
        if learnt.per_second > FORGOTTEN * learnt.refused {
            self.learnt = None;
            return None;
        }
        learnt.rate.set(learnt.per_second);
        learnt.rate.start(now);
        learnt.rate.next_start()
    }
}
