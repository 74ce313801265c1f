//! Which session a fetch gets, when one is opened, and when one is given up. A state machine: the time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Session, Why};
use crate::Error;
use crate::time::later;

/// Jobs whose session is known. Of a crawl that does not tell of their end, the oldest are forgotten.
const JOBS: usize = 100_000;

/// After an opening that failed the next one waits, each time twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    pub(super) sessions: NonZeroU32,
    pub(super) uses: u64,
    pub(super) age: Duration,
    /// Of the shell: how long an opening may take.
    pub(super) opening: Duration,
}

pub(super) struct Pool {
    limits: PoolLimits,
    slots: Vec<Slot>,
    /// What the next openings are for; at most as many as there are sessions.
    due: VecDeque<Due>,
    /// The session that a job had last.
    jobs: BTreeMap<u64, u64>,
    /// Names sessions, and counts openings.
    serial: u64,
    failed: Option<Failed>,
}

struct Slot {
    id: u64,
    state: State,
    in_flight: u32,
    uses: u64,
}

enum State {
    Opening(Due),
    Open { session: Arc<Session>, since: Instant },
}

#[derive(Clone)]
struct Due {
    why: Why,
    previous: Option<Arc<Session>>,
}

struct Failed {
    until: Instant,
    pause: Duration,
    error: Error,
}

/// What a fetch has to do.
pub(super) enum Take {
    /// Use this one; [`Pool::release`] it afterwards.
    Use(u64, Arc<Session>),
    /// Open one, and say how it went by [`Pool::opened`] or [`Pool::given_up`].
    Open { id: u64, why: Why, previous: Option<Arc<Session>> },
    /// Ask again when an opening has ended.
    Wait,
    /// None can be opened now.
    Fail(Error),
}

impl Pool {
    pub(super) fn new(limits: PoolLimits) -> Self {
        let (slots, due, jobs) = (Vec::new(), VecDeque::new(), BTreeMap::new());
        Self { limits, slots, due, jobs, serial: 0, failed: None }
    }

    /// Sessions that are open.
    pub(super) fn open(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.state, State::Open { .. })).count()
    }

    /// Whether one is being opened, whose end is told.
    pub(super) fn is_opening(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, State::Opening(_)))
    }

    /// Openings so far, those that failed too.
    pub(super) fn openings(&self) -> u64 {
        self.serial
    }

    /// `job` is 0 where there is none.
    pub(super) fn take(&mut self, now: Instant, job: u64) -> Take {
        self.retire(now);
        let own = self.jobs.get(&job).copied();
        let is_open = |slot: &&mut Slot| matches!(slot.state, State::Open { .. });
        let most = self.limits.sessions.get() as usize;
        let pauses = self.failed.as_ref().is_some_and(|failed| now < failed.until);
        let may_open = self.slots.len() < most && !pauses;
        let best = self
            .slots
            .iter_mut()
            .filter(is_open)
            .min_by_key(|slot| (own != Some(slot.id), slot.in_flight, slot.uses, slot.id));
        if let Some(slot) = best
            && (own == Some(slot.id) || slot.in_flight == 0 || !may_open)
            && let State::Open { session, .. } = &slot.state
        {
            slot.in_flight += 1;
            slot.uses += 1;
            let (id, session) = (slot.id, Arc::clone(session));
            self.note(job, id);
            return Take::Use(id, session);
        }
        if may_open {
            self.serial += 1;
            let due = self.due.pop_front().unwrap_or(Due { why: Why::New, previous: None });
            let (why, previous) = (due.why, due.previous.clone());
            self.slots.push(Slot { id: self.serial, state: State::Opening(due), in_flight: 0, uses: 0 });
            return Take::Open { id: self.serial, why, previous };
        }
        match &self.failed {
            Some(failed) if self.slots.is_empty() => {
                let wait = failed.until.saturating_duration_since(now);
                Take::Fail(failed.error.replicate().with_retry_after(wait))
            }
            _ => Take::Wait,
        }
    }

    /// A fetch with this session has ended.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
            slot.in_flight = slot.in_flight.saturating_sub(1);
        }
    }

    /// An opening has ended; gives the error back where there is one.
    pub(super) fn opened(&mut self, now: Instant, id: u64, result: Result<Session, Error>) -> Option<Error> {
        match result {
            Ok(session) => {
                self.failed = None;
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
                    slot.state = State::Open { session: Arc::new(session), since: now };
                }
                None
            }
            Err(error) => {
                let before = self.failed.take().map(|failed| failed.pause.saturating_mul(2));
                let pause = before.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE);
                self.failed = Some(Failed { until: later(now, pause), pause, error: error.replicate() });
                self.given_up(id);
                Some(error)
            }
        }
    }

    /// Whoever was opening it does not any more: it is still to be done.
    pub(super) fn given_up(&mut self, id: u64) {
        let Some(place) = self.slots.iter().position(|slot| slot.id == id) else { return };
        if let State::Opening(due) = self.slots.swap_remove(place).state {
            self.due.push_front(due);
        }
    }

    /// The page that a job got says that its session is no good. One that was replaced since is none of its business.
    pub(super) fn refused(&mut self, job: u64, why: Why) {
        let Some(id) = self.jobs.remove(&job) else { return };
        let is_it = |slot: &Slot| slot.id == id && matches!(slot.state, State::Open { .. });
        if let Some(place) = self.slots.iter().position(is_it) {
            self.replace(place, why);
        }
    }

    /// A job has ended.
    pub(super) fn ended(&mut self, job: u64) {
        self.jobs.remove(&job);
    }

    fn note(&mut self, job: u64, id: u64) {
        if job == 0 {
            return;
        }
        self.jobs.insert(job, id);
        if self.jobs.len() > JOBS {
            self.jobs.pop_first();
        }
    }

    /// Gives those up that were used often or long enough; fetches that have one keep it.
    fn retire(&mut self, now: Instant) {
        let PoolLimits { uses, age, sessions: _, opening: _ } = self.limits;
        let is_worn = |slot: &Slot| match &slot.state {
            State::Open { since, .. } => slot.uses >= uses || now.saturating_duration_since(*since) >= age,
            State::Opening(_) => false,
        };
        while let Some(place) = self.slots.iter().position(is_worn) {
            self.replace(place, Why::Worn);
        }
    }

    fn replace(&mut self, place: usize, why: Why) {
        if let State::Open { session, .. } = self.slots.swap_remove(place).state {
            self.due.push_back(Due { why, previous: Some(session) });
            self.due.truncate(self.limits.sessions.get() as usize);
        }
    }
}

#[cfg(test)]
mod tests;
