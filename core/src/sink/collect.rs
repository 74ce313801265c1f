//! Two sinks for tests and small jobs: one that keeps everything, one that keeps nothing.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Batch, Delivery, Sink, SinkError};

/// Keeps every delivery in memory, without bound; for tests and small jobs. Clones share the same list.
///
/// ```
/// let sink = tidegate::sink::collect::<String>();
/// let kept = sink.clone();
/// // Crawl::builder(..).sink(sink).run().await?;
/// assert!(kept.take().is_empty());
/// ```
#[derive(Debug)]
pub struct Collect<T>(Arc<Mutex<Vec<Delivery<T>>>>);

/// A sink that keeps every delivery in memory.
pub fn collect<T>() -> Collect<T> {
    Collect(Arc::default())
}

impl<T> Collect<T> {
    /// What has been delivered since the last call.
    pub fn take(&self) -> Vec<Delivery<T>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for Collect<T> {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(batch.drain());
        Ok(())
    }
}

/// Acknowledges everything and keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Null;

/// A sink that keeps nothing.
///
/// ```
/// let sink = tidegate::sink::null();
/// ```
pub fn null() -> Null {
    Null
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for Null {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        batch.ack_all();
        Ok(())
    }
}
