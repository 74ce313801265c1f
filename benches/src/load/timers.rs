//! [`Timers`]: what is to be done later, the earliest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::connection::Id;

/// Connections and when each goes on. One that has gone stays in until then: its [`Id`] belongs to nobody else.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Instant, Id)>>);

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, id: Id) {
        self.0.push(Reverse((at, id)));
    }

    /// Who goes on by now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Id> {
        let Reverse((at, _)) = self.0.peek()?;
        if *at > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, id))| id)
    }

    /// How long to wait for the next.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }
}
