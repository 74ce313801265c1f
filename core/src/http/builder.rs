//! [`HttpFetcherBuilder`]: the knobs of [`HttpFetcher`], named as users of reqwest know them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::connect::Connector;
use super::cookies::CookieJar;
use super::decode::ContentDecoder;
#[cfg(feature = "tls")]
use super::http2::Links;
use super::message::Defaults;
use super::pool::{Pool, PoolLimits};
use super::proxies::{Proxies, ProxySelector, RoundRobin};
use super::proxy::Proxy;
use super::{HttpFetcher, Inner};
use crate::hash::KeyedState;
use crate::ledger::Evict;
use crate::rt::{CachedResolver, DnsLimits, Runtime, TcpOptions, ThreadPool};
use crate::{Error, ErrorKind, Ledger};

/// File operations that may wait for the writing thread: each body that is saved has one at a time.
const WRITES: usize = 1 << 16;

/// Connections that are parked by default at most.
const MOST_IDLE: usize = 10_000;

/// Two thirds of the sockets: half of the descriptors, of which the sockets are three quarters.
fn default_idle(sockets: u32) -> usize {
    (sockets as usize / 3 * 2).clamp(1, MOST_IDLE)
}

/// Builds an [`HttpFetcher`]; begun by [`HttpFetcher::builder`].
///
/// ```
/// use std::time::Duration;
/// use tidegate::http::HttpFetcher;
///
/// fn polite(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, tidegate::Error> {
///     HttpFetcher::builder(runtime)
///         .user_agent("example-bot/1.0 (+https://example.org/bot)")
///         .pool_idle_timeout(Duration::from_secs(30))
///         .build()
/// }
/// ```
#[derive(Clone)]
#[must_use]
pub struct HttpFetcherBuilder {
    runtime: Runtime,
    user_agent: Option<String>,
    accept: Option<String>,
    accept_language: Option<String>,
    headers: HeaderMap,
    decompress: bool,
    proxies: Vec<Box<str>>,
    proxy_selector: Arc<dyn ProxySelector>,
    cookies: Option<CookieJar>,
    pool: PoolLimits,
    max_idle: Option<usize>,
    ledger: Option<Ledger>,
    tcp: TcpOptions,
    local_addresses: Vec<IpAddr>,
    fixed: Vec<(Box<str>, u16, SocketAddr)>,
    dns: DnsLimits,
    seed: Option<u64>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Config>,
    #[cfg(feature = "tls")]
    http2: bool,
    #[cfg(feature = "tls")]
    http2_max_streams: usize,
}

impl HttpFetcherBuilder {
    pub(super) fn new(runtime: &Runtime) -> Self {
        Self {
            runtime: runtime.clone(),
            user_agent: None,
            accept: Some("text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8".into()),
            accept_language: Some("en;q=0.9, *;q=0.5".into()),
            headers: HeaderMap::new(),
            decompress: true,
            proxies: Vec::new(),
            proxy_selector: Arc::new(RoundRobin::default()),
            cookies: None,
            pool: PoolLimits { idle_timeout: Duration::from_secs(60), per_key: MOST_IDLE, total: MOST_IDLE },
            max_idle: None,
            ledger: None,
            tcp: TcpOptions::default(),
            local_addresses: Vec::new(),
            fixed: Vec::new(),
            dns: DnsLimits::default(),
            seed: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            http2: true,
            #[cfg(feature = "tls")]
            http2_max_streams: 100,
        }
    }

    /// User-Agent of requests that set none; none by default.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).user_agent("pricewatch/1.2").build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn user_agent(mut self, value: impl Into<String>) -> Self {
        self.user_agent = Some(value.into());
        self
    }

    /// Accept of requests that set none; prefers HTML and JSON. Empty: not sent.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).accept("application/json").build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn accept(mut self, value: impl Into<String>) -> Self {
        self.accept = Some(value.into()).filter(|value| !value.is_empty());
        self
    }

    /// Accept-Language of requests that set none; English before others. Empty: not sent.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).accept_language("de").build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn accept_language(mut self, value: impl Into<String>) -> Self {
        self.accept_language = Some(value.into()).filter(|value| !value.is_empty());
        self
    }

    /// A field of requests that set none of this name. It goes to every host: put no secret in it.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).default_header(http::header::DNT, http::HeaderValue::from_static("1")).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn default_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Whether to ask for compressed bodies and to decode them; on. Off: no Accept-Encoding, and bodies stay as they
    /// came.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).decompress(false).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn decompress(mut self, decompress: bool) -> Self {
        self.decompress = decompress;
        self
    }

    /// Adds a proxy, `scheme://[user:password@]host[:port]`. Several take turns, request by request, or as a
    /// [selector](Self::proxy_selector) says;
    /// [`Overrides::proxy`](crate::Overrides::proxy) goes before them. One that cannot be reached, does not speak the protocol or
    /// wants other credentials is left out for 1 s, each time twice as long up to 60 s, and then tried by one request; where
    /// none works, all take turns. The attempt goes on with the next proxy, three in all at most. The schemes mean what they do in curl:
    ///
    /// | scheme | spoken to it | who resolves the target | port |
    /// |---|---|---|---|
    /// | `http` | HTTP; CONNECT for https targets (RFC 9110, 9.3.6) | the proxy | 80 |
    /// | `https` | the same over TLS, verified as any server | the proxy | 443 |
    /// | `socks5` | RFC 1928, RFC 1929 | tidegate, which passes the first address on | 1080 |
    /// | `socks5h` | the same | the proxy | 1080 |
    /// | `socks4a` | SOCKS4a; a user but no password, no IPv6 addresses | the proxy | 1080 |
    ///
    /// To a plain request a proxy may answer by itself, which nothing tells from the target's answer: 407 is
    /// [`ErrorKind::ProxyAuth`](crate::ErrorKind::ProxyAuth), every other status, 401 too, is an answer, and
    /// [`Response::proxy`](crate::Response::proxy) names the proxy.
    ///
    /// Where the proxy resolves, the guard against private addresses
    /// ([`FetchCx::guards`](crate::FetchCx::guards)) cannot judge: what the proxy may reach is its own affair.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).proxy("http://me:pw@proxy.test:3128").build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn proxy(mut self, url: &str) -> Self {
        self.proxies.push(url.into());
        self
    }

    /// Who says which of the proxies a request takes, and which requests take none; [`RoundRobin`].
    ///
    /// ```
    /// use tidegate::http::{Bypass, HttpFetcher, StickyPerHost};
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime)
    ///     .proxy("http://a.test:3128")
    ///     .proxy("socks5h://b.test")
    ///     .proxy_selector(Bypass::new("localhost, .corp.test", StickyPerHost::default()))
    ///     .build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn proxy_selector(mut self, selector: impl ProxySelector) -> Self {
        self.proxy_selector = Arc::new(selector);
        self
    }

    /// Keeps the cookies of answers in `jar` and sends them where they belong; by default none are kept. Those of redirects count
    /// too. A request with a `Cookie` field of its own sends that alone.
    ///
    /// ```
    /// # use tidegate::http::{CookieJar, HttpFetcher};
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).cookies(CookieJar::new()).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn cookies(mut self, jar: CookieJar) -> Self {
        self.cookies = Some(jar);
        self
    }

    /// How long a connection may be parked; 60 s.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).pool_idle_timeout(std::time::Duration::from_secs(10)).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn pool_idle_timeout(mut self, timeout: Duration) -> Self {
        self.pool.idle_timeout = timeout;
        self
    }

    /// Parked connections for one host (scheme, host, port, proxy and source address); 10,000. The oldest goes first.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).pool_max_idle_per_host(4).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn pool_max_idle_per_host(mut self, most: usize) -> Self {
        self.pool.per_key = most;
        self
    }

    /// Parked connections in all; by default two thirds of the sockets of the ledger, at most 10,000. The least recently
    /// used goes first, also where somebody needs its socket.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).pool_max_idle(1_000).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn pool_max_idle(mut self, most: usize) -> Self {
        self.max_idle = Some(most);
        self
    }

    /// The ledger in which sockets, ports and handshakes are booked; one of its own by default, with the limits of the
    /// runtime or of this machine. Fetchers of one process should share one: what is parked in any of them is closed where
    /// another needs its socket or its port.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).ledger(tidegate::Ledger::default()).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// What is set on sockets.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let mut options = tidegate::rt::TcpOptions::default();
    /// options.keepalive = Some(std::time::Duration::from_secs(30));
    /// let fetcher = HttpFetcher::builder(runtime).tcp_options(options).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn tcp_options(mut self, options: TcpOptions) -> Self {
        self.tcp = options;
        self
    }

    /// Source addresses that take turns, request by request; they go before that of the TCP options.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).local_addresses(vec!["192.0.2.7".parse()?, "192.0.2.8".parse()?]).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn local_addresses(mut self, addresses: Vec<IpAddr>) -> Self {
        self.local_addresses = addresses;
        self
    }

    /// The address of a host and port, in place of name resolution.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).resolve("example.org", 443, "127.0.0.1:8443".parse()?).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn resolve(mut self, host: &str, port: u16, address: SocketAddr) -> Self {
        self.fixed.push((host.to_ascii_lowercase().into_boxed_str(), port, address));
        self
    }

    /// Bounds of the DNS cache.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let mut limits = tidegate::rt::DnsLimits::default();
    /// limits.entries = 1_000;
    /// let fetcher = HttpFetcher::builder(runtime).dns_limits(limits).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn dns_limits(mut self, limits: DnsLimits) -> Self {
        self.dns = limits;
        self
    }

    /// Keys the hash tables, so that no site can aim at them; taken from the clock of the runtime by default.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).seed(1).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How servers are verified; the Mozilla roots by default.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).tls(tidegate::tls::Config::builder().build()?).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: crate::tls::Config) -> Self {
        self.tls = Some(config);
        self
    }

    /// Whether https servers are offered HTTP/2 (ALPN `h2`), by a tunnel of a proxy too; on. One that does not choose it is spoken
    /// to in HTTP/1.1, and so is every http server.
    ///
    /// The requests to a host share a connection, up to [`http2_max_streams`](Self::http2_max_streams) at a time. A server may send
    /// 128 KiB of a body, and 2 MiB of all bodies of a connection, before they are read. A head may have 256 KiB, whatever
    /// [`Limits::head_bytes`](crate::Limits::head_bytes) says. A connection is pinged every 20 s, and is dead when 10 s bring no
    /// answer. Requests that the server says it did nothing with (RFC 9113, 8.7) are sent again, three times at most.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).http2(false).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn http2(mut self, http2: bool) -> Self {
        self.http2 = http2;
        self
    }

    /// Requests at a time on one connection of HTTP/2; 100, and at least 1. A server that allows fewer gets fewer; another
    /// connection is made for the rest.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).http2_max_streams(20).build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn http2_max_streams(mut self, most: usize) -> Self {
        self.http2_max_streams = most.max(1);
        self
    }

    /// Makes the fetcher.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] for a value that no header can hold, for a default header that says where a body ends, and
    /// for a proxy that is not supported.
    ///
    /// ```
    /// # use tidegate::http::HttpFetcher;
    /// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, Box<dyn std::error::Error>> {
    /// let fetcher = HttpFetcher::builder(runtime).user_agent("pricewatch/1.2").build()?;
    /// # Ok(fetcher)
    /// # }
    /// ```
    pub fn build(self) -> Result<HttpFetcher, Error> {
        let since_epoch = self.runtime.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = self.seed.unwrap_or(since_epoch.as_nanos() as u64);
        let mut fixed = HashMap::with_hasher(KeyedState::new(seed));
        fixed.extend(self.fixed.into_iter().map(|(host, port, address)| ((host, port), address)));
        let proxies = self.proxies.iter().map(|url| Proxy::parse(url).map(Arc::new)).collect::<Result<_, _>>()?;
        let ledger = self.ledger.unwrap_or_else(|| Ledger::new(self.runtime.ledger_limits()));
        let mut pool = self.pool;
        pool.total = self.max_idle.unwrap_or_else(|| default_idle(ledger.limits().sockets));
        #[cfg(feature = "tls")]
        let links = self.http2.then(|| {
            let (runtime, ledger) = (self.runtime.clone(), ledger.clone());
            let links = Arc::new(Links::new(runtime, ledger.clone(), pool.clone(), self.http2_max_streams, seed));
            let idle: Arc<dyn Evict> = Arc::<Links>::clone(&links);
            ledger.register(Arc::downgrade(&idle));
            links
        });
        #[cfg(feature = "tls")]
        let tls = match self.tls {
            Some(config) => config,
            None => crate::tls::Config::builder().build()?,
        };
        let pool = Arc::new(Pool::new(pool, seed));
        let parked: Arc<dyn Evict> = Arc::<Pool>::clone(&pool);
        ledger.register(Arc::downgrade(&parked));
        let connector = Connector {
            ledger,
            dns: CachedResolver::new(&self.runtime, self.dns, seed),
            runtime: self.runtime,
            fixed,
            tcp: self.tcp,
            #[cfg(feature = "tls")]
            origin_tls: if self.http2 { tls.offering_http2() } else { tls.clone() },
            #[cfg(feature = "tls")]
            tls,
        };
        let defaults = Defaults::new(
            header("User-Agent", self.user_agent)?,
            header("Accept", self.accept)?,
            header("Accept-Language", self.accept_language)?,
            self.decompress,
            &self.headers,
        )?;
        Ok(HttpFetcher(Arc::new(Inner {
            pool,
            #[cfg(feature = "tls")]
            links,
            connector,
            defaults,
            proxies: Proxies::new(proxies, self.proxy_selector),
            cookies: self.cookies,
            local_addresses: self.local_addresses,
            next_local: AtomicUsize::new(0),
            decoder: Arc::new(ContentDecoder::new()),
            writers: Arc::new(ThreadPool::new(NonZeroUsize::MIN).with_queue(WRITES)),
            next_file: AtomicUsize::new(0),
        })))
    }
}

impl std::fmt::Debug for HttpFetcherBuilder {
    /// Without proxies and headers, which may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpFetcherBuilder").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

fn header(name: &str, value: Option<String>) -> Result<Option<HeaderValue>, Error> {
    let parse = |value: String| {
        HeaderValue::from_str(&value)
            .map_err(|e| Error::new(ErrorKind::ConfigInvalid, format!("send {value:?} as {name}")).with_source(e))
    };
    value.map(parse).transpose()
}

#[cfg(test)]
mod tests {
    // H1
    #[test]
    fn half_of_the_descriptors_stay_free_of_parked_connections() {
        for soft in [1, 256, 1_024, 1 << 20] {
            let machine = crate::Machine { descriptors_soft: Some(soft), ..crate::Machine::default() };
            let idle = super::default_idle(crate::LedgerLimits::of(&machine).sockets) as u64;
            assert!(idle >= 1 && idle <= (soft / 2).clamp(1, 10_000), "{idle} of {soft}");
        }
    }
}
