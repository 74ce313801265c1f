//! A list that comes round again: each URL once a period, spread evenly over it. For monitors.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::{Added, Frontier, FrontierError, LeaseId, Leased, Verdict};
use crate::Request;
use crate::hash::KeyedState;

/// Gives each request of a list once a period: request `i` of `n` at `start + round * period + i * period / n`, so that
/// there is no burst. A round that was missed, or that is due while the request of the round before it is still under
/// way, is skipped and counted, not made up.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tidegate::{Recurring, Request};
///
/// let list = (0..1000).map(|i| Request::head(format!("http://a.test/{i}"))).collect();
/// let monitor = Recurring::new(list, Duration::from_secs(600), SystemTime::UNIX_EPOCH).with_rounds(3);
/// ```
#[derive(Debug)]
pub struct Recurring {
    list: Vec<Entry>,
    period: Duration,
    start: SystemTime,
    rounds: Option<u64>,
    /// The next slot: `round * list.len() + index`.
    slot: u64,
    leased: HashMap<LeaseId, usize, KeyedState>,
    again: Vec<usize>,
    next_lease: u64,
    missed: u64,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    under_way: bool,
}

impl Recurring {
    /// Each of `list` once a `period`, from `start` on.
    pub fn new(list: Vec<Request>, period: Duration, start: SystemTime) -> Self {
        Self {
            list: list.into_iter().map(|request| Entry { request, under_way: false }).collect(),
            period,
            start,
            rounds: None,
            slot: 0,
            leased: HashMap::with_hasher(KeyedState::new(0)),
            again: Vec::new(),
            next_lease: 0,
            missed: 0,
        }
    }

    /// Ends after so many rounds; without it, it never ends by itself.
    #[must_use]
    pub fn with_rounds(mut self, rounds: u64) -> Self {
        self.rounds = Some(rounds);
        self
    }

    /// Slots that were skipped because they came too late or their request was still under way.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn due(&self, slot: u64) -> SystemTime {
        let n = self.list.len() as u64;
        let (round, index) = (slot / n, slot % n);
        let nanos =
            self.period.as_nanos() * u128::from(round) + self.period.as_nanos() * u128::from(index) / u128::from(n);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn ended(&self) -> bool {
        self.list.is_empty()
            || self.rounds.is_some_and(|rounds| self.slot >= rounds.saturating_mul(self.list.len() as u64))
    }

    fn give(&mut self, index: usize, leased: &mut Leased) {
        let entry = &mut self.list[index];
        entry.under_way = true;
        self.next_lease += 1;
        let id = LeaseId(self.next_lease);
        self.leased.insert(id, index);
        leased.requests.push((id, entry.request.clone()));
    }
}

#[async_trait]
impl Frontier for Recurring {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        let mut leased = Leased::default();
        let want = want.get() as usize;
        while leased.requests.len() < want {
            let Some(index) = self.again.pop() else { break };
            self.give(index, &mut leased);
        }
        while leased.requests.len() < want && !self.ended() && self.due(self.slot) <= now {
            let index = (self.slot % self.list.len() as u64) as usize;
            let late = now.duration_since(self.due(self.slot)).unwrap_or_default() >= self.period;
            if late || self.list[index].under_way {
                self.missed += 1;
            } else {
                self.give(index, &mut leased);
            }
            self.slot += 1;
        }
        leased.drained = self.ended() && self.again.is_empty();
        leased.next_due = (!self.ended()).then(|| self.due(self.slot));
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        for (id, verdict) in done.drain(..) {
            if let Some(index) = self.leased.remove(&id) {
                self.list[index].under_way = false;
                if verdict == Verdict::Return {
                    self.again.push(index);
                }
            }
        }
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        let known = found.len() as u64;
        found.clear();
        Ok(Added::new(0, known))
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    const MANY: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn list(n: usize) -> Vec<Request> {
        (0..n).map(|i| Request::get(format!("http://a.test/{i}"))).collect()
    }

    #[test]
    fn starts_are_spread_evenly() {
        let mut monitor = Recurring::new(list(4), Duration::from_millis(100), at(0)).with_rounds(1);
        let mut starts = Vec::new();
        for millis in 0..100 {
            let leased = block_on(monitor.lease(MANY, at(millis))).expect("memory");
            starts.extend(leased.requests.iter().map(|_| millis));
        }
        assert_eq!(starts, [0, 25, 50, 75]);
        assert!(block_on(monitor.lease(MANY, at(100))).expect("memory").drained);
    }

    #[test]
    fn a_missed_round_is_skipped_not_made_up() {
        let mut monitor = Recurring::new(list(2), Duration::from_millis(100), at(0)).with_rounds(3);
        let leased = block_on(monitor.lease(MANY, at(210))).expect("memory");
        assert_eq!(leased.requests.len(), 2, "one for each URL, although three slots of the first are past");
        assert_eq!(monitor.missed(), 3);
        assert_eq!(leased.next_due, Some(at(250)));
    }

    #[test]
    fn a_request_under_way_is_not_given_twice() {
        let mut monitor = Recurring::new(list(1), Duration::from_millis(100), at(0)).with_rounds(2);
        let first = block_on(monitor.lease(MANY, at(0))).expect("memory");
        assert!(block_on(monitor.lease(MANY, at(100))).expect("memory").requests.is_empty());
        assert_eq!(monitor.missed(), 1);
        block_on(monitor.settle(&mut vec![(first.requests[0].0, Verdict::Done)])).expect("memory");
        assert!(block_on(monitor.lease(MANY, at(200))).expect("memory").drained);
    }
}
