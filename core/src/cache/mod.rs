//! A private cache of HTTP answers (RFC 9111): [`CacheLayer`] in front of a fetcher, a [`CacheStore`] behind it.
//!
//! ```
//! use tidegate::Fetcher;
//! use tidegate::cache::{CacheLayer, MemoryCache};
//!
//! fn cached(http: impl Fetcher) -> impl Fetcher {
//!     http.layer(CacheLayer::new(MemoryCache::new(64 << 20)))
//! }
//! ```
//!
//! What came from the cache says so: [`Response::from_cache`](crate::Response::from_cache),
//! [`Page::from_cache`](crate::Page::from_cache), [`Settled::from_cache`](crate::Settled::from_cache).
//!
//! # What is cached
//! Answers to GET without a body, a Range or conditions of its own, with the statuses of [`CachePolicy`]; whole, as they came over the wire, without
//! `no-store` on either side, and only where they say how long they are fresh or can be validated. What is not fresh is validated by ETag
//! and Last-Modified, and a 304 renews the fields of what is kept; nothing stale is ever given. An answer to another method than GET,
//! HEAD, OPTIONS and TRACE that is no error removes its URL, and those of Location and Content-Location within the origin.
//!
//! # Whose cache it is
//! A private cache may keep what is meant for one user (RFC 9111, 3.5 forbids it to shared ones only), and so must belong to one. Answers
//! to requests with `Authorization` are not kept unless [`CacheLayer::authorized`] says so, and are given only to requests with the same
//! one; so with `Cookie`. The cache sees what the layers before it add, and nothing of what is added behind it: put those that add
//! credentials in front of it (`http.layer(cache).layer(auth)`), and let fetchers with different cookie jars share no store.
//!
//! # In a crawl
//! An answer from the cache has waited for its host's turn like any other, and costs no connection. An answer that was reached by
//! redirects is kept only in a crawl, hop by hop: a fetcher that follows by itself ([`FetchCx::follows_redirects`](crate::FetchCx::follows_redirects)) gives
//! the last answer for the first URL.

mod control;
mod layer;
mod memory;
mod policy;
mod stored;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::layer::{CacheLayer, Cached};
pub use self::memory::MemoryCache;
pub use self::policy::{CachePolicy, Judgement};
pub use self::stored::StoredResponse;

/// How an answer came from a cache.
///
/// ```
/// fn was_sent(page: &tidegate::Page) -> bool {
///     page.from_cache().is_none()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FromCache {
    /// Nobody was asked.
    Fresh,
    /// The server was asked, and said that it has not changed (304).
    Revalidated,
}

/// Where a [`CacheLayer`] keeps answers, one for each URL. [`MemoryCache`] is the one that ships.
///
/// # Contract
/// * It is bounded, and forgets what it likes when it likes.
/// * What it gives is what it was given: a store that cannot tell gives nothing. There are no errors; one that fails says so where
///   its user looks.
/// * A fetch waits for it, with the permits of its host: quick where it can be.
///
/// # Cancel safety
/// Each future may be dropped; a half-written answer must then not be given.
///
/// ```
/// use async_trait::async_trait;
/// use tidegate::cache::{CacheStore, StoredResponse};
///
/// /// Never has anything.
/// struct Nothing;
///
/// #[async_trait]
/// impl CacheStore for Nothing {
///     async fn get(&self, _url: &str) -> Option<StoredResponse> {
///         None
///     }
///
///     async fn put(&self, _url: &str, _stored: StoredResponse) {}
///
///     async fn remove(&self, _url: &str) {}
/// }
/// ```
#[async_trait]
pub trait CacheStore: Send + Sync + 'static {
    /// What it has for this URL, in canonical form.
    async fn get(&self, url: &str) -> Option<StoredResponse>;

    /// Keeps it in place of what it has.
    async fn put(&self, url: &str, stored: StoredResponse);

    /// Forgets what it has.
    async fn remove(&self, url: &str);
}

#[async_trait]
impl<S: CacheStore + ?Sized> CacheStore for Arc<S> {
    async fn get(&self, url: &str) -> Option<StoredResponse> {
        (**self).get(url).await
    }

    async fn put(&self, url: &str, stored: StoredResponse) {
        (**self).put(url, stored).await;
    }

    async fn remove(&self, url: &str) {
        (**self).remove(url).await;
    }
}
