//! A frontier in memory: priority queue, known set, leases. Lost with the process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::SystemTime;

use async_trait::async_trait;

use super::{Added, Frontier, FrontierError, LeaseId, Leased, Verdict};
use crate::Request;
use crate::hash::KeyedState;

/// Discovered requests in memory: each known once, the highest priority first, then the oldest.
///
/// Bounded by `capacity` waiting requests; above it a new one is refused unless it has a higher priority than the
/// lowest that waits, which is then given up in its place.
///
/// ```
/// use tidegate::{Frontier, MemoryFrontier, Request};
/// # futures::executor::block_on(async {
/// let mut frontier = MemoryFrontier::new(1_000_000, 7);
/// let added = frontier.add(&mut vec![Request::get("http://a.test/"), Request::get("http://a.test/#top")]).await?;
/// assert_eq!((added.new, added.known), (1, 1));
/// # Ok::<(), tidegate::FrontierError>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct MemoryFrontier {
    waiting: BTreeMap<Place, Request>,
    due: BTreeMap<(SystemTime, u64), Request>,
    known: HashSet<u128, KeyedState>,
    leased: HashMap<LeaseId, Request, KeyedState>,
    capacity: usize,
    seed: u64,
    next: u64,
}

/// First in the map is first out: priority downwards, then age.
type Place = (Reverse<i32>, u64);

impl MemoryFrontier {
    /// A frontier that keeps at most `capacity` requests waiting. `seed` keys the hash of the known set, so that a site
    /// cannot craft URLs that collide.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            waiting: BTreeMap::new(),
            due: BTreeMap::new(),
            known: HashSet::with_hasher(KeyedState::new(seed)),
            leased: HashMap::with_hasher(KeyedState::new(seed)),
            capacity,
            seed,
            next: 0,
        }
    }

    /// Requests that wait for a lease.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.due.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&mut self, request: Request) {
        self.next += 1;
        match request.not_before() {
            Some(time) => self.due.insert((time, self.next), request),
            None => self.waiting.insert((Reverse(request.priority()), self.next), request),
        };
    }

    /// Makes room for a request of this priority: the request that gives way, or `None` where none is lower.
    fn give_way(&mut self, priority: i32) -> Option<Request> {
        let (&place @ (Reverse(lowest), _), _) = self.waiting.last_key_value()?;
        if lowest >= priority {
            return None;
        }
        self.waiting.remove(&place)
    }
}

#[async_trait]
impl Frontier for MemoryFrontier {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= now) {
            let (_, seq) = *entry.key();
            let request = entry.remove();
            self.waiting.insert((Reverse(request.priority()), seq), request);
        }
        let mut leased = Leased::default();
        while leased.requests.len() < want.get() as usize {
            let Some(((_, seq), request)) = self.waiting.pop_first() else { break };
            let id = LeaseId(seq);
            self.leased.insert(id, request.clone());
            leased.requests.push((id, request));
        }
        leased.next_due = self.due.first_key_value().map(|((time, _), _)| *time);
        leased.drained = self.is_empty();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        for (id, verdict) in done.drain(..) {
            if let (Some(request), Verdict::Return) = (self.leased.remove(&id), verdict) {
                self.insert(request);
            }
        }
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        let mut added = Added::default();
        let mut refused = Vec::new();
        for request in found.drain(..) {
            let key = xxhash_rust::xxh3::xxh3_128_with_seed(&request.identity(), self.seed);
            if !self.known.insert(key) {
                added.known += 1;
                continue;
            }
            added.new += 1;
            if self.len() < self.capacity {
                self.insert(request);
            } else if let Some(lower) = self.give_way(request.priority()) {
                self.insert(request);
                refused.push(lower);
            } else {
                refused.push(request);
            }
        }
        *found = refused;
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    const MANY: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

    fn urls(leased: &Leased) -> Vec<&str> {
        leased.requests.iter().map(|(_, r)| r.url()).collect()
    }

    #[test]
    fn priority_first_then_age() {
        let mut frontier = MemoryFrontier::new(10, 1);
        let mut found = vec![
            Request::get("http://a.test/1"),
            Request::get("http://a.test/2").with_priority(5),
            Request::get("http://a.test/3"),
        ];
        block_on(frontier.add(&mut found)).expect("memory");
        let leased = block_on(frontier.lease(MANY, SystemTime::UNIX_EPOCH)).expect("memory");
        assert_eq!(urls(&leased), ["http://a.test/2", "http://a.test/1", "http://a.test/3"]);
        assert!(leased.drained);
    }

    #[test]
    fn full_gives_up_the_lowest_and_returns_it() {
        let mut frontier = MemoryFrontier::new(1, 1);
        let mut found = vec![
            Request::get("http://a.test/low"),
            Request::get("http://a.test/high").with_priority(1),
            "http://a.test/x".into(),
        ];
        let added = block_on(frontier.add(&mut found)).expect("memory");
        assert_eq!((added.new, added.known), (3, 0));
        let left: Vec<_> = found.iter().map(Request::url).collect();
        assert_eq!(left, ["http://a.test/low", "http://a.test/x"]);
    }

    #[test]
    fn a_returned_lease_comes_again_and_a_done_one_does_not() {
        let mut frontier = MemoryFrontier::new(10, 1);
        block_on(frontier.add(&mut vec!["http://a.test/1".into(), "http://a.test/2".into()])).expect("memory");
        let leased = block_on(frontier.lease(MANY, SystemTime::UNIX_EPOCH)).expect("memory");
        let ids: Vec<_> = leased.requests.iter().map(|(id, _)| *id).collect();
        block_on(frontier.settle(&mut vec![(ids[0], Verdict::Done), (ids[1], Verdict::Return)])).expect("memory");
        let again = block_on(frontier.lease(MANY, SystemTime::UNIX_EPOCH)).expect("memory");
        assert_eq!(urls(&again), ["http://a.test/2"]);
    }

    #[test]
    fn not_before_is_heeded_to_the_tick() {
        let due = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
        let mut frontier = MemoryFrontier::new(10, 1);
        block_on(frontier.add(&mut vec![Request::get("http://a.test/").with_not_before(due)])).expect("memory");
        let early = block_on(frontier.lease(MANY, due - std::time::Duration::from_nanos(1))).expect("memory");
        assert!(early.requests.is_empty() && !early.drained);
        assert_eq!(early.next_due, Some(due));
        assert_eq!(block_on(frontier.lease(MANY, due)).expect("memory").requests.len(), 1);
    }
}
