//! Which of several proxies is asked: by turns, those that work before those that do not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use crate::time::later;
use crate::{Error, ErrorKind};

/// How long a proxy that failed is left out, doubled each time that it fails again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Proxies that an attempt tries at most.
const MOST_TRIES: usize = 3;

/// The proxies of a fetcher.
pub(super) struct Proxies {
    list: Vec<Arc<Proxy>>,
    turns: Mutex<Turns>,
}

impl Proxies {
    pub(super) fn new(list: Vec<Arc<Proxy>>) -> Self {
        let turns = Mutex::new(Turns::new(list.len()));
        Self { list, turns }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The next one, and its place.
    pub(super) fn next(&self, now: Instant) -> Option<(usize, Arc<Proxy>)> {
        if self.list.is_empty() {
            return None;
        }
        let place = self.turns().next(now);
        self.list.get(place).map(|proxy| (place, Arc::clone(proxy)))
    }

    /// What became of a request by way of the proxy at this place; whether that failed and was the proxy's fault.
    pub(super) fn ended(&self, place: usize, failure: Option<&Error>, now: Instant) -> bool {
        match failure {
            Some(error) if is_its_fault(error.kind()) => {
                self.turns().failed(place, now);
                return true;
            }
            // It says nothing about the proxy.
            Some(error) if error.is_local() => {}
            _ => self.turns().worked(place),
        }
        false
    }

    /// Proxies that an attempt may try, one after the other: nothing went to the target yet.
    pub(super) fn tries(&self) -> usize {
        self.list.len().min(MOST_TRIES)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That it refuses a target is about the target.
fn is_its_fault(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(kind, K::ProxyConnect | K::ProxyTls | K::ProxyAuth | K::ProxyReply | K::TimeoutProxy)
}

/// Round robin over those that work. One that failed is left out for a while, and then tried by one request.
#[derive(Debug)]
struct Turns {
    next: usize,
    health: Vec<Health>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    /// It is left out before.
    until: Option<Instant>,
    /// Whether a request tries it again. What was under way when it broke tells nothing new.
    is_tried: bool,
}

impl Turns {
    fn new(proxies: usize) -> Self {
        Self { next: 0, health: vec![Health::default(); proxies] }
    }

    fn next(&mut self, now: Instant) -> usize {
        let count = self.health.len().max(1);
        let turn = |by: usize| (self.next + by) % count;
        let is_due =
            |place: &usize| self.health.get(*place).is_some_and(|health| health.until.is_none_or(|at| at <= now));
        // Where none works, the one that was to be tried again first: the request fails as it must.
        let soonest =
            || (0..count).map(turn).min_by_key(|place| self.health.get(*place).and_then(|health| health.until));
        let place = (0..count).map(turn).find(is_due).or_else(soonest).unwrap_or_default();
        self.next = (place + 1) % count;
        if let Some(health) = self.health.get_mut(place).filter(|health| health.until.is_some()) {
            // The others leave it out until this one has told.
            *health = Health { is_tried: true, until: Some(later(now, pause(health.failures))), ..*health };
        }
        place
    }

    fn failed(&mut self, place: usize, now: Instant) {
        if let Some(health) = self.health.get_mut(place).filter(|health| health.until.is_none() || health.is_tried) {
            let failures = health.failures.saturating_add(1);
            *health = Health { failures, until: Some(later(now, pause(failures))), is_tried: false };
        }
    }

    fn worked(&mut self, place: usize) {
        if let Some(health) = self.health.get_mut(place) {
            *health = Health::default();
        }
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const SECOND: Duration = Duration::from_secs(1);

    fn next(turns: &mut Turns, now: Instant, times: usize) -> Vec<usize> {
        (0..times).map(|_| turns.next(now)).collect()
    }

    // F1
    #[test]
    fn one_that_fails_is_left_out_and_tried_by_one_request_after_a_while() {
        let start = Manual::new().runtime().now();
        let mut turns = Turns::new(3);
        assert_eq!(next(&mut turns, start, 4), [0, 1, 2, 0]);
        // Two were under way, which is one failure.
        turns.failed(1, start);
        turns.failed(1, start);
        assert_eq!(next(&mut turns, start, 4), [2, 0, 2, 0]);
        let again = start + SECOND;
        assert_eq!(next(&mut turns, again, 4), [1, 2, 0, 2]);
        turns.failed(1, again);
        let later = again + 2 * SECOND;
        assert!(!next(&mut turns, later - Duration::from_nanos(1), 6).contains(&1), "twice as long");
        assert_eq!(next(&mut turns, later, 6).iter().filter(|place| **place == 1).count(), 1);
        turns.worked(1);
        assert_eq!(next(&mut turns, later, 6).iter().filter(|place| **place == 1).count(), 2);
    }

    // F9
    #[test]
    fn where_none_works_they_take_turns_and_any_of_them_may_come_back() {
        let start = Manual::new().runtime().now();
        let mut turns = Turns::new(2);
        for place in next(&mut turns, start, 100) {
            turns.failed(place, start);
        }
        let picked = next(&mut turns, start, 10);
        assert_eq!((picked.iter().filter(|place| **place == 0).count(), picked.len()), (5, 10));
        turns.worked(0);
        assert_eq!(next(&mut turns, start, 3), [0, 0, 0]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_a_target_does_is_not_held_against_the_proxy() {
        let start = Manual::new().runtime().now();
        let proxies = ["http://a.test", "http://b.test"].map(|url| Arc::new(Proxy::parse(url).expect("valid")));
        let proxies = Proxies::new(proxies.into());
        let fails = |kind| proxies.ended(0, Some(&Error::new(kind, "fetch")), start);
        let places = || [(); 2].map(|()| proxies.next(start).map(|(place, _)| place));
        for kind in [ErrorKind::ProxyRefused, ErrorKind::TimeoutTotal, ErrorKind::HttpEmptyReply, ErrorKind::LocalPorts]
        {
            fails(kind);
            assert_eq!(places(), [Some(0), Some(1)], "{kind:?}");
        }
        fails(ErrorKind::ProxyConnect);
        assert_eq!(places(), [Some(1), Some(1)]);
        proxies.ended(0, None, start);
        assert_eq!(places(), [Some(0), Some(1)]);
        assert!(Proxies::new(Vec::new()).next(start).is_none());
    }
}
