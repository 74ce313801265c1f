//! [`CacheLayer`]: the rule of [`CachePolicy`] between a fetcher and a store.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use url::Url;

use super::{CachePolicy, CacheStore, FromCache, Judgement, StoredResponse};
use crate::guard::is_public;
use crate::layer::Layer;
use crate::{Accept, Error, FetchCx, Fetcher, Ledger, Request, Response};

/// Answers from a store what it may, validates what it must, and keeps what comes. See [`cache`](crate::cache) for the rules.
///
/// ```
/// use tidegate::Fetcher;
/// use tidegate::cache::{CacheLayer, MemoryCache};
///
/// fn cached(http: impl Fetcher) -> (impl Fetcher, MemoryCache) {
///     let store = MemoryCache::new(64 << 20);
///     (http.layer(CacheLayer::new(store.clone())), store)
/// }
/// ```
#[derive(Clone)]
pub struct CacheLayer {
    store: Arc<dyn CacheStore>,
    policy: CachePolicy,
}

impl CacheLayer {
    /// A layer that keeps answers in `store`.
    ///
    /// ```
    /// # use tidegate::cache::{CacheLayer, MemoryCache};
    /// let layer = CacheLayer::new(MemoryCache::new(64 << 20));
    /// ```
    pub fn new(store: impl CacheStore) -> Self {
        Self { store: Arc::new(store), policy: CachePolicy::default() }
    }

    /// Whether answers to requests with Authorization are kept, each for requests with the same value; no by default, as a store that
    /// outlives the crawl, or is shared, is then a place where somebody's data are.
    ///
    /// ```
    /// # use tidegate::cache::{CacheLayer, MemoryCache};
    /// let layer = CacheLayer::new(MemoryCache::new(64 << 20)).authorized(true);
    /// ```
    #[must_use]
    pub fn authorized(mut self, keep: bool) -> Self {
        self.policy.authorized = keep;
        self
    }

    /// The longest that an answer is fresh which does not say for how long: a day by default. Zero validates it each time.
    ///
    /// ```
    /// # use tidegate::cache::{CacheLayer, MemoryCache};
    /// let layer = CacheLayer::new(MemoryCache::new(64 << 20)).max_heuristic(std::time::Duration::ZERO);
    /// ```
    #[must_use]
    pub fn max_heuristic(mut self, time: Duration) -> Self {
        self.policy.max_heuristic = time;
        self
    }
}

impl fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<F: Fetcher> Layer<F> for CacheLayer {
    type Fetcher = Cached<F>;

    fn layer(&self, inner: F) -> Cached<F> {
        Cached { inner, layer: self.clone() }
    }
}

/// A fetcher below a [`CacheLayer`].
///
/// # Cancel safety
/// A fetch that is dropped keeps nothing, or all of its answer.
///
/// ```
/// # use tidegate::cache::{CacheLayer, Cached};
/// fn cached<F: tidegate::Fetcher>(http: F, cache: CacheLayer) -> Cached<F> {
///     http.layer(cache)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Cached<F> {
    inner: F,
    layer: CacheLayer,
}

#[async_trait]
impl<F: Fetcher> Fetcher for Cached<F> {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let CacheLayer { store, policy } = &self.layer;
        let Some(key) = policy.key(request) else {
            let response = self.inner.fetch(request, cx).await?;
            for url in policy.invalidated(request, &response.head) {
                store.remove(&url).await;
            }
            return Ok(response);
        };
        if let Some(stored) = store.get(&key).await.filter(|stored| may_be_given(stored, cx)) {
            match policy.judge(request, &stored, cx.wall_clock()) {
                Judgement::Fresh => return Ok(given(stored, FromCache::Fresh, cx).await),
                Judgement::Stale(conditions) if !conditions.is_empty() => {
                    let validated = self.validate(request, &key, stored, conditions, cx).await?;
                    if let Some(response) = validated {
                        return Ok(response);
                    }
                }
                Judgement::Stale(_) | Judgement::Other => {}
            }
        }
        let requested_at = cx.wall_clock();
        let response = self.inner.fetch(request, cx).await?;
        if let Some(stored) = policy.keep(request, &response, requested_at, cx.wall_clock()) {
            store.put(&key, stored).await;
        }
        Ok(response)
    }

    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        self.inner.resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.inner.ledger()
    }
}

impl<F: Fetcher> Cached<F> {
    /// Asks whether what is kept has changed; `None` where the answer is about something else, and the server is to be asked anew.
    async fn validate(
        &self,
        request: &Request,
        key: &str,
        stored: StoredResponse,
        conditions: http::HeaderMap,
        cx: &FetchCx,
    ) -> Result<Option<Response>, Error> {
        let CacheLayer { store, policy } = &self.layer;
        let with = |request: Request, (name, value): (&http::HeaderName, &http::HeaderValue)| {
            request.with_header(name.clone(), value.clone())
        };
        let conditional = Box::new(conditions.iter().fold(request.clone(), with));
        let requested_at = cx.wall_clock();
        let response = self.inner.fetch(&conditional, cx).await?;
        let received_at = cx.wall_clock();
        if response.head.status != StatusCode::NOT_MODIFIED {
            match policy.keep(request, &response, requested_at, received_at) {
                Some(new) => store.put(key, new).await,
                // What a server says while it is in trouble changes nothing, and neither does what nobody wanted to read.
                None if response.head.status.is_success() && response.accepted == Accept::Body => {
                    store.remove(key).await
                }
                None => {}
            }
            return Ok(Some(response));
        }
        let Some(mut renewed) = policy.renew(&stored, &response.head, requested_at, received_at) else {
            store.remove(key).await;
            return Ok(None);
        };
        renewed.remote = response.remote.or(renewed.remote);
        renewed.proxy = response.proxy;
        if policy.is_worth_keeping(&renewed) {
            store.put(key, renewed.clone()).await;
        } else {
            store.remove(key).await;
        }
        let mut given = given(renewed, FromCache::Revalidated, cx).await;
        given.certificate_expiry = response.certificate_expiry;
        Ok(Some(given))
    }
}

/// What is kept of a private address is not for a request that must not reach one.
fn may_be_given(stored: &StoredResponse, cx: &FetchCx) -> bool {
    !cx.is_guarded() || stored.proxy.is_some() || stored.remote.is_none_or(|remote| is_public(remote.ip()))
}

/// The answer that a crawl sees: as much of it as the parser wants, its bytes booked.
async fn given(stored: StoredResponse, how: FromCache, cx: &FetchCx) -> Response {
    let accepted = cx.accept(&stored.head);
    let body = if accepted == Accept::Body { stored.body } else { Bytes::new() };
    cx.book(body.len() as u64).await;
    let mut response = Response::new(stored.head, body);
    response.bytes_wire = 0;
    response.accepted = accepted;
    response.remote = stored.remote;
    response.proxy = stored.proxy;
    response.decoder = stored.decoder.filter(|_| !response.body.is_empty());
    response.from_cache = Some(how);
    response
}
