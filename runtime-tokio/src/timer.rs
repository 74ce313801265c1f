//! The clock and sleeps of Tokio.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use pin_project_lite::pin_project;
use tidegate::rt::{Sleep, Timer};

use crate::Tokio;

impl Timer for Tokio {
    fn now(&self) -> Instant {
        // Tokio's clock, so that a paused one in an embedder's test is seen.
        tokio::time::Instant::now().into_std()
    }

    fn wall_clock(&self) -> SystemTime {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is told to ask")]
        SystemTime::now()
    }

    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let _entered = self.handle.enter();
        Box::pin(TokioSleep { sleep: tokio::time::sleep_until(deadline.into()) })
    }
}

pin_project! {
    struct TokioSleep {
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl Future for TokioSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.project().sleep;
        // Tokio compares with the time of its last turn, and returns `Pending` when the task's budget is spent.
        if tokio::time::Instant::now() >= sleep.deadline() {
            return Poll::Ready(());
        }
        sleep.poll(cx)
    }
}

impl Sleep for TokioSleep {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        self.project().sleep.reset(deadline.into());
    }
}
