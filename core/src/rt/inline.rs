//! Tasks without an executor: they are polled on the thread that polls one future, under whatever drives that future.

use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use super::offload::drop_contained;
use super::{BoxFuture, Runtime, Spawn};
use crate::sync::keep_waker;

/// A runtime whose tasks run wherever [`InlineTasks::run`] is polled, and the door to them. Everything else stays
/// `runtime`'s: clock, connections, resolver, offload, and `yield_now`.
///
/// For embedders that have a `block_on` and no executor. Connections, sleeps and lookups must work without the executor of
/// `runtime`, or that executor must be driven too: those of `tidegate_smol` need only async-io's reactor, but its
/// asynchronous resolver has tasks on the executor; those of `tidegate_tokio` need the Tokio runtime to be driven.
///
/// No task reaches the way in which `runtime` starts tasks, so its [`Spawn::spawn_from`] hears of none: a runtime that shows
/// its tasks, as the simulated one does, shows the one that polls [`InlineTasks::run`] in place of them all.
///
/// ```
/// use tidegate::rt;
///
/// async fn answer(runtime: rt::Runtime) -> u32 {
///     let (runtime, mut tasks) = rt::inline(runtime);
///     let (sender, receiver) = futures::channel::oneshot::channel();
///     runtime.spawn(async move { sender.send(6 * 7).expect("receiver lives") });
///     tasks.run(receiver).await.expect("the task runs")
/// }
/// ```
pub fn inline(runtime: Runtime) -> (Runtime, InlineTasks) {
    let shared = Arc::new(Shared { state: Mutex::default() });
    let spawn = InlineSpawn { shared: Arc::clone(&shared), outer: runtime.clone() };
    (runtime.with_spawn(spawn), InlineTasks { shared })
}

/// The tasks of an [`inline`] runtime.
///
/// Dropping it ends them: each is dropped where it stands, and so is what is spawned later.
///
/// ```
/// use tidegate::rt;
///
/// fn ends_its_tasks(runtime: rt::Runtime) {
///     let (runtime, tasks) = rt::inline(runtime);
///     let (sender, receiver) = futures::channel::oneshot::channel::<()>();
///     runtime.spawn(async move { drop(sender) });
///     drop(tasks);
///     assert!(futures::executor::block_on(receiver).is_err());
/// }
/// ```
#[derive(Debug)]
pub struct InlineTasks {
    shared: Arc<Shared>,
}

impl InlineTasks {
    /// Polls `future`, and all tasks beside it, on the thread that polls this; ends with `future`. Tasks that have not
    /// ended wait for the next call.
    ///
    /// The thread is given back after each task that was ready has been polled once. A panic in a task ends that task
    /// only; one in `future` is the caller's.
    ///
    /// # Cancel safety
    /// Tasks stay where they are; `future` is dropped.
    ///
    /// ```
    /// # async fn example(runtime: tidegate::rt::Runtime, mut tasks: tidegate::rt::InlineTasks) {
    /// let (sender, receiver) = futures::channel::oneshot::channel();
    /// runtime.spawn(async move { drop(sender.send(1)) });
    /// // The task is polled in here, before or while the receiver waits for it.
    /// assert_eq!(tasks.run(receiver).await, Ok(1));
    /// // It has ended; one that has not goes on in the next call.
    /// tasks.run(async {}).await;
    /// # }
    /// ```
    pub async fn run<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let first =
            Arc::new(SlotWaker { slot: None, queued: AtomicBool::new(false), shared: Arc::clone(&self.shared) });
        let waker = Waker::from(Arc::clone(&first));
        waker.wake_by_ref();
        let _running = Running(&self.shared);
        poll_fn(|cx| {
            // Before anything is polled, so that a wake from there on is not lost.
            let turns = self.shared.begin(cx.waker());
            for _ in 0..turns {
                let Some(ready) = self.shared.lock().ready.pop_front() else { break };
                ready.queued.store(false, Ordering::Release);
                match ready.slot {
                    Some(slot) => self.shared.poll_task(slot, &Waker::from(ready)),
                    None if Arc::ptr_eq(&ready, &first) => {
                        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                            return Poll::Ready(output);
                        }
                    }
                    // Of an earlier call that was given up.
                    None => {}
                }
            }
            // What became ready meanwhile has woken this task.
            Poll::Pending
        })
        .await
    }
}

impl Drop for InlineTasks {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let tasks = std::mem::take(&mut state.tasks);
        state.ready.clear();
        // Of a call that was leaked.
        let waker = state.waker.take();
        drop(state);
        // Outside the lock: a task may spawn when it is dropped.
        drop(waker);
        for (_, task) in tasks {
            drop_contained(task);
        }
    }
}

/// A call of `run`. Its end, however it comes, forgets the waker: it is somebody else's task, who no longer waits.
struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let waker = self.0.lock().waker.take();
        // Outside the lock: it may be the last hold on a task, which may spawn when it is dropped.
        drop(waker);
    }
}

struct InlineSpawn {
    shared: Arc<Shared>,
    outer: Runtime,
}

impl Spawn for InlineSpawn {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let mut state = self.shared.lock();
        if state.ended {
            drop(state);
            drop_contained(task);
            return;
        }
        let slot = state.tasks.insert(Some(task));
        drop(state);
        let waker = SlotWaker { slot: Some(slot), queued: AtomicBool::new(false), shared: Arc::clone(&self.shared) };
        Arc::new(waker).wake();
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        self.outer.spawner().yield_now()
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` while it is polled.
    tasks: Slab<Option<BoxFuture<'static, ()>>>,
    ready: std::collections::VecDeque<Arc<SlotWaker>>,
    /// Of whoever polls `run`.
    waker: Option<Waker>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the waker; tells how many are ready.
    fn begin(&self, waker: &Waker) -> usize {
        let mut state = self.lock();
        let replaced = keep_waker(&mut state.waker, waker);
        let turns = state.ready.len();
        drop(state);
        drop(replaced);
        turns
    }

    /// A wake that comes after the slot was given to another task costs that one poll.
    fn poll_task(&self, slot: usize, waker: &Waker) {
        let task = self.lock().tasks.get_mut(slot).and_then(Option::take);
        let Some(mut task) = task else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut Context::from_waker(waker))));
        let mut state = self.lock();
        if matches!(polled, Ok(Poll::Pending)) {
            state.tasks[slot] = Some(task);
            return;
        }
        state.tasks.remove(slot);
        drop(state);
        drop_contained(task);
        if let Err(panic) = polled {
            drop_contained(panic);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("tasks", &self.lock().tasks.len()).finish_non_exhaustive()
    }
}

/// Puts a task, or the future that is run (`None`), into the ready queue, once until it is polled.
struct SlotWaker {
    slot: Option<usize>,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if state.ended {
            return;
        }
        state.ready.push_back(self);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<InlineTasks>();
    fn send<T: Send>(_: T) {}
    fn run(tasks: &mut InlineTasks) {
        send(tasks.run(std::future::pending::<()>()));
    }
    let _ = run;
};

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::channel::oneshot;
    use futures::executor::block_on;

    use super::super::manual::Manual;
    use super::*;

    #[test]
    fn tasks_run_while_the_future_does_and_wait_in_between() {
        let (runtime, mut tasks) = inline(Manual::new().runtime());
        let (sender, receiver) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel::<()>();
        let inner = runtime.clone();
        runtime.spawn(async move {
            inner.spawn(async move { sender.send(1).expect("receiver lives") });
            let _ = gone_on.await;
        });
        assert_eq!(block_on(tasks.run(receiver)), Ok(1));
        let (sender, receiver) = oneshot::channel();
        runtime.spawn(async move {
            go_on.send(()).expect("the first task waits");
            sender.send(2).expect("receiver lives");
        });
        assert_eq!(block_on(tasks.run(receiver)), Ok(2));
        block_on(tasks.run(async {}));
    }

    #[test]
    fn each_ready_task_is_polled_once_before_the_thread_is_given_back() {
        let (runtime, mut tasks) = inline(Manual::new().runtime());
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            let polls = Arc::clone(&polls);
            runtime.spawn(poll_fn(move |cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
        }
        let mut running = pin!(tasks.run(std::future::pending::<()>()));
        for turn in 1..=5 {
            assert!(running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(polls.load(Ordering::Relaxed), 3 * turn);
        }
    }

    #[test]
    fn a_panic_ends_its_task_only() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("contained"));
            }
        }
        let (runtime, mut tasks) = inline(Manual::new().runtime());
        let (sender, receiver) = oneshot::channel();
        runtime.spawn(async { std::panic::resume_unwind(Box::new(Bomb)) });
        runtime.spawn(async {
            let _bomb = Bomb;
            std::future::ready(()).await;
        });
        runtime.spawn(async move { sender.send(42).expect("receiver lives") });
        assert_eq!(block_on(tasks.run(receiver)), Ok(42));
        let bomb = Bomb;
        runtime.spawn(async move {
            let _bomb = bomb;
            std::future::pending().await
        });
        drop(tasks);
    }

    // K5
    #[test]
    fn tasks_are_dropped_with_the_door_and_so_is_what_comes_later() {
        let (runtime, mut tasks) = inline(Manual::new().runtime());
        let (mut early, mut late) = (oneshot::channel::<()>(), oneshot::channel::<()>());
        let kept = runtime.clone();
        runtime.spawn(async move {
            let _kept = (kept, early.0);
            std::future::pending().await
        });
        block_on(tasks.run(async {}));
        assert_eq!(early.1.try_recv(), Ok(None));
        drop(tasks);
        assert!(early.1.try_recv().is_err());
        runtime.spawn(async move { drop(late.0) });
        assert!(late.1.try_recv().is_err());
        let weak = Arc::downgrade(&runtime.0);
        drop(runtime);
        assert!(weak.upgrade().is_none(), "no cycle is left");
    }

    #[test]
    fn a_run_that_was_given_up_loses_no_wake_of_the_next() {
        let (runtime, mut tasks) = inline(Manual::new().runtime());
        let (sender, receiver) = oneshot::channel::<u32>();
        let mut receiver = pin!(receiver);
        {
            let mut running = pin!(tasks.run(receiver.as_mut()));
            assert!(running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        runtime.spawn(async move { sender.send(42).expect("receiver lives") });
        assert_eq!(block_on(tasks.run(receiver)), Ok(42));
    }

    #[test]
    fn a_late_wake_of_a_task_that_has_ended_is_harmless() {
        let (runtime, mut tasks) = inline(Manual::new().runtime());
        let (keep, kept) = oneshot::channel::<Waker>();
        let mut keep = Some(keep);
        runtime.spawn(poll_fn(move |cx| {
            let keep = keep.take().expect("polled once");
            keep.send(cx.waker().clone()).expect("receiver lives");
            Poll::Ready(())
        }));
        let late = block_on(tasks.run(kept)).expect("it was polled");
        late.wake_by_ref();
        let (sender, receiver) = oneshot::channel();
        runtime.spawn(async move { sender.send(42).expect("receiver lives") });
        late.wake();
        assert_eq!(block_on(tasks.run(receiver)), Ok(42));
    }

    /// Counts where it is dropped: all, and those under the lock.
    struct Witness {
        shared: Arc<Shared>,
        drops: Arc<AtomicUsize>,
        locked: Arc<AtomicUsize>,
    }

    impl Wake for Witness {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            self.drops.fetch_add(1, Ordering::Relaxed);
            self.locked.fetch_add(usize::from(self.shared.state.try_lock().is_err()), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waker_is_dropped_at_the_end_of_the_run_and_never_under_the_lock() {
        let (_runtime, mut tasks) = inline(Manual::new().runtime());
        let (shared, drops, locked) = (Arc::clone(&tasks.shared), Arc::default(), Arc::default());
        let witness = || {
            let (shared, drops, locked) = (Arc::clone(&shared), Arc::clone(&drops), Arc::clone(&locked));
            Waker::from(Arc::new(Witness { shared, drops, locked }))
        };
        let seen = || (drops.load(Ordering::Relaxed), locked.load(Ordering::Relaxed));
        {
            let (end, ended) = oneshot::channel::<()>();
            let mut running = pin!(tasks.run(ended));
            for polls in 0..3 {
                assert!(running.as_mut().poll(&mut Context::from_waker(&witness())).is_pending());
                assert_eq!(seen(), (polls, 0), "each is kept until another comes");
            }
            end.send(()).expect("it is waited for");
            assert!(running.as_mut().poll(&mut Context::from_waker(&witness())).is_ready());
            assert_eq!(seen(), (4, 0), "the end of the run forgets the last one");
        }
        {
            let mut running = pin!(tasks.run(std::future::pending::<()>()));
            assert!(running.as_mut().poll(&mut Context::from_waker(&witness())).is_pending());
        }
        assert_eq!(seen(), (5, 0), "and so does giving it up");
    }
}
