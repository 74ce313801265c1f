//! Models of the stream of items: it is read, dropped and closed while items come, return and are acknowledged.

use futures::StreamExt;
use loom::thread;

use super::*;
use crate::DeliveryId;
use crate::rt::manual::Manual;

fn enqueue<I: Send + 'static>(lane: &StreamLane<I>, job: u32, items: Vec<I>) {
    let delivery =
        |item| Delivery::new(DeliveryId::of(b"page", 0), "http://a.test/", std::time::SystemTime::UNIX_EPOCH, item);
    lane.enqueue(JobId::numbered(job), Box::new(items.into_iter().map(delivery).collect::<Vec<_>>()));
}

fn fixture<I: Send + 'static>() -> (StreamLane<I>, Items<I>, Arc<Inbox>) {
    let inbox = Arc::new(Inbox::default());
    let (lane, items) = items(Arc::clone(&inbox));
    (lane, items, inbox)
}

/// The next item, where there is one.
fn next<I>(items: &mut Items<I>, waker: &Waker) -> Option<Item<I>> {
    match items.poll_next_unpin(&mut Context::from_waker(waker)) {
        Poll::Ready(item) => item,
        Poll::Pending => None,
    }
}

/// Items of the jobs that were acknowledged.
fn acknowledged(inbox: &Inbox) -> Vec<u64> {
    let items = |message| match message {
        Message::Delivered { items, .. } => Some(items),
        _ => None,
    };
    let mut taken = VecDeque::new();
    std::iter::from_fn(move || inbox.poll_next(&mut taken, Waker::noop())).filter_map(items).collect()
}

#[test]
fn a_reader_that_goes_to_sleep_sees_what_comes_and_what_comes_back() {
    loom::model(|| {
        let (manual, (lane, mut items, inbox)) = (Manual::new(), fixture());
        enqueue(&lane, 1, vec![1]);
        let returned = next(&mut items, Waker::noop()).expect("an item");
        let taken = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&taken);
        manual.runtime().spawn(async move {
            while let Some(item) = items.next().await {
                seen.lock().expect("no panic").push(item.ack().item);
            }
        });
        let other = thread::spawn(move || drop(returned));
        enqueue(&lane, 2, vec![2]);
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        taken.lock().expect("no panic").sort_unstable();
        assert_eq!(*taken.lock().expect("no panic"), [1, 2]);
        lane.close(Close::Done);
        manual.settle();
        assert_eq!((acknowledged(&inbox), Arc::strong_count(&taken)), (vec![1, 1], 1));
    });
}

#[test]
fn items_of_a_page_may_be_acknowledged_on_two_threads() {
    loom::model(|| {
        let (lane, mut items, inbox) = fixture();
        enqueue(&lane, 1, vec![1, 2]);
        let [first, second] = [(); 2].map(|()| next(&mut items, Waker::noop()).expect("an item"));
        let other = thread::spawn(move || drop(first.ack()));
        drop(second.ack());
        other.join().expect("no panic");
        assert_eq!(acknowledged(&inbox), [2]);
    });
}

#[test]
fn an_item_that_is_dropped_while_the_stream_ends_is_dropped_once_and_not_acknowledged() {
    loom::model(|| {
        let (lane, mut items, inbox) = fixture();
        let payload = Arc::new(());
        enqueue(&lane, 1, vec![Arc::clone(&payload), Arc::clone(&payload)]);
        let item = next(&mut items, Waker::noop()).expect("an item");
        let other = thread::spawn(move || drop(item));
        lane.close(Close::Failed);
        other.join().expect("no panic");
        assert_eq!(Arc::strong_count(&payload), 1, "nobody takes it any more");
        assert!(acknowledged(&inbox).is_empty());
        assert!(matches!(items.poll_next_unpin(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
    });
}

/// What a user drops may come back to the stream.
struct Reentrant(Arc<Shared<Self>>);

impl Drop for Reentrant {
    fn drop(&mut self) {
        drop(self.0.lock());
    }
}

#[test]
fn an_item_that_nobody_takes_is_not_dropped_under_the_lock() {
    loom::model(|| {
        let (lane, mut items, _inbox) = fixture();
        let shared = Arc::clone(&items.shared);
        let reentrant = move || Reentrant(Arc::clone(&shared));
        enqueue(&lane, 1, vec![reentrant(), reentrant()]);
        let item = next(&mut items, Waker::noop()).expect("an item");
        lane.close(Close::Failed);
        drop(item);
        enqueue(&lane, 2, vec![reentrant()]);
    });
}

#[test]
fn a_waker_that_is_replaced_is_not_dropped_under_the_lock() {
    struct Task {
        _owns: Option<Item<u32>>,
    }
    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    loom::model(|| {
        let (lane, mut items, _inbox) = fixture();
        enqueue(&lane, 1, vec![1]);
        let task = Arc::new(Task { _owns: next(&mut items, Waker::noop()) });
        // The stream is polled by another task from now on, and its waker was the last hold on this one.
        assert!(next(&mut items, &Waker::from(task)).is_none());
        assert!(next(&mut items, Waker::noop()).is_none());
        assert!(next(&mut items, Waker::noop()).is_some(), "it came back");
        lane.close(Close::Done);
    });
}
