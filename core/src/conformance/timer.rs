//! Clock and sleeps.

use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures::future::join_all;

use super::Harness;
use super::harness::block_on;
use super::support::{on, poll_once};

const HOUR: Duration = Duration::from_secs(3600);

/// A sleep is never ready before its deadline, by the runtime's own clock.
pub fn never_early<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        for micros in [1, 100, 999, 1_000, 1_001, 1_500, 2_000, 7_777] {
            let deadline = runtime.now() + Duration::from_micros(micros);
            runtime.sleep_until(deadline).await;
            assert!(runtime.now() >= deadline, "{micros} us");
        }
    });
}

/// A sleep whose deadline is past is ready when it is polled first.
pub fn a_past_deadline_is_ready_at_once<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        let mut sleep = runtime.sleep_until(runtime.now());
        assert_eq!(poll_once(sleep.as_mut()), Poll::Ready(()));

        let mut sleep = runtime.sleep_until(runtime.now() + HOUR);
        assert_eq!(poll_once(sleep.as_mut()), Poll::Pending);
        sleep.as_mut().reset(runtime.now());
        assert_eq!(poll_once(sleep.as_mut()), Poll::Ready(()));
    });
}

/// A sleep can be set earlier and later, while it is armed and after it has fired.
pub fn reset_moves_a_deadline<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        let soon = || runtime.now() + Duration::from_millis(3);

        // Earlier, while it is armed.
        let mut sleep = runtime.sleep_until(runtime.now() + HOUR);
        assert!(poll_once(sleep.as_mut()).is_pending());
        let deadline = soon();
        sleep.as_mut().reset(deadline);
        sleep.as_mut().await;
        assert!(runtime.now() >= deadline);

        // After it has fired.
        let deadline = soon();
        sleep.as_mut().reset(deadline);
        sleep.as_mut().await;
        assert!(runtime.now() >= deadline);

        // Later, while it is armed.
        sleep.as_mut().reset(soon());
        let _ = poll_once(sleep.as_mut());
        let deadline = soon() + Duration::from_millis(20);
        sleep.as_mut().reset(deadline);
        sleep.as_mut().await;
        assert!(runtime.now() >= deadline);
    });
}

/// 10,000 sleeps fire, and 10,000 that are dropped while they are armed do no harm.
// H11
pub fn ten_thousand_timers<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    on(&**harness, async move {
        let start = runtime.now();
        let dropped: Vec<_> = (0..10_000)
            .map(|_| {
                let mut sleep = runtime.sleep_until(start + HOUR);
                assert!(poll_once(sleep.as_mut()).is_pending());
                sleep
            })
            .collect();
        drop(dropped);
        join_all((0..10_000u32).map(|n| {
            let (runtime, deadline) = (runtime.clone(), start + Duration::from_micros(u64::from(n * 7919 % 50_000)));
            async move {
                runtime.sleep_until(deadline).await;
                assert!(runtime.now() >= deadline);
            }
        }))
        .await;
        assert!(runtime.now() < start + HOUR, "dropped sleeps hold nobody up");
    });
}

/// A sleep is made in one place and awaited in another: outside of any task, and in one.
pub fn moves_between_tasks<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let deadline = runtime.now() + Duration::from_millis(3);
    let mut sleep = runtime.sleep_until(deadline);
    harness.block_on(sleep.as_mut());
    assert!(runtime.now() >= deadline);

    let deadline = runtime.now() + Duration::from_millis(3);
    sleep.as_mut().reset(deadline);
    // Ready already where the system has put this thread aside meanwhile.
    if poll_once(sleep.as_mut()).is_pending() {
        on(&**harness, sleep);
    }
    assert!(runtime.now() >= deadline);
}

/// A sleep is made and polled on a thread that is not the runtime's. Needs `threads`.
pub fn works_on_a_foreign_thread<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let polled = thread::spawn(move || {
        let deadline = runtime.now() + Duration::from_millis(3);
        block_on(runtime.sleep_until(deadline));
        assert!(runtime.now() >= deadline);
    });
    // Meanwhile the runtime is driven, where this thread does that.
    let runtime = harness.runtime();
    on(&**harness, async move {
        while !polled.is_finished() {
            runtime.sleep_until(runtime.now() + Duration::from_millis(1)).await;
        }
        polled.join().expect("no panic");
    });
}

/// The clock never goes back, and the clock on the wall goes with it.
pub fn clocks_go_on<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let (now, wall) = (runtime.now(), runtime.wall_clock());
    on(&**harness, async move {
        let mut last = now;
        for _ in 0..1_000 {
            let now = runtime.now();
            assert!(now >= last);
            last = now;
        }
        runtime.sleep_until(now + Duration::from_millis(3)).await;
        assert!(runtime.now() >= now + Duration::from_millis(3));
        assert!(runtime.wall_clock() > wall);
        assert!(runtime.timer().resolution() <= Duration::from_millis(2));
    });
}
