//! How many requests a second a host allows, learnt from what it did before it said "too many".

use std::time::{Duration, Instant};

use crate::engine::pacing::Rate;

/// What is left of a pace that was too fast.
const BACK: f64 = 0.9;
/// The part of the highest pace so far that is reached again soon.
const PLATEAU: f64 = 0.97;
/// Of the way to the plateau, a second.
const APPROACH: f64 = 0.2;
/// Growth a second between the plateau and the highest pace, halved each time that the host refuses there again.
const CREEP: f64 = 0.02;
const HALVINGS: u32 = 4;
/// Growth a second beyond.
const BEYOND: f64 = 0.05;
/// Growth a second where the host has refused but once, which may have been about something else.
const BEYOND_ONE: f64 = 0.5;
/// Refusals at paces that differ by less are of one kind.
const SAME: f64 = 0.15;
/// A pace so far above what the host refused is none.
const FORGOTTEN: f64 = 3.0;
/// Requests a second that are tried whatever was refused.
const SLOWEST: f64 = 0.01;
const SECOND: Duration = Duration::from_secs(1);

/// None until the host throttles. Then a little less than what it answered, and from there on as CUBIC does (RFC 9438):
/// fast towards what was too much, slowly past it, and fast beyond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Answers of this second, and a second in the one before.
    recent: Count,
    before: Option<f64>,
    /// What it had answered a second when it refused last.
    too_much: Option<f64>,
    /// Answers since it refused last, and what it gave a second from the refusal before to that one, the wait with it: its
    /// allowance began and ended empty, so it allows that much at least.
    since_refusal: Option<Count>,
    enough: Option<Enough>,
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

    /// Answers a second, over a second at least: a burst is no pace.
    fn rate(&self, now: Instant) -> Option<f64> {
        let time = now.saturating_duration_since(self.since).max(SECOND);
        (self.answers > 0).then(|| f64::from(self.answers) / time.as_secs_f64())
    }
}

#[derive(Clone, Copy, Debug)]
struct Enough {
    per_second: f64,
    over: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Learnt {
    rate: Rate,
    per_second: f64,
    /// What was too much, and how often it was since it was so first.
    refused: f64,
    confirmed: u32,
    /// Of the way to the plateau, a second.
    approach: f64,
    updated: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { recent: Count::new(now), before: None, too_much: None, since_refusal: None, enough: None, learnt: None }
    }

    pub(super) fn answered(&mut self, now: Instant) {
        self.recent.answers += 1;
        self.since_refusal.iter_mut().for_each(|count| count.answers += 1);
        if now.saturating_duration_since(self.recent.since) >= SECOND {
            self.before = self.recent.rate(now);
            self.recent = Count::new(now);
        }
    }

    /// The host refused, and is left alone now.
    pub(super) fn refused(&mut self, now: Instant) {
        // A probe that fails has nothing to add: there is no pace that the host bore.
        let measured = self.before.take().into_iter().chain(self.recent.rate(now)).max_by(f64::total_cmp);
        self.recent = Count::new(now);
        if measured.is_some() {
            self.too_much = measured;
            self.enough = self.since_refusal.replace(Count::new(now)).and_then(|count| {
                Some(Enough { per_second: count.rate(now)?, over: now.saturating_duration_since(count.since) })
            });
        }
    }

    /// The host is asked again after a wait. Whether it refused whatever it was asked for, or that may have been one page.
    pub(super) fn resume(&mut self, now: Instant, is_of_host: bool) {
        let measured = self.too_much.take();
        (self.recent, self.before) = (Count::new(now), None);
        if let Some(measured) = measured.filter(|_| is_of_host || self.learnt.is_some()) {
            let (refused, confirmed) = match self.learnt {
                Some(learnt) if is_of_host => (learnt.per_second.min(1.1 * measured), learnt.confirmed + 1),
                Some(learnt) => {
                    let is_same = (learnt.per_second / learnt.refused - 1.0).abs() < SAME;
                    (learnt.per_second, if is_same { learnt.confirmed + 1 } else { 0 })
                }
                None => (measured, 0),
            };
            let refused = refused.max(SLOWEST);
            // What it allows lies between the two.
            let between = self.enough.map(|enough| (enough.per_second * refused).sqrt().min(PLATEAU * refused));
            let approach = self.enough.map_or(APPROACH, |enough| (1.0 / enough.over.as_secs_f64()).min(APPROACH));
            let per_second = between.unwrap_or(BACK * refused).max(SLOWEST);
            let rate = Rate::per_second(per_second);
            self.learnt = Some(Learnt { rate, per_second, refused, confirmed, approach, updated: now });
        } else if let Some(learnt) = &mut self.learnt {
            learnt.updated = now;
        }
    }

    /// A fetch was started; gives the earliest time of the next one.
    pub(super) fn started(&mut self, now: Instant) -> Option<Instant> {
        let learnt = self.learnt.as_mut()?;
        let passed = now.saturating_duration_since(learnt.updated).as_secs_f64().min(1.0);
        learnt.updated = now;
        let (pace, plateau) = (learnt.per_second, PLATEAU * learnt.refused);
        let creep = CREEP / f64::from(1 << learnt.confirmed.min(HALVINGS));
        learnt.per_second = if learnt.confirmed == 0 {
            pace * (1.0 + passed * BEYOND_ONE)
        } else if pace < plateau {
            pace + (plateau - pace) * learnt.approach * passed + pace * creep * passed
        } else {
            pace * (1.0 + passed * if pace < learnt.refused { creep } else { BEYOND })
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
