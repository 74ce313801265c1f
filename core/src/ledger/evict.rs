//! [`Evict`]: whoever keeps idle connections that others may need the room of.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use crate::sync::Mutex;

/// A pool of parked connections. It may be asked from any thread, and closes what it evicts before it returns.
pub(crate) trait Evict: Send + Sync {
    /// When the connection was parked that has been so for longest.
    fn oldest(&self) -> Option<Instant>;

    /// Closes that connection; `false` where there is none.
    fn evict_oldest(&self) -> bool;

    /// Closes the connection to `to` that was parked longest ago; `false` where there is none.
    fn evict_to(&self, to: SocketAddr) -> bool;
}

/// The pools of all that share a ledger.
#[derive(Default)]
pub(super) struct Evictors(Mutex<Vec<Weak<dyn Evict>>>);

impl Evictors {
    pub(super) fn add(&self, pool: Weak<dyn Evict>) {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    /// Those that live; none is asked under the lock, since what it closes may be the last of much.
    fn pools(&self) -> Vec<Arc<dyn Evict>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn evict(&self, most: usize) -> usize {
        let pools = self.pools();
        let one = || {
            let parked = pools.iter().filter_map(|pool| Some((pool.oldest()?, pool)));
            parked.min_by_key(|(since, _)| *since).is_some_and(|(_, pool)| pool.evict_oldest())
        };
        (0..most).take_while(|_| one()).count()
    }

    pub(super) fn evict_to(&self, to: SocketAddr) -> bool {
        self.pools().iter().any(|pool| pool.evict_to(to))
    }
}
