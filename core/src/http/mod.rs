//! [`HttpFetcher`]: HTTP/1.1 over connections of our own and HTTP/2 by hyper, with a pool, proxies, TLS and content decoding.

mod body;
mod builder;
mod conn;
mod connect;
mod cookies;
mod decode;
mod h1;
#[cfg(feature = "tls")]
mod http2;
mod message;
mod pool;
mod proxies;
mod proxy;
pub(crate) mod scratch;
mod wire;

/// What a fuzzer calls, there with `--cfg fuzzing` only.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::h1::replies;
    pub use super::proxy::handshakes;
    pub use crate::drive::retry_after_of;
}

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{Method, StatusCode};
use url::Url;

use self::body::{SaveTo, Start};
pub use self::builder::HttpFetcherBuilder;
use self::conn::Answered;
use self::connect::{Connector, Idle, Made, endpoint};
pub use self::cookies::CookieJar;
pub use self::decode::ContentDecoder;
use self::message::{Defaults, Message};
use self::pool::{Key, KeyRef, Pool};
pub use self::proxies::{Bypass, Candidate, Candidates, LeastUsed, ProxySelector, RoundRobin, StickyPerHost, Weighted};
use self::proxies::{Proxies, Taken};
use self::proxy::Proxy;
use self::wire::Wire;
use crate::guard::is_public;
use crate::rt::{BoxFuture, Runtime, ThreadPool};
use crate::{
    Accept, Decode, Error, ErrorKind, FetchCx, Fetcher, Head, Hop, Ledger, Limits, Phase, Request, Response, redirect,
};

/// Requests that a server of HTTP/2 did nothing with are sent again for free, so often at most.
const REFUSALS: u8 = 3;

/// A redirect whose body is larger than this is not read to its end for the sake of the connection.
const DRAIN: u64 = 64 << 10;

/// Fetches over HTTP/1.1, with and without TLS, and over HTTP/2 where an https server chooses it. Clones share the connections.
///
/// Over HTTP/1.1 a fetch has no task and no channel: its own future polls its connection, so that dropping the future closes
/// the connection. A connection of HTTP/2 has tasks, and dropping a fetch resets its stream. Answers are not decoded here but carry their decoder, because decoding is CPU work for the parse stage.
///
/// A parked connection that turns out to be dead before the first byte of an answer is replaced once for free, where the
/// method is idempotent or the request never left. Redirects are followed only without a crawl
/// ([`FetchCx::follows_redirects`]); then the overrides of the request and the total deadline are applied here as well.
///
/// ```no_run
/// # async fn example(runtime: tidegate::rt::Runtime) -> Result<(), tidegate::Error> {
/// use tidegate::http::HttpFetcher;
/// use tidegate::{FetchCx, Fetcher, Request};
///
/// let fetcher = HttpFetcher::builder(&runtime).user_agent("example-bot/1.0").build()?;
/// let cx = FetchCx::detached(&runtime);
/// let response = fetcher.fetch(&Request::get("http://127.0.0.1:8080/"), &cx).await?;
/// println!("{} {:?}", response.head.status, response.decoded(cx.limits())?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct HttpFetcher(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    /// Where HTTP/2 may be spoken.
    #[cfg(feature = "tls")]
    links: Option<Arc<http2::Links>>,
    connector: Connector,
    defaults: Defaults,
    proxies: Proxies,
    cookies: Option<CookieJar>,
    local_addresses: Vec<IpAddr>,
    next_local: AtomicUsize,
    decoder: Arc<dyn Decode>,
    writers: Arc<ThreadPool>,
    next_file: AtomicUsize,
}

/// Where a request goes, and the way there.
#[derive(Clone, Copy)]
struct Route<'a> {
    url: &'a Url,
    proxy: Option<&'a Proxy>,
    sources: &'a [IpAddr],
    port: u16,
    https: bool,
    guarded: bool,
}

impl<'a> Route<'a> {
    fn new(url: &'a Url, proxy: Option<&'a Proxy>, sources: &'a [IpAddr], guarded: bool) -> Result<Self, Error> {
        let (_, port) = endpoint(url)?;
        Ok(Self { url, proxy, sources, port, https: url.scheme() == "https", guarded })
    }

    fn key(&self) -> KeyRef<'a> {
        KeyRef {
            https: self.https,
            host: self.url.host_str().unwrap_or_default(),
            port: self.port,
            proxy: self.proxy.map(Proxy::identity),
            local: self.sources.first().copied(),
            guarded: self.guarded && self.proxy.is_none_or(Proxy::wants_address),
        }
    }
}

impl HttpFetcher {
    /// Begins a fetcher on this runtime.
    pub fn builder(runtime: &Runtime) -> HttpFetcherBuilder {
        HttpFetcherBuilder::new(runtime)
    }

    /// Connections that are parked now, and those of HTTP/2 that no request uses.
    ///
    /// ```no_run
    /// # fn example(fetcher: tidegate::http::HttpFetcher) {
    /// println!("{} connections are idle", fetcher.idle_connections());
    /// # }
    /// ```
    pub fn idle_connections(&self) -> usize {
        let parked = self.0.pool.len();
        #[cfg(feature = "tls")]
        let parked = parked + self.0.links.as_ref().map_or(0, |links| links.idle());
        parked
    }
}

impl std::fmt::Debug for HttpFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpFetcher").field("idle_connections", &self.idle_connections()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Fetcher for HttpFetcher {
    /// Written without `async`, so that the future of a crawl's fetch is no larger than it must be.
    fn fetch<'a, 'r, 'c, 'f>(&'a self, request: &'r Request, cx: &'c FetchCx) -> BoxFuture<'f, Result<Response, Error>>
    where
        'a: 'f,
        'r: 'f,
        'c: 'f,
        Self: 'f,
    {
        let named = |error: Error| if error.url().is_some() { error } else { error.with_url(request.url()) };
        if cx.follows_redirects() {
            return Box::pin(async move { self.0.follow(request, cx).await.map_err(named) });
        }
        let guarded = cx.is_guarded();
        Box::pin(async move { self.0.hop(request, guarded, cx.limits(), cx).await.map_err(named) })
    }

    /// Knows the proxies of the fetcher but not those of single requests ([`Overrides::proxy`](crate::Overrides::proxy)):
    /// a target that cannot be resolved says nothing about a request that has a proxy of its own.
    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        let (host, port) = endpoint(target)?;
        if !self.0.proxies.is_empty() || self.0.connector.fixed_address(&host, port).is_some() {
            return Ok(None);
        }
        let addrs = self.0.connector.addresses(host, port, cx.limits(), cx).await?;
        Ok(addrs.first().map(|addr| addr.ip()))
    }

    fn ledger(&self) -> Option<&Ledger> {
        Some(&self.0.connector.ledger)
    }
}

impl Inner {
    /// One request and the redirects after it, without a crawl.
    async fn follow(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        // What is rare is boxed here: all that a fetch keeps, it keeps while it waits.
        let own_limits = request.overrides().map(|overrides| Box::new(overrides.apply(cx.limits())));
        let limits = own_limits.as_deref().unwrap_or_else(|| cx.limits());
        // Pinned here, so that it is not moved into the deadline.
        let following = pin!(async {
            let mut next: Option<Box<Request>> = None;
            let mut redirects = Vec::new();
            let mut guarded = cx.is_guarded();
            loop {
                let current = next.as_deref().unwrap_or(request);
                let mut response = self.hop(current, guarded, limits, cx).await?;
                if limits.redirects > 0
                    && let Some(target) = redirect::next_hop(current, &response.head)?
                {
                    if redirects.len() >= limits.redirects as usize {
                        let attempted = format!("follow more than {} redirects", limits.redirects);
                        return Err(Error::new(ErrorKind::RedirectTooMany, attempted));
                    }
                    redirects.push(Hop::new(response.head.url.as_str(), response.head.status));
                    guarded |= cx.guards() && response.remote.is_some_and(|remote| is_public(remote.ip()));
                    next = Some(Box::new(target));
                    continue;
                }
                response.redirects = redirects;
                return Ok(response);
            }
        });
        cx.timeout(limits.deadlines.total, ErrorKind::TimeoutTotal, "fetch", following).await?
    }

    /// One request and its answer.
    async fn hop(&self, request: &Request, guarded: bool, limits: &Limits, cx: &FetchCx) -> Result<Response, Error> {
        let url = request.target()?;
        let https = url.scheme() == "https";
        if https && cfg!(not(feature = "tls")) {
            return Err(Error::new(ErrorKind::UrlScheme, "fetch https without the feature `tls`"));
        }
        let sources = self.sources();
        // Boxed, as most fetches have none.
        let cookie = self.cookies.as_ref().and_then(|jar| jar.header(&url, cx.wall_clock())).map(Box::new);
        let mut tries = 0;
        // What is alive while the body comes is kept for each that waits for one.
        let (taken, key, mut wire, head, start) = loop {
            let taken = self.proxy_for(request, &url, cx)?;
            let proxy = taken.as_ref().map(Taken::proxy);
            let read_by = proxy.filter(|proxy| !https && proxy.reads_requests());
            let message = Message::new(request, &url, read_by, &self.defaults)?.with_cookie(cookie.as_deref());
            let route = Route::new(&url, proxy, &sources, guarded)?;
            let mut exchanged = self.exchange(message, route, limits, cx).await;
            if let Some(proxy) = read_by
                && exchanged.as_ref().is_ok_and(|(.., a)| a.head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED)
            {
                let attempted = format!("use the proxy {}, which asks for other credentials (407)", proxy.shown());
                exchanged = Err(Error::new(ErrorKind::ProxyAuth, attempted));
            }
            if let Some(taken) = &taken {
                let is_its_fault = taken.ended(exchanged.as_ref().err(), cx.now());
                tries += 1;
                if is_its_fault && tries < self.proxies.tries() {
                    continue;
                }
            }
            let (key, wire, Answered { head: came, length, early }) = exchanged?;
            cx.phase(Phase::Body);
            if let Some(jar) = &self.cookies {
                jar.take_from(&url, &came.headers, cx.wall_clock());
            }
            let head =
                Head { url: without_userinfo(url), status: came.status, version: came.version, headers: came.headers };
            break (taken, key, wire, Arc::new(head), Start { length, early });
        };
        let (accepted, body, bytes_wire) = self.receive(request, &head, &mut wire, start, limits, cx).await?;
        let mut response = Response::new(head, body);
        response.bytes_wire = bytes_wire;
        response.accepted = accepted;
        response.remote = Some(wire.peer().addr);
        response.certificate_expiry = wire.peer().certificate_expiry;
        response.proxy = taken.map(|taken| Arc::clone(taken.proxy().shown()));
        if self.defaults.decompress && !response.body.is_empty() && response.head.headers.contains_key(CONTENT_ENCODING)
        {
            response.decoder = Some(Arc::clone(&self.decoder));
        }
        self.give_back(key, wire, cx);
        Ok(response)
    }

    /// Sends the request on a connection that is parked, or on a new one, and waits for the head of its answer.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn exchange<'a>(
        &'a self,
        message: Message<'a>,
        route: Route<'a>,
        limits: &'a Limits,
        cx: &'a FetchCx,
    ) -> impl Future<Output = Result<(Arc<Key>, Wire, Answered), Error>> + Send + 'a {
        async move {
            let mut parked = self.pool.take_quiet(route.key(), cx.moment());
            let mut refusals = 0;
            loop {
                let (own, mut wire) = match parked.take() {
                    Some((own, conn)) => (Some(own), Wire::One(conn)),
                    // Boxed: it is large, and most fetches of a crawl find a connection.
                    None => Box::pin(self.reach(route, limits, cx)).await?,
                };
                // Of a stream: whether its connection may have been closed while it was idle.
                let (reused, stale) = match &wire {
                    Wire::One(_) => (own.is_some(), own.is_some()),
                    #[cfg(feature = "tls")]
                    Wire::Two(stream) => (stream.is_reused(), stream.was_idle()),
                };
                cx.connected(wire.peer().addr, reused);
                cx.phase(Phase::FirstByte);
                match wire.send(&message, limits, cx).await {
                    Ok(answered) => {
                        let key = match (&mut wire, own) {
                            (_, Some(own)) => own,
                            (Wire::One(conn), None) => {
                                Arc::new(KeyRef { local: conn.socket().source(), ..route.key() }.into())
                            }
                            #[cfg(feature = "tls")]
                            (Wire::Two(stream), None) => Arc::clone(stream.key()),
                        };
                        return Ok((key, wire, answered));
                    }
                    Err(failed) => {
                        if failed.refused {
                            #[cfg(feature = "tls")]
                            if let Wire::Two(stream) = &wire {
                                stream.retire();
                            }
                            refusals += 1;
                            if refusals <= REFUSALS {
                                continue;
                            }
                        }
                        let died = matches!(failed.error.kind(), ErrorKind::HttpEmptyReply | ErrorKind::ConnectReset);
                        let safe = !failed.sent || is_idempotent(message.method());
                        if !(stale && died && safe && !failed.answered) {
                            return Err(failed.error);
                        }
                    }
                }
            }
        }
    }

    /// A stream of a connection that is there, or a new connection.
    async fn reach(&self, route: Route<'_>, limits: &Limits, cx: &FetchCx) -> Result<(Option<Arc<Key>>, Wire), Error> {
        let Route { url, proxy, sources, guarded, .. } = route;
        #[cfg(feature = "tls")]
        let links = self.links.as_ref().filter(|_| route.https);
        #[cfg(feature = "tls")]
        let mut dialing = None;
        #[cfg(feature = "tls")]
        if let Some(links) = links {
            dialing = loop {
                match links.enter(route.key()) {
                    http2::Entry::Stream(stream) => return Ok((None, Wire::Two(stream))),
                    http2::Entry::Dial(dialing) => break dialing,
                    http2::Entry::Wait(told) => {
                        if told.await.is_err() {
                            break None;
                        }
                    }
                }
            };
        }
        let idle = Idle { pool: &self.pool, key: route.key() };
        let made = self.connector.connect(url, proxy, sources, guarded, idle, limits, cx).await?;
        #[cfg(feature = "tls")]
        if let (Some(links), Made::New(_) | Made::Parked(..)) = (links, &made) {
            links.forget(route.key());
        }
        match made {
            Made::New(conn) => Ok((None, Wire::One(conn))),
            Made::Parked(own, conn) => Ok((Some(own), Wire::One(conn))),
            #[cfg(feature = "tls")]
            Made::Http2(raw) => {
                let Some(links) = links else {
                    return Err(Error::new(ErrorKind::TlsHandshake, "speak HTTP/2, which was not offered"));
                };
                let attempted = "begin to speak HTTP/2";
                let joining = Box::pin(links.join(route.key(), *raw));
                let joined = cx.timeout(limits.deadlines.tls, ErrorKind::TimeoutTls, attempted, joining).await?;
                if let Some(dialing) = dialing.take().filter(|_| joined.is_ok()) {
                    http2::Dialing::succeeded(dialing);
                }
                Ok((None, Wire::Two(joined?)))
            }
        }
    }

    /// Reads as much of the body as is wanted.
    async fn receive(
        &self,
        request: &Request,
        head: &Head,
        wire: &mut Wire,
        start: Start,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<(Accept, Bytes, u64), Error> {
        let redirected = cx.follows_redirects() && limits.redirects > 0 && head.location().is_some();
        let is_short = start.length.is_some_and(|length| length <= DRAIN);
        // Without a crawl a redirect is read only for the sake of its connection.
        let accepted = if redirected && !is_short { Accept::Head } else { cx.accept(head) };
        // An error page that nobody wants is read all the same: a connection costs more than its bytes.
        let drains = accepted == Accept::Refuse && is_short;
        if accepted != Accept::Body && !drains {
            return Ok((accepted, Bytes::new(), 0));
        }
        // That of a 2xx answer only, so that no redirect or error page takes the place of the file.
        let save_to = request.overrides().and_then(|o| o.save_to.as_deref()).filter(|_| head.status.is_success());
        if let Some(target) = save_to.filter(|_| !drains) {
            let (body, bytes) = Box::pin(self.save(wire, start, target, limits, cx)).await?;
            return Ok((accepted, body, bytes));
        }
        match body::read(wire, start, None, limits, cx).await {
            Ok((_, bytes)) if drains => Ok((accepted, Bytes::new(), bytes)),
            // Then the connection is not reused, and that is all.
            Err(_) if drains => Ok((accepted, Bytes::new(), 0)),
            read => read.map(|(body, bytes)| (accepted, body, bytes)),
        }
    }

    /// The body into a file.
    async fn save(
        &self,
        wire: &mut Wire,
        start: Start,
        target: &Path,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<(Bytes, u64), Error> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed) as u64;
        let mut file = SaveTo::create(&self.writers, target, number).await?;
        let read = body::read(wire, start, Some(&mut file), limits, cx).await?;
        file.finish().await?;
        Ok(read)
    }

    /// Parks the connection where the answer ended as its framing says and the connection stays open.
    fn give_back(&self, key: Arc<Key>, wire: Wire, cx: &FetchCx) {
        #[cfg_attr(not(feature = "tls"), expect(irrefutable_let_patterns, reason = "HTTP/2 needs TLS"))]
        let Wire::One(mut conn) = wire else { return };
        if conn.finish() {
            let to = conn.socket().to();
            conn.socket().set_idle(true);
            self.pool.put(key, conn, cx.moment());
            // Where somebody waits for what this connection holds, it makes room.
            if !self.connector.ledger.parked(to) {
                self.connector.ledger.evict(1);
            }
        }
    }

    /// The source addresses, the one whose turn it is first.
    fn sources(&self) -> Vec<IpAddr> {
        if self.local_addresses.is_empty() {
            return self.connector.tcp.local_address.into_iter().collect();
        }
        let mut sources = self.local_addresses.clone();
        if sources.len() > 1 {
            let turn = self.next_local.fetch_add(1, Ordering::Relaxed) % sources.len();
            sources.rotate_left(turn);
        }
        sources
    }

    /// The proxy of a request to this target.
    fn proxy_for(&self, request: &Request, target: &Url, cx: &FetchCx) -> Result<Option<Taken<'_>>, Error> {
        match request.overrides().and_then(|o| o.proxy.as_deref()) {
            Some(text) => Ok(Some(Taken::own(Proxy::parse(text)?))),
            None if self.proxies.is_empty() => Ok(None),
            None => Ok(self.proxies.pick(target, cx.now())),
        }
    }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

fn without_userinfo(mut url: Url) -> Url {
    if url.username().is_empty() && url.password().is_none() {
        return url;
    }
    // Both fail only for URLs without a host, which are refused before.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<HttpFetcher>();
};
