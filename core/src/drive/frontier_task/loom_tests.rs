//! Models of the frontier's task: questions, additions and the end come while it goes to sleep or waits for a lease.

use async_trait::async_trait;
use loom::thread;

use super::*;
use crate::frontier::Added;
use crate::rt::manual::Manual;

/// Never has anything to lease; counts what it is given.
struct Empty(Arc<std::sync::Mutex<(usize, usize)>>);

#[async_trait]
impl Frontier for Empty {
    async fn lease(&mut self, _: NonZeroU32, _: std::time::SystemTime) -> Result<Leased, FrontierError> {
        std::future::pending().await
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        self.0.lock().expect("no panic").1 += done.drain(..).count();
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        self.0.lock().expect("no panic").0 += found.drain(..).count();
        Ok(Added::new(1, 0))
    }
}

#[test]
fn a_task_that_goes_to_sleep_or_waits_for_a_lease_takes_what_comes() {
    loom::model(|| {
        let (manual, inbox, given) = (Manual::new(), Arc::new(Inbox::default()), Arc::default());
        let frontier = Box::new(Empty(Arc::clone(&given)));
        let door = Arc::new(FrontierDoor::start(
            &manual.runtime(),
            Arc::clone(&inbox),
            frontier,
            Worker::alone(&manual.runtime(), &inbox),
        ));
        let other = {
            let door = Arc::clone(&door);
            thread::spawn(move || {
                door.lease(NonZeroU32::MIN);
                door.add(vec![Request::get("http://a.test/")]);
            })
        };
        manual.settle();
        door.settle(LeaseId(1), Verdict::Done);
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(*given.lock().expect("no panic"), (1, 1));
        door.withdraw();
        manual.settle();
        let mut taken = VecDeque::new();
        let messages = std::iter::from_fn(move || inbox.poll_next(&mut taken, Waker::noop()));
        assert_eq!(messages.filter(|message| matches!(message, Message::Leased(_))).count(), 1, "answered once");
        door.close();
        manual.settle();
        assert_eq!(Arc::strong_count(&given), 1, "the task lives");
    });
}

#[test]
fn close_ends_a_task_that_waits_for_a_lease() {
    loom::model(|| {
        let (manual, inbox, given) = (Manual::new(), Arc::new(Inbox::default()), Arc::default());
        let frontier = Box::new(Empty(Arc::clone(&given)));
        let worker = Worker::alone(&manual.runtime(), &inbox);
        let door = Arc::new(FrontierDoor::start(&manual.runtime(), inbox, frontier, worker));
        door.lease(NonZeroU32::MIN);
        let other = {
            let door = Arc::clone(&door);
            thread::spawn(move || door.close())
        };
        manual.settle();
        other.join().expect("no panic");
        manual.settle();
        assert_eq!(Arc::strong_count(&given), 1, "the task lives");
    });
}
