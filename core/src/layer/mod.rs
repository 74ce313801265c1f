//! [`Layer`]: wraps a [`Fetcher`] in a `Fetcher`; and the layers that ship.
//!
//! ```
//! # use tidegate::{Fetcher, rt::Runtime};
//! # fn example(runtime: Runtime, http: impl Fetcher, token: &str) -> Result<tidegate::Builder<String>, tidegate::Error> {
//! use tidegate::cache::{CacheLayer, MemoryCache};
//! use tidegate::layer::{AuthLayer, Credentials};
//! use tidegate::{Crawl, Fetcher};
//!
//! // let http = HttpFetcher::builder(&runtime).user_agent("pricewatch/1.2").build()?;
//! let auth = AuthLayer::new().origin("https://api.shop.example", Credentials::bearer(token)?)?;
//! let crawl = Crawl::builder(runtime).fetcher(http.layer(CacheLayer::new(MemoryCache::new(64 << 20))).layer(auth));
//! # Ok(crawl)
//! # }
//! ```
//!
//! The layer that is added last is the first to see a request and the last to see its answer. In a crawl a request passes them once
//! for each attempt and each hop, as it was submitted: what a layer adds to one is not in the next, and no redirect carries it to
//! another origin.
//!
//! | layer | what it does |
//! |---|---|
//! | [`AuthLayer`] | credentials, for the origins that they are meant for |
//! | [`HeadersLayer`] | fields of requests that have none of that name, for all origins or for one |
//! | [`TraceLayer`] | tells of each fetch, once, when it has ended |
//! | [`CacheLayer`](crate::cache::CacheLayer) | answers from a cache, as RFC 9111 has it |
//! | [`SessionPool`](crate::session::SessionPool) | cookies, proxy, fields and credentials of a session, which it opens and replaces |
//!
//! Retry and rate are no layers: a fetch holds permits of its host and of the crawl while it runs, so that a layer which sleeps
//! keeps others from being fetched. They are the crawl's ([`Builder::retries`](crate::Builder::retries),
//! [`Builder::delay`](crate::Builder::delay), [`Builder::rate`](crate::Builder::rate)).
//!
//! A crawl gives the [user agent](crate::Builder::user_agent) that it was told to the fetcher that it makes; one of your own has it from
//! its own builder.

mod auth;
mod headers;
#[cfg(feature = "tower")]
pub mod tower;
mod trace;

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

pub use self::auth::{Auth, AuthLayer, Credentials};
pub use self::headers::{DefaultHeaders, HeadersLayer};
pub use self::trace::{End, Fetched, Trace, TraceLayer};
use crate::request::origin;
use crate::{Error, ErrorKind, FetchCx, Fetcher, Ledger, Request, Response, parse_target};

/// Wraps a fetcher in another one; [`Fetcher::layer`] applies it.
///
/// A function or closure `Fn(F) -> impl Fetcher` is a layer.
///
/// # Contract
/// That of [`Fetcher`] holds for what it makes. Above all:
/// * It does not sleep, and calls the fetcher within once for each call; a second time only where the first answer says so at once.
/// * It hands [`resolve`](Fetcher::resolve) and [`ledger`](Fetcher::ledger) on. Without them the crawl does not know the addresses
///   of its hosts, and opens sockets that nobody has room for.
///
/// ```
/// use std::net::IpAddr;
///
/// use tidegate::layer::Layer;
/// use tidegate::{Error, FetchCx, Fetcher, Ledger, Request, Response};
///
/// /// Asks for the print version of every page.
/// struct Print<F>(F);
///
/// #[async_trait::async_trait]
/// impl<F: Fetcher> Fetcher for Print<F> {
///     async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
///         let mut url = request.target()?;
///         url.set_query(Some("print"));
///         self.0.fetch(&request.clone().with_url(url), cx).await
///     }
///
///     async fn resolve(&self, target: &url::Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
///         self.0.resolve(target, cx).await
///     }
///
///     fn ledger(&self) -> Option<&Ledger> {
///         self.0.ledger()
///     }
/// }
///
/// fn printed(fetcher: impl Fetcher) -> impl Fetcher {
///     fetcher.layer(Print)
/// }
/// ```
pub trait Layer<F> {
    /// What it makes.
    type Fetcher: Fetcher;

    /// Wraps `inner`.
    fn layer(&self, inner: F) -> Self::Fetcher;
}

impl<F, G: Fetcher, L: Fn(F) -> G> Layer<F> for L {
    type Fetcher = G;

    fn layer(&self, inner: F) -> G {
        self(inner)
    }
}

/// So that what is known only when the program runs can be stacked, and one fetcher be shared.
///
/// ```
/// use std::sync::Arc;
/// use tidegate::Fetcher;
/// use tidegate::layer::HeadersLayer;
///
/// fn stacked(http: impl Fetcher, layers: Vec<HeadersLayer>) -> Arc<dyn Fetcher> {
///     layers.into_iter().fold(Arc::new(http), |inner: Arc<dyn Fetcher>, layer| Arc::new(inner.layer(layer)))
/// }
/// ```
#[async_trait]
impl<F: Fetcher + ?Sized> Fetcher for Arc<F> {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        (**self).fetch(request, cx).await
    }

    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        (**self).resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        (**self).ledger()
    }
}

/// Reads `scheme://host[:port]`, as [`origin`] writes it.
fn parse_origin(text: &str) -> Result<Box<str>, Error> {
    let invalid = || {
        let attempted =
            "send fields to an origin alone: it is to be http or https, host and perhaps port, and nothing else";
        Error::new(ErrorKind::ConfigInvalid, attempted).with_url(text)
    };
    let url = parse_target(text).map_err(|error| invalid().with_source(error))?;
    let origin = origin(&url);
    let is_alone = url.as_str().strip_suffix('/') == Some(&*origin) && !text.contains(['?', '#', '@']);
    is_alone.then(|| origin.as_ref().into()).ok_or_else(invalid)
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Auth<Arc<dyn Fetcher>>>();
    send_sync::<DefaultHeaders<Arc<dyn Fetcher>>>();
    send_sync::<Trace<Arc<dyn Fetcher>>>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_alone() {
        for (text, origin) in [
            ("https://a.test", Some("https://a.test")),
            ("HTTPS://A.test:443/", Some("https://a.test")),
            ("http://a.test:8080", Some("http://a.test:8080")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("http://b\u{fc}cher.test", Some("http://xn--bcher-kva.test")),
            ("a.test", None),
            ("ftp://a.test", None),
            ("http://a.test/x", None),
            ("http://a.test/?", None),
            ("http://a.test/#x", None),
            ("http://me:hunter2@a.test", None),
            ("", None),
        ] {
            let parsed = parse_origin(text);
            assert_eq!(parsed.as_deref().ok(), origin, "{text}");
            if let Err(error) = parsed {
                assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
                assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
            }
        }
    }
}
