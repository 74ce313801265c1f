//! Looking at an executor from a thread that is none of its own.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use crate::machine::Throttle;
use crate::sync::{Condvar, Mutex, MutexGuard, ThreadBuilder};

/// What is called again and again, until it breaks; it says after how long the next time.
pub type Look = Box<dyn FnMut() -> ControlFlow<(), Duration> + Send>;

/// Calls functions from time to time on a thread that no task can hold up, so that a stall of the executor is seen while it
/// lasts.
///
/// An optional part of a [`Runtime`](super::Runtime): without it a stall is seen when it is over.
///
/// # Contract
/// * `look` is called `after` so long, and again after what it says, until it breaks; it is dropped then.
/// * What was not asked to look costs nothing: no thread wakes, and before the first `watch` there is none.
/// * A look that panics is dropped like one that breaks, and takes no other down.
///
/// # Panics
/// Never, also when called from a thread that is not the runtime's.
///
/// # Implementing
/// A look is quick and never blocks; all of them may share a thread. The clock of the runtime need not be asked: the times
/// are a matter of how soon a stall is seen, and not of what is measured.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::time::Duration;
///
/// # fn example(runtime: tidegate::rt::Runtime) {
/// let (sender, receiver) = std::sync::mpsc::channel();
/// let mut left = 3;
/// let look = move || {
///     left -= 1;
///     let _ = sender.send(left);
///     if left > 0 { ControlFlow::Continue(Duration::from_millis(5)) } else { ControlFlow::Break(()) }
/// };
/// if let Some(watch) = runtime.watch() {
///     watch.watch(Duration::from_millis(5), Box::new(look));
///     assert_eq!(receiver.iter().collect::<Vec<_>>(), [2, 1, 0]);
/// }
/// # }
/// ```
pub trait Watch: Send + Sync + 'static {
    /// Calls `look` `after` so long, and on until it breaks.
    fn watch(&self, after: Duration, look: Look);

    /// How long the system has kept this process from running in all, because its container had used up its share of the
    /// processors: the `throttled` counter of its cgroup. `None` where nothing says so. May read a file.
    fn throttled(&self) -> Option<Duration>;
}

/// The watch of every runtime that brings none: a thread of the system named `tidegate-watch`.
///
/// The thread starts with the first look and ends with the last clone of the runtime. Where the system gives none, nothing
/// is looked at.
///
/// ```
/// use tidegate::rt::{Runtime, ThreadWatch};
/// fn watched(runtime: Runtime) -> Runtime {
///     runtime.with_watch(ThreadWatch::new())
/// }
/// ```
#[derive(Debug, Default)]
pub struct ThreadWatch {
    shared: Arc<Shared>,
    throttle: OnceLock<Option<Throttle>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that the thread has not taken over yet.
    fresh: Vec<Turn>,
    has_thread: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl ThreadWatch {
    /// The thread's name.
    pub const NAME: &'static str = "tidegate-watch";

    /// A watch without a thread, as long as nothing is looked at.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Watch for ThreadWatch {
    fn watch(&self, after: Duration, look: Look) {
        let mut state = self.shared.lock();
        state.fresh.push(Turn { left: after.max(SHORTEST), look });
        if !std::mem::replace(&mut state.has_thread, true) {
            let shared = Arc::clone(&self.shared);
            if ThreadBuilder::new().name(Self::NAME.into()).spawn(move || look_on(&shared)).is_err() {
                state.has_thread = false;
                let unwatched = std::mem::take(&mut state.fresh);
                drop(state);
                drop(unwatched);
                return;
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    fn throttled(&self) -> Option<Duration> {
        self.throttle.get_or_init(Throttle::of_this_process).as_ref()?.total()
    }
}

impl Drop for ThreadWatch {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

/// A shorter time would spin.
const SHORTEST: Duration = Duration::from_millis(1);

/// Looks until the watch is dropped. Time is what the system let this thread sleep: one that it woke late looks once.
fn look_on(shared: &Shared) {
    let mut looks: Vec<Turn> = Vec::new();
    loop {
        let mut state = shared.lock();
        while !state.ended && state.fresh.is_empty() && looks.is_empty() {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let step = looks.iter().map(|turn| turn.left).min();
        if let Some(step) = step.filter(|_| !state.ended && state.fresh.is_empty()) {
            let (after, waited) = shared.changed.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner);
            state = after;
            // One that came meanwhile puts the others off by less than they wait for, once.
            if waited.timed_out() {
                looks.iter_mut().for_each(|turn| turn.left -= step);
            }
        }
        if state.ended {
            let fresh = std::mem::take(&mut state.fresh);
            drop(state);
            drop((fresh, looks));
            return;
        }
        looks.append(&mut state.fresh);
        drop(state);
        looks.retain_mut(Turn::look);
    }
}

struct Turn {
    left: Duration,
    look: Look,
}

impl Turn {
    /// Looks where it is time; `false` where that was the last.
    fn look(&mut self) -> bool {
        if !self.left.is_zero() {
            return true;
        }
        let look = std::panic::AssertUnwindSafe(&mut self.look);
        let looked = std::panic::catch_unwind(move || {
            let look = look;
            (look.0)()
        });
        let Ok(ControlFlow::Continue(after)) = looked else { return false };
        self.left = after.max(SHORTEST);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_looks_until_told_to_stop_and_again_when_asked() {
        let watch = ThreadWatch::new();
        for _ in 0..2 {
            let (sender, receiver) = mpsc::channel();
            let mut left = 3;
            let look = move || {
                left -= 1;
                sender.send(std::thread::current().name().map(String::from)).expect("somebody listens");
                if left > 0 { ControlFlow::Continue(SHORTEST) } else { ControlFlow::Break(()) }
            };
            watch.watch(SHORTEST, Box::new(look));
            let seen: Vec<_> = receiver.iter().collect();
            assert_eq!(seen, [const { Some(ThreadWatch::NAME) }; 3].map(|name| name.map(String::from)));
        }
    }

    #[test]
    fn one_that_panics_takes_no_other_down() {
        let watch = ThreadWatch::new();
        let (sender, receiver) = mpsc::channel();
        let broken = sender.clone();
        watch.watch(
            SHORTEST,
            Box::new(move || {
                let _held = &broken;
                panic!("it cannot look")
            }),
        );
        let mut left = 5;
        watch.watch(
            SHORTEST,
            Box::new(move || {
                left -= 1;
                let _ = sender.send(());
                if left > 0 { ControlFlow::Continue(SHORTEST) } else { ControlFlow::Break(()) }
            }),
        );
        assert_eq!(receiver.iter().count(), 5, "both looks were dropped in the end");
    }

    #[test]
    fn its_looks_are_dropped_with_it() {
        let (sender, receiver) = mpsc::channel::<()>();
        let watch = ThreadWatch::new();
        watch.watch(
            Duration::from_secs(3600),
            Box::new(move || {
                let _held = &sender;
                ControlFlow::Continue(SHORTEST)
            }),
        );
        drop(watch);
        assert!(receiver.recv().is_err());
    }
}
