//! Models of the mailbox: pushing and closing race with a reader that goes to sleep.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::thread;

use super::*;
use crate::rt::manual::Manual;
use crate::sync::atomic::{AtomicU64, Ordering};

#[test]
fn what_is_pushed_wakes_a_reader_that_goes_to_sleep() {
    loom::model(|| {
        let (manual, inbox) = (Manual::new(), Arc::new(Inbox::default()));
        let (sender, mut read) = oneshot::channel();
        let (reader, mut sender, mut left) = (Arc::clone(&inbox), Some(sender), 3);
        let mut taken = VecDeque::new();
        manual.runtime().spawn(poll_fn(move |cx| {
            while reader.poll_next(&mut taken, cx.waker()).is_some() {
                left -= 1;
            }
            if left > 0 {
                return Poll::Pending;
            }
            sender.take().into_iter().for_each(|sender| _ = sender.send(()));
            Poll::Ready(())
        }));
        let pusher = |messages: usize| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.push_all((0..messages).map(|_| Message::TaskLost)))
        };
        let pushers = [pusher(1), pusher(2)];
        manual.settle();
        pushers.into_iter().for_each(|pusher| pusher.join().expect("no panic"));
        manual.settle();
        assert_eq!(read.try_recv(), Ok(Some(())), "a message waits and the reader sleeps");
    });
}

#[test]
fn nobody_waits_for_an_answer_to_what_was_pushed_into_a_closed_inbox() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::default());
        let (reply, mut answer) = oneshot::channel();
        let pusher = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.push(Message::Command(Box::new(Command::Hosts { top: 1, reply }))))
        };
        inbox.close();
        pusher.join().expect("no panic");
        assert!(answer.try_recv().is_err(), "it waits for ever");
    });
}

/// As the driver does with the bytes that are booked: it looks for messages first, and then at the sum.
#[test]
fn a_change_without_a_message_is_seen_by_a_reader_that_goes_to_sleep() {
    loom::model(|| {
        let (manual, inbox) = (Manual::new(), Arc::new(Inbox::default()));
        let (sender, mut read) = oneshot::channel();
        let booked = Arc::new(AtomicU64::new(1));
        let (reader, sum, mut sender) = (Arc::clone(&inbox), Arc::clone(&booked), Some(sender));
        let mut taken = VecDeque::new();
        manual.runtime().spawn(poll_fn(move |cx| {
            while reader.poll_next(&mut taken, cx.waker()).is_some() {}
            if sum.load(Ordering::Relaxed) > 0 {
                return Poll::Pending;
            }
            sender.take().into_iter().for_each(|sender| _ = sender.send(()));
            Poll::Ready(())
        }));
        let other = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                booked.fetch_sub(1, Ordering::Relaxed);
                inbox.nudge();
            })
        };
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(read.try_recv(), Ok(Some(())), "it sleeps, and does not know");
    });
}
