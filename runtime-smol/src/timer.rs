//! The clock, and sleeps on the timers of the runtime's reactor.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tidegate::rt::{Sleep, Timer};

use crate::{Driver, Smol};

impl Timer for Smol {
    fn now(&self) -> Instant {
        now()
    }

    fn wall_clock(&self) -> SystemTime {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is told to ask")]
        SystemTime::now()
    }

    fn resolution(&self) -> Duration {
        match &self.driver {
            Driver::AsyncIo(_) => Duration::from_micros(100),
            #[cfg(target_os = "linux")]
            Driver::Own(_) => crate::reactor::RESOLUTION,
        }
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        match &self.driver {
            Driver::AsyncIo(_) => Box::pin(AsyncIoSleep(async_io::Timer::at(deadline))),
            #[cfg(target_os = "linux")]
            Driver::Own(reactor) => Box::pin(reactor.sleep_until(deadline)),
        }
    }
}

pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is told to ask")]
    Instant::now()
}

struct AsyncIoSleep(async_io::Timer);

impl Future for AsyncIoSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

impl Sleep for AsyncIoSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.0.set_at(deadline);
    }
}
