//! A cache in front of a resolver: clamped lifetimes, negative entries, one lookup a name at a time, bounded.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::flight::{Flight, Passenger};
use super::{Addrs, BoxFuture, Name, Resolve, ResolveError, Runtime};
use crate::hash::KeyedState;
use crate::sync::{Mutex, MutexGuard};
use crate::time::later;

/// Bounds of a [`CachedResolver`].
///
/// ```
/// assert_eq!(tidegate::rt::DnsLimits::default().entries, 100_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsLimits {
    /// Names kept: 100,000. Above it a sixteenth makes room: expired ones, then arbitrary ones, but none that is being
    /// asked for; where all are, further lookups are neither shared nor kept.
    pub entries: usize,
    /// An answer is kept at least this long: 10 s, whatever its TTL.
    pub min_ttl: Duration,
    /// And at most this long, also where that is less than the least: 1 h.
    pub max_ttl: Duration,
    /// Where the resolver knows no TTL: 60 s.
    pub unknown_ttl: Duration,
    /// "No such name" is kept this long: 30 s. Other failures are not kept.
    pub negative_ttl: Duration,
    /// Addresses kept of one answer: 16.
    pub addrs: usize,
}

impl Default for DnsLimits {
    fn default() -> Self {
        Self {
            entries: 100_000,
            min_ttl: Duration::from_secs(10),
            max_ttl: Duration::from_secs(3600),
            unknown_ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(30),
            addrs: 16,
        }
    }
}

type Answer = Result<Arc<Addrs>, ResolveError>;

/// Caches the answers of a runtime's resolver. Clones share the cache.
///
/// ```
/// use std::sync::Arc;
/// use tidegate::rt::{CachedResolver, Name, ResolveError};
/// async fn twice(dns: &CachedResolver, name: &Name) -> Result<(), ResolveError> {
///     let found = dns.resolve(name).await?;
///     assert!(!found.addrs.is_empty());
///     // The second answer is the first one.
///     assert!(Arc::ptr_eq(&found, &dns.resolve(name).await?));
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct CachedResolver {
    runtime: Runtime,
    resolver: Arc<dyn Resolve>,
    limits: DnsLimits,
    cache: Arc<Mutex<Cache>>,
}

struct Cache {
    names: HashMap<Name, Entry, KeyedState>,
    /// Lookups that do without a place before the next search for room, so that a search costs each lookup little.
    without: usize,
}

enum Entry {
    Known { answer: Answer, until: Instant },
    Asked(Flight<Answer>),
}

impl CachedResolver {
    /// An empty cache in front of the runtime's resolver. `seed` keys its hash.
    pub fn new(runtime: &Runtime, limits: DnsLimits, seed: u64) -> Self {
        Self {
            runtime: runtime.clone(),
            resolver: Arc::clone(runtime.resolver()),
            limits,
            cache: Arc::new(Mutex::new(Cache { names: HashMap::with_hasher(KeyedState::new(seed)), without: 0 })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer that is known now, without asking anybody.
    pub fn cached(&self, name: &Name) -> Option<Result<Arc<Addrs>, ResolveError>> {
        match self.lock().names.get(name)? {
            Entry::Known { answer, until } if *until > self.runtime.now() => Some(answer.clone()),
            _ => None,
        }
    }

    /// The addresses of `name`, from the cache or from the resolver; callers that ask at the same time share a lookup.
    ///
    /// # Errors
    /// Those of the resolver.
    ///
    /// # Cancel safety
    /// The lookup goes on for the others, and is asked anew when nobody is left.
    pub async fn resolve(&self, name: &Name) -> Result<Arc<Addrs>, ResolveError> {
        if let Some(answer) = self.cached(name) {
            return answer;
        }
        let mut lookup = self.ask(name);
        let answer = (&mut lookup).await;
        self.keep(name, &lookup, &answer);
        answer
    }

    fn ask(&self, name: &Name) -> Passenger<Answer> {
        // What goes is dropped without the lock: a lookup is the resolver's.
        let mut gone = Vec::new();
        let mut cache = self.lock();
        // A lookup that all its callers gave up may be stuck, so it is asked anew.
        if let Some(Entry::Asked(lookup)) = cache.names.get(name).filter(|entry| entry.is_awaited()) {
            return lookup.join();
        }
        let now = self.runtime.now();
        let has_place = cache.names.contains_key(name) || cache.make_room(self.limits.entries, now, &mut gone);
        let flight = Flight::new(self.look_up(name));
        let lookup = flight.join();
        if has_place {
            gone.extend(cache.names.insert(name.clone(), Entry::Asked(flight)));
        }
        lookup
    }

    /// Asks the resolver when it is polled first. A resolver that panics has failed.
    fn look_up(&self, name: &Name) -> BoxFuture<'static, Answer> {
        let (resolver, name, most) = (Arc::clone(&self.resolver), name.clone(), self.limits.addrs);
        Box::pin(async move {
            let asked = AssertUnwindSafe(async { resolver.resolve(&name).await }).catch_unwind().await;
            let panicked =
                |_| Err(ResolveError::Failed { name: name.clone(), message: "the resolver panicked".into() });
            let mut addrs = asked.unwrap_or_else(panicked)?;
            addrs.addrs.truncate(most);
            Ok(Arc::new(addrs))
        })
    }

    fn keep(&self, name: &Name, lookup: &Passenger<Answer>, answer: &Answer) {
        let ttl = match answer {
            Ok(addrs) => addrs.ttl.unwrap_or(self.limits.unknown_ttl).max(self.limits.min_ttl).min(self.limits.max_ttl),
            Err(ResolveError::NotFound(_)) => self.limits.negative_ttl,
            Err(_) => {
                let mut cache = self.lock();
                // Another may have been asked for since, by those who came after the answer.
                let is_this = |entry: &Entry| matches!(entry, Entry::Asked(flight) if flight.carries(lookup));
                let gone = cache.names.get(name).is_some_and(is_this).then(|| cache.names.remove(name));
                drop(cache);
                drop(gone);
                return;
            }
        };
        let until = later(self.runtime.now(), ttl);
        let mut cache = self.lock();
        let has_place = cache.names.contains_key(name) || cache.names.len() < self.limits.entries;
        let known = || Entry::Known { answer: answer.clone(), until };
        let gone = has_place.then(|| cache.names.insert(name.clone(), known()));
        drop(cache);
        drop(gone);
    }
}

impl Entry {
    /// Whether anybody but the cache holds the lookup.
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Asked(lookup) if lookup.is_awaited())
    }

    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::Known { until, .. } => *until <= now,
            Self::Asked(_) => !self.is_awaited(),
        }
    }
}

impl Cache {
    /// Whether one more name fits, without what was put into `gone`. A search goes through all names: there is at most
    /// one for each sixteenth of them.
    fn make_room(&mut self, most: usize, now: Instant, gone: &mut Vec<Entry>) -> bool {
        if self.names.len() < most {
            return true;
        }
        if self.without > 0 {
            self.without -= 1;
            return false;
        }
        let batch = (most / 16).max(1);
        let full = self.names.len();
        gone.extend(self.names.extract_if(|_, entry| entry.is_over(now)).map(|(_, entry)| entry));
        let mut wanted = batch.saturating_sub(full - self.names.len());
        if wanted > 0 {
            let unasked = self.names.extract_if(|_, entry| !entry.is_awaited()).take(wanted).map(|(_, entry)| entry);
            let before = gone.len();
            gone.extend(unasked);
            wanted -= gone.len() - before;
        }
        // What was not found is made up for by lookups without a place.
        self.without = wanted;
        self.names.len() < most
    }
}

impl std::fmt::Debug for CachedResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedResolver").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::manual::{Manual, one_address};
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn ask(manual: &Manual, cache: &CachedResolver, host: &str, done: &Arc<AtomicUsize>) {
        let (cache, name, done) = (cache.clone(), name(host), Arc::clone(done));
        manual.runtime().spawn(async move {
            let _ = cache.resolve(&name).await;
            done.fetch_add(1, Ordering::Relaxed);
        });
        manual.settle();
    }

    // G2
    #[test]
    fn callers_share_a_lookup_and_then_the_answer() {
        let manual = Manual::new();
        let cache = CachedResolver::new(&manual.runtime(), DnsLimits::default(), 1);
        let done = Arc::new(AtomicUsize::new(0));
        (0..10).for_each(|_| ask(&manual, &cache, "a.test", &done));
        assert_eq!((manual.lookups(), done.load(Ordering::Relaxed)), (1, 0));
        manual.answer(Ok(one_address(None)));
        manual.settle();
        assert_eq!(done.load(Ordering::Relaxed), 10);
        ask(&manual, &cache, "a.test", &done);
        assert_eq!((manual.lookups(), done.load(Ordering::Relaxed)), (1, 11));
    }

    // G1, G3
    #[test]
    fn answers_hold_for_their_clamped_time() {
        let limits = DnsLimits::default();
        let not_found = || Err(ResolveError::NotFound(name("a.test")));
        for (answer, holds) in [
            (Ok(one_address(Some(Duration::ZERO))), limits.min_ttl),
            (Ok(one_address(Some(Duration::from_secs(1 << 31)))), limits.max_ttl),
            (Ok(one_address(None)), limits.unknown_ttl),
            (not_found(), limits.negative_ttl),
        ] {
            let manual = Manual::new();
            let cache = CachedResolver::new(&manual.runtime(), limits.clone(), 1);
            let done = Arc::new(AtomicUsize::new(0));
            manual.answer(answer);
            ask(&manual, &cache, "a.test", &done);
            manual.advance(holds - Duration::from_nanos(1));
            ask(&manual, &cache, "a.test", &done);
            assert_eq!(manual.lookups(), 1, "{holds:?}");
            manual.advance(Duration::from_nanos(1));
            ask(&manual, &cache, "a.test", &done);
            assert_eq!(manual.lookups(), 2, "{holds:?}");
        }
    }

    #[test]
    fn a_failure_is_not_kept_and_the_cache_is_bounded() {
        let manual = Manual::new();
        let limits = DnsLimits { entries: 3, ..DnsLimits::default() };
        let cache = CachedResolver::new(&manual.runtime(), limits, 1);
        let done = Arc::new(AtomicUsize::new(0));
        manual.answer(Err(ResolveError::TimedOut(name("a.test"))));
        (0..2).for_each(|_| ask(&manual, &cache, "a.test", &done));
        assert_eq!(manual.lookups(), 2);
        manual.answer(Ok(one_address(None)));
        (0..50).for_each(|i| ask(&manual, &cache, &format!("h{i}.test"), &done));
        assert!(cache.lock().names.len() <= 3);
    }

    #[test]
    fn odd_lifetimes_do_not_panic() {
        let limits = |min_ttl, max_ttl| DnsLimits { min_ttl, max_ttl, ..DnsLimits::default() };
        for (limits, holds) in [
            (limits(Duration::from_secs(20), Duration::from_secs(5)), Duration::from_secs(5)),
            (limits(Duration::MAX, Duration::MAX), Duration::from_secs(1 << 20)),
        ] {
            let manual = Manual::new();
            let cache = CachedResolver::new(&manual.runtime(), limits, 1);
            let done = Arc::new(AtomicUsize::new(0));
            manual.answer(Ok(one_address(None)));
            ask(&manual, &cache, "a.test", &done);
            manual.advance(holds - Duration::from_nanos(1));
            ask(&manual, &cache, "a.test", &done);
            assert_eq!((manual.lookups(), done.load(Ordering::Relaxed)), (1, 2), "{holds:?}");
        }
    }

    #[test]
    fn a_full_cache_makes_room_by_the_batch_and_keeps_what_is_asked() {
        let manual = Manual::new();
        let limits = DnsLimits { entries: 320, ..DnsLimits::default() };
        let cache = CachedResolver::new(&manual.runtime(), limits, 1);
        let done = Arc::new(AtomicUsize::new(0));
        let len = || cache.lock().names.len();
        (0..100).for_each(|i| ask(&manual, &cache, &format!("asked{i}.test"), &done));
        for i in 0..220 {
            let known = cache.clone();
            known.lock().names.insert(
                name(&format!("known{i}.test")),
                Entry::Known {
                    answer: Ok(Arc::new(one_address(None))),
                    until: later(manual.runtime().now(), Duration::MAX),
                },
            );
        }
        assert_eq!(len(), 320);
        ask(&manual, &cache, "one.test", &done);
        assert_eq!(len(), 301, "a sixteenth went");
        // All that was known goes in time, and nothing that somebody waits for.
        (0..300).for_each(|i| ask(&manual, &cache, &format!("more{i}.test"), &done));
        assert_eq!((len(), manual.lookups()), (320, 401));
        (0..100).for_each(|i| ask(&manual, &cache, &format!("asked{i}.test"), &done));
        assert_eq!(manual.lookups(), 401, "shared as before");
        manual.answer(Ok(one_address(None)));
        manual.settle();
        assert_eq!((done.load(Ordering::Relaxed), len()), (501, 320));
    }

    #[test]
    fn a_search_for_room_in_vain_is_not_repeated_at_once() {
        let manual = Manual::new();
        let now = manual.runtime().now();
        let cache = CachedResolver::new(&manual.runtime(), DnsLimits { entries: 160, ..DnsLimits::default() }, 1);
        let done = Arc::new(AtomicUsize::new(0));
        (0..160).for_each(|i| ask(&manual, &cache, &format!("asked{i}.test"), &done));
        let mut cache = cache.lock();
        for round in [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10] {
            assert!(!cache.make_room(160, now, &mut Vec::new()));
            assert_eq!(cache.without, round);
        }
    }

    #[test]
    fn a_resolver_that_panics_has_failed_for_all_who_wait() {
        struct Panics;
        impl Resolve for Panics {
            fn resolve(&self, _: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
                std::panic::resume_unwind(Box::new("contained"))
            }
        }
        let manual = Manual::new();
        let cache = CachedResolver::new(&manual.runtime().with_resolve(Panics), DnsLimits::default(), 1);
        let done = Arc::new(AtomicUsize::new(0));
        (0..2).for_each(|_| ask(&manual, &cache, "a.test", &done));
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_lookup_that_everybody_gave_up_is_asked_anew() {
        let manual = Manual::new();
        let cache = CachedResolver::new(&manual.runtime(), DnsLimits::default(), 1);
        let waker = std::task::Waker::noop();
        {
            let wanted = name("a.test");
            let mut lookup = std::pin::pin!(cache.resolve(&wanted));
            assert!(lookup.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        }
        let done = Arc::new(AtomicUsize::new(0));
        ask(&manual, &cache, "a.test", &done);
        assert_eq!(manual.lookups(), 2);
    }
}
