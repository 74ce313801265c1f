//! The clock and sleeps of Tokio.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

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
        Box::pin(TokioSleep(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}

struct TokioSleep(Pin<Box<tokio::time::Sleep>>);

impl Future for TokioSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Tokio compares with the time of its last turn, and returns `Pending` when the task's budget is spent.
        if tokio::time::Instant::now() >= self.0.deadline() {
            return Poll::Ready(());
        }
        self.0.as_mut().poll(cx)
    }
}

impl Sleep for TokioSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.0.as_mut().reset(deadline.into());
    }
}
