//! CPU work off the loop.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;

use super::support::on;
use super::{Harness, Signal};
use crate::rt::{Job, Place, Runtime};

/// Submits a job, when there is room for it. A job that is under way already makes room by its end.
async fn submit(runtime: &Runtime, job: impl FnOnce() + Send + 'static) {
    let mut job: Job = Box::new(job);
    loop {
        match runtime.offload().submit(job) {
            Ok(_) => return,
            Err(rejected) => job = rejected.0,
        }
        runtime.sleep_until(runtime.now() + Duration::from_millis(1)).await;
    }
}

/// Runs a job, and gives what it returns.
async fn run<T: Send + 'static>(runtime: &Runtime, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    submit(runtime, move || drop(sender.send(job()))).await;
    receiver.await.expect("the job runs")
}

/// The offload is where it says it is: inline only where it is declared so by the capability `offload` too.
pub fn is_where_it_says<H: Harness>(harness: &Arc<H>) {
    let (runtime, capabilities) = (harness.runtime(), harness.capabilities());
    assert_eq!(runtime.offload().place() == Place::Offload, capabilities.offload);
    let (here, there) = on(&**harness, async move {
        let there = run(&runtime, || thread::current().id()).await;
        (thread::current().id(), there)
    });
    if !capabilities.offload {
        assert_eq!(here, there);
    } else if capabilities.threads {
        assert_ne!(here, there);
    }
}

/// A job that panics takes neither the offload nor another job down.
pub fn a_panic_is_contained<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        for _ in 0..2 * runtime.offload().capacity().get() {
            let (sender, receiver) = oneshot::channel::<()>();
            submit(&runtime, move || {
                let _sender = sender;
                resume_unwind(Box::new("contained"));
            })
            .await;
            assert!(receiver.await.is_err());
        }
        assert_eq!(run(&runtime, || 42).await, 42);
    });
}

/// Twice as many jobs as the capacity all run.
pub fn twice_the_capacity_makes_progress<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        let jobs = u32::try_from(2 * runtime.offload().capacity().get()).expect("a few");
        let (done, last) = (Arc::new(AtomicU32::new(0)), Signal::new());
        for _ in 0..jobs {
            let (done, last) = (Arc::clone(&done), last.clone());
            submit(&runtime, move || {
                if done.fetch_add(1, SeqCst) + 1 == jobs {
                    last.raise();
                }
            })
            .await;
        }
        last.wait().await;
        assert_eq!(done.load(SeqCst), jobs);
    });
}

/// Timers fire while a job runs. Needs `offload`.
pub fn timers_fire_meanwhile<H: Harness>(harness: &Arc<H>) {
    const TICKS: u32 = 20;
    let (runtime, works, has_threads) = (harness.runtime(), Arc::clone(harness), harness.capabilities().threads);
    on(&**harness, async move {
        let (ticks, enough) = (Arc::new(AtomicU32::new(0)), Signal::new());
        let (seen, waits) = (Arc::clone(&ticks), enough.clone());
        let (sender, receiver) = oneshot::channel();
        submit(&runtime, move || {
            if has_threads {
                // Ends only when the timers have fired.
                waits.wait_blocking();
            } else {
                works.work(Duration::from_millis(100));
            }
            let _ = sender.send(seen.load(SeqCst));
        })
        .await;
        let timers = runtime.clone();
        runtime.spawn(async move {
            for _ in 0..TICKS {
                timers.sleep_until(timers.now() + Duration::from_millis(2)).await;
                ticks.fetch_add(1, SeqCst);
            }
            enough.raise();
        });
        assert_eq!(receiver.await, Ok(TICKS));
    });
}

/// A job submits another one.
pub fn a_job_submits_a_job<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        let (sender, receiver) = oneshot::channel();
        let inner = runtime.clone();
        submit(&runtime, move || {
            let job: Job = Box::new(move || sender.send(42).expect("receiver lives"));
            if let Err(rejected) = inner.offload().submit(job) {
                // No room while this one runs: then it is done here.
                (rejected.0)();
            }
        })
        .await;
        assert_eq!(receiver.await, Ok(42));
    });
}
