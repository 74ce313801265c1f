//! Stalls and the gate: who made them, and what is told of it.

use std::time::Instant;

use super::super::inbox::Message;
use super::super::stall::{Seen, Slow};
use super::{Driver, key};
use crate::engine::{Action, Bound, Event};
use crate::observer::What;
use crate::request::without_userinfo;
use crate::rt::Place;
use crate::{GateEvent, Stall, StallCause};

impl Driver {
    /// What an action is, should it take long.
    pub(super) fn work_of(&self, action: &Action) -> (StallCause, Option<u64>) {
        let inline = self.p.runtime.offload().place() == Place::Inline;
        match *action {
            Action::Vet(job) => (StallCause::Hook, Some(key(job))),
            Action::Parse(job) if inline => (StallCause::InlineParse, Some(key(job))),
            Action::Fetch { job, .. } | Action::Parse(job) | Action::Deliver(job) => {
                (StallCause::Driver, Some(key(job)))
            }
            _ => (StallCause::Driver, None),
        }
    }

    /// The URL of a job that has a record yet.
    fn url_of(&self, job: u64) -> Option<String> {
        let index = usize::try_from(job & u64::from(u32::MAX)).ok()?;
        let record = self.records.get(index)?.as_ref().filter(|record| key(record.id) == job)?;
        Some(without_userinfo(record.current().url()).into_owned())
    }

    pub(super) fn on_lag(&mut self, now: Instant, message: Message) {
        match message {
            Message::LagGate => self.gate(now, Bound::Lag, "lag", self.p.probe.is_open(), self.p.probe.is_open()),
            Message::Gate { signal, name, open, bound_open } => self.gate(now, signal, &name, open, bound_open),
            Message::Slow { cause, job, began, ended } => {
                let url = job.and_then(|job| self.url_of(job));
                self.p.stalls.slow(Slow { cause, url, began, ended });
            }
            Message::Stall { seen, by } => self.stall(now, &seen, by),
            _ => {}
        }
    }

    fn gate(&mut self, now: Instant, signal: Bound, name: &str, open: bool, bound_open: bool) {
        self.event(now, Event::Gate { signal, open: bound_open });
        self.on_gate(now, GateEvent { signal, name: name.to_owned(), open, at: self.p.runtime.wall_clock() });
    }

    fn stall(&mut self, now: Instant, seen: &Seen, by: Option<(StallCause, Option<u64>)>) {
        let (mut cause, mut url) = self.p.stalls.cause(seen);
        // The watchdog saw it while it lasted.
        if let Some((seen, job)) = by.filter(|_| cause == StallCause::ForeignTask) {
            (cause, url) = (seen, job.and_then(|job| self.url_of(job)));
        }
        let tells = self.p.stalls.may_tell(now);
        let at = self.p.runtime.wall_clock();
        self.stats().stall(cause, !tells);
        if tells {
            self.on_stall(now, Stall { lag: seen.lag, cause, url, at });
        }
    }

    fn on_stall(&mut self, now: Instant, stall: Stall) {
        if let Some(observers) = &self.p.observers {
            let what = What::Stall { lag: stall.lag, cause: stall.cause };
            observers.tell(now, 0, stall.url.as_deref().unwrap_or_default(), 0, what);
        }
        self.stats().keep_stall(stall);
    }

    fn on_gate(&mut self, now: Instant, event: GateEvent) {
        if let Some(observers) = &self.p.observers {
            let what = What::Gate { signal: event.signal, name: &event.name, open: event.open };
            observers.tell(now, 0, "", 0, what);
        }
        self.stats().keep_gate(event);
    }
}
