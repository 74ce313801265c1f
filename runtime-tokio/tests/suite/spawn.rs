use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tidegate::rt::Runtime;

use super::{net, on};

pub fn runs_what_nobody_keeps(runtime: Runtime) {
    let (sender, receiver) = channel();
    runtime.spawn(async move { sender.send(42).expect("receiver lives") });
    assert_eq!(receiver.recv(), Ok(42));
}

pub fn a_panic_is_contained(runtime: Runtime) {
    for _ in 0..4 * runtime.spawner().parallelism().get() {
        let (sender, receiver) = channel::<()>();
        runtime.spawn(async move {
            let _sender = sender;
            resume_unwind(Box::new("contained"));
        });
        assert!(receiver.recv().is_err());
    }
    assert_eq!(on(&runtime, async { 42 }), 42);
}

pub fn from_a_task_and_a_destructor(runtime: Runtime) {
    struct SpawnsAtItsEnd(Option<(Runtime, std::sync::mpsc::Sender<u32>)>);
    impl Drop for SpawnsAtItsEnd {
        fn drop(&mut self) {
            let (runtime, sender) = self.0.take().expect("dropped once");
            runtime.spawn(async move { sender.send(42).expect("receiver lives") });
        }
    }

    let (sender, receiver) = channel();
    let late = SpawnsAtItsEnd(Some((runtime.clone(), sender)));
    let inner = runtime.clone();
    runtime.spawn(async move { inner.spawn(async move { drop(late) }) });
    assert_eq!(receiver.recv(), Ok(42));
}

pub fn ten_thousand_tasks(runtime: Runtime) {
    let (sender, receiver) = channel();
    for n in 0..10_000u64 {
        let sender = sender.clone();
        runtime.spawn(async move { sender.send(n).expect("receiver lives") });
    }
    drop(sender);
    assert_eq!(receiver.iter().sum::<u64>(), 9_999 * 10_000 / 2);
}

/// Works 500 us by the clock.
fn work(runtime: &Runtime) {
    let until = runtime.now() + Duration::from_micros(500);
    while runtime.now() < until {
        std::hint::spin_loop();
    }
}

// The task that yields counts how often it came back while the ticker was overdue. A bare self-wake comes back 61 times on
// Tokio and 200 times on async-executor before anybody looks at a timer.
pub fn yield_now_lets_timers_run(runtime: Runtime) {
    const TICKS: u64 = 50;
    let several = runtime.spawner().parallelism().get() > 1;
    let ticks = Arc::new(AtomicU64::new(0));
    let due = Arc::new(Mutex::new(runtime.now()));

    let (ticker, ticks_of, due_of) = (runtime.clone(), Arc::clone(&ticks), Arc::clone(&due));
    runtime.spawn(async move {
        while ticks_of.load(SeqCst) < TICKS {
            let next = ticker.now() + Duration::from_millis(2);
            *due_of.lock().expect("no panic") = next;
            ticker.sleep_until(next).await;
            ticks_of.fetch_add(1, SeqCst);
        }
    });

    let most = on(&runtime.clone(), async move {
        // Two milliseconds: what Tokio's rounding may add.
        let slack = Duration::from_millis(2);
        let (mut overdue, mut most, mut seen) = (0, 0, 0);
        while ticks.load(SeqCst) < TICKS {
            work(&runtime);
            let late = runtime.now() >= *due.lock().expect("no panic") + slack;
            overdue = if late && seen == ticks.load(SeqCst) { overdue + 1 } else { 0 };
            seen = ticks.load(SeqCst);
            most = most.max(overdue);
            runtime.spawner().yield_now().await;
        }
        most
    });
    // With several threads the ticker may be on another one, that the system has put aside.
    assert!(several || most <= 4, "the ticker was overdue at {most} yields in a row");
}

pub fn yield_now_lets_io_run(runtime: Runtime) {
    let addr = net::echo();
    let done = Arc::new(AtomicBool::new(false));
    let (talks, ended) = (runtime.clone(), Arc::clone(&done));
    runtime.spawn(async move {
        let mut conn = talks.tcp().connect(addr, &Default::default()).await.expect("connects");
        for n in 0..20 {
            net::write_all(&mut conn, &[n]).await;
            assert_eq!(net::read(&mut conn, 16).await, [n]);
        }
        ended.store(true, SeqCst);
    });
    on(&runtime.clone(), async move {
        // Ends only if the other task gets its bytes in between.
        while !done.load(SeqCst) {
            work(&runtime);
            runtime.spawner().yield_now().await;
        }
    });
}

/// Not for a runtime that the test does not own.
// K5, K6
#[allow(dead_code, reason = "only the file about ends uses it")]
pub fn tasks_are_dropped_with_the_runtime(runtime: Runtime) {
    let (sender, receiver) = channel::<()>();
    let addr = net::echo();
    let (kept, connects) = (sender.clone(), runtime.tcp().connect(addr, &Default::default()));
    let forever = runtime.sleep_until(runtime.now() + Duration::from_secs(3600));
    runtime.spawn(async move {
        let _kept = kept;
        let _conn = connects.await.expect("connects");
        forever.await;
    });
    // The last clone is dropped by a task, on the runtime's own thread.
    let own = runtime.clone();
    runtime.spawn(async move {
        let mut passes = 0;
        std::future::poll_fn(|cx| {
            passes += 1;
            cx.waker().wake_by_ref();
            if passes > 3 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop((own, sender));
    });
    drop(runtime);
    assert!(receiver.recv().is_err());
}
