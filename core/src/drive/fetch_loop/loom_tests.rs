//! Models of the fetch loop: wakes and orders of other threads race with its polls and with its going to sleep.

use std::future::poll_fn;

use loom::thread;

use super::*;
use crate::rt::manual::Manual;
use crate::sync::atomic::AtomicUsize;

fn started() -> (Manual, FetchLoop, Arc<Inbox>) {
    let manual = Manual::new();
    let inbox = Arc::new(Inbox::default());
    let fetch_loop = FetchLoop::start(&manual.runtime(), Arc::clone(&inbox), Worker::alone(&manual.runtime(), &inbox));
    manual.settle();
    (manual, fetch_loop, inbox)
}

fn done() -> Message {
    Message::TaskLost
}

fn answers(inbox: &Inbox) -> usize {
    let mut taken = VecDeque::new();
    std::iter::from_fn(move || inbox.poll_next(&mut taken, Waker::noop())).count()
}

/// Work that leaves its waker where it is said, and ends once `ready` is set.
fn until_set(ready: &Arc<AtomicUsize>, waker: &Arc<std::sync::Mutex<Option<Waker>>>) -> Work {
    let (ready, waker) = (Arc::clone(ready), Arc::clone(waker));
    Box::pin(poll_fn(move |cx| {
        *waker.lock().expect("no panic") = Some(cx.waker().clone());
        if ready.load(Ordering::Relaxed) == 0 { Poll::Pending } else { Poll::Ready(done()) }
    }))
}

fn take(waker: &std::sync::Mutex<Option<Waker>>) -> Waker {
    waker.lock().expect("no panic").clone().expect("polled once")
}

fn end(manual: &Manual, fetch_loop: &FetchLoop) {
    fetch_loop.close();
    manual.settle();
}

#[test]
fn an_order_that_comes_while_the_loop_goes_to_sleep_is_taken() {
    loom::model(|| {
        let (manual, fetch_loop, inbox) = started();
        let other = {
            let fetch_loop = fetch_loop.clone();
            thread::spawn(move || fetch_loop.begin(None, Box::pin(async { done() })))
        };
        fetch_loop.begin(None, Box::pin(async { done() }));
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(answers(&inbox), 2);
        end(&manual, &fetch_loop);
    });
}

/// What was written before a wake is seen by the poll that the wake leads to, also where another wake had asked for that
/// poll already. The flag is relaxed: nothing but the wake itself orders it.
#[test]
fn a_wake_during_a_poll_leads_to_another_poll_which_sees_why() {
    loom::model(|| {
        let (manual, fetch_loop, inbox) = started();
        let (ready, waker) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        fetch_loop.begin(None, until_set(&ready, &waker));
        manual.settle();
        let other = {
            let waker = take(&waker);
            thread::spawn(move || {
                ready.store(1, Ordering::Relaxed);
                waker.wake();
            })
        };
        take(&waker).wake();
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(answers(&inbox), 1, "it was woken and not polled, or did not see why");
        end(&manual, &fetch_loop);
    });
}

/// The slot is given to other work while a waker of its last owner is used.
#[test]
fn a_wake_for_work_that_is_gone_takes_none_from_its_successor() {
    loom::model(|| {
        let (manual, fetch_loop, inbox) = started();
        let (never, old) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        fetch_loop.begin(Some(1), until_set(&never, &old));
        manual.settle();
        let stale = {
            let waker = take(&old);
            thread::spawn(move || waker.wake())
        };
        fetch_loop.abort(1);
        let (ready, waker) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        fetch_loop.begin(None, until_set(&ready, &waker));
        manual.settle();
        ready.store(1, Ordering::Relaxed);
        take(&waker).wake();
        manual.settle();
        stale.join().expect("no panic");
        manual.settle();
        assert_eq!(answers(&inbox), 1);
        end(&manual, &fetch_loop);
    });
}

#[test]
fn abort_reaches_a_loop_that_goes_to_sleep() {
    loom::model(|| {
        let (manual, fetch_loop, _inbox) = started();
        let (never, waker) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        fetch_loop.begin(Some(1), until_set(&never, &waker));
        let other = {
            let fetch_loop = fetch_loop.clone();
            thread::spawn(move || fetch_loop.abort(1))
        };
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(Arc::strong_count(&never), 1, "the work still lives");
        end(&manual, &fetch_loop);
    });
}

#[test]
fn close_drops_all_work_that_is_begun_at_the_same_time() {
    loom::model(|| {
        let (manual, fetch_loop, inbox) = started();
        let (never, waker) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let other = {
            let fetch_loop = fetch_loop.clone();
            let work = until_set(&never, &waker);
            thread::spawn(move || fetch_loop.begin(None, work))
        };
        fetch_loop.close();
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(Arc::strong_count(&never), 1, "the work still lives");
        assert_eq!(answers(&inbox), 0, "the loop ended as it was told to");
    });
}
