use std::future::poll_fn;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::Poll;
use std::time::Duration;

use tidegate::rt::Runtime;

use super::{net, on};

pub(crate) fn runs_what_nobody_keeps(runtime: Runtime) {
    let (sender, receiver) = channel();
    runtime.spawn(async move { sender.send(42).expect("receiver lives") });
    assert_eq!(receiver.recv(), Ok(42));
}

pub(crate) fn a_panic_is_contained(runtime: Runtime) {
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

pub(crate) fn from_a_task_and_a_destructor(runtime: Runtime) {
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

pub(crate) fn ten_thousand_tasks(runtime: Runtime) {
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

// Counts how often the task must yield until a timer that is due has fired. A task that wakes itself comes back 61 times
// on Tokio and 200 times on async-executor before anybody looks at a timer.
pub(crate) fn yield_now_lets_timers_run(runtime: Runtime) {
    let several = runtime.spawner().parallelism().get() > 1;
    let most = on(&runtime.clone(), async move {
        let mut most = 0;
        for _ in 0..50 {
            let deadline = runtime.now() + Duration::from_millis(1);
            let (armed, fired) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let mut sleep = runtime.sleep_until(deadline);
            let (now_armed, now_fired) = (Arc::clone(&armed), Arc::clone(&fired));
            runtime.spawn(async move {
                poll_fn(|cx| {
                    let polled = sleep.as_mut().poll(cx);
                    now_armed.store(true, SeqCst);
                    polled
                })
                .await;
                now_fired.store(true, SeqCst);
            });
            while !armed.load(SeqCst) {
                runtime.spawner().yield_now().await;
            }
            while runtime.now() < deadline + runtime.timer().resolution() {
                std::hint::spin_loop();
            }
            let mut yields = 0;
            while !fired.load(SeqCst) {
                runtime.spawner().yield_now().await;
                yields += 1;
            }
            most = most.max(yields);
        }
        most
    });
    // With several threads the timer's task may be on another one, that the system has put aside.
    assert!(several || most <= 4, "a timer that was due took {most} yields");
}

pub(crate) fn yield_now_lets_io_run(runtime: Runtime) {
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

/// For a runtime that ends with its last clone.
// K5, K6
pub(crate) fn tasks_are_dropped_with_the_runtime(runtime: Runtime) {
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
        poll_fn(|cx| {
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
