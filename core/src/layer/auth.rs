//! [`AuthLayer`]: credentials, for the origins that they are meant for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use url::Url;

use super::{Layer, parse_origin};
use crate::request::origin;
use crate::{Error, ErrorKind, FetchCx, Fetcher, Ledger, Request, Response};

/// The value of an `Authorization` field. `Debug` does not show it, and it is marked as sensitive wherever it goes.
///
/// ```
/// use http::HeaderValue;
/// use tidegate::layer::Credentials;
///
/// let user = Credentials::basic("Aladdin", "open sesame")?;
/// let api = Credentials::bearer("mF_9.B5f-4.1JqM")?;
/// let other = Credentials::from(HeaderValue::from_static("ApiKey 17"));
/// assert_eq!(format!("{user:?} {other:?}"), "Credentials(..) Credentials(..)");
/// # Ok::<(), tidegate::Error>(())
/// ```
#[derive(Clone)]
pub struct Credentials(HeaderValue);

impl Credentials {
    /// User and password (RFC 7617), in UTF-8.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] for a user with a colon, and for control characters.
    ///
    /// ```
    /// assert!(tidegate::layer::Credentials::basic("a:b", "c").is_err());
    /// ```
    pub fn basic(user: &str, password: &str) -> Result<Self, Error> {
        if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
            let attempted = "use Basic credentials: the user has no colon, and neither part control characters";
            return Err(Error::new(ErrorKind::ConfigInvalid, attempted));
        }
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Self::parse(format!("Basic {pair}"))
    }

    /// A token (RFC 6750, 2.1).
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] for a token that is empty or is not of visible ASCII characters: one that was read from a file
    /// often ends in a newline.
    ///
    /// ```
    /// assert!(tidegate::layer::Credentials::bearer("token\n").is_err());
    /// ```
    pub fn bearer(token: &str) -> Result<Self, Error> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let attempted =
                "use a Bearer token: it has one or more visible ASCII characters, and no white space around it";
            return Err(Error::new(ErrorKind::ConfigInvalid, attempted));
        }
        Self::parse(format!("Bearer {token}"))
    }

    fn parse(value: String) -> Result<Self, Error> {
        let value = HeaderValue::try_from(value).map_err(|error| {
            Error::new(ErrorKind::ConfigInvalid, "send credentials in a header field").with_source(error)
        })?;
        Ok(value.into())
    }
}

/// Of any other scheme.
impl From<HeaderValue> for Credentials {
    fn from(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

type Find = dyn Fn(&Url) -> Option<Credentials> + Send + Sync;

/// Sends credentials to the origins (scheme, host and port) that they are meant for, and to no other.
///
/// A request with an `Authorization` field, or with userinfo in its URL, is left as it is. In a crawl each hop is a request of its own, so that a
/// redirect from one origin to another has the credentials of the second. Without a crawl
/// ([`FetchCx::follows_redirects`]) a request has them for its first origin, and they do not go to another one.
///
/// ```
/// use tidegate::Fetcher;
/// use tidegate::layer::{AuthLayer, Credentials};
///
/// fn signed(http: impl Fetcher, token: &str) -> Result<impl Fetcher, tidegate::Error> {
///     let auth = AuthLayer::new()
///         .origin("https://api.shop.example", Credentials::bearer(token)?)?
///         .origin("https://files.shop.example:8443", Credentials::basic("me", "pw")?)?;
///     Ok(http.layer(auth))
/// }
/// ```
#[derive(Clone, Default)]
pub struct AuthLayer {
    origins: BTreeMap<Box<str>, Credentials>,
    find: Option<Arc<Find>>,
}

impl AuthLayer {
    /// A layer that has no credentials yet.
    ///
    /// ```
    /// let nothing = tidegate::layer::AuthLayer::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Credentials for one origin, `scheme://host[:port]`; they replace those that it has.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] for what is no origin.
    ///
    /// ```
    /// # use tidegate::layer::{AuthLayer, Credentials};
    /// assert!(AuthLayer::new().origin("https://shop.example/api", Credentials::bearer("t")?).is_err());
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    pub fn origin(mut self, origin: &str, credentials: Credentials) -> Result<Self, Error> {
        self.origins.insert(parse_origin(origin)?, credentials);
        Ok(self)
    }

    /// Asks `find` for the credentials of every URL whose origin has none of [`origin`](Self::origin): for tokens that change. It is
    /// called on the loop and must return at once; a token that runs out is renewed elsewhere, and read here.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use tidegate::layer::{AuthLayer, Credentials};
    ///
    /// let current: Arc<Mutex<Option<Credentials>>> = Arc::default();
    /// let token = Arc::clone(&current);
    /// let auth = AuthLayer::new().with(move |url| {
    ///     let is_ours = url.origin().ascii_serialization() == "https://api.shop.example";
    ///     is_ours.then(|| token.lock().ok()?.clone()).flatten()
    /// });
    /// # let _ = auth;
    /// ```
    #[must_use]
    pub fn with(mut self, find: impl Fn(&Url) -> Option<Credentials> + Send + Sync + 'static) -> Self {
        self.find = Some(Arc::new(find));
        self
    }

    /// The request with its credentials, where it gets any.
    pub(crate) fn sign(&self, request: &Request) -> Option<Request> {
        if request.headers().is_some_and(|own| own.contains_key(AUTHORIZATION)) {
            return None;
        }
        // One that cannot be parsed fails in the fetcher, which says so.
        let url = request.target().ok().filter(|url| url.username().is_empty() && url.password().is_none())?;
        let own = self.origins.get(&*origin(&url)).cloned();
        let credentials = own.or_else(|| self.find.as_ref().and_then(|find| find(&url)))?;
        Some(request.clone().with_header(AUTHORIZATION, credentials.0))
    }
}

impl fmt::Debug for AuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").field("origins", &self.origins).finish_non_exhaustive()
    }
}

impl<F: Fetcher> Layer<F> for AuthLayer {
    type Fetcher = Auth<F>;

    fn layer(&self, inner: F) -> Auth<F> {
        Auth { inner, layer: self.clone() }
    }
}

/// A fetcher below an [`AuthLayer`].
///
/// ```
/// # use tidegate::layer::{Auth, AuthLayer};
/// fn signed<F: tidegate::Fetcher>(http: F, auth: AuthLayer) -> Auth<F> {
///     http.layer(auth)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Auth<F> {
    inner: F,
    layer: AuthLayer,
}

#[async_trait]
impl<F: Fetcher> Fetcher for Auth<F> {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let signed = self.layer.sign(request).map(Box::new);
        self.inner.fetch(signed.as_deref().unwrap_or(request), cx).await
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
    use super::*;

    fn sent(layer: &AuthLayer, request: Request) -> Option<String> {
        let signed = layer.sign(&request)?;
        let values: Vec<_> = signed.headers().expect("one").get_all(AUTHORIZATION).iter().collect();
        assert!(values.len() == 1 && values[0].is_sensitive());
        Some(values[0].to_str().expect("text").to_owned())
    }

    // C2, C7
    #[test]
    fn credentials_go_to_their_origin_alone() {
        let basic = Credentials::basic("Aladdin", "open sesame").expect("valid");
        let bearer = Credentials::bearer("t").expect("valid");
        let layer = AuthLayer::new()
            .origin("http://a.test", basic)
            .and_then(|layer| layer.origin("https://A.test:443/", bearer))
            .expect("origins")
            .with(|url| (url.path() == "/api").then(|| HeaderValue::from_static("Key 1").into()));
        let basic = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        for (url, expected) in [
            ("http://a.test/x?y", Some(basic)),
            ("http://A.test:80/api", Some(basic)),
            ("https://a.test/", Some("Bearer t")),
            ("http://a.test:8080/", None),
            ("https://a.test:80/", None),
            ("http://b.a.test/", None),
            ("http://a.test.evil.test/", None),
            ("http://b.test/api", Some("Key 1")),
            ("http://me:pw@a.test/", None),
            ("http://me@b.test/api", None),
            ("nothing", None),
        ] {
            assert_eq!(sent(&layer, Request::get(url)).as_deref(), expected, "{url}");
        }
        let own = Request::get("http://a.test/").with_header(AUTHORIZATION, HeaderValue::from_static("own"));
        assert!(layer.sign(&own).is_none(), "what the request has goes before");
        let shown = format!("{layer:?}");
        assert!(shown.contains("http://a.test") && !shown.contains("QWxh"), "{shown}");
    }

    // C7
    #[test]
    fn what_cannot_be_sent_is_refused_and_not_shown() {
        for error in [
            Credentials::basic("us:er", "hunter2"),
            Credentials::basic("user", "hunter2\n"),
            Credentials::basic("us\0er", "hunter2"),
            Credentials::bearer(""),
            Credentials::bearer("hunter2 "),
            Credentials::bearer("hunter2\r\nX: y"),
            Credentials::bearer("hunter2\u{e9}"),
        ] {
            let error = error.expect_err("not valid");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let empty = Credentials::basic("", "").expect("a server may want it");
        assert_eq!(empty.0, "Basic Og==");
        assert_eq!(Credentials::basic("test", "123\u{a3}").expect("of RFC 7617").0, "Basic dGVzdDoxMjPCow==");
    }
}
