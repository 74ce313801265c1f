//! Dropping a future at every moment at which it can be dropped.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use tidegate::sim::{Scheduling, Sim};

/// The orders in which everything is run.
const ORDERS: [(Scheduling, u64); 3] = [(Scheduling::Fifo, 0), (Scheduling::Lifo, 0), (Scheduling::Random, 3)];

/// A future that a task of the simulation polls, and that can be dropped from outside at any moment.
struct Held<F: Future>(Arc<Mutex<Slot<F>>>);

struct Slot<F: Future> {
    future: Option<Pin<Box<F>>>,
    out: Option<F::Output>,
    waker: Option<Waker>,
}

impl<F: Future<Output: Send> + Send + 'static> Held<F> {
    fn spawn(sim: &Sim, future: F) -> Self {
        let slot = Arc::new(Mutex::new(Slot { future: Some(Box::pin(future)), out: None, waker: None }));
        let held = Self(Arc::clone(&slot));
        sim.spawn(poll_fn(move |cx| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.waker = Some(cx.waker().clone());
            let Some(future) = &mut slot.future else { return Poll::Ready(()) };
            let Poll::Ready(out) = future.as_mut().poll(cx) else { return Poll::Pending };
            slot.out = Some(out);
            slot.future = None;
            Poll::Ready(())
        }));
        held
    }

    /// What came of it, where it has ended. Otherwise it is dropped, and its task ends.
    fn end(self) -> Option<F::Output> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (future, waker) = (slot.future.take(), slot.waker.take());
        let out = slot.out.take();
        drop(slot);
        drop(future);
        waker.into_iter().for_each(Waker::wake);
        out
    }
}

/// For each order and each n: makes a world and a future in it, lets the world go on for n polls of anything, drops the
/// future, and checks the world. The last n is the one after which the future is ready; `check` is given what it came to.
pub(crate) fn cancel_at_every_poll<W, F>(
    what: &str,
    make_world: impl Fn(&Sim) -> W,
    make_future: impl Fn(&Sim, &W) -> F,
    check: impl Fn(&Sim, W, Option<F::Output>),
) where
    F: Future<Output: Send> + Send + 'static,
{
    for (scheduling, seed) in ORDERS {
        for n in 0.. {
            let run = || {
                let sim = super::sim(scheduling, seed);
                let world = make_world(&sim);
                let held = Held::spawn(&sim, make_future(&sim, &world));
                let goes_on = sim.run_polls(n);
                let out = held.end();
                let ended = out.is_some();
                assert!(ended || goes_on, "nothing will ever happen, and it is not ready");
                check(&sim, world, out);
                assert_eq!(sim.panics(), Vec::<String>::new());
                sim.end();
                ended
            };
            let ended = super::at(&format!("{what}, after {n} polls"), (scheduling, seed), run);
            if ended {
                break;
            }
        }
    }
}
