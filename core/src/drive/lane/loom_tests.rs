//! Models of a sink's lane: what is queued, closed and abandoned while its task goes to sleep or delivers.

use async_trait::async_trait;
use loom::thread;

use super::*;
use crate::DeliveryId;
use crate::rt::manual::Manual;

/// Counts what it takes, and then never ends where it is `stuck`.
struct Probe {
    taken: Arc<std::sync::Mutex<Vec<u32>>>,
    stuck: bool,
}

#[async_trait]
impl Sink<u32> for Probe {
    async fn deliver(&mut self, batch: &mut Batch<u32>) -> Result<(), SinkError> {
        self.taken.lock().expect("no panic").extend(batch.drain().map(|delivery| delivery.item));
        if self.stuck {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

struct Fixture {
    manual: Manual,
    inbox: Arc<Inbox>,
    lane: Arc<SinkLane<u32>>,
    taken: Arc<std::sync::Mutex<Vec<u32>>>,
}

impl Fixture {
    fn new(stuck: bool) -> Self {
        let (manual, inbox, taken) = (Manual::new(), Arc::new(Inbox::default()), Arc::default());
        let sink = Box::new(Probe { taken: Arc::clone(&taken), stuck });
        let lane = SinkLane::start(
            &manual.runtime(),
            Arc::clone(&inbox),
            sink,
            LaneOf::Items,
            Duration::MAX,
            Worker::alone(&manual.runtime(), &inbox),
        );
        Self { manual, inbox, lane: Arc::new(lane), taken }
    }

    fn beside(&self, act: impl FnOnce(&SinkLane<u32>) + 'static) -> thread::JoinHandle<()> {
        let lane = Arc::clone(&self.lane);
        thread::spawn(move || act(&lane))
    }

    fn settle_with(&self, other: thread::JoinHandle<()>) {
        self.manual.settle();
        other.join().expect("no panic");
        self.manual.settle();
    }

    fn taken(&self) -> Vec<u32> {
        self.taken.lock().expect("no panic").clone()
    }

    /// How many jobs were acknowledged, and whether the lane said that it closed.
    fn messages(&self) -> (usize, bool) {
        let mut seen = (0, false);
        let mut taken = VecDeque::new();
        while let Some(message) = self.inbox.poll_next(&mut taken, Waker::noop()) {
            match message {
                Message::Delivered { .. } => seen.0 += 1,
                Message::LaneClosed(Ok(())) => seen.1 = true,
                _ => panic!("an error"),
            }
        }
        seen
    }
}

fn enqueue(lane: &SinkLane<u32>, item: u32) {
    let delivery = Delivery::new(DeliveryId::of(b"page", 0), "http://a.test/", std::time::SystemTime::UNIX_EPOCH, item);
    lane.enqueue(JobId::numbered(item), Box::new(vec![delivery]));
}

#[test]
fn what_is_queued_while_the_lane_goes_to_sleep_is_delivered() {
    loom::model(|| {
        let fixture = Fixture::new(false);
        let other = fixture.beside(|lane| enqueue(lane, 1));
        fixture.settle_with(other);
        assert_eq!(fixture.taken(), [1]);
        fixture.lane.close(Close::Done);
        fixture.manual.settle();
        assert_eq!(fixture.messages(), (1, true));
    });
}

#[test]
fn a_lane_closes_after_what_was_queued_before() {
    loom::model(|| {
        let fixture = Fixture::new(false);
        let other = fixture.beside(|lane| {
            enqueue(lane, 1);
            lane.close(Close::Done);
        });
        fixture.settle_with(other);
        assert_eq!((fixture.taken(), fixture.messages()), (vec![1], (1, true)));
    });
}

#[test]
fn a_lane_of_a_failed_crawl_closes_also_while_it_goes_to_sleep() {
    loom::model(|| {
        let fixture = Fixture::new(false);
        let other = fixture.beside(|lane| lane.close(Close::Failed));
        enqueue(&fixture.lane, 1);
        fixture.settle_with(other);
        assert!(fixture.messages().1, "it sleeps");
    });
}

#[test]
fn an_abandoned_lane_ends_in_the_middle_of_a_delivery() {
    loom::model(|| {
        let fixture = Fixture::new(true);
        enqueue(&fixture.lane, 1);
        let other = fixture.beside(|lane| lane.abandon());
        fixture.settle_with(other);
        assert_eq!(Arc::strong_count(&fixture.taken), 1, "the sink lives");
        assert_eq!(fixture.messages(), (0, false), "what was not acknowledged is not");
    });
}
