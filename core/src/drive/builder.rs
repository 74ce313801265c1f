//! Describing a crawl.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use futures::channel::oneshot;

use super::driver::{Driver, Parts, Settings};
use super::fetch_loop::FetchLoop;
use super::frontier_task::FrontierDoor;
use super::inbox::{Inbox, LaneOf, Message};
use super::items::{self, Items};
use super::lag_probe::LagProbe;
use super::lane::{Lane, SinkLane};
use super::load::{LoadSignal, Signals};
use super::parse_stage::{Local, ParseStage, Router};
use super::stall::Stalls;
use super::stats::{Report, Stats};
use super::{Crawl, Handle, Profile, Scope};
use crate::engine::{Bound, Config, Engine};
use crate::observer::Observers;
use crate::rt::Runtime;
use crate::{
    BodyBytes, Error, ErrorKind, Fetcher, Frontier, HostPolicy, Limits, MemoryFrontier, Observer, Parser, Request,
    Settled, Sink, StreamFrontier, defaults,
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
    pub fn profile(mut self, profile: Profile) -> Self {
        self.config.per_host = profile.per_host.map(NonZeroU32::get);
        self.config.gap = profile.gap;
        self.config.gap_jitter = profile.gap_jitter;
        self.config.attempts = profile.attempts;
        self.profile = profile;
        self
    }

    /// How the crawl names itself, to robots.txt too. Required by [`Profile::crawl`].
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Adds a URL to begin with.
    pub fn seed(mut self, seed: impl Into<Request>) -> Self {
        self.seeds.push(seed.into());
        self
    }

    /// Adds URLs to begin with.
    pub fn seeds<R: Into<Request>>(mut self, seeds: impl IntoIterator<Item = R>) -> Self {
        self.seeds.extend(seeds.into_iter().map(Into::into));
        self
    }

    /// Takes the requests from a stream, as there is room for them; nothing is deduplicated.
    pub fn requests(self, requests: impl Stream<Item = Request> + Send + 'static) -> Self {
        self.frontier(StreamFrontier::new(requests))
    }

    /// Replaces the frontier; in memory by default.
    pub fn frontier(mut self, frontier: impl Frontier) -> Self {
        self.frontier = Some(Box::new(frontier));
        self
    }

    /// URLs that the frontier in memory keeps waiting: 1,000,000. Beyond it the lowest priority is skipped as
    /// `frontier.full`.
    pub fn frontier_capacity(mut self, urls: usize) -> Self {
        self.frontier_capacity = urls;
        self
    }

    /// Replaces the fetcher; an `HttpFetcher` by default.
    pub fn fetcher(mut self, fetcher: impl Fetcher) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// Replaces the rules of hosts; robots.txt by default in [`Profile::crawl`].
    pub fn host_policy(mut self, policy: impl HostPolicy) -> Self {
        self.host_policy = Rules::Custom(Arc::new(policy));
        self
    }

    /// Asks no host for its rules.
    pub fn no_robots(mut self) -> Self {
        self.host_policy = Rules::None;
        self
    }

    /// The parser of every page that no [`route`](Self::route) takes.
    pub fn parse_with(mut self, parser: impl Parser<I>) -> Self {
        self.router.otherwise(Arc::new(parser));
        self
    }

    /// The parser of the answers to requests with this label.
    pub fn route(mut self, label: impl Into<Arc<str>>, parser: impl Parser<I>) -> Self {
        self.router.route(label.into(), Arc::new(parser));
        self
    }

    /// Where items go. Without a sink they are dropped and counted as taken.
    pub fn sink(mut self, sink: impl Sink<I>) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Where outcomes go: exactly one [`Settled`] for every URL.
    pub fn outcomes(mut self, sink: impl Sink<Settled>) -> Self {
        self.outcomes = Some(Box::new(sink));
        self
    }

    /// Which discovered URLs belong to the crawl; [`Scope::site`] by default.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Links that may lie between a URL and its seed; without limit by default.
    pub fn max_depth(mut self, links: u32) -> Self {
        self.max_depth = Some(links);
        self
    }

    /// Ends the crawl when so many URLs were started.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.config.max_starts = Some(pages);
        self
    }

    /// Ends the crawl after this time.
    pub fn max_time(mut self, time: Duration) -> Self {
        self.max_time = Some(time);
        self
    }

    /// Fetches in flight, from the start and without a ramp. By default it ramps up from 16 to 10,000. Either is lowered to
    /// three quarters of the soft limit of descriptors, and to 15,000.
    pub fn max_in_flight(mut self, fetches: NonZeroU32) -> Self {
        self.max_in_flight = Some(fetches);
        self
    }

    /// Fetches in flight for a host (an origin); `None` for no limit of its own.
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
    pub fn breaker(mut self, failures: Option<NonZeroU32>, patience: Duration) -> Self {
        self.config.breaker = failures.map(NonZeroU32::get);
        self.config.host_patience = Some(patience);
        self
    }

    /// Fetches in flight for an address, whatever the hosts on it; no limit of its own by default.
    pub fn max_in_flight_per_address(mut self, fetches: Option<NonZeroU32>) -> Self {
        self.config.per_address = fetches.map(NonZeroU32::get);
        self
    }

    /// Time between two starts on a host, give or take half of it.
    pub fn delay(mut self, gap: Duration) -> Self {
        self.config.gap = gap;
        self
    }

    /// Starts a second over the whole crawl; without limit by default. Not positive is no limit.
    pub fn rate(mut self, per_second: f64) -> Self {
        self.config.rate = (per_second > 0.0).then_some(per_second);
        self
    }

    /// Tries after the first: 2.
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.attempts = retries.saturating_add(1);
        self
    }

    /// Waits before a retry: from 1 s to 60 s, with jitter. The longest, or 10 s, is also how long a host that has answered may
    /// answer nothing, where [`breaker`](Self::breaker) does not say.
    pub fn backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        self.config.backoff_base = shortest;
        self.config.backoff_cap = longest.max(shortest);
        self
    }

    /// Retries for each first attempt over the whole crawl: 0.2.
    pub fn retry_budget(mut self, ratio: f64) -> Self {
        self.config.retry_budget = ratio;
        self
    }

    /// Bounds of each fetch.
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
    /// ([`Handle::fetch`]) are counted but never wait. What a page is decoded to is not counted: it is bounded by
    /// [`Limits::body_decoded`] for each thread that parses.
    pub fn byte_budget(mut self, bytes: u64) -> Self {
        self.byte_budget = Some(bytes);
        self
    }

    /// Lag above which only 16 fetches are kept going, until the loop is on time again: 50 ms.
    pub fn lag_limit(mut self, lag: Duration) -> Self {
        self.lag_limit = lag;
        self
    }

    /// A signal of your own that shuts the gate while it is above its limit: only 16 fetches are kept going then. None by
    /// default. See [`LoadSignal`].
    pub fn load_signal(mut self, name: impl Into<String>, signal: impl LoadSignal) -> Self {
        self.signals.push((name.into(), Box::new(signal)));
        self
    }

    /// Memory of the process in bytes above which only 16 fetches are kept going, until it is below nine tenths of it. By
    /// default nine tenths of what the container may have, or else the machine has; none in a simulation. Read every 100 ms, on
    /// Linux.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Stalls that are told a second at most: 10. All are counted.
    pub fn stalls_told(mut self, a_second: u32) -> Self {
        self.stalls_told = a_second;
        self
    }

    /// How long decoding and parsing one page may take: 30 s. Beyond it the URL fails with `parser.timeout`, and the
    /// thread is given up and replaced, up to [`ThreadPool::MAX_LOST`](crate::rt::ThreadPool::MAX_LOST) times. A parser
    /// that runs inline cannot be cut off.
    pub fn parse_limit(mut self, time: Duration) -> Self {
        self.parse_limit = time;
        self
    }

    /// How long the end may take when pages, time or a parser end the crawl: 30 s.
    pub fn drain(mut self, within: Duration) -> Self {
        self.profile.drain = within;
        self
    }

    /// How long sinks and the frontier may take to close when everything has settled or was stopped: 10 s. Beyond it they
    /// are dropped, and the run fails.
    pub fn close_limit(mut self, time: Duration) -> Self {
        self.close_limit = time;
        self
    }

    /// Adds an observer, which is told each event in the life of every URL.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// What [`Snapshot`](crate::Snapshot) calls the last window: 5 s. It moves in tenths, of a millisecond at least.
    pub fn window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Whether private addresses are refused to which pages of the public network lead, by a link or a redirect: on, except
    /// in [`Profile::own`]. The fetcher judges the address that it connects to; through a proxy it cannot.
    pub fn guard(mut self, on: bool) -> Self {
        self.profile.guard = on;
        self
    }

    /// Seed of all random choices; from the clock by default.
    pub fn random_seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Fetch loops; one for each thread of the runtime by default.
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
    pub async fn run(self) -> Result<Report, Error> {
        self.start()?.await
    }

    /// Starts the crawl on its runtime and gives its items as a stream; replaces the sink.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn items(mut self) -> Result<(Crawl, Items<I>), Error> {
        let (lane, stream) = items::items(Arc::clone(&self.inbox));
        self.stream = Some(Box::new(lane));
        Ok((self.start()?, stream))
    }

    /// Starts the crawl on its runtime.
    ///
    /// # Errors
    /// `config.invalid` where a setting is missing or contradicts another; the message says which.
    pub fn start(self) -> Result<Crawl, Error> {
        self.check()?;
        let (profile, runtime) = (self.profile, self.runtime);
        let user_agent = self.user_agent.unwrap_or_else(|| concat!("tidegate/", env!("CARGO_PKG_VERSION")).to_owned());
        let fetcher = match self.fetcher {
            Some(fetcher) => fetcher,
            None => defaults::fetcher(&runtime, &user_agent)?,
        };
        let host_policy = match self.host_policy {
            Rules::Custom(policy) => Some(policy),
            Rules::ByProfile if profile.robots => Some(defaults::host_policy()),
            Rules::ByProfile | Rules::None => None,
        };
        let inbox = self.inbox;
        let stage = Arc::new(Local::new(self.router, &runtime, Arc::clone(&inbox)));
        let mut config = self.config;
        let limits = fetcher.ledger().map_or_else(|| runtime.ledger_limits(), |ledger| ledger.limits().clone());
        let room = limits.sockets.max(1);
        config.max_in_flight = self.max_in_flight.map_or(config.max_in_flight, NonZeroU32::get).min(room);
        config.ramp_from = config.ramp_from.filter(|_| self.max_in_flight.is_none());
        config.byte_budget = self.byte_budget.unwrap_or(limits.body_bytes);
        config.parse_permits = stage.permits();
        config.prepare_hosts = host_policy.is_some();
        let frontier =
            self.frontier.unwrap_or_else(|| Box::new(MemoryFrontier::new(self.frontier_capacity, config.seed)));
        let loops = self.loops.unwrap_or_else(|| runtime.spawner().parallelism().get());
        let mut signals = Signals::new();
        signals.add_memory(&runtime, self.memory_limit);
        self.signals.into_iter().for_each(|(name, signal)| signals.add(Bound::Signal, name.into(), signal));
        let probe = Arc::new(LagProbe::start(&runtime, Arc::clone(&inbox), self.lag_limit, signals));
        let stats = Arc::new(Mutex::new(Stats::new(runtime.now(), self.window, runtime.cpu_time())));
        let sink = self.sink.filter(|_| self.stream.is_none());
        let sink =
            sink.map(|sink| lane(SinkLane::start(&runtime, Arc::clone(&inbox), sink, LaneOf::Items, probe.worker())));
        let items = self.stream.or(sink);
        let outcomes = self
            .outcomes
            .map(|sink| lane(SinkLane::start(&runtime, Arc::clone(&inbox), sink, LaneOf::Outcomes, probe.worker())));
        let (done, report) = oneshot::channel();
        let ledger = Arc::new(BodyBytes::new(config.byte_budget, profile.limits.body_wire));
        let handle = Handle {
            inbox: Arc::clone(&inbox),
            stats: Arc::clone(&stats),
            probe: Arc::clone(&probe),
            runtime: runtime.clone(),
            ledger: Arc::clone(&ledger),
            sockets: fetcher.ledger().cloned(),
        };
        let alarm = Arc::clone(&inbox);
        let alarm = Box::new(move |message| alarm.push(Message::ObserverPanicked(message)));
        let parts = Parts {
            observers: Observers::new(self.observers, runtime.now(), alarm),
            loops: (0..loops.max(1)).map(|_| FetchLoop::start(&runtime, Arc::clone(&inbox), probe.worker())).collect(),
            frontier: FrontierDoor::start(&runtime, Arc::clone(&inbox), frontier, probe.worker()),
            engine: Engine::new(config),
            settings: Settings {
                profile,
                user_agent: user_agent.into_boxed_str(),
                scope: self.scope,
                max_depth: self.max_depth,
                max_time: self.max_time,
                parse_limit: self.parse_limit,
                close_limit: self.close_limit,
            },
            runtime: runtime.clone(),
            inbox,
            fetcher: Some(fetcher),
            host_policy,
            stalls: Stalls::new(self.stalls_told),
            worker: probe.worker(),
            stage,
            items,
            outcomes,
            probe,
            stats,
            ledger,
        };
        runtime.spawn(Driver::new(parts, self.seeds, done));
        Ok(Crawl::new(handle, report))
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::ConfigInvalid, format!("start the crawl: {what}")));
        if self.profile.user_agent_required && self.user_agent.is_none() {
            return invalid(
                "it visits other people's servers and must say who it is: \
                 set user_agent(\"name/version (+mailto:you@example.org)\")",
            );
        }
        if self.seeds.is_empty() && self.frontier.is_none() {
            return invalid("it has nothing to fetch: set seed(..), requests(..) or frontier(..)");
        }
        if (self.sink.is_some() || self.stream.is_some()) && self.router.is_empty() {
            return invalid("it has a sink but no parser: set parse_with(..) or route(..)");
        }
        Ok(())
    }
}

fn lane<T: Send + 'static>(lane: SinkLane<T>) -> Box<dyn Lane> {
    Box::new(lane)
}

impl<I> std::fmt::Debug for Builder<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("profile", &self.profile).field("config", &self.config).finish_non_exhaustive()
    }
}
