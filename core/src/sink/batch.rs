//! What a sink is given: deliveries with stable ids, taken out one by one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use serde::Serialize;

/// The identity of a delivery: the same after a retry, a restart or a crash, so that inserts can be idempotent.
///
/// 128 bits of the request's identity and the position of the item on its page; 32 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(u128);

impl DeliveryId {
    /// The id of item `index` of the request with this [`identity`](crate::Request::identity).
    ///
    /// ```
    /// use tidegate::{DeliveryId, Request};
    /// let request = Request::get("http://a.test/");
    /// assert_eq!(DeliveryId::of(&request.identity(), 0), DeliveryId::of(b"http://a.test/", 0));
    /// assert_ne!(DeliveryId::of(b"http://a.test/", 0), DeliveryId::of(b"http://a.test/", 1));
    /// ```
    pub fn of(identity: &[u8], index: u64) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128_with_seed(identity, index))
    }

    /// The id as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An item with its origin.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Delivery<T> {
    /// Stable identity, for idempotent inserts.
    pub id: DeliveryId,
    /// URL of the page it came from, without userinfo.
    pub url: String,
    /// When that page was complete, in seconds since the epoch when serialised.
    #[serde(serialize_with = "epoch_seconds")]
    pub fetched_at: SystemTime,
    /// The item.
    pub item: T,
}

fn epoch_seconds<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

impl<T> Delivery<T> {
    /// A delivery, as the crawl makes it.
    pub fn new(id: DeliveryId, url: impl Into<String>, fetched_at: SystemTime, item: T) -> Self {
        Self { id, url: url.into(), fetched_at, item }
    }
}

/// Deliveries that wait for a sink, oldest first. Taking one out acknowledges it.
///
/// ```
/// use std::time::SystemTime;
/// use tidegate::{Batch, Delivery, DeliveryId};
///
/// let one = |n| Delivery::new(DeliveryId::of(b"page", n), "http://a.test/", SystemTime::UNIX_EPOCH, n);
/// let mut batch = Batch::from_iter([one(1), one(2)]);
/// assert_eq!(batch.first().map(|d| d.item), Some(1));
/// batch.pop();
/// assert_eq!(batch.len(), 1);
/// ```
#[derive(Debug)]
pub struct Batch<T> {
    items: VecDeque<Delivery<T>>,
    taken: Taken,
}

/// How many deliveries were taken out of a batch, for who looks on while a sink has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken(Arc<AtomicUsize>);

impl Taken {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, deliveries: usize) {
        self.0.fetch_add(deliveries, Ordering::Relaxed);
    }
}

impl<T> Batch<T> {
    /// The oldest delivery.
    pub fn first(&self) -> Option<&Delivery<T>> {
        self.items.front()
    }

    /// Acknowledges the oldest delivery and gives it back.
    pub fn pop(&mut self) -> Option<Delivery<T>> {
        self.taken.add(usize::from(!self.items.is_empty()));
        self.items.pop_front()
    }

    /// Acknowledges all of them.
    pub fn ack_all(&mut self) {
        self.taken.add(self.items.len());
        self.items.clear();
    }

    /// Acknowledges and gives all of them.
    pub fn drain(&mut self) -> impl Iterator<Item = Delivery<T>> + '_ {
        self.taken.add(self.items.len());
        self.items.drain(..)
    }

    /// The deliveries, oldest first; looking at them acknowledges nothing.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery<T>> {
        self.items.iter()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// Takes the first `count` of a queue.
    pub(crate) fn fill(&mut self, queue: &mut VecDeque<Delivery<T>>, count: usize) {
        if self.items.is_empty() && queue.len() == count {
            // Then none is moved.
            std::mem::swap(&mut self.items, queue);
        } else {
            self.items.extend(queue.drain(..count));
        }
    }
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl<T> FromIterator<Delivery<T>> for Batch<T> {
    fn from_iter<I: IntoIterator<Item = Delivery<T>>>(deliveries: I) -> Self {
        Self { items: deliveries.into_iter().collect(), taken: Taken::default() }
    }
}
