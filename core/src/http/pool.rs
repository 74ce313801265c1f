//! Parked connections: last in, first out for each key, swept by age, and bounded for a key and in all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::conn::Conn;
use crate::hash::KeyedState;
use crate::ledger::Evict;

/// What two requests must have in common to share a connection. The TLS configuration is that of the fetcher, which
/// owns the pool. No `Debug`: the proxy's credential is part of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) https: bool,
    pub(super) host: Box<str>,
    pub(super) port: u16,
    /// The proxy with its credential.
    pub(super) proxy: Option<Arc<str>>,
    pub(super) local: Option<IpAddr>,
    /// Its address was judged by the guard.
    pub(super) guarded: bool,
}

#[derive(Clone, Debug)]
pub(super) struct PoolLimits {
    pub(super) idle_timeout: Duration,
    pub(super) per_key: usize,
    pub(super) total: usize,
}

/// See the file's head. Dropping a connection closes its socket, which is done outside the lock.
pub(super) struct Pool<C = Conn> {
    limits: PoolLimits,
    state: Mutex<State<C>>,
}

struct State<C> {
    parked: HashMap<Arc<Key>, VecDeque<Parked<C>>, KeyedState>,
    /// All of them by the time they were parked: the first is the least recently used, and the front of its key.
    by_age: BTreeMap<u64, Arc<Key>>,
    next: u64,
}

struct Parked<C> {
    conn: C,
    number: u64,
    since: Instant,
}

impl<C> Pool<C> {
    pub(super) fn new(limits: PoolLimits, seed: u64) -> Self {
        let parked = HashMap::with_hasher(KeyedState::new(seed));
        Self { limits, state: Mutex::new(State { parked, by_age: BTreeMap::new(), next: 0 }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections parked now.
    pub(super) fn len(&self) -> usize {
        self.lock().by_age.len()
    }

    /// The connection parked last under `key`. The ones that are too old are closed on the way.
    pub(super) fn take(&self, key: &Key, now: Instant) -> Option<C> {
        let mut state = self.lock();
        let old = state.sweep(now, self.limits.idle_timeout);
        let found = state.pop_newest(key);
        drop(state);
        drop(old);
        found
    }

    pub(super) fn put(&self, key: Arc<Key>, conn: C, now: Instant) {
        if self.limits.total == 0 || self.limits.per_key == 0 {
            return;
        }
        let mut out = Vec::new();
        let mut state = self.lock();
        out.extend(state.sweep(now, self.limits.idle_timeout));
        if state.parked.get(&key).is_some_and(|parked| parked.len() >= self.limits.per_key) {
            out.extend(state.pop_oldest(&key));
        }
        while state.by_age.len() >= self.limits.total {
            let Some(oldest) = state.by_age.values().next().cloned() else { break };
            out.extend(state.pop_oldest(&oldest));
        }
        state.push(key, conn, now);
        drop(state);
        drop(out);
    }

    fn since(&self) -> Option<Instant> {
        let state = self.lock();
        let oldest = state.by_age.values().next()?;
        state.parked.get(oldest)?.front().map(|parked| parked.since)
    }

    /// Closes the one that was parked longest ago.
    fn close_oldest(&self) -> bool {
        let mut state = self.lock();
        let oldest = state.by_age.values().next().cloned();
        let out = oldest.and_then(|key| state.pop_oldest(&key));
        drop(state);
        out.is_some()
    }
}

impl Evict for Pool {
    fn oldest(&self) -> Option<Instant> {
        self.since()
    }

    fn evict_oldest(&self) -> bool {
        self.close_oldest()
    }

    fn evict_to(&self, to: SocketAddr) -> bool {
        let mut state = self.lock();
        let oldest = state.by_age.values().find(|key| {
            state.parked.get(*key).and_then(VecDeque::front).is_some_and(|parked| parked.conn.peer().addr == to)
        });
        let oldest = oldest.cloned();
        let out = oldest.and_then(|key| state.pop_oldest(&key));
        drop(state);
        out.is_some()
    }
}

impl Pool {
    /// A parked connection that is still good; dead ones are dropped on the way.
    pub(super) fn take_quiet(&self, key: &Key, now: Instant) -> Option<Conn> {
        while let Some(mut conn) = self.take(key, now) {
            if conn.is_quiet() {
                conn.socket().set_idle(false);
                return Some(conn);
            }
        }
        None
    }
}

impl<C> State<C> {
    fn push(&mut self, key: Arc<Key>, conn: C, since: Instant) {
        let number = self.next;
        self.next += 1;
        self.by_age.insert(number, Arc::clone(&key));
        self.parked.entry(key).or_default().push_back(Parked { conn, number, since });
    }

    fn pop_newest(&mut self, key: &Key) -> Option<C> {
        let found = self.parked.get_mut(key)?.pop_back();
        self.forget(key, found)
    }

    fn pop_oldest(&mut self, key: &Key) -> Option<C> {
        let found = self.parked.get_mut(key)?.pop_front();
        self.forget(key, found)
    }

    fn forget(&mut self, key: &Key, parked: Option<Parked<C>>) -> Option<C> {
        let parked = parked?;
        self.by_age.remove(&parked.number);
        if self.parked.get(key).is_some_and(VecDeque::is_empty) {
            self.parked.remove(key);
        }
        Some(parked.conn)
    }

    fn sweep(&mut self, now: Instant, idle_timeout: Duration) -> Vec<C> {
        let mut old = Vec::new();
        while let Some(key) = self.by_age.values().next().cloned() {
            let oldest = self.parked.get(&key).and_then(VecDeque::front);
            if oldest.is_none_or(|p| now.saturating_duration_since(p.since) < idle_timeout) {
                break;
            }
            old.extend(self.pop_oldest(&key));
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(host: &str) -> Arc<Key> {
        Arc::new(Key { https: false, host: host.into(), port: 80, proxy: None, local: None, guarded: false })
    }

    fn pool(per_key: usize, total: usize) -> (Pool<u32>, Instant) {
        #[expect(clippy::disallowed_methods, reason = "any origin of time will do")]
        let now = Instant::now();
        (Pool::new(PoolLimits { idle_timeout: Duration::from_secs(60), per_key, total }, 1), now)
    }

    #[test]
    fn last_in_first_out_for_each_key() {
        let (pool, now) = pool(9, 9);
        for (host, conn) in [("a", 1), ("b", 2), ("a", 3)] {
            pool.put(key(host), conn, now);
        }
        assert_eq!(pool.take(&key("a"), now), Some(3));
        assert_eq!(pool.take(&key("a"), now), Some(1));
        assert_eq!(pool.take(&key("a"), now), None);
        assert_eq!((pool.take(&key("b"), now), pool.len()), (Some(2), 0));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (by_key, now) = pool(2, 9);
        (1..=3).for_each(|conn| by_key.put(key("a"), conn, now));
        assert_eq!([(); 3].map(|()| by_key.take(&key("a"), now)), [Some(3), Some(2), None]);
        let (in_all, now) = pool(9, 2);
        for (host, conn) in [("a", 1), ("b", 2), ("c", 3)] {
            in_all.put(key(host), conn, now);
        }
        assert_eq!((in_all.take(&key("a"), now), in_all.len()), (None, 2));
        let (none, now) = pool(0, 9);
        none.put(key("a"), 1, now);
        assert_eq!(none.len(), 0);
    }

    // H1
    #[test]
    fn the_oldest_are_evicted() {
        let (pool, now) = pool(9, 9);
        for (host, conn) in [("a", 1), ("b", 2), ("a", 3), ("a", 4)] {
            pool.put(key(host), conn, now);
        }
        assert_eq!(pool.since(), Some(now));
        assert_eq!(([(); 3].map(|()| pool.close_oldest()), pool.len()), ([true; 3], 1));
        assert_eq!(pool.take(&key("a"), now), Some(4));
        assert_eq!((pool.since(), pool.close_oldest()), (None, false));
    }

    #[test]
    fn old_ones_are_swept() {
        let (pool, now) = pool(9, 9);
        pool.put(key("a"), 1, now);
        pool.put(key("b"), 2, now + Duration::from_secs(1));
        assert_eq!(pool.take(&key("c"), now + Duration::from_secs(59)), None);
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.take(&key("a"), now + Duration::from_secs(60)), None);
        assert_eq!((pool.len(), pool.take(&key("b"), now + Duration::from_secs(60))), (1, Some(2)));
    }
}
