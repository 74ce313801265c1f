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
/// way, is skipped and counted, not made up: where `start` is in the past, so are the rounds before now.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tidegate::{Recurring, Request};
///
/// let list = (0..1000).map(|i| Request::head(format!("http://a.test/{i}"))).collect();
/// // Every ten minutes from now on, three times.
/// let monitor = Recurring::new(list, Duration::from_secs(600), SystemTime::now()).with_rounds(3);
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
    /// The shortest period: 1 ms. A shorter one, zero among them, is taken for it.
    pub const MIN_PERIOD: Duration = Duration::from_millis(1);

    /// Each of `list` once a `period`, [`MIN_PERIOD`](Self::MIN_PERIOD) at least, from `start` on.
    pub fn new(list: Vec<Request>, period: Duration, start: SystemTime) -> Self {
        Self {
            list: list.into_iter().map(|request| Entry { request, under_way: false }).collect(),
            period: period.max(Self::MIN_PERIOD),
            start,
            rounds: None,
            slot: 0,
            leased: HashMap::with_hasher(KeyedState::new(0)),
            again: Vec::new(),
            next_lease: 0,
            missed: 0,
        }
    }

    /// Ends after so many rounds, counted from `start`, missed ones with the others; without it, it never ends by itself.
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
        let period = self.period.as_nanos();
        let nanos = period.saturating_mul(u128::from(round)).saturating_add(period * u128::from(index) / u128::from(n));
        let after = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.start.checked_add(after).unwrap_or(self.start)
    }

    /// Skips the slots that are a period late or more, however many: the inverse of [`due`](Self::due).
    fn skip_missed(&mut self, now: SystemTime) {
        let late = now.duration_since(self.start).ok().and_then(|since| since.checked_sub(self.period));
        let Some(late) = late.filter(|_| !self.list.is_empty()) else { return };
        let (n, period) = (self.list.len() as u128, self.period.as_nanos());
        let (rounds, rest) = (late.as_nanos() / period, late.as_nanos() % period);
        // Slot `i` of a round is due by `rest` where `i * period < (rest + 1) * n`.
        let first = rounds.saturating_mul(n).saturating_add(((rest + 1) * n).div_ceil(period).min(n));
        let first = u64::try_from(first).unwrap_or(u64::MAX).min(self.end());
        self.missed += first.saturating_sub(self.slot);
        self.slot = self.slot.max(first);
    }

    /// The slot behind the last.
    fn end(&self) -> u64 {
        self.rounds.map_or(u64::MAX, |rounds| rounds.saturating_mul(self.list.len() as u64))
    }

    fn ended(&self) -> bool {
        self.list.is_empty() || self.slot >= self.end()
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
        self.skip_missed(now);
        while leased.requests.len() < want && !self.ended() && self.due(self.slot) <= now {
            let index = (self.slot % self.list.len() as u64) as usize;
            if self.list[index].under_way {
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
    fn a_start_far_in_the_past_is_skipped_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60 * 365 * 86_400);
        let mut monitor = Recurring::new(list(3), Duration::from_millis(1), at(0));
        let leased = block_on(monitor.lease(MANY, now)).expect("memory");
        assert_eq!(leased.requests.len(), 3);
        // Of the slots up to now, that of now among them, all but the last three.
        assert_eq!(monitor.missed(), 3 * 60 * 365 * 86_400_000 + 1 - 3);

        let mut monitor = Recurring::new(list(3), Duration::from_secs(60), at(0)).with_rounds(3);
        let leased = block_on(monitor.lease(MANY, now)).expect("memory");
        assert!(leased.drained && leased.requests.is_empty(), "its rounds are over");
        assert_eq!(monitor.missed(), 9);
    }

    #[test]
    fn a_slot_is_missed_from_a_period_on_and_not_before() {
        // Periods that lists do not divide: the arithmetic rounds as `due` does.
        for (n, period) in [(7, 1_000_003), (3, 1_000_000), (1, 1_000_001)] {
            let fresh = || Recurring::new(list(n), Duration::from_nanos(period), at(0));
            for slot in 0..3 * n as u64 {
                let end = fresh().due(slot) + Duration::from_nanos(period);
                for (now, missed) in [(end - Duration::from_nanos(1), slot), (end, slot + 1)] {
                    let mut monitor = fresh();
                    block_on(monitor.lease(MANY, now)).expect("memory");
                    assert_eq!(monitor.missed(), missed, "slot {slot} of {n} every {period} ns");
                }
            }
        }
    }

    #[test]
    fn no_period_is_the_shortest_one() {
        let mut monitor = Recurring::new(list(2), Duration::ZERO, at(0));
        assert_eq!(block_on(monitor.lease(MANY, at(5))).expect("memory").requests.len(), 2);
        let mut monitor = Recurring::new(list(2), Duration::MAX, at(0));
        assert_eq!(block_on(monitor.lease(MANY, at(5))).expect("memory").requests.len(), 1);
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

    #[test]
    fn what_is_settled_comes_again_in_its_round_and_what_is_returned_at_once() {
        let mut monitor = Recurring::new(list(1), Duration::from_millis(100), at(0)).with_rounds(2);
        for (millis, verdict) in [(0, Verdict::Done), (100, Verdict::Return), (100, Verdict::Done)] {
            let leased = block_on(monitor.lease(MANY, at(millis))).expect("memory");
            assert_eq!(leased.requests.len(), 1, "{millis} ms, then {verdict:?}");
            block_on(monitor.settle(&mut vec![(leased.requests[0].0, verdict)])).expect("memory");
        }
        assert_eq!(monitor.missed(), 0);
        assert!(block_on(monitor.lease(MANY, at(100))).expect("memory").drained);
    }

    #[test]
    fn a_list_with_something_to_give_again_is_not_drained() {
        let mut monitor = Recurring::new(list(2), Duration::from_millis(1), at(0)).with_rounds(1);
        let leased = block_on(monitor.lease(MANY, at(0))).expect("memory");
        let rest = block_on(monitor.lease(MANY, at(1))).expect("memory");
        let ids = leased.requests.iter().chain(&rest.requests).map(|(id, _)| (*id, Verdict::Return));
        block_on(monitor.settle(&mut ids.collect())).expect("memory");
        let again = block_on(monitor.lease(NonZeroU32::MIN, at(1))).expect("memory");
        assert!(again.requests.len() == 1 && !again.drained);
    }
}
