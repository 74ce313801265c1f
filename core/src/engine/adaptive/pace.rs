//! How many requests a second a host allows, learnt from what it did before it said "too many".

use std::time::{Duration, Instant};

use crate::engine::pacing::Rate;

/// What is left of a pace that was too fast.
const BACK: f64 = 0.8;
/// The part of the highest pace so far that is reached again soon.
const PLATEAU: f64 = 0.95;
/// Of the way to the plateau, a second.
const APPROACH: f64 = 0.2;
/// Growth a second between the plateau and the highest pace, where a mistake costs a wait; and beyond, where it was none.
const CREEP: f64 = 0.002;
const BEYOND: f64 = 0.05;
/// A pace so far above what the host refused is none.
const FORGOTTEN: f64 = 3.0;

/// None until the host throttles. Then what it answered in the time until then and its wait, and from there on as CUBIC
/// does (RFC 9438): fast towards what was too much, slowly past it, and fast beyond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Since when answers are counted.
    since: Instant,
    answers: u32,
    learnt: Option<Learnt>,
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
        Self { since: now, answers: 0, learnt: None }
    }

    pub(super) fn answered(&mut self) {
        self.answers = self.answers.saturating_add(1);
    }

    /// The host is asked again after a wait.
    pub(super) fn resume(&mut self, now: Instant) {
        (self.since, self.answers) = (now, 0);
        if let Some(learnt) = &mut self.learnt {
            learnt.updated = now;
        }
    }

    /// The host refused, and is left alone for `wait`.
    pub(super) fn throttled(&mut self, now: Instant, wait: Duration) {
        let (time, answers) = (now.saturating_duration_since(self.since).as_secs_f64(), f64::from(self.answers));
        let measured = (self.answers > 0 && time > 0.0).then(|| answers / time);
        let (per_second, refused) = match (self.learnt, measured) {
            (Some(learnt), Some(measured)) if self.answers >= 10 => {
                let refused = learnt.per_second.min(measured);
                (BACK * refused, refused)
            }
            (Some(learnt), _) => (BACK * learnt.per_second, learnt.per_second),
            (None, Some(measured)) => (answers / (time + wait.as_secs_f64()), measured),
            // It has answered nothing so far: there is no pace that it bore.
            (None, None) => return,
        };
        self.learnt = Some(Learnt { rate: Rate::per_second(per_second.max(0.01)), per_second, refused, updated: now });
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
        learnt.rate.set(learnt.per_second.max(0.01));
        learnt.rate.start(now);
        learnt.rate.next_start()
    }
}
