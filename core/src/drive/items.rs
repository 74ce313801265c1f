//! The items of a crawl as a stream, for consumers that are not [`Send`] or want to pull.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_channel::{Receiver, Sender};
use async_trait::async_trait;
use futures::Stream;
use futures::channel::oneshot;

use crate::{Batch, Delivery, Sink, SinkError};

/// Deliveries that wait between the crawl and the consumer.
const BUFFER: usize = 64;

/// A stream of the crawl's items, made by [`Builder::items`](super::Builder::items).
///
/// Not consuming it is back-pressure. Dropping it makes the crawl fail with `sink.failed`.
pub struct Items<I>(Pin<Box<Receiver<Item<I>>>>);

/// An item that is not durable yet.
pub struct Item<I> {
    delivery: Option<Delivery<I>>,
    back: Option<oneshot::Sender<Option<Delivery<I>>>>,
}

impl<I> Item<I> {
    /// The delivery.
    pub fn delivery(&self) -> &Delivery<I> {
        self.delivery.as_ref().expect("taken by ack only, which consumes the item")
    }

    /// Says that it is durable, and gives it away. Without this it comes again when the item is dropped.
    pub fn ack(mut self) -> Delivery<I> {
        if let Some(back) = self.back.take() {
            let _ = back.send(None);
        }
        self.delivery.take().expect("taken by ack only, which consumes the item")
    }
}

impl<I> Drop for Item<I> {
    fn drop(&mut self) {
        if let (Some(back), Some(delivery)) = (self.back.take(), self.delivery.take()) {
            let _ = back.send(Some(delivery));
        }
    }
}

impl<I> Stream for Items<I> {
    type Item = Item<I>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item<I>>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<I> fmt::Debug for Items<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

impl<I: fmt::Debug> fmt::Debug for Item<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

/// The sink behind the stream.
pub(super) struct ToStream<I>(Sender<Item<I>>);

pub(super) fn items<I>() -> (ToStream<I>, Items<I>) {
    let (sender, receiver) = async_channel::bounded(BUFFER);
    (ToStream(sender), Items(Box::pin(receiver)))
}

#[async_trait]
impl<I: Send + 'static> Sink<I> for ToStream<I> {
    async fn deliver(&mut self, batch: &mut Batch<I>) -> Result<(), SinkError> {
        let gone = || SinkError::fatal("the stream of items was dropped");
        let mut open = Vec::new();
        for delivery in batch.drain() {
            let (back, answer) = oneshot::channel();
            open.push(answer);
            let item = Item { delivery: Some(delivery), back: Some(back) };
            self.0.send(item).await.map_err(|_| gone())?;
        }
        for answer in open {
            // The item's own drop answers, so silence means that the consumer was torn down with it.
            if let Some(delivery) = answer.await.map_err(|_| gone())? {
                batch.push(delivery);
            }
        }
        Ok(())
    }
}
