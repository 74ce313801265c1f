use std::task::Poll;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use tidegate::rt::Runtime;

use super::{on, poll_once};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn never_early(runtime: Runtime) {
    on(&runtime.clone(), async move {
        for micros in [1, 100, 999, 1_000, 1_001, 1_500, 2_000, 7_777] {
            let deadline = runtime.now() + Duration::from_micros(micros);
            runtime.sleep_until(deadline).await;
            assert!(runtime.now() >= deadline, "{micros} us");
        }
    });
}

pub(crate) fn a_past_deadline_is_ready_at_once(runtime: Runtime) {
    on(&runtime.clone(), async move {
        let mut sleep = runtime.sleep_until(runtime.now());
        assert_eq!(poll_once(sleep.as_mut()), Poll::Ready(()));

        let mut sleep = runtime.sleep_until(runtime.now() + HOUR);
        assert_eq!(poll_once(sleep.as_mut()), Poll::Pending);
        sleep.as_mut().reset(runtime.now());
        assert_eq!(poll_once(sleep.as_mut()), Poll::Ready(()));
    });
}

pub(crate) fn reset_moves_a_deadline(runtime: Runtime) {
    on(&runtime.clone(), async move {
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

pub(crate) fn ten_thousand_timers(runtime: Runtime) {
    on(&runtime.clone(), async move {
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
    });
}

pub(crate) fn works_on_a_foreign_thread(runtime: Runtime) {
    let deadline = runtime.now() + Duration::from_millis(3);
    let mut sleep = runtime.sleep_until(deadline);
    block_on(sleep.as_mut());
    assert!(runtime.now() >= deadline);

    // Armed in one place, awaited in another.
    let deadline = runtime.now() + Duration::from_millis(3);
    sleep.as_mut().reset(deadline);
    assert!(poll_once(sleep.as_mut()).is_pending());
    on(&runtime, sleep);
    assert!(runtime.now() >= deadline);
}

pub(crate) fn clocks_go_on(runtime: Runtime) {
    let (now, wall) = (runtime.now(), runtime.wall_clock());
    block_on(runtime.sleep_until(now + Duration::from_millis(3)));
    assert!(runtime.now() >= now + Duration::from_millis(3));
    assert!(runtime.wall_clock() > wall);
    assert!(runtime.timer().resolution() <= Duration::from_millis(2));
}
