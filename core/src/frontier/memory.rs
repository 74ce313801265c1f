//! A frontier in memory: priority queue, known set, leases. Lost with the process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::SystemTime;

use async_trait::async_trait;

use super::leases::Leases;
use super::{Added, Frontier, FrontierError, LeaseId, Leased, Verdict};
use crate::Request;
use crate::hash::KeyedState;

/// Discovered requests in memory: each known once, the highest priority first. Within a priority hosts take turns, one
/// request at a time, the oldest of a host first: a host with many holds up no other.
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
    waiting: BTreeMap<Place, (Host, Request)>,
    /// What waits of a host at one priority; never empty.
    lines: HashMap<(i32, Host), Line, KeyedState>,
    /// The lines in the order in which they are served.
    turns: BTreeMap<Place, Host>,
    due: BTreeMap<(SystemTime, u64), Request>,
    known: HashSet<u128, KeyedState>,
    leased: Leases,
    capacity: usize,
    seed: u64,
    next: u64,
}

/// First in the map is first out: priority downwards, then age, or turn.
type Place = (Reverse<i32>, u64);

/// The keyed hash of a host and its port. Hosts whose hashes collide share their turns.
type Host = u64;

#[derive(Debug)]
struct Line {
    turn: u64,
    /// By age.
    requests: BTreeSet<u64>,
}

impl MemoryFrontier {
    /// A frontier that keeps at most `capacity` requests waiting. `seed` keys the hash of the known set, so that a site
    /// cannot craft URLs that collide.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            waiting: BTreeMap::new(),
            lines: HashMap::with_hasher(KeyedState::new(seed)),
            turns: BTreeMap::new(),
            due: BTreeMap::new(),
            known: HashSet::with_hasher(KeyedState::new(seed)),
            leased: Leases::default(),
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
            Some(time) => _ = self.due.insert((time, self.next), request),
            None => self.line_up(self.next, request),
        }
    }

    fn line_up(&mut self, age: u64, request: Request) {
        let (priority, host) = (request.priority(), self.host_of(request.url()));
        let line = self.lines.entry((priority, host)).or_insert_with(|| {
            self.next += 1;
            self.turns.insert((Reverse(priority), self.next), host);
            Line { turn: self.next, requests: BTreeSet::new() }
        });
        line.requests.insert(age);
        self.waiting.insert((Reverse(priority), age), (host, request));
    }

    /// The oldest request of the line whose turn it is, which then is the last to have one again.
    fn next_in_turn(&mut self) -> Option<Request> {
        let ((Reverse(priority), _), host) = self.turns.pop_first()?;
        let line = self.lines.get_mut(&(priority, host))?;
        let age = line.requests.pop_first()?;
        if line.requests.is_empty() {
            self.lines.remove(&(priority, host));
        } else {
            self.next += 1;
            line.turn = self.next;
            self.turns.insert((Reverse(priority), line.turn), host);
        }
        self.waiting.remove(&(Reverse(priority), age)).map(|(_, request)| request)
    }

    /// Of `scheme://user@host:port/..`; requests are many, so the URL is not parsed.
    fn host_of(&self, url: &str) -> Host {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = authority.rsplit('@').next().unwrap_or(authority);
        xxhash_rust::xxh3::xxh3_64_with_seed(host.to_ascii_lowercase().as_bytes(), self.seed)
    }

    /// Makes room for a request of this priority: the request that gives way, or `None` where none is lower.
    fn give_way(&mut self, priority: i32) -> Option<Request> {
        let last = self.waiting.last_entry().filter(|entry| entry.key().0.0 < priority)?;
        let ((Reverse(lowest), age), (host, request)) = last.remove_entry();
        if let Some(line) = self.lines.get_mut(&(lowest, host)) {
            line.requests.remove(&age);
            if line.requests.is_empty() {
                self.turns.remove(&(Reverse(lowest), line.turn));
                self.lines.remove(&(lowest, host));
            }
        }
        Some(request)
    }
}

#[async_trait]
impl Frontier for MemoryFrontier {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= now) {
            let (_, seq) = *entry.key();
            let request = entry.remove();
            self.line_up(seq, request);
        }
        let mut leased = Leased::default();
        while leased.requests.len() < want.get() as usize {
            let Some(request) = self.next_in_turn() else { break };
            leased.requests.push((self.leased.give(request.clone()), request));
        }
        leased.next_due = self.due.first_key_value().map(|((time, _), _)| *time);
        leased.drained = self.is_empty();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        for (id, verdict) in done.drain(..) {
            if let (Some(request), Verdict::Return) = (self.leased.end(id), verdict) {
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

    // H8
    #[test]
    fn one_host_does_not_hold_up_another() {
        let mut frontier = MemoryFrontier::new(200_000, 1);
        let mut found: Vec<_> = (0..100_000).map(|n| Request::get(format!("http://a.test/{n}"))).collect();
        block_on(frontier.add(&mut found)).expect("memory");
        let leased = block_on(frontier.lease(MANY, SystemTime::UNIX_EPOCH)).expect("memory");
        assert_eq!(leased.requests.len(), 100, "a host that is alone gets all");
        block_on(frontier.add(&mut vec!["http://b.test/1".into(), "http://b.test/2".into()])).expect("memory");
        let leased = block_on(frontier.lease(MANY, SystemTime::UNIX_EPOCH)).expect("memory");
        let expected =
            ["http://a.test/100", "http://b.test/1", "http://a.test/101", "http://b.test/2", "http://a.test/102"];
        assert_eq!(urls(&leased)[..5], expected);
        assert_eq!(leased.requests.len(), 100);
        assert_eq!((frontier.lines.len(), frontier.turns.len()), (1, 1), "nothing is kept of a host that has nothing");
    }

    #[test]
    fn turns_are_taken_within_a_priority_and_kept_across_leases() {
        let mut frontier = MemoryFrontier::new(100, 1);
        let get = |url: &str, priority| Request::get(format!("http://{url}")).with_priority(priority);
        let mut found = vec![
            get("u@A.test/1", 0),
            get("a.test?2", 0),
            get("b.test/1", 0),
            get("b.test/2", 7),
            get("b.test/3", 7),
            get("a.test:81/", 0),
        ];
        block_on(frontier.add(&mut found)).expect("memory");
        let mut given = Vec::new();
        loop {
            let leased = block_on(frontier.lease(NonZeroU32::MIN, SystemTime::UNIX_EPOCH)).expect("memory");
            given.extend(urls(&leased).into_iter().map(|url| url["http://".len()..].to_owned()));
            if leased.drained {
                break;
            }
        }
        assert_eq!(given, ["b.test/2", "b.test/3", "u@A.test/1", "b.test/1", "a.test:81/", "a.test?2"]);
    }

    #[test]
    fn what_gives_way_leaves_its_line() {
        let mut frontier = MemoryFrontier::new(2, 1);
        let get = |url: &str, priority| Request::get(url.to_owned()).with_priority(priority);
        let mut found = vec![get("http://a.test/", 0), get("http://b.test/", 0), get("http://c.test/", 1)];
        block_on(frontier.add(&mut found)).expect("memory");
        assert_eq!(found[0].url(), "http://b.test/", "the newest of the lowest");
        let leased = block_on(frontier.lease(MANY, SystemTime::UNIX_EPOCH)).expect("memory");
        assert_eq!(urls(&leased), ["http://c.test/", "http://a.test/"]);
        assert!(frontier.lines.is_empty() && frontier.turns.is_empty() && frontier.waiting.is_empty());
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
