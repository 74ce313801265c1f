//! Describing a crawl.

mod start;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;

use super::inbox::Inbox;
use super::items::{self, Items};
use super::lane::Lane;
use super::load::LoadSignal;
use super::parse_stage::Router;
use super::stats::Report;
use super::{Crawl, Profile, Scope};
use crate::engine::Config;
use crate::rt::Runtime;
use crate::{
    Error, Fetcher, Frontier, HostPolicy, Limits, Observer, Parser, Request, Settled, Sink, StreamFrontier, defaults,
};

/// Describes a crawl: what to fetch, how politely, what to make of it. Made by [`Crawl::builder`].
///
/// The defaults are those of [`Profile::crawl`]; [`profile`](Self::profile) replaces all of them at once, so call it first.
///
/// ```
/// use std::time::Duration;
/// use tidegate::{Crawl, Profile, Request, Settled, SinkError, Delivery};
///
/// async fn check(runtime: tidegate::rt::Runtime, urls: Vec<String>) -> Result<(), tidegate::Error> {
///     let report = Crawl::builder::<()>(runtime)
///         .profile(Profile::list())
///         .requests(futures::stream::iter(urls).map(Request::head))
///         .outcomes(|settled: &Delivery<Settled>| {
///             println!("{} {}", settled.item.url(), settled.item.outcome.name());
///             Ok::<(), SinkError>(())
///         })
///         .run()
///         .await?;
///     assert_eq!(report.totals.counters.cancelled, 0);
///     Ok(())
/// }
/// # use futures::StreamExt;
/// ```
#[must_use]
pub struct Builder<I> {
    runtime: Runtime,
    profile: Profile,
    config: Config,
    max_in_flight: Option<NonZeroU32>,
    byte_budget: Option<u64>,
    user_agent: Option<String>,
    seeds: Vec<Request>,
    frontier: Option<Box<dyn Frontier>>,
    frontier_capacity: usize,
    fetcher: Option<Arc<dyn Fetcher>>,
    host_policy: Rules,
    router: Router<I>,
    sink: Option<Box<dyn Sink<I>>>,
    /// In place of a sink: the lane of a stream of items.
    stream: Option<Box<dyn Lane>>,
    inbox: Arc<Inbox>,
    outcomes: Option<Box<dyn Sink<Settled>>>,
    scope: Scope,
    max_depth: Option<u32>,
    max_time: Option<Duration>,
    lag_limit: Duration,
    parse_limit: Duration,
    sink_limit: Duration,
    close_limit: Duration,
    observers: Vec<Box<dyn Observer>>,
    window: Duration,
    loops: Option<usize>,
    signals: Vec<(String, Box<dyn LoadSignal>)>,
    memory_limit: Option<u64>,
    stalls_told: u32,
}

enum Rules {
    /// robots.txt where the profile says so.
    ByProfile,
    Custom(Arc<dyn HostPolicy>),
    None,
}

impl<I: Send + 'static> Builder<I> {
    pub(super) fn new(runtime: Runtime) -> Self {
        let seed = defaults::seed(&runtime);
        let mut builder = Self {
            runtime,
            profile: Profile::crawl(),
            config: Config { seed, ..Config::default() },
            max_in_flight: None,
            byte_budget: None,
            user_agent: None,
            seeds: Vec::new(),
            frontier: None,
            frontier_capacity: 1_000_000,
            fetcher: None,
            host_policy: Rules::ByProfile,
            router: Router::new(),
            sink: None,
            stream: None,
            inbox: Arc::default(),
            outcomes: None,
            scope: Scope::site(),
            max_depth: None,
            max_time: None,
            lag_limit: Duration::from_millis(50),
            parse_limit: Duration::from_secs(30),
            sink_limit: Duration::from_secs(300),
            close_limit: Duration::from_secs(10),
            observers: Vec::new(),
            window: Duration::from_secs(5),
            loops: None,
            signals: Vec::new(),
            memory_limit: None,
            stalls_told: 10,
        };
        builder.config.resolve_hosts = true;
        builder.profile(Profile::crawl())
    }

    /// Replaces all defaults by those of a profile.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.profile(tidegate::Profile::list()).retries(0)
    /// # }
    /// ```
    pub fn profile(mut self, profile: Profile) -> Self {
        self.config.per_host = profile.per_host.map(NonZeroU32::get);
        self.config.gap = profile.gap;
        self.config.gap_jitter = profile.gap_jitter;
        self.config.attempts = profile.attempts;
        self.profile = profile;
        self
    }

    /// How the crawl names itself, to robots.txt too. Required by [`Profile::crawl`].
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.user_agent("pricewatch/1.2 (+mailto:ops@example.org)")
    /// # }
    /// ```
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Adds a URL to begin with.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.seed("https://example.org/")
    /// # }
    /// ```
    pub fn seed(mut self, seed: impl Into<Request>) -> Self {
        self.seeds.push(seed.into());
        self
    }

    /// Adds URLs to begin with.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.seeds(["https://example.org/", "https://example.com/news"])
    /// # }
    /// ```
    pub fn seeds<R: Into<Request>>(mut self, seeds: impl IntoIterator<Item = R>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Takes the requests from a stream, as there is room for them; nothing is deduplicated.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use tidegate::Request;
    /// crawl.requests(futures::stream::iter((1..=9_000).map(|n| Request::get(format!("https://a.test/{n}")))))
    /// # }
    /// ```
    pub fn requests(self, requests: impl Stream<Item = Request> + Send + 'static) -> Self {
        self.frontier(StreamFrontier::new(requests))
    }

    /// Replaces the frontier; in memory by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.frontier(tidegate::MemoryFrontier::new(50_000, 1))
    /// # }
    /// ```
    pub fn frontier(mut self, frontier: impl Frontier) -> Self {
        self.frontier = Some(Box::new(frontier));
        self
    }

    /// URLs that the frontier in memory keeps waiting: 1,000,000. Beyond it the lowest priority is skipped as
    /// `frontier.full`.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.frontier_capacity(50_000)
    /// # }
    /// ```
    pub fn frontier_capacity(mut self, urls: usize) -> Self {
        self.frontier_capacity = urls;
        self
    }

    /// Replaces the fetcher; an `HttpFetcher` by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use tidegate::{Error, ErrorKind, Request, Response};
    /// let offline = |request: Request| async move {
    ///     Err::<Response, _>(Error::new(ErrorKind::ConnectUnreachable, "connect without a network").with_url(request.url()))
    /// };
    /// crawl.fetcher(offline)
    /// # }
    /// ```
    pub fn fetcher(mut self, fetcher: impl Fetcher) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// Replaces the rules of hosts; robots.txt by default in [`Profile::crawl`].
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.host_policy(tidegate::robots::Robots::new().with_token("pricewatch"))
    /// # }
    /// ```
    pub fn host_policy(mut self, policy: impl HostPolicy) -> Self {
        self.host_policy = Rules::Custom(Arc::new(policy));
        self
    }

    /// Asks no host for its rules.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.no_robots()
    /// # }
    /// ```
    pub fn no_robots(mut self) -> Self {
        self.host_policy = Rules::None;
        self
    }

    /// The parser of every page that no [`route`](Self::route) takes.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use tidegate::{Output, Page, ParseError};
    /// crawl.parse_with(|page: &Page, out: &mut Output<String>| -> Result<(), ParseError> {
    ///     out.item(page.url().to_string());
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn parse_with(mut self, parser: impl Parser<I>) -> Self {
        self.router.otherwise(Arc::new(parser));
        self
    }

    /// The parser of the answers to requests with this label.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use tidegate::{Output, Page, ParseError};
    /// // For requests made by `Request::with_label("product")`.
    /// crawl.route("product", |page: &Page, out: &mut Output<String>| -> Result<(), ParseError> {
    ///     out.item(page.utf8().into_owned());
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn route(mut self, label: impl Into<Arc<str>>, parser: impl Parser<I>) -> Self {
        self.router.route(label.into(), Arc::new(parser));
        self
    }

    /// Where items go. Without a sink they are dropped and counted as taken.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use tidegate::{Delivery, SinkError};
    /// crawl.sink(|item: &Delivery<String>| {
    ///     println!("{} {}", item.id, item.item);
    ///     Ok::<(), SinkError>(())
    /// })
    /// # }
    /// ```
    pub fn sink(mut self, sink: impl Sink<I>) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Where outcomes go: exactly one [`Settled`] for every URL.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use tidegate::{Delivery, Settled, SinkError};
    /// crawl.outcomes(|settled: &Delivery<Settled>| {
    ///     println!("{} {}", settled.item.outcome.name(), settled.item.url());
    ///     Ok::<(), SinkError>(())
    /// })
    /// # }
    /// ```
    pub fn outcomes(mut self, sink: impl Sink<Settled>) -> Self {
        self.outcomes = Some(Box::new(sink));
        self
    }

    /// Which discovered URLs belong to the crawl; [`Scope::site`] by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.scope(tidegate::Scope::any())
    /// # }
    /// ```
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Links that may lie between a URL and its seed; without limit by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.max_depth(3)
    /// # }
    /// ```
    pub fn max_depth(mut self, links: u32) -> Self {
        self.max_depth = Some(links);
        self
    }

    /// Ends the crawl when so many URLs were started.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.max_pages(10_000)
    /// # }
    /// ```
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.config.max_starts = Some(pages);
        self
    }

    /// Ends the crawl after this time.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.max_time(std::time::Duration::from_secs(3600))
    /// # }
    /// ```
    pub fn max_time(mut self, time: Duration) -> Self {
        self.max_time = Some(time);
        self
    }

    /// Fetches in flight, from the start and without a ramp. By default it ramps up from 16 to 10,000. Either is lowered to
    /// three quarters of the soft limit of descriptors, and to 15,000. A fetch that waits for a port or a descriptor is not
    /// counted; with those there are twice as many at most.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::num::NonZeroU32;
    /// crawl.max_in_flight(NonZeroU32::new(500).expect("not zero"))
    /// # }
    /// ```
    pub fn max_in_flight(mut self, fetches: NonZeroU32) -> Self {
        self.max_in_flight = Some(fetches);
        self
    }

    /// Fetches in flight for a host (an origin); `None` for no limit of its own.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::num::NonZeroU32;
    /// crawl.max_in_flight_per_host(NonZeroU32::new(4))
    /// # }
    /// ```
    pub fn max_in_flight_per_host(mut self, fetches: Option<NonZeroU32>) -> Self {
        self.config.per_host = fetches.map(NonZeroU32::get);
        self
    }

    /// Whether to find out how many fetches at a time each host can bear: by how long its answers take, by failures, and by
    /// 429 and 503, after which the pace at which it answered is kept where it was the host that refused and not one of its
    /// pages (that needs a [`breaker`](Self::breaker)). On by default.
    ///
    /// [`max_in_flight_per_host`](Self::max_in_flight_per_host) remains an upper bound. One of up to 64 is used in full at
    /// once, and less only after failures; without one, or with a larger one, a host begins with 16.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// // A load test: as many as I say, whatever becomes of the server.
    /// crawl.adaptive(false).breaker(None, std::time::Duration::ZERO)
    /// # }
    /// ```
    pub fn adaptive(mut self, adaptive: bool) -> Self {
        self.config.adaptive = adaptive;
        self
    }

    /// A circuit breaker for each host: after so many failures in a row, or a quarter of it where the host has never
    /// answered, it is left alone, but for a probe now and then. What fails meanwhile is no try of its URL, nor is a 429 or
    /// 503 while nobody else is answered. What it has not answered after `patience` settles as `host.unavailable`; where it
    /// has never answered at all, as soon as a few probes failed.
    ///
    /// 16 failures by default, and a patience as long as the longest [`backoff`](Self::backoff), 10 s at least. `None` for no breaker: each
    /// URL is tried by itself, and a 429 or 503 is one of its tries.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::num::NonZeroU32;
    /// crawl.breaker(NonZeroU32::new(16), std::time::Duration::from_secs(60))
    /// # }
    /// ```
    pub fn breaker(mut self, failures: Option<NonZeroU32>, patience: Duration) -> Self {
        self.config.breaker = failures.map(NonZeroU32::get);
        self.config.host_patience = Some(patience);
        self
    }

    /// Fetches in flight for an address, whatever the hosts on it; no limit of its own by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::num::NonZeroU32;
    /// // Thousands of shops live at one address.
    /// crawl.max_in_flight_per_address(NonZeroU32::new(8))
    /// # }
    /// ```
    pub fn max_in_flight_per_address(mut self, fetches: Option<NonZeroU32>) -> Self {
        self.config.per_address = fetches.map(NonZeroU32::get);
        self
    }

    /// Time between two starts on a host, give or take half of it.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.delay(std::time::Duration::from_secs(2))
    /// # }
    /// ```
    pub fn delay(mut self, gap: Duration) -> Self {
        self.config.gap = gap;
        self
    }

    /// Starts a second over the whole crawl; without limit by default. Not positive is no limit.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.rate(50.0)
    /// # }
    /// ```
    pub fn rate(mut self, per_second: f64) -> Self {
        self.config.rate = (per_second > 0.0).then_some(per_second);
        self
    }

    /// Tries after the first: 2.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.retries(0)
    /// # }
    /// ```
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.attempts = retries.saturating_add(1);
        self
    }

    /// Waits before a retry: from 1 s to 60 s, with jitter. The longest, or 10 s, is also how long a host that has answered may
    /// answer nothing, where [`breaker`](Self::breaker) does not say.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::time::Duration;
    /// crawl.backoff(Duration::from_millis(200), Duration::from_secs(10))
    /// # }
    /// ```
    pub fn backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        self.config.backoff_base = shortest;
        self.config.backoff_cap = longest.max(shortest);
        self
    }

    /// Retries for each first attempt over the whole crawl: 0.2.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.retry_budget(0.05)
    /// # }
    /// ```
    pub fn retry_budget(mut self, ratio: f64) -> Self {
        self.config.retry_budget = ratio;
        self
    }

    /// Bounds of each fetch.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// let mut limits = tidegate::Limits::discovered();
    /// limits.body_wire = 2 << 20;
    /// crawl.limits(limits)
    /// # }
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.profile.limits = limits;
        self
    }

    /// Bytes of bodies in memory, from their first byte until the page was parsed: 256 MiB, or an eighth of the memory that the
    /// container or the machine has ([`LedgerLimits::body_bytes`](crate::LedgerLimits::body_bytes)).
    ///
    /// They are booked 64 KiB at a time as they come; a fetch that waits for its server has none. Of the budget one whole body
    /// ([`Limits::body_wire`]) is kept back. When the rest is spent nothing is started, and only the oldest fetch that wants
    /// more goes on reading; the others wait, and of their deadlines only the total one runs meanwhile. So the crawl ends
    /// with any budget, even one that is smaller than a body: then they are read one by one. Pages that the embedder asks for
    /// ([`Handle::fetch`](crate::Handle::fetch)) are counted but never wait. What a page is decoded to is not counted: it is bounded by
    /// [`Limits::body_decoded`] for each thread that parses.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.byte_budget(64 << 20)
    /// # }
    /// ```
    pub fn byte_budget(mut self, bytes: u64) -> Self {
        self.byte_budget = Some(bytes);
        self
    }

    /// Lag above which only 16 fetches are kept going, until the loop is on time again: 50 ms.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.lag_limit(std::time::Duration::from_millis(20))
    /// # }
    /// ```
    pub fn lag_limit(mut self, lag: Duration) -> Self {
        self.lag_limit = lag;
        self
    }

    /// A signal of your own that shuts the gate while it is above its limit: only 16 fetches are kept going then. None by
    /// default. See [`LoadSignal`].
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// let rows = Arc::new(AtomicUsize::new(0));
    /// // Above 1 the gate is shut.
    /// crawl.load_signal("rows", move || rows.load(Ordering::Relaxed) as f64 / 10_000.0)
    /// # }
    /// ```
    pub fn load_signal(mut self, name: impl Into<String>, signal: impl LoadSignal) -> Self {
        self.signals.push((name.into(), Box::new(signal)));
        self
    }

    /// Memory of the process in bytes above which only 16 fetches are kept going, until it is below nine tenths of it. By
    /// default nine tenths of what the container may have, or else the machine has; none in a simulation. Read every 100 ms, on
    /// Linux.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.memory_limit(2 << 30)
    /// # }
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Stalls that are told a second at most: 10. All are counted.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.stalls_told(1)
    /// # }
    /// ```
    pub fn stalls_told(mut self, a_second: u32) -> Self {
        self.stalls_told = a_second;
        self
    }

    /// How long decoding and parsing one page may take: 30 s. Beyond it the URL fails with `parser.timeout`, and the
    /// thread is given up and replaced, up to [`ThreadPool::MAX_LOST`](crate::rt::ThreadPool::MAX_LOST) times. A parser
    /// that runs inline cannot be cut off.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.parse_limit(std::time::Duration::from_secs(5))
    /// # }
    /// ```
    pub fn parse_limit(mut self, time: Duration) -> Self {
        self.parse_limit = time;
        self
    }

    /// How long the end may take when pages, time or a parser end the crawl: 30 s.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.max_pages(1_000).drain(std::time::Duration::from_secs(5))
    /// # }
    /// ```
    pub fn drain(mut self, within: Duration) -> Self {
        self.profile.drain = within;
        self
    }

    /// How long one call of [`Sink::deliver`] may go on without taking a delivery: 5 min, more than a slow bulk insert needs.
    /// Beyond it the crawl ends as after [`SinkError::fatal`](crate::SinkError::fatal): leases return, and the run fails with
    /// `sink.failed`. A sink that takes one now and then may go on for as long as it likes, and so may one that asks each
    /// time to be [tried again](crate::SinkError::retry). `Duration::MAX` for no limit. How long [`Sink::close`] may take
    /// says [`close_limit`](Self::close_limit).
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// use std::time::Duration;
    /// // Its bulk inserts take ten minutes at night.
    /// crawl.sink_limit(Duration::from_secs(1800))
    /// # }
    /// ```
    pub fn sink_limit(mut self, time: Duration) -> Self {
        self.sink_limit = time;
        self
    }

    /// How long sinks and the frontier may take to close when everything has settled or was stopped: 10 s. Beyond it they
    /// are dropped, and the run fails.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.close_limit(std::time::Duration::from_secs(60))
    /// # }
    /// ```
    pub fn close_limit(mut self, time: Duration) -> Self {
        self.close_limit = time;
        self
    }

    /// Adds an observer, which is told each event in the life of every URL.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.observer(|event: &tidegate::observer::Event<'_>| eprintln!("{event}"))
    /// # }
    /// ```
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// What [`Snapshot`](crate::Snapshot) calls the last window: 5 s. It moves in tenths, of a millisecond at least.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.window(std::time::Duration::from_secs(1))
    /// # }
    /// ```
    pub fn window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Whether private addresses are refused to which pages of the public network lead, by a link or a redirect: on, except
    /// in [`Profile::own`]. The fetcher judges the address that it connects to; through a proxy it cannot.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// // A crawl of an intranet.
    /// crawl.guard(false)
    /// # }
    /// ```
    pub fn guard(mut self, on: bool) -> Self {
        self.profile.guard = on;
        self
    }

    /// Seed of all random choices; from the clock by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.random_seed(42)
    /// # }
    /// ```
    pub fn random_seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Fetch loops; one for each thread of the runtime by default.
    ///
    /// ```
    /// # fn example(crawl: tidegate::Builder<String>) -> tidegate::Builder<String> {
    /// crawl.fetch_loops(std::num::NonZeroU32::MIN)
    /// # }
    /// ```
    pub fn fetch_loops(mut self, loops: NonZeroU32) -> Self {
        self.loops = Some(loops.get() as usize);
        self
    }

    /// Runs the crawl to its end.
    ///
    /// # Errors
    /// As [`start`](Self::start), and those of [`Crawl`].
    ///
    /// # Cancel safety
    /// Dropping the future stops the crawl now.
    ///
    /// ```
    /// # async fn example(crawl: tidegate::Builder<String>) -> Result<(), tidegate::Error> {
    /// let report = crawl.run().await?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(self) -> Result<Report, Error> {
        self.start()?.await
    }

    /// Starts the crawl on its runtime and gives its items as a stream; replaces the sink.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// ```
    /// # use futures::StreamExt;
    /// # async fn example(crawl: tidegate::Builder<String>) -> Result<(), tidegate::Error> {
    /// let (crawl, mut items) = crawl.items()?;
    /// while let Some(item) = items.next().await {
    ///     println!("{}", item.ack().item);
    /// }
    /// crawl.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn items(mut self) -> Result<(Crawl, Items<I>), Error> {
        let (lane, stream) = items::items(Arc::clone(&self.inbox));
        self.stream = Some(Box::new(lane));
        Ok((self.start()?, stream))
    }
}

impl<I> std::fmt::Debug for Builder<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("profile", &self.profile).field("config", &self.config).finish_non_exhaustive()
    }
}
