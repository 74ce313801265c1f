//! [`HeadersLayer`]: fields of requests that have none of that name.

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{Layer, parse_origin};
use crate::request::origin;
use crate::{Error, FetchCx, Fetcher, Ledger, Request, Response};

/// Adds fields to requests that have none of that name, for all origins or for one: what
/// [`HttpFetcherBuilder::default_header`](crate::http::HttpFetcherBuilder::default_header) does for a whole fetcher.
///
/// A field that no request may have, such as Transfer-Encoding, fails the fetch as it would in the request itself. `Debug`
/// shows no values.
///
/// ```
/// use http::{HeaderName, HeaderValue};
/// use tidegate::Fetcher;
/// use tidegate::layer::HeadersLayer;
///
/// fn of_shop(http: impl Fetcher) -> Result<impl Fetcher, tidegate::Error> {
///     let country = HeadersLayer::new()
///         .header(HeaderName::from_static("x-country"), HeaderValue::from_static("NL"))
///         .only_for("https://shop.example")?;
///     Ok(http.layer(country))
/// }
/// ```
#[derive(Clone, Default)]
pub struct HeadersLayer {
    fields: HeaderMap,
    only_for: Option<Box<str>>,
}

impl HeadersLayer {
    /// A layer that has no fields yet.
    ///
    /// ```
    /// let nothing = tidegate::layer::HeadersLayer::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field; a second one of the same name is sent beside the first.
    ///
    /// ```
    /// # use tidegate::layer::HeadersLayer;
    /// let dnt = HeadersLayer::new().header(http::header::DNT, http::HeaderValue::from_static("1"));
    /// ```
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.append(name, value);
        self
    }

    /// Sends them to this origin alone, `scheme://host[:port]`; by default they go everywhere.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`](crate::ErrorKind::ConfigInvalid) for what is no origin.
    ///
    /// ```
    /// # use tidegate::layer::HeadersLayer;
    /// assert!(HeadersLayer::new().only_for("shop.example").is_err());
    /// ```
    pub fn only_for(mut self, origin: &str) -> Result<Self, Error> {
        self.only_for = Some(parse_origin(origin)?);
        Ok(self)
    }

    /// The request with the fields that it lacks, where it lacks any.
    pub(crate) fn complete(&self, request: &Request) -> Option<Request> {
        if let Some(only) = &self.only_for
            && request.target().is_ok_and(|url| *origin(&url) != **only)
        {
            return None;
        }
        let own = request.headers();
        let lacks = |name: &HeaderName| own.is_none_or(|own| !own.contains_key(name));
        let mut complete = None;
        for (name, value) in self.fields.iter().filter(|(name, _)| lacks(name)) {
            let before = complete.take().unwrap_or_else(|| request.clone());
            complete = Some(before.with_header(name.clone(), value.clone()));
        }
        complete
    }
}

impl fmt::Debug for HeadersLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadersLayer")
            .field("fields", &self.fields.keys().collect::<Vec<_>>())
            .field("only_for", &self.only_for)
            .finish()
    }
}

impl<F: Fetcher> Layer<F> for HeadersLayer {
    type Fetcher = DefaultHeaders<F>;

    fn layer(&self, inner: F) -> DefaultHeaders<F> {
        DefaultHeaders { inner, layer: self.clone() }
    }
}

/// A fetcher below a [`HeadersLayer`].
///
/// ```
/// # use tidegate::layer::{DefaultHeaders, HeadersLayer};
/// fn completed<F: tidegate::Fetcher>(http: F, headers: HeadersLayer) -> DefaultHeaders<F> {
///     http.layer(headers)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct DefaultHeaders<F> {
    inner: F,
    layer: HeadersLayer,
}

#[async_trait]
impl<F: Fetcher> Fetcher for DefaultHeaders<F> {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let complete = self.layer.complete(request).map(Box::new);
        self.inner.fetch(complete.as_deref().unwrap_or(request), cx).await
    }

    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        self.inner.resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.inner.ledger()
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, DNT};

    use super::*;

    #[test]
    fn only_what_is_lacking_is_added_and_only_where_it_belongs() {
        let value = HeaderValue::from_static;
        let layer = HeadersLayer::new().header(ACCEPT, value("a")).header(ACCEPT, value("b")).header(DNT, value("1"));
        let fields = |layer: &HeadersLayer, request: Request| {
            let request = layer.complete(&request).unwrap_or(request);
            let shown =
                |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={}", value.to_str().expect("text"));
            request.headers().map(|own| own.iter().map(shown).collect::<Vec<_>>().join(" ")).unwrap_or_default()
        };
        let get = || Request::get("http://a.test/");
        assert_eq!(fields(&layer, get()), "accept=a accept=b dnt=1");
        assert_eq!(fields(&layer, get().with_header(ACCEPT, value("own"))), "accept=own dnt=1");
        let all = get().with_header(ACCEPT, value("own")).with_header(DNT, value("0"));
        assert!(layer.complete(&all).is_none(), "nothing is copied for nothing");
        let layer = layer.only_for("http://a.test").expect("an origin");
        assert_eq!(fields(&layer, get()), "accept=a accept=b dnt=1");
        assert_eq!(fields(&layer, Request::get("https://a.test/")), "");
        assert!(!format!("{layer:?}").contains("\"1\""));
    }
}
