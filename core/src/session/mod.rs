//! Sessions of a site: [`SessionPool`] ties cookies, proxy and fields together, opens them by a function of yours, and replaces what a page says is no
//! good.
//!
//! ```
//! use tidegate::session::{Opening, Session, SessionPool};
//! use tidegate::{Builder, Crawl, Error, Fetcher, Request};
//!
//! async fn login(opening: Opening) -> Result<Session, Error> {
//!     let session = Session::new();
//!     let form = [("user", "me"), ("password", "pw")];
//!     opening.fetch(&session, Request::post("https://shop.example/login", "").with_form(form)).await?;
//!     Ok(session) // with the cookies that it was given
//! }
//!
//! fn crawl(runtime: tidegate::rt::Runtime, http: impl Fetcher) -> Builder<String> {
//!     let sessions = SessionPool::new(login);
//!     Crawl::builder(runtime).fetcher(http.layer(sessions.clone())).observer(sessions)
//! }
//! ```
//!
//! # What ends a session
//! * [`ParseError::expired`](crate::ParseError::expired): it is opened again, and the page is fetched with the new one.
//! * [`ParseError::blocked`](crate::ParseError::blocked): it is replaced, and the page is fetched with another one.
//! * [`SessionPool::max_uses`] and [`SessionPool::max_age`].
//!
//! A 429 or 503 ends none: it says that the site is asked too much, by whomever, and the crawl slows down (see
//! [`Builder::adaptive`](crate::Builder::adaptive)). A status that means "you are out", such as a 403, is for the parser to see
//! ([`accepting`](crate::accepting)) and to call blocked.
//!
//! # Waiting
//! A session is opened by the fetch that needs it, and others wait for it where there is none, with the permits of their hosts, for
//! [`SessionPool::open_timeout`] at most. Where an opening fails, its URL fails with that error, and no other is begun for a second, each time twice as long up to a minute; URLs that
//! come meanwhile are put off by the crawl, without permits.

mod layer;
mod pool;

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use url::Url;

pub use self::layer::{InSession, Opening};
use self::pool::{Pool, PoolLimits};
use crate::http::CookieJar;
use crate::layer::{AuthLayer, HeadersLayer};
use crate::observer::{Event, Observer, What};
use crate::rt::BoxFuture;
use crate::sync::{Mutex, MutexGuard};
use crate::{Error, ErrorKind, Outcome};

/// What the requests of one user of a site have in common. Clones share the jar.
///
/// `Debug` shows no secrets.
///
/// ```
/// use tidegate::layer::{AuthLayer, Credentials};
/// use tidegate::session::Session;
///
/// let auth = AuthLayer::new().origin("https://api.shop.example", Credentials::bearer("token")?)?;
/// let session = Session::new().with_auth(auth).with_proxy("socks5h://127.0.0.1:1080");
/// # Ok::<(), tidegate::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Session {
    cookies: CookieJar,
    proxy: Option<Box<str>>,
    headers: HeadersLayer,
    auth: AuthLayer,
}

impl Session {
    /// A session with a jar of its own that is empty.
    ///
    /// ```
    /// assert!(tidegate::session::Session::new().cookies().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the jar: its cookies are sent where they belong, and those of answers are put into it. The fetcher itself should have none.
    ///
    /// ```
    /// # use tidegate::http::CookieJar;
    /// # use tidegate::session::Session;
    /// let session = Session::new().with_cookies(CookieJar::new());
    /// ```
    pub fn with_cookies(mut self, jar: CookieJar) -> Self {
        self.cookies = jar;
        self
    }

    /// The proxy of requests that have none of their own ([`Overrides::proxy`](crate::Overrides::proxy)).
    ///
    /// ```
    /// # use tidegate::session::Session;
    /// let session = Session::new().with_proxy("http://proxy.example:3128");
    /// ```
    pub fn with_proxy(mut self, url: impl Into<Box<str>>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Fields of requests that have none of that name.
    ///
    /// ```
    /// # use tidegate::layer::HeadersLayer;
    /// # use tidegate::session::Session;
    /// let agent = HeadersLayer::new().header(http::header::USER_AGENT, http::HeaderValue::from_static("pricewatch/1.2"));
    /// let session = Session::new().with_headers(agent);
    /// ```
    pub fn with_headers(mut self, headers: HeadersLayer) -> Self {
        self.headers = headers;
        self
    }

    /// Credentials for the origins that they are meant for.
    ///
    /// ```
    /// # use tidegate::layer::AuthLayer;
    /// # use tidegate::session::Session;
    /// let session = Session::new().with_auth(AuthLayer::new());
    /// ```
    pub fn with_auth(mut self, auth: AuthLayer) -> Self {
        self.auth = auth;
        self
    }

    /// The jar.
    ///
    /// ```
    /// assert_eq!(tidegate::session::Session::new().cookies().len(), 0);
    /// ```
    pub fn cookies(&self) -> &CookieJar {
        &self.cookies
    }

    /// The proxy.
    ///
    /// ```
    /// assert_eq!(tidegate::session::Session::new().proxy(), None);
    /// ```
    pub fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("cookies", &self.cookies)
            .field("proxy", &self.proxy.as_deref().map(crate::request::without_userinfo))
            .field("headers", &self.headers)
            .field("auth", &self.auth)
            .finish()
    }
}

/// Why a session is opened.
///
/// ```
/// use tidegate::session::{Opening, Why};
///
/// fn wants_another_proxy(opening: &Opening) -> bool {
///     opening.why() == Why::Blocked
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// It is one more.
    New,
    /// A page said that the one before has [expired](crate::ParseError::expired).
    Expired,
    /// A page said that the one before is [blocked](crate::ParseError::blocked).
    Blocked,
    /// The one before was used often enough, or long enough.
    Worn,
}

type Open = dyn Fn(Opening) -> BoxFuture<'static, Result<Session, Error>> + Send + Sync;

type Applies = dyn Fn(&Url) -> bool + Send + Sync;

/// A bounded number of sessions, which fetches take by turns. Clones share them.
///
/// It is a [`Layer`](crate::layer::Layer), by which requests have a session, and an [`Observer`], by which it learns what became of
/// their pages: give it to the crawl as both. One pool serves one crawl.
///
/// All attempts and hops of a URL have the same session as long as that is any good; otherwise a fetch has the one with the fewest fetches in
/// flight, and one more is opened where each has one and there may be more.
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
/// use tidegate::session::{Session, SessionPool, Why};
///
/// let proxies = ["http://p1.example:3128", "http://p2.example:3128"];
/// let sessions = SessionPool::new(move |opening| async move {
///     // The same proxy while the site lets it in, or else the next one.
///     let before = opening.previous().filter(|_| opening.why() != Why::Blocked).and_then(|session| session.proxy());
///     let next = proxies[opening.nth() as usize % proxies.len()];
///     Ok(Session::new().with_proxy(before.unwrap_or(next)))
/// })
/// .max_sessions(NonZeroU32::new(2).expect("not zero"))
/// .max_age(Duration::from_secs(20 * 60));
/// # let _ = sessions;
/// ```
#[derive(Clone)]
pub struct SessionPool(Arc<Shared>);

struct Shared {
    open: Arc<Open>,
    applies: Option<Arc<Applies>>,
    limits: PoolLimits,
    state: Mutex<Waiting>,
}

struct Waiting {
    pool: Pool,
    /// Fetches that ask again when an opening has ended: at most those in flight.
    waiters: Vec<oneshot::Sender<()>>,
}

impl SessionPool {
    /// A pool of one session, that `open` opens: by a login, or by nothing but a new jar and a proxy.
    ///
    /// ```
    /// # use tidegate::session::{Session, SessionPool};
    /// let sessions = SessionPool::new(|_| async { Ok(Session::new()) });
    /// assert_eq!(sessions.open_sessions(), 0); // one is opened when it is needed
    /// ```
    pub fn new<F, Fut>(open: F) -> Self
    where
        F: Fn(Opening) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Session, Error>> + Send + 'static,
    {
        let open: Arc<Open> = Arc::new(move |opening| Box::pin(open(opening)));
        let (uses, age, opening) = (u64::MAX, Duration::MAX, Duration::from_secs(30));
        Self::make(open, None, PoolLimits { sessions: NonZeroU32::MIN, uses, age, opening })
    }

    fn make(open: Arc<Open>, applies: Option<Arc<Applies>>, limits: PoolLimits) -> Self {
        let state = Mutex::new(Waiting { pool: Pool::new(limits), waiters: Vec::new() });
        Self(Arc::new(Shared { open, applies, limits, state }))
    }

    fn with_limits(&self, change: impl FnOnce(&mut PoolLimits)) -> Self {
        let mut limits = self.0.limits;
        change(&mut limits);
        Self::make(Arc::clone(&self.0.open), self.0.applies.clone(), limits)
    }

    /// Sessions at a time: one by default. To be set, as the others are, before it is given away.
    ///
    /// ```
    /// # use tidegate::session::{Session, SessionPool};
    /// let four = std::num::NonZeroU32::new(4).expect("not zero");
    /// let sessions = SessionPool::new(|_| async { Ok(Session::new()) }).max_sessions(four);
    /// ```
    #[must_use]
    pub fn max_sessions(self, most: NonZeroU32) -> Self {
        self.with_limits(|limits| limits.sessions = most)
    }

    /// Fetches that a session is used for, hops of redirects counted, before another one takes its place; no bound by default.
    ///
    /// ```
    /// # use tidegate::session::{Session, SessionPool};
    /// let often = std::num::NonZeroU32::new(500).expect("not zero");
    /// let sessions = SessionPool::new(|_| async { Ok(Session::new()) }).max_uses(often);
    /// ```
    #[must_use]
    pub fn max_uses(self, most: NonZeroU32) -> Self {
        self.with_limits(|limits| limits.uses = most.get().into())
    }

    /// How old a session may be when it is given to a fetch; no bound by default.
    ///
    /// ```
    /// # use tidegate::session::{Session, SessionPool};
    /// let sessions = SessionPool::new(|_| async { Ok(Session::new()) }).max_age(std::time::Duration::from_secs(1_800));
    /// ```
    #[must_use]
    pub fn max_age(self, most: Duration) -> Self {
        self.with_limits(|limits| limits.age = most)
    }

    /// How long an opening may take: 30 s by default. Afterwards it has failed; it should be less than the total deadline of those that
    /// wait for it.
    ///
    /// ```
    /// # use tidegate::session::{Session, SessionPool};
    /// let sessions = SessionPool::new(|_| async { Ok(Session::new()) }).open_timeout(std::time::Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn open_timeout(self, most: Duration) -> Self {
        self.with_limits(|limits| limits.opening = most)
    }

    /// Which URLs have a session; all by default. Others are fetched without.
    ///
    /// ```
    /// # use tidegate::session::{Session, SessionPool};
    /// let of_shop = |url: &url::Url| url.host_str().is_some_and(|host| host.ends_with("shop.example"));
    /// let sessions = SessionPool::new(|_| async { Ok(Session::new()) }).applies_to(of_shop);
    /// ```
    #[must_use]
    pub fn applies_to(self, filter: impl Fn(&Url) -> bool + Send + Sync + 'static) -> Self {
        Self::make(Arc::clone(&self.0.open), Some(Arc::new(filter)), self.0.limits)
    }

    /// Sessions that are open now.
    ///
    /// ```
    /// fn is_logged_in(sessions: &tidegate::session::SessionPool) -> bool {
    ///     sessions.open_sessions() > 0
    /// }
    /// ```
    pub fn open_sessions(&self) -> usize {
        self.state().pool.open()
    }

    /// Times that a session was opened, those included that failed.
    ///
    /// ```
    /// fn logins(sessions: &tidegate::session::SessionPool) -> u64 {
    ///     sessions.openings()
    /// }
    /// ```
    pub fn openings(&self) -> u64 {
        self.state().pool.openings()
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those that wait, once the lock is free.
    fn wake(&self) {
        let waiters = std::mem::take(&mut self.state().waiters);
        for waiter in waiters {
            // Whoever has gone does not wait.
            let _ = waiter.send(());
        }
    }

    fn judge(&self, job: u64, error: &Error) {
        let why = match error.kind() {
            ErrorKind::ParserExpired => Why::Expired,
            ErrorKind::ParserBlocked => Why::Blocked,
            _ => return,
        };
        self.state().pool.refused(job, why);
        self.wake();
    }
}

/// Learns what became of the pages.
impl Observer for SessionPool {
    fn event(&self, event: &Event<'_>) {
        match event.what {
            What::Retried { error, .. } => self.judge(event.job, error),
            What::Settled(settled) => {
                if let Outcome::Error(error) = &settled.outcome {
                    self.judge(event.job, error);
                }
                self.state().pool.ended(event.job);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for SessionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPool").field("open_sessions", &self.open_sessions()).finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<SessionPool>();
    send_sync::<InSession<Arc<dyn crate::Fetcher>>>();
};
