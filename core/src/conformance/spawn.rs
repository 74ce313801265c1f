//! Tasks: that they run, end and are dropped, and how they give the thread back.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use super::Harness;
use super::support::{connect, echo, on, read, write_all};
use crate::rt::{BoxFuture, Runtime};

/// The work of a slice of a fetch loop.
const SLICE: Duration = Duration::from_micros(500);

/// Times that a task may come back from `yield_now` before a timer that is due has fired: once where the order is that of
/// queues, a few times where it is drawn at random. One that wakes itself comes back 61 times on Tokio and 200 times on
/// async-executor before anybody looks at a timer.
const YIELDS: u32 = 6;

/// A task runs though nobody keeps a handle to it.
pub fn runs_what_nobody_keeps<H: Harness>(harness: &Arc<H>) {
    let (sender, receiver) = oneshot::channel();
    harness.runtime().spawn(async move { sender.send(42).expect("receiver lives") });
    assert_eq!(harness.block_on(receiver), Ok(42));
}

/// A panic in a task takes neither its thread nor another task down.
pub fn a_panic_is_contained<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    for _ in 0..4 * runtime.spawner().parallelism().get() {
        let (sender, receiver) = oneshot::channel::<()>();
        runtime.spawn(async move {
            let _sender = sender;
            resume_unwind(Box::new("contained"));
        });
        assert!(harness.block_on(receiver).is_err());
    }
    assert_eq!(on(&**harness, async { 42 }), 42);
}

/// Tasks are spawned from a task, and from a destructor that runs in one.
pub fn from_a_task_and_a_destructor<H: Harness>(harness: &Arc<H>) {
    struct SpawnsAtItsEnd(Option<(Runtime, oneshot::Sender<u32>)>);
    impl Drop for SpawnsAtItsEnd {
        fn drop(&mut self) {
            let (runtime, sender) = self.0.take().expect("dropped once");
            runtime.spawn(async move { sender.send(42).expect("receiver lives") });
        }
    }

    let runtime = harness.runtime();
    let (sender, receiver) = oneshot::channel();
    let late = SpawnsAtItsEnd(Some((runtime.clone(), sender)));
    let inner = runtime.clone();
    runtime.spawn(async move { inner.spawn(async move { drop(late) }) });
    assert_eq!(harness.block_on(receiver), Ok(42));
}

/// A task is spawned, and another one woken, from a thread that is not the runtime's. Needs `threads`.
pub fn from_a_foreign_thread<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let (go_on, gone_on) = oneshot::channel::<()>();
    let (sender, receiver) = oneshot::channel();
    let spawns = thread::spawn(move || {
        runtime.spawn(async move {
            gone_on.await.expect("the other side lives");
            sender.send(42).expect("receiver lives");
        });
    });
    spawns.join().expect("no panic");
    // It waits, most likely, when the other thread wakes it.
    on(&**harness, async {});
    let wakes = thread::spawn(move || go_on.send(()).expect("the task waits"));
    assert_eq!(harness.block_on(receiver), Ok(42));
    wakes.join().expect("no panic");
}

/// 100,000 tasks run, each once.
pub fn a_hundred_thousand_tasks<H: Harness>(harness: &Arc<H>) {
    const TASKS: u64 = 100_000;
    let runtime = harness.runtime();
    let (sum, left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(TASKS)));
    let (sender, receiver) = oneshot::channel();
    let last = Arc::new(std::sync::Mutex::new(Some(sender)));
    for n in 0..TASKS {
        let (sum, left, last) = (Arc::clone(&sum), Arc::clone(&left), Arc::clone(&last));
        runtime.spawn(async move {
            sum.fetch_add(n, SeqCst);
            if left.fetch_sub(1, SeqCst) == 1 {
                let sender = last.lock().expect("no panic").take().expect("the last one is one");
                sender.send(()).expect("receiver lives");
            }
        });
    }
    assert_eq!(harness.block_on(receiver), Ok(()));
    assert_eq!(sum.load(SeqCst), (TASKS - 1) * TASKS / 2);
}

/// A task that works and yields comes back a few times at most until a timer that is due has fired. Needs `one_thread`.
pub fn yield_now_lets_timers_run<H: Harness>(harness: &Arc<H>) {
    timers_run(harness, |runtime| runtime.spawner().yield_now());
}

/// The same where the task is woken by something else while it gives way: that does not end it. Needs `one_thread`.
pub fn yield_now_lasts_though_the_task_is_woken<H: Harness>(harness: &Arc<H>) {
    timers_run(harness, |runtime| {
        let mut yielding = runtime.spawner().yield_now();
        Box::pin(poll_fn(move |cx| {
            cx.waker().wake_by_ref();
            yielding.as_mut().poll(cx)
        }))
    });
}

fn timers_run<H: Harness>(harness: &Arc<H>, give_way: impl Fn(&Runtime) -> BoxFuture<'static, ()> + Send + 'static) {
    let (runtime, works) = (harness.runtime(), Arc::clone(harness));
    let most = on(&**harness, async move {
        let mut most = 0;
        for _ in 0..50 {
            let deadline = runtime.now() + Duration::from_millis(1);
            let fired = Arc::new(AtomicBool::new(false));
            let mut sleep = runtime.sleep_until(deadline);
            let (arm, armed) = oneshot::channel();
            let (mut arm, has_fired) = (Some(arm), Arc::clone(&fired));
            runtime.spawn(async move {
                poll_fn(|cx| {
                    let polled = sleep.as_mut().poll(cx);
                    if let Some(arm) = arm.take() {
                        arm.send(()).expect("receiver lives");
                    }
                    polled
                })
                .await;
                has_fired.store(true, SeqCst);
            });
            armed.await.expect("the task runs");
            let due = (deadline + runtime.timer().resolution()).saturating_duration_since(runtime.now());
            works.work(due);
            let mut yields = 0;
            while !fired.load(SeqCst) {
                give_way(&runtime).await;
                yields += 1;
            }
            most = most.max(yields);
        }
        most
    });
    assert!(most <= YIELDS, "a timer that was due took {most} yields");
}

/// Most slices that begin until bytes have gone to a server and back 20 times: ten seconds of work. It is a machine that has
/// much else to do which needs more than a hundred.
const SLICES: u32 = 20_000;

/// A task that works a slice and yields, again and again, lets another one have its bytes in between.
pub fn yield_now_lets_io_run<H: Harness>(harness: &Arc<H>) {
    let (runtime, works) = (harness.runtime(), Arc::clone(harness));
    let addr = echo(harness).addr;
    let done = Arc::new(AtomicBool::new(false));
    let (talks, ended) = (runtime.clone(), Arc::clone(&done));
    on(&**harness, async move {
        runtime.spawn(async move {
            let mut conn = connect(&talks, addr).await;
            for n in 0..20 {
                write_all(&mut conn, &[n]).await;
                assert_eq!(read(&mut conn, 16).await, [n]);
            }
            ended.store(true, SeqCst);
        });
        for slices in 0.. {
            if done.load(SeqCst) {
                break;
            }
            assert!(slices < SLICES, "{slices} slices were begun, and the bytes have not come");
            works.work(SLICE);
            runtime.spawner().yield_now().await;
        }
    });
}

/// A task that works a slice and yields, again and again, delays a ticker of 2 ms by a slice or two: counted in slices that
/// are begun while a tick is overdue, and not in time. Needs `one_thread`.
pub fn a_ticker_keeps_its_time_beside_work<H: Harness>(harness: &Arc<H>) {
    const TICKS: u32 = 50;
    const TICK: Duration = Duration::from_millis(2);
    let (runtime, works) = (harness.runtime(), Arc::clone(harness));
    let (start, ticks, slices) = (runtime.now(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    // When the next tick is due, after the start, in nanoseconds.
    let due = Arc::new(AtomicU64::new(u64::MAX));
    let nanos = move |at: Instant| at.saturating_duration_since(start).as_nanos() as u64;
    let (ticker, ticked, begun, next) = (runtime.clone(), Arc::clone(&ticks), Arc::clone(&slices), Arc::clone(&due));
    let most = on(&**harness, async move {
        runtime.spawn(async move {
            let mut sleep = ticker.sleep_until(ticker.now());
            for _ in 0..TICKS {
                let deadline = ticker.now() + TICK;
                next.store(nanos(deadline + ticker.timer().resolution()), SeqCst);
                sleep.as_mut().reset(deadline);
                sleep.as_mut().await;
                begun.store(0, SeqCst);
                ticked.fetch_add(1, SeqCst);
            }
        });
        let mut most = 0;
        while ticks.load(SeqCst) < TICKS {
            if nanos(runtime.now()) >= due.load(SeqCst) {
                most = most.max(slices.fetch_add(1, SeqCst) + 1);
            }
            works.work(SLICE);
            runtime.spawner().yield_now().await;
        }
        most
    });
    assert!(most <= YIELDS, "{most} slices began while a tick was overdue");
}

/// Tasks that wait are dropped when the runtime ends, with what they hold. Needs `ends`.
// K5
pub fn tasks_are_dropped_at_the_end<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = echo(harness);
    let (sender, receiver) = oneshot::channel::<()>();
    let (start, started) = oneshot::channel();
    let forever = runtime.sleep_until(runtime.now() + Duration::from_secs(3600));
    let connecting = runtime.tcp().connect(served.addr, &Default::default());
    // Only what ends with its last clone may be kept by one.
    let kept = Some(runtime.clone()).filter(|_| !harness.capabilities().owned);
    runtime.spawn(async move {
        let _kept = (sender, kept);
        let _conn = connecting.await.expect("connects");
        start.send(()).expect("receiver lives");
        forever.await;
    });
    assert_eq!(harness.block_on(started), Ok(()));
    drop(runtime);
    harness.end();
    assert!(harness.block_on(receiver).is_err());
    // A simulated server has ended with its world.
    if harness.capabilities().sockets {
        assert!(harness.block_on(served.outcome()).received.is_empty());
    }
}

/// What is spawned on a runtime that has ended is dropped, and not kept for ever. Needs `ends`.
// K5
pub fn what_is_spawned_after_the_end_is_dropped<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let is_owned = harness.capabilities().owned;
    harness.end();
    let polled = Arc::new(AtomicBool::new(false));
    let (runs, (sender, receiver)) = (Arc::clone(&polled), oneshot::channel::<()>());
    runtime.spawn(async move {
        runs.store(true, SeqCst);
        drop(sender);
    });
    // This clone has kept the first kind alive.
    assert!(harness.block_on(receiver).is_err());
    assert_eq!(polled.load(SeqCst), is_owned);
}

/// The last clone of the runtime is dropped by a task, on the runtime's own thread: it ends all the same. Needs `owned`.
// K6
pub fn the_last_clone_may_be_dropped_in_a_task<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let (sender, receiver) = oneshot::channel::<()>();
    let connecting = runtime.tcp().connect(echo(harness).addr, &Default::default());
    let forever = runtime.sleep_until(runtime.now() + Duration::from_secs(3600));
    runtime.spawn(async move {
        let _kept = sender;
        let _conn = connecting.await.expect("connects");
        forever.await;
    });
    let own = runtime.clone();
    runtime.spawn(async move {
        let mut passes = 0;
        poll_fn(|cx| {
            passes += 1;
            cx.waker().wake_by_ref();
            if passes > 3 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(own);
    });
    drop(runtime);
    harness.end();
    assert!(harness.block_on(receiver).is_err());
}
