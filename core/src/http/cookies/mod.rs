//! Cookies: a jar that fetchers fill and send from.

mod jar;
mod set_cookie;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;
use http::header::{HeaderMap, SET_COOKIE};
use url::Url;

use self::jar::{Jar, PER_ANSWER};

/// Cookies, as RFC 6265bis has them. Clones share them.
///
/// A cookie goes to the host that set it, or to a domain of its that is no public suffix, below its path, over TLS where it asks
/// for that, and until it ends, 400 days at most; `__Host-` and `__Secure-` are what they promise. A crawl has no "same site": each request
/// is one of a user who typed the URL.
///
/// Bounds: 50 `Set-Cookie` fields of an answer count, a cookie is 4,096 bytes at most, a registrable domain has 180 and a jar
/// 10,000 registrable domains, of which the least used go; a `Cookie` field has 150 cookies and 8,190 bytes at most, of the newest.
///
/// ```no_run
/// # fn example(runtime: &tidegate::rt::Runtime) -> Result<(), tidegate::Error> {
/// use tidegate::http::{CookieJar, HttpFetcher};
///
/// let jar = CookieJar::new();
/// let fetcher = HttpFetcher::builder(runtime).cookies(jar.clone()).build()?;
/// # let _ = fetcher;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct CookieJar(Arc<Mutex<Jar>>);

impl CookieJar {
    /// An empty jar.
    ///
    /// ```
    /// assert!(tidegate::http::CookieJar::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the value of a `Set-Cookie` field, as if an answer to a request for `url` had had it at this time. Gives whether
    /// it changed anything: a field that is none, or that this URL may not set, is left out.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// # use tidegate::http::CookieJar;
    ///
    /// let (jar, url) = (CookieJar::new(), "https://shop.example/login".parse().expect("a URL"));
    /// # let now = SystemTime::UNIX_EPOCH;
    /// assert!(jar.set(&url, "session=1; Path=/; Secure", now));
    /// assert!(!jar.set(&url, "session=1; Domain=bank.example", now));
    /// ```
    pub fn set(&self, url: &Url, field: impl AsRef<[u8]>, now: SystemTime) -> bool {
        self.jar().set(url, field.as_ref(), now)
    }

    /// The value of the `Cookie` field of a request for `url` at this time; `None` where no cookie goes there. It is marked as
    /// sensitive.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// # use tidegate::http::CookieJar;
    ///
    /// let (jar, url) = (CookieJar::new(), "http://shop.example/".parse().expect("a URL"));
    /// # let now = SystemTime::UNIX_EPOCH;
    /// jar.set(&url, "lang=en", now);
    /// assert_eq!(jar.header(&url, now).expect("one"), "lang=en");
    /// ```
    pub fn header(&self, url: &Url, now: SystemTime) -> Option<HeaderValue> {
        let field = self.jar().header(url, now)?;
        let mut value = HeaderValue::from_bytes(&field).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// How many there are, those that have ended and were not looked at since too.
    ///
    /// ```
    /// assert_eq!(tidegate::http::CookieJar::new().len(), 0);
    /// ```
    pub fn len(&self) -> usize {
        self.jar().len()
    }

    /// Whether there is none.
    ///
    /// ```
    /// assert!(tidegate::http::CookieJar::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all of them out.
    ///
    /// ```
    /// tidegate::http::CookieJar::new().clear();
    /// ```
    pub fn clear(&self) {
        self.jar().clear();
    }

    /// Takes those of an answer.
    pub(super) fn take_from(&self, url: &Url, headers: &HeaderMap, now: SystemTime) {
        let mut fields = headers.get_all(SET_COOKIE).iter().take(PER_ANSWER).peekable();
        if fields.peek().is_some() {
            let mut jar = self.jar();
            for field in fields {
                jar.set(url, field.as_bytes(), now);
            }
        }
    }

    fn jar(&self) -> MutexGuard<'_, Jar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for CookieJar {
    /// Without names and values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CookieJar").field("len", &self.len()).finish_non_exhaustive()
    }
}
