//! [`StoredResponse`]: an answer with what its freshness depends on.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderName;

use crate::{Decode, Head};

/// An answer that a [`CacheStore`](super::CacheStore) keeps. Clones share head and body.
///
/// A store on a disk keeps all fields; for `decoder` whether there is one, and puts
/// [`ContentDecoder`](crate::http::ContentDecoder) in its place.
///
/// ```
/// use std::time::SystemTime;
/// use tidegate::Head;
/// use tidegate::cache::StoredResponse;
///
/// let head = Head::new("http://a.test/".parse()?, http::StatusCode::OK);
/// let stored = StoredResponse::new(head, "hello", SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
/// assert!(stored.size() > 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct StoredResponse {
    /// Status and fields, without those that are of one connection alone.
    pub head: Arc<Head>,
    /// The body as it came over the wire, complete.
    pub body: Bytes,
    /// How to decode it; `None` means that it is not encoded.
    pub decoder: Option<Arc<dyn Decode>>,
    /// Who answered: what leads on from a page depends on it, where the guard against private addresses is on.
    pub remote: Option<SocketAddr>,
    /// The proxy it came through, without credentials.
    pub proxy: Option<Arc<str>>,
    /// When the request was sent, by the clock on the wall; that of the last validation, as the next.
    pub requested_at: SystemTime,
    /// When the answer was complete.
    pub received_at: SystemTime,
    /// The fields that the answer depends on (Vary, and always Authorization and Cookie), each with a hash of its value in the
    /// request, as that may be a secret; `None` where the request had none.
    pub vary: Vec<(HeaderName, Option<u128>)>,
}

impl StoredResponse {
    /// An answer that is not encoded, and depends on no field.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tidegate::cache::StoredResponse;
    /// # fn example(head: tidegate::Head, now: SystemTime) -> StoredResponse {
    /// StoredResponse::new(head, "hello", now, now)
    /// # }
    /// ```
    pub fn new(
        head: impl Into<Arc<Head>>,
        body: impl Into<Bytes>,
        requested_at: SystemTime,
        received_at: SystemTime,
    ) -> Self {
        Self {
            head: head.into(),
            body: body.into(),
            decoder: None,
            remote: None,
            proxy: None,
            requested_at,
            received_at,
            vary: Vec::new(),
        }
    }

    /// About what it takes in memory, in bytes.
    ///
    /// ```
    /// fn fits(stored: &tidegate::cache::StoredResponse) -> bool {
    ///     stored.size() < 1 << 20
    /// }
    /// ```
    pub fn size(&self) -> usize {
        // A field of a map has about as much beside its text.
        const FIELD: usize = 64;
        let fields = self.head.headers.iter().map(|(name, value)| FIELD + name.as_str().len() + value.len());
        let fixed = size_of::<Self>() + size_of::<Head>() + self.head.url.as_str().len() + self.vary.len() * FIELD;
        fixed + fields.sum::<usize>() + self.body.len()
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("url", &self.head.url.as_str())
            .field("status", &self.head.status)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("received_at", &self.received_at)
            .finish_non_exhaustive()
    }
}
