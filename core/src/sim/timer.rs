//! The virtual clock and sleeps by it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use super::task::Wait;
use super::world::{Event, SleepSlot, World};
use crate::rt::{Sleep, Timer};
use crate::time::later;

/// The clock of a world.
pub(super) struct SimTimer(pub(super) Arc<World>);

impl Timer for SimTimer {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall_clock(&self) -> SystemTime {
        self.0.lock().wall_clock + self.0.elapsed()
    }

    fn resolution(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(SimSleep::new(&self.0, deadline))
    }
}

pub(super) struct SimSleep {
    world: Arc<World>,
    at: u64,
    slot: Option<usize>,
}

impl SimSleep {
    pub(super) fn new(world: &Arc<World>, deadline: Instant) -> Self {
        Self { world: Arc::clone(world), at: world.nanos(deadline), slot: None }
    }

    pub(super) fn after(world: &Arc<World>, time: Duration) -> Self {
        Self::new(world, later(world.now(), time))
    }

    fn disarm(&mut self) {
        if let Some(slot) = self.slot.take() {
            let sleep = self.world.lock().sleeps.try_remove(slot);
            drop(sleep);
        }
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = &mut *self;
        if u128::from(sleep.at) <= sleep.world.elapsed().as_nanos() {
            sleep.disarm();
            return Poll::Ready(());
        }
        let mut state = sleep.world.lock();
        state.waits_for(Wait::Sleep(Duration::from_nanos(sleep.at)));
        match sleep.slot.and_then(|slot| state.sleeps.get_mut(slot)) {
            // Its deadline is the slot's: a reset sets both.
            Some(armed) => {
                let replaced = (!armed.waker.will_wake(cx.waker()))
                    .then(|| std::mem::replace(&mut armed.waker, cx.waker().clone()));
                drop(state);
                drop(replaced);
            }
            None => {
                let slot = state.sleeps.insert(SleepSlot { at: sleep.at, waker: cx.waker().clone() });
                sleep.slot = Some(slot);
                state.schedule(sleep.at, Event::Sleep { slot });
            }
        }
        Poll::Pending
    }
}

impl Sleep for SimSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let sleep = &mut *self;
        sleep.at = sleep.world.nanos(deadline);
        // Whoever waits is woken at the new deadline, also where nobody polls it meanwhile.
        if let Some(slot) = sleep.slot {
            let mut state = sleep.world.lock();
            if let Some(armed) = state.sleeps.get_mut(slot) {
                armed.at = sleep.at;
                state.schedule(sleep.at, Event::Sleep { slot });
            }
        }
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        self.disarm();
    }
}
