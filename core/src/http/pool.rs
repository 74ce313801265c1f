//! Parked connections: last in, first out for each key, swept by age, and bounded for a key and in all.
//!
//! They lie in one slab, in two lists each: that of all, by age, and that of their key. So parking and taking are O(1), and
//! allocate nothing once the slab has grown.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::conn::Conn;
use crate::hash::KeyedState;
use crate::ledger::Evict;
use crate::time::later;

/// What two requests must have in common to share a connection. The TLS configuration is that of the fetcher, which
/// owns the pool. No `Debug`: the proxy's credential is part of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRef<'a> {
    pub(super) https: bool,
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// The proxy with its credential.
    pub(super) proxy: Option<&'a Arc<str>>,
    pub(super) local: Option<IpAddr>,
    /// Its address was judged by the guard.
    pub(super) guarded: bool,
}

/// The same, owned. A request that finds a parked connection takes that one's over.
pub(super) struct Key {
    https: bool,
    host: Box<str>,
    port: u16,
    proxy: Option<Arc<str>>,
    local: Option<IpAddr>,
    guarded: bool,
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Self {
        let KeyRef { https, host, port, proxy, local, guarded } = key;
        Self { https, host: host.into(), port, proxy: proxy.cloned(), local, guarded }
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { https, host, port, proxy, local, guarded } = *self;
        state.write(host.as_bytes());
        state.write_u64(u64::from(port) | u64::from(https) << 16 | u64::from(guarded) << 17);
        if let Some(proxy) = proxy {
            state.write(proxy.as_bytes());
        }
        if let Some(local) = local {
            local.hash(state);
        }
    }
}

/// A key, owned or not, so that the one finds the other in a table.
pub(super) trait AsKey {
    fn as_key(&self) -> KeyRef<'_>;
}

impl AsKey for KeyRef<'_> {
    fn as_key(&self) -> KeyRef<'_> {
        *self
    }
}

impl AsKey for Key {
    fn as_key(&self) -> KeyRef<'_> {
        let Self { https, host, port, proxy, local, guarded } = self;
        KeyRef { https: *https, host, port: *port, proxy: proxy.as_ref(), local: *local, guarded: *guarded }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_key().hash(state);
    }
}

impl PartialEq for dyn AsKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for dyn AsKey + '_ {}

impl Hash for dyn AsKey + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_key().hash(state);
    }
}

impl<'a> Borrow<dyn AsKey + 'a> for Arc<Key> {
    fn borrow(&self) -> &(dyn AsKey + 'a) {
        &**self
    }
}

#[derive(Clone, Debug)]
pub(super) struct PoolLimits {
    pub(super) idle_timeout: Duration,
    pub(super) per_key: usize,
    pub(super) total: usize,
}

/// See the file's head. Dropping a connection closes its socket, which is done outside the lock.
pub(super) struct Pool<C = Box<Conn>> {
    limits: PoolLimits,
    state: Mutex<State<C>>,
}

struct State<C> {
    parked: Slab<Parked<C>>,
    all: List,
    /// No list is empty.
    by_key: HashMap<Arc<Key>, List, KeyedState>,
}

struct Parked<C> {
    conn: C,
    key: Arc<Key>,
    since: Instant,
    /// Its neighbours among all, and among those of its key.
    links: [Links; 2],
}

#[derive(Clone, Copy, Default)]
struct Links {
    older: Option<usize>,
    newer: Option<usize>,
}

/// A list through the slab.
#[derive(Clone, Copy, Default)]
struct List {
    oldest: Option<usize>,
    newest: Option<usize>,
    length: usize,
}

/// Which of the links of a connection a list goes by.
#[derive(Clone, Copy)]
enum By {
    Age = 0,
    Key = 1,
}

impl List {
    fn push<C>(&mut self, parked: &mut Slab<Parked<C>>, index: usize, by: By) {
        parked[index].links[by as usize] = Links { older: self.newest, newer: None };
        match self.newest.replace(index) {
            Some(before) => parked[before].links[by as usize].newer = Some(index),
            None => self.oldest = Some(index),
        }
        self.length += 1;
    }

    fn unlink<C>(&mut self, parked: &mut Slab<Parked<C>>, index: usize, by: By) {
        let Links { older, newer } = parked[index].links[by as usize];
        match older {
            Some(older) => parked[older].links[by as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => parked[newer].links[by as usize].older = older,
            None => self.newest = older,
        }
        self.length -= 1;
    }
}

impl<C> Pool<C> {
    pub(super) fn new(limits: PoolLimits, seed: u64) -> Self {
        let by_key = HashMap::with_hasher(KeyedState::new(seed));
        Self { limits, state: Mutex::new(State { parked: Slab::new(), all: List::default(), by_key }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections parked now.
    pub(super) fn len(&self) -> usize {
        self.lock().parked.len()
    }

    /// The connection parked last under `key`. The ones that are too old are closed on the way.
    pub(super) fn take(&self, key: KeyRef<'_>, now: Instant) -> Option<(Arc<Key>, C)> {
        let mut state = self.lock();
        let old = state.sweep(now, self.limits.idle_timeout);
        let found = state.take(&key);
        drop(state);
        drop(old);
        found
    }

    pub(super) fn put(&self, key: Arc<Key>, conn: C, now: Instant) {
        if self.limits.total == 0 || self.limits.per_key == 0 {
            return;
        }
        let mut state = self.lock();
        let mut out = state.sweep(now, self.limits.idle_timeout);
        let of_key = state.push(key, conn, now);
        if let Some(oldest) = of_key.oldest.filter(|_| of_key.length > self.limits.per_key) {
            out.push(state.remove(oldest));
        }
        while state.all.length > self.limits.total
            && let Some(oldest) = state.all.oldest
        {
            out.push(state.remove(oldest));
        }
        drop(state);
        drop(out);
    }

    fn since(&self) -> Option<Instant> {
        let state = self.lock();
        state.all.oldest.map(|index| state.parked[index].since)
    }

    /// Closes the one that was parked longest ago.
    fn close_oldest(&self) -> bool {
        let mut state = self.lock();
        let out = state.all.oldest.map(|index| state.remove(index));
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
        let by_age =
            std::iter::successors(state.all.oldest, |index| state.parked[*index].links[By::Age as usize].newer);
        let oldest = { by_age }.find(|index| state.parked[*index].conn.peer().addr == to);
        let out = oldest.map(|index| state.remove(index));
        drop(state);
        out.is_some()
    }
}

impl Pool {
    /// A parked connection that is still good; dead ones are dropped on the way.
    pub(super) fn take_quiet(&self, key: KeyRef<'_>, now: Instant) -> Option<(Arc<Key>, Box<Conn>)> {
        while let Some((key, mut conn)) = self.take(key, now) {
            if conn.is_quiet() {
                conn.socket().set_idle(false);
                return Some((key, conn));
            }
        }
        None
    }
}

impl<C> State<C> {
    /// Gives the list of its key.
    fn push(&mut self, key: Arc<Key>, conn: C, since: Instant) -> List {
        let links = [Links::default(); 2];
        let (key, of_key) = match self.by_key.entry(key) {
            // One key for all connections that have the same.
            Entry::Occupied(entry) => (Arc::clone(entry.key()), entry.into_mut()),
            Entry::Vacant(entry) => (Arc::clone(entry.key()), entry.insert(List::default())),
        };
        let index = self.parked.insert(Parked { conn, key, since, links });
        self.all.push(&mut self.parked, index, By::Age);
        of_key.push(&mut self.parked, index, By::Key);
        *of_key
    }

    /// Takes out the newest of its key.
    fn take(&mut self, key: &dyn AsKey) -> Option<(Arc<Key>, C)> {
        let list = self.by_key.get_mut(key)?;
        let index = list.newest?;
        list.unlink(&mut self.parked, index, By::Key);
        if list.length == 0 {
            self.by_key.remove(key);
        }
        self.all.unlink(&mut self.parked, index, By::Age);
        let Parked { conn, key, .. } = self.parked.remove(index);
        Some((key, conn))
    }

    fn remove(&mut self, index: usize) -> (Arc<Key>, C) {
        self.all.unlink(&mut self.parked, index, By::Age);
        if let Some(list) = self.by_key.get_mut(&self.parked[index].key) {
            list.unlink(&mut self.parked, index, By::Key);
            if list.length == 0 {
                self.by_key.remove(&self.parked[index].key);
            }
        }
        let Parked { conn, key, .. } = self.parked.remove(index);
        (key, conn)
    }

    fn sweep(&mut self, now: Instant, idle_timeout: Duration) -> Vec<(Arc<Key>, C)> {
        let mut old = Vec::new();
        while let Some(oldest) = self.all.oldest
            && later(self.parked[oldest].since, idle_timeout) <= now
        {
            old.push(self.remove(oldest));
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(host: &str) -> KeyRef<'_> {
        KeyRef { https: false, host, port: 80, proxy: None, local: None, guarded: false }
    }

    fn key(host: &str) -> Arc<Key> {
        Arc::new(wanted(host).into())
    }

    impl Pool<u32> {
        fn taken(&self, host: &str, now: Instant) -> Option<u32> {
            self.take(wanted(host), now).map(|(_, conn)| conn)
        }
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
        assert_eq!(pool.taken("a", now), Some(3));
        assert_eq!(pool.taken("a", now), Some(1));
        assert_eq!(pool.taken("a", now), None);
        assert_eq!((pool.taken("b", now), pool.len()), (Some(2), 0));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (by_key, now) = pool(2, 9);
        (1..=3).for_each(|conn| by_key.put(key("a"), conn, now));
        assert_eq!([(); 3].map(|()| by_key.taken("a", now)), [Some(3), Some(2), None]);
        let (in_all, now) = pool(9, 2);
        for (host, conn) in [("a", 1), ("b", 2), ("c", 3)] {
            in_all.put(key(host), conn, now);
        }
        assert_eq!((in_all.taken("a", now), in_all.len()), (None, 2));
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
        assert_eq!(pool.taken("a", now), Some(4));
        assert_eq!((pool.since(), pool.close_oldest()), (None, false));
    }

    #[test]
    fn old_ones_are_swept() {
        let (pool, now) = pool(9, 9);
        pool.put(key("a"), 1, now);
        pool.put(key("b"), 2, now + Duration::from_secs(1));
        assert_eq!(pool.taken("c", now + Duration::from_secs(59)), None);
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.taken("a", now + Duration::from_secs(60)), None);
        assert_eq!((pool.len(), pool.taken("b", now + Duration::from_secs(60))), (1, Some(2)));
    }

    // F5, and invariant 13
    #[test]
    fn each_part_of_the_key_counts() {
        let (pool, now) = pool(9, 9);
        let proxies: [Arc<str>; 2] = ["http://a@p".into(), "http://b@p".into()];
        let base = KeyRef { proxy: Some(&proxies[0]), ..wanted("a") };
        pool.put(Arc::new(base.into()), 1, now);
        for other in [
            KeyRef { https: true, ..base },
            KeyRef { host: "b", ..base },
            KeyRef { port: 81, ..base },
            KeyRef { proxy: None, ..base },
            KeyRef { proxy: Some(&proxies[1]), ..base },
            KeyRef { local: Some([127, 0, 0, 1].into()), ..base },
            KeyRef { guarded: true, ..base },
        ] {
            assert!(pool.take(other, now).is_none());
        }
        let same: Arc<str> = (&*proxies[0]).into();
        assert!(pool.take(KeyRef { proxy: Some(&same), ..base }, now).is_some());
    }

    proptest::proptest! {
        /// The lists against a plain vector.
        #[test]
        fn what_is_parked_is_found_or_was_the_oldest(
            steps in proptest::collection::vec((0_u8..5, proptest::bool::ANY), 0..80),
            per_key in 1_usize..4,
            total in 1_usize..6,
        ) {
            let (pool, now) = pool(per_key, total);
            let mut model: Vec<(u8, u32)> = Vec::new();
            for (number, (host, parks)) in steps.into_iter().enumerate() {
                let (name, number) = (host.to_string(), number as u32);
                if !parks {
                    let newest = model.iter().rposition(|(of, _)| *of == host);
                    let expected = newest.map(|at| model.remove(at).1);
                    proptest::prop_assert_eq!(pool.taken(&name, now), expected);
                    continue;
                }
                if model.iter().filter(|(of, _)| *of == host).count() >= per_key {
                    let oldest = model.iter().position(|(of, _)| *of == host);
                    model.remove(oldest.expect("counted"));
                }
                if model.len() >= total {
                    model.remove(0);
                }
                model.push((host, number));
                pool.put(key(&name), number, now);
                proptest::prop_assert_eq!(pool.len(), model.len());
            }
            while pool.close_oldest() {}
            proptest::prop_assert!(pool.lock().by_key.is_empty());
        }
    }
}
