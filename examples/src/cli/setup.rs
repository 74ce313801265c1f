//! From options to a runtime, a fetcher and a crawl that is described but not started.

use std::time::Duration;

use tidegate::http::HttpFetcher;
use tidegate::rt::{Inline, Runtime, ThreadPool};
use tidegate::{Builder, Crawl, Error, Profile};

use super::Failure;
use super::args::{Common, RuntimeName};
use super::input::plain;
use super::record::message;
use super::values::ParsePlace;

/// How the program names itself where it is not told.
pub(super) const USER_AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Fetches in flight on the demo site.
const DEMO_PER_HOST: u32 = 64;
/// Waits before a retry on the demo site.
const DEMO_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// With `--why` the last window is the second that a line is about.
const WHY_WINDOW: Duration = Duration::from_secs(1);
/// Descriptors beyond which no more are asked for; some systems offer a thousand million.
const MOST_DESCRIPTORS: u64 = 1 << 20;

/// The table of descriptors is made this large at once: growing it later stops a thread for milliseconds.
const TABLE: u32 = 16_384;

/// Asks for as many descriptors as the system allows this process, because a socket is one. To be called before the first
/// thread starts. Where it is refused, the crawl keeps to what there is.
pub(super) fn raise_descriptor_limit() {
    let _ = tidegate::raise_descriptor_limit(MOST_DESCRIPTORS, TABLE);
}

/// What a subcommand runs on.
pub(super) struct Setup {
    pub(super) runtime: Runtime,
    pub(super) fetcher: HttpFetcher,
    profile: Profile,
    user_agent: String,
    demo: bool,
}

impl Setup {
    /// `profile` has the defaults of the subcommand, over which the options are laid.
    pub(super) fn new(common: &Common, mut profile: Profile, user_agent: &str, demo: bool) -> Result<Self, Failure> {
        if demo {
            profile.per_host = std::num::NonZeroU32::new(DEMO_PER_HOST);
            profile.gap = Duration::ZERO;
        }
        if let Some(most) = common.per_host {
            profile.per_host = most.limit();
        }
        profile.gap = common.delay.unwrap_or(profile.gap);
        profile.attempts = common.retries.map_or(profile.attempts, |retries| retries.saturating_add(1));
        let limits = &mut profile.limits;
        limits.redirects = common.max_redirects;
        limits.deadlines.connect = common.connect_timeout;
        limits.deadlines.first_byte = common.first_byte_timeout;
        limits.deadlines.idle = common.idle_timeout;
        limits.deadlines.total = common.total_timeout;
        if let Some(most) = common.max_body {
            limits.body_wire = most;
            limits.body_decoded = most;
        }
        let runtime = runtime(common)?;
        let fetcher = fetcher(common, &runtime, user_agent)?;
        Ok(Self { runtime, fetcher, profile, user_agent: user_agent.to_owned(), demo })
    }

    /// The politeness that is in force, in words.
    pub(super) fn politeness(&self) -> String {
        let connections = match self.profile.per_host {
            Some(most) => format!("{most} connections a host"),
            None => "no limit of connections".into(),
        };
        let delay = match self.profile.gap {
            Duration::ZERO => "no delay".into(),
            gap => format!("delay {gap:?}"),
        };
        let (shortest, longest) = DEMO_BACKOFF;
        format!("{connections}, {delay}, retries {} after {shortest:?} to {longest:?}", self.profile.attempts - 1)
    }

    /// A crawl with everything that the subcommands share; its URLs, its parser and its fetcher are still to be set.
    pub(super) fn builder(&self, common: &Common) -> Builder<()> {
        let mut builder =
            Crawl::builder(self.runtime.clone()).profile(self.profile.clone()).user_agent(&self.user_agent);
        if let Some(fetches) = common.concurrency {
            builder = builder.max_in_flight(fetches);
        }
        if let Some(rate) = common.rate {
            builder = builder.rate(rate);
        }
        if let Some(time) = common.max_time {
            builder = builder.max_time(time);
        }
        if common.why {
            builder = builder.window(WHY_WINDOW);
        }
        if common.no_adaptive {
            builder = as_set(builder);
        }
        if self.demo {
            builder = builder.backoff(DEMO_BACKOFF.0, DEMO_BACKOFF.1);
        }
        builder
    }
}

/// With the limits as they are, whatever a host bears, and no host left alone.
pub(super) fn as_set(builder: Builder<()>) -> Builder<()> {
    builder.adaptive(false).breaker(None, Duration::ZERO)
}

fn runtime(common: &Common) -> Result<Runtime, Failure> {
    let runtime = match (common.runtime, common.io_threads.get()) {
        (RuntimeName::Tokio, 1) => tidegate_tokio::dedicated(),
        (RuntimeName::Tokio, _) => tidegate_tokio::runtime(common.io_threads),
        (RuntimeName::Smol, 1) => tidegate_smol::dedicated(),
        (RuntimeName::Smol, _) => tidegate_smol::runtime(common.io_threads),
    };
    let runtime = runtime.map_err(|error| Failure::run(format!("cannot start the runtime: {}", plain(&error))))?;
    Ok(match common.parse {
        Some(ParsePlace::Inline) => runtime.with_offload(Inline::new()),
        Some(ParsePlace::Threads(threads)) => runtime.with_offload(ThreadPool::new(threads)),
        None => runtime,
    })
}

fn fetcher(common: &Common, runtime: &Runtime, user_agent: &str) -> Result<HttpFetcher, Failure> {
    let usage = |error: Error| Failure::usage(message(&error));
    let mut tls = tidegate::tls::Config::builder();
    if let Some(path) = &common.cacert {
        let pem = std::fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot open {}: {}", path.display(), plain(&error))))?;
        tls = tls.add_root_pem(pem);
    }
    if common.insecure {
        tls = tls.insecure();
    }
    let mut builder = HttpFetcher::builder(runtime)
        .user_agent(user_agent)
        .decompress(!common.no_decompress)
        .local_addresses(common.local_address.clone())
        .tls(tls.build().map_err(usage)?);
    for proxy in &common.proxy {
        builder = builder.proxy(proxy);
    }
    for fixed in &common.resolve {
        builder = builder.resolve(&fixed.host, fixed.port, fixed.address);
    }
    builder.build().map_err(usage)
}
