//! [`MemoryCache`]: a store in memory, bounded in bytes, of which the least recently used go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{CacheStore, StoredResponse};

/// Answers in memory, up to a number of bytes. Clones share them.
///
/// What was used the longest ago goes where there is no room. An answer of more than an eighth of the whole is not kept, so that one
/// large file does not take the place of a thousand pages.
///
/// ```
/// use tidegate::cache::MemoryCache;
///
/// let cache = MemoryCache::new(64 << 20);
/// assert_eq!((cache.len(), cache.bytes()), (0, 0));
/// ```
#[derive(Clone)]
pub struct MemoryCache(Arc<Mutex<Lru>>);

impl MemoryCache {
    /// An empty one that takes at most `max_bytes`: heads, bodies as they came over the wire, and what they need beside.
    ///
    /// ```
    /// let cache = tidegate::cache::MemoryCache::new(256 << 20);
    /// ```
    pub fn new(max_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Lru::new(max_bytes))))
    }

    /// How many answers there are.
    ///
    /// ```
    /// assert_eq!(tidegate::cache::MemoryCache::new(1 << 20).len(), 0);
    /// ```
    pub fn len(&self) -> usize {
        self.lru().entries.len()
    }

    /// Whether there is none.
    ///
    /// ```
    /// assert!(tidegate::cache::MemoryCache::new(1 << 20).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that they take.
    ///
    /// ```
    /// assert_eq!(tidegate::cache::MemoryCache::new(1 << 20).bytes(), 0);
    /// ```
    pub fn bytes(&self) -> usize {
        self.lru().bytes
    }

    /// Forgets all of them.
    ///
    /// ```
    /// tidegate::cache::MemoryCache::new(1 << 20).clear();
    /// ```
    pub fn clear(&self) {
        let mut lru = self.lru();
        let empty = Lru::new(lru.max_bytes);
        let all = std::mem::replace(&mut *lru, empty);
        drop(lru);
        // A decoder may be a user's, and is not to be dropped under the lock.
        drop(all);
    }

    fn lru(&self) -> MutexGuard<'_, Lru> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache").field("len", &self.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[async_trait]
impl CacheStore for MemoryCache {
    async fn get(&self, url: &str) -> Option<StoredResponse> {
        self.lru().get(url)
    }

    async fn put(&self, url: &str, mut stored: StoredResponse) {
        // Its own bytes, and no more of them: what it was cut from may be larger than the bound knows.
        stored.body = Bytes::copy_from_slice(&stored.body);
        let gone = self.lru().put(url, stored);
        drop(gone);
    }

    async fn remove(&self, url: &str) {
        let gone = self.lru().remove(url);
        drop(gone);
    }
}

struct Lru {
    max_bytes: usize,
    bytes: usize,
    /// Ordered, so that no site can aim its URLs at one place of a table.
    entries: BTreeMap<Box<str>, Entry>,
    /// Their URLs in the order of their last use.
    by_use: BTreeMap<u64, Box<str>>,
    serial: u64,
}

struct Entry {
    used: u64,
    size: usize,
    stored: StoredResponse,
}

impl Lru {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, entries: BTreeMap::new(), by_use: BTreeMap::new(), serial: 0 }
    }

    fn get(&mut self, url: &str) -> Option<StoredResponse> {
        let entry = self.entries.get_mut(url)?;
        if let Some(name) = self.by_use.remove(&entry.used) {
            self.serial += 1;
            entry.used = self.serial;
            self.by_use.insert(self.serial, name);
        }
        Some(entry.stored.clone())
    }

    /// Gives what had to go.
    fn put(&mut self, url: &str, stored: StoredResponse) -> Vec<StoredResponse> {
        // The URL is in both tables.
        let size = stored.size() + 2 * url.len() + size_of::<Entry>();
        let mut gone: Vec<_> = self.remove(url).into_iter().collect();
        if size > self.max_bytes / 8 {
            gone.push(stored);
            return gone;
        }
        while self.bytes + size > self.max_bytes
            && let Some((_, oldest)) = self.by_use.pop_first()
            && let Some(entry) = self.entries.remove(&oldest)
        {
            self.bytes -= entry.size;
            gone.push(entry.stored);
        }
        self.serial += 1;
        self.bytes += size;
        self.by_use.insert(self.serial, url.into());
        self.entries.insert(url.into(), Entry { used: self.serial, size, stored });
        gone
    }

    fn remove(&mut self, url: &str) -> Option<StoredResponse> {
        let entry = self.entries.remove(url)?;
        self.by_use.remove(&entry.used);
        self.bytes -= entry.size;
        Some(entry.stored)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::Head;

    fn stored(body: usize) -> StoredResponse {
        let head = Head::new("http://a.test/".parse().expect("literal"), http::StatusCode::OK);
        StoredResponse::new(head, vec![b'x'; body], SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn what_was_used_the_longest_ago_goes() {
        let one = stored(1_000).size() + 2 + size_of::<Entry>();
        let mut lru = Lru::new(one * 10);
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        for name in names {
            assert!(lru.put(name, stored(1_000)).is_empty(), "{name} has room");
        }
        assert_eq!(lru.bytes, lru.max_bytes);
        assert!(lru.get("0").is_some());
        assert_eq!(lru.put("a", stored(1_000)).len(), 1);
        assert!(lru.get("1").is_none() && lru.get("0").is_some());
        assert_eq!(lru.put("a", stored(10)).len(), 1, "what was there before");
        assert_eq!(lru.put("b", stored(lru.max_bytes / 8)).len(), 1, "too large for it");
        assert!(lru.get("b").is_none() && lru.get("2").is_some());
        assert_eq!(lru.put("2", stored(lru.max_bytes / 8)).len(), 2, "what is too large takes the older one with it");
        assert!(lru.get("2").is_none());
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_the_tables_agree(
            steps in proptest::collection::vec((0_u8..4, 0_u8..12, 0_usize..2_000), 0..200),
        ) {
            let mut lru = Lru::new(12_000);
            for (what, name, body) in steps {
                let name = name.to_string();
                match what {
                    0 => drop(lru.remove(&name)),
                    1 => drop(lru.get(&name)),
                    _ => drop(lru.put(&name, stored(body))),
                }
                prop_assert!(lru.bytes <= lru.max_bytes);
                prop_assert_eq!(lru.bytes, lru.entries.values().map(|entry| entry.size).sum::<usize>());
                prop_assert_eq!(lru.by_use.len(), lru.entries.len());
                for (used, url) in &lru.by_use {
                    prop_assert_eq!(lru.entries.get(url).map(|entry| entry.used), Some(*used));
                }
            }
        }
    }
}
