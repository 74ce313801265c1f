//! Giving the thread back until Tokio has looked at I/O and timers.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// Tokio's own future is ready when it is polled again, also where something else has woken the task before the driver
/// was polled. So the wake that Tokio keeps until then is told from others.
pub(crate) async fn yield_now() {
    let turn = Arc::new(Turn { is_over: AtomicBool::new(false), task: AtomicWaker::new() });
    let waker = Waker::from(Arc::clone(&turn));
    let mut kept = pin!(tokio::task::yield_now());
    let mut has_yielded = false;
    poll_fn(|cx| {
        turn.task.register(cx.waker());
        if !std::mem::replace(&mut has_yielded, true) {
            return kept.as_mut().poll(&mut Context::from_waker(&waker));
        }
        if turn.is_over.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

struct Turn {
    is_over: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.task.wake();
    }
}
