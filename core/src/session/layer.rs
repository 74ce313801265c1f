//! The shell around the pool: a fetch takes a session, opens one where it is told to, and sends what the session has.

use std::fmt;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::channel::oneshot;
use http::header::{COOKIE, SET_COOKIE};
use url::Url;

use super::pool::Take;
use super::{Session, SessionPool, Why};
use crate::drive::decoded;
use crate::guard::is_public;
use crate::layer::Layer;
use crate::rt::Runtime;
use crate::{
    Error, ErrorKind, FetchCx, Fetcher, Hop, Ledger, Limits, Overrides, Page, Phase, Request, Response, redirect,
};

/// `Set-Cookie` fields of an answer that count, as in a fetcher's own jar.
const COOKIES_OF_ANSWER: usize = 50;

/// What a function that opens sessions is given.
///
/// ```
/// use tidegate::session::{Opening, Session};
/// use tidegate::{Error, ErrorKind, Request};
///
/// async fn login(opening: Opening) -> Result<Session, Error> {
///     let session = Session::new();
///     let login = Request::post("https://shop.example/login", "").with_form([("user", "me"), ("password", "pw")]);
///     let page = opening.fetch(&session, login).await?;
///     if page.url().path() == "/login" {
///         return Err(Error::new(ErrorKind::Other, "log in: the form came back"));
///     }
///     Ok(session)
/// }
/// ```
pub struct Opening {
    fetcher: Arc<dyn Fetcher>,
    runtime: Runtime,
    why: Why,
    nth: u64,
    previous: Option<Arc<Session>>,
}

impl Opening {
    /// Why it is opened.
    ///
    /// ```
    /// # use tidegate::session::{Opening, Why};
    /// fn was_thrown_out(opening: &Opening) -> bool {
    ///     matches!(opening.why(), Why::Expired | Why::Blocked)
    /// }
    /// ```
    pub fn why(&self) -> Why {
        self.why
    }

    /// Which opening of the pool it is, from 1.
    ///
    /// ```
    /// # use tidegate::session::Opening;
    /// fn account(opening: &Opening) -> String {
    ///     format!("reader-{}", opening.nth() % 10)
    /// }
    /// ```
    pub fn nth(&self) -> u64 {
        self.nth
    }

    /// The session in whose place it comes.
    ///
    /// ```
    /// # use tidegate::session::{Opening, Session};
    /// fn begin(opening: &Opening) -> Session {
    ///     opening.previous().cloned().unwrap_or_default() // with its cookies, to be renewed
    /// }
    /// ```
    pub fn previous(&self) -> Option<&Session> {
        self.previous.as_deref()
    }

    /// Fetches a page in this session, outside the queues of the crawl and without its politeness; redirects are followed, cookies
    /// taken on each hop. Any status is an answer. Limits are those of listed URLs, and the request's own.
    ///
    /// # Errors
    /// Those of the fetcher, and of decoding.
    ///
    /// # Cancel safety
    /// Dropping it ends the fetch; cookies that came before stay in the jar.
    ///
    /// ```
    /// # use tidegate::session::{Opening, Session};
    /// # async fn example(opening: Opening, session: Session) -> Result<(), tidegate::Error> {
    /// let form = opening.fetch(&session, tidegate::Request::get("https://shop.example/login")).await?;
    /// println!("{}", form.utf8());
    /// # Ok(()) }
    /// ```
    pub async fn fetch(&self, session: &Session, request: Request) -> Result<Page, Error> {
        let limits = request.overrides().map_or_else(Limits::listed, |own| own.apply(&Limits::listed()));
        let total = limits.deadlines.total;
        let cx = FetchCx::detached(&self.runtime).with_limits(limits);
        let work = async {
            let response = follow(&*self.fetcher, session, &request, &cx).await?;
            decoded(response, &cx).await
        };
        let (head, body) = cx.timeout(total, ErrorKind::TimeoutTotal, "fetch for a session", work).await??;
        Ok(Page::new(request, head, body, 1, cx.wall_clock()))
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("why", &self.why).field("nth", &self.nth).finish_non_exhaustive()
    }
}

impl<F: Fetcher> Layer<F> for SessionPool {
    type Fetcher = InSession<F>;

    fn layer(&self, inner: F) -> InSession<F> {
        InSession { inner: Arc::new(inner), pool: self.clone() }
    }
}

/// A fetcher below a [`SessionPool`].
///
/// # Cancel safety
/// A fetch that is dropped gives its session back; one that was opening a session leaves that to the next.
///
/// ```
/// # use tidegate::session::{InSession, SessionPool};
/// fn in_session<F: tidegate::Fetcher>(http: F, sessions: SessionPool) -> InSession<F> {
///     http.layer(sessions)
/// }
/// ```
#[derive(Debug)]
pub struct InSession<F> {
    inner: Arc<F>,
    pool: SessionPool,
}

impl<F> Clone for InSession<F> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), pool: self.pool.clone() }
    }
}

#[async_trait]
impl<F: Fetcher> Fetcher for InSession<F> {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        if let Some(applies) = &self.pool.0.applies
            && !request.target().is_ok_and(|url| applies(&url))
        {
            return self.inner.fetch(request, cx).await;
        }
        let (_lease, session) = self.session(cx).await?;
        if cx.follows_redirects() {
            let total = cx.limits().deadlines.total;
            let work = follow(&*self.inner, &session, request, cx);
            return cx.timeout(total, ErrorKind::TimeoutTotal, "fetch in a session", work).await?;
        }
        hop(&*self.inner, &session, request, cx).await
    }

    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        self.inner.resolve(target, cx).await
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.inner.ledger()
    }
}

impl<F: Fetcher> InSession<F> {
    /// Takes a session, waits for one, or opens one.
    async fn session(&self, cx: &FetchCx) -> Result<(Lease<'_>, Arc<Session>), Error> {
        loop {
            let taken = self.pool.state().pool.take(cx.now(), cx.job());
            match taken {
                Take::Use(id, session) => return Ok((Lease { pool: &self.pool, id }, session)),
                Take::Open { id, why, previous } => {
                    cx.phase(Phase::Local);
                    self.open(id, why, previous, cx).await?;
                }
                Take::Wait => {
                    cx.phase(Phase::Local);
                    self.opening_ended().await;
                }
                Take::Fail(error) => return Err(error),
            }
        }
    }

    async fn open(&self, id: u64, why: Why, previous: Option<Arc<Session>>, cx: &FetchCx) -> Result<(), Error> {
        let mut begun = Begun { pool: &self.pool, id, is_open: true };
        let fetcher: Arc<dyn Fetcher> = Arc::<F>::clone(&self.inner);
        let runtime = cx.runtime().clone();
        let opened = (self.pool.0.open)(Opening { fetcher, runtime, why, nth: id, previous });
        let limit = self.pool.0.limits.opening;
        let opened = cx.timeout(limit, ErrorKind::Other, "open a session", opened).await.and_then(|opened| opened);
        begun.is_open = false;
        let failed = self.pool.state().pool.opened(cx.now(), id, opened);
        self.pool.wake();
        failed.map_or(Ok(()), Err)
    }

    /// Waits for the end of an opening, unless there is none under way any more.
    async fn opening_ended(&self) {
        let (ended, wait) = oneshot::channel();
        {
            let mut state = self.pool.state();
            if !state.pool.is_opening() {
                return;
            }
            state.waiters.push(ended);
        }
        let _ = wait.await;
    }
}

/// A fetch that has a session.
struct Lease<'a> {
    pool: &'a SessionPool,
    id: u64,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pool.state().pool.release(self.id);
    }
}

/// An opening that is under way.
struct Begun<'a> {
    pool: &'a SessionPool,
    id: u64,
    is_open: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.pool.state().pool.given_up(self.id);
            self.pool.wake();
        }
    }
}

/// One request with what the session has, whose answer fills the jar.
async fn hop(inner: &dyn Fetcher, session: &Session, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
    let url = request.target()?;
    let mut own = session.headers.complete(request).unwrap_or_else(|| request.clone());
    own = session.auth.sign(&own).unwrap_or(own);
    let has_own = own.headers().is_some_and(|headers| headers.contains_key(COOKIE));
    if let Some(cookie) = session.cookies.header(&url, cx.wall_clock()).filter(|_| !has_own) {
        own = own.with_header(COOKIE, cookie);
    }
    if let Some(proxy) = &session.proxy
        && own.overrides().is_none_or(|overrides| overrides.proxy.is_none())
    {
        let mut overrides: Overrides = own.overrides().cloned().unwrap_or_default();
        overrides.proxy = Some(proxy.clone());
        own = own.with_overrides(overrides);
    }
    let own = Box::new(own);
    let response = inner.fetch(&own, cx).await?;
    // What is of a cache was taken when it came.
    if response.from_cache.is_none() {
        for field in response.head.headers.get_all(SET_COOKIE).iter().take(COOKIES_OF_ANSWER) {
            session.cookies.set(&url, field.as_bytes(), cx.wall_clock());
        }
    }
    Ok(response)
}

/// A request and the redirects after it, without a crawl: hop by hop, as each has cookies of its own.
async fn follow(inner: &dyn Fetcher, session: &Session, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
    let limits = request.overrides().map_or_else(|| cx.limits().clone(), |overrides| overrides.apply(cx.limits()));
    let most = limits.redirects;
    let mut next: Option<Box<Request>> = None;
    let mut redirects = Vec::new();
    let mut guarded = cx.is_guarded();
    loop {
        let current = next.as_deref().unwrap_or(request);
        let mut limits = limits.clone();
        limits.redirects = 0;
        let mut of_hop = FetchCx::detached(cx.runtime()).with_limits(limits);
        of_hop.guarding(cx.guards(), guarded);
        // The hop's own overrides would let the fetcher follow by itself.
        let mut overrides = current.overrides().cloned().unwrap_or_default();
        overrides.max_redirects = Some(0);
        let current = current.clone().with_overrides(overrides);
        let mut response = pin!(hop(inner, session, &current, &of_hop)).await?;
        if most > 0
            && let Some(target) = redirect::next_hop(&current, &response.head)?
        {
            if redirects.len() >= most as usize {
                return Err(Error::new(ErrorKind::RedirectTooMany, format!("follow more than {most} redirects")));
            }
            redirects.push(Hop::new(response.head.url.as_str(), response.head.status));
            guarded |= cx.guards() && response.remote.is_some_and(|remote| is_public(remote.ip()));
            next = Some(Box::new(target));
            continue;
        }
        response.redirects = redirects;
        return Ok(response);
    }
}
