//! Who looks at a simulation from outside: on the virtual clock, in the middle of work too.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::world::{World, nanos};
use crate::rt::{Look, Watch};

/// The looks to come. Apart from the world's state, since a look wakes tasks.
#[derive(Default)]
pub(super) struct Watches {
    /// When each is next; in the order of their last look.
    looks: Mutex<Vec<(u64, Look)>>,
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Look)>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next look is.
    pub(super) fn next(&self) -> Option<u64> {
        self.lock().iter().map(|(at, _)| *at).min()
    }

    /// Looks whenever it is time, up to this instant; the clock shows when.
    pub(super) fn look_until(&self, until: u64, clock: &AtomicU64) {
        loop {
            let mut looks = self.lock();
            let first = looks.iter().enumerate().min_by_key(|(_, (at, _))| *at).map(|(place, (at, _))| (place, *at));
            let Some((place, at)) = first.filter(|(_, at)| *at <= until) else { return };
            let (_, mut look) = looks.remove(place);
            drop(looks);
            clock.store(at.max(clock.load(Ordering::Relaxed)), Ordering::Relaxed);
            if let ControlFlow::Continue(after) = look() {
                self.lock().push((at.saturating_add(nanos(after).max(1)), look));
            }
        }
    }

    /// Nobody looks any more.
    pub(super) fn end(&self) {
        let looks = std::mem::take(&mut *self.lock());
        drop(looks);
    }
}

/// The watch of a world.
pub(super) struct SimWatch(pub(super) Arc<World>);

impl Watch for SimWatch {
    fn watch(&self, after: Duration, look: Look) {
        let at = self.0.lock().now().saturating_add(nanos(after).max(1));
        self.0.watches.lock().push((at, look));
    }

    fn throttled(&self) -> Option<Duration> {
        None
    }
}
