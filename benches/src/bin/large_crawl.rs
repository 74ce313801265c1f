//! A crawl at a size that no loopback reaches: a hundred thousand simulated hosts, a million URLs, on one core.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Parser;
use tidegate::http::HttpFetcher;
use tidegate::rt::{Inline, Runtime};
use tidegate::sim::{Host, Link, Reply, Scheduling, Sim};
use tidegate::{
    Crawl, Error, ErrorKind, FetchCx, Fetcher, Head, MemoryFrontier, Profile, Report, Request, Response, Scope,
};

/// Crawls simulated hosts politely, and says how long it took, what it needed, and how even it was.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100_000)]
    hosts: u64,
    /// URLs in all, spread evenly over the hosts.
    #[arg(long, default_value_t = 1_000_000)]
    urls: u64,
    /// Time between two starts on a host, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    gap: u64,
    /// Hosts of a thousand that refuse every connection.
    #[arg(long, default_value_t = 10)]
    dead: u64,
    #[arg(long, default_value = "5000")]
    in_flight: NonZeroU32,
    /// Through the HTTP fetcher and the simulated network, instead of a fetcher that moves no bytes.
    #[arg(long)]
    http: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Answers after a while, without a network. A host's answers all take the same time, from 50 to 550 ms.
struct NoBytes {
    dead: u64,
}

fn number(url: &str) -> u64 {
    url.strip_prefix("http://h").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or_default()
}

fn is_dead(host: u64, dead: u64) -> bool {
    host % 1000 < dead
}

#[async_trait]
impl Fetcher for NoBytes {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let host = number(request.url());
        cx.runtime().sleep_until(cx.now() + Duration::from_millis(50 + host * 7919 % 500)).await;
        if is_dead(host, self.dead) {
            return Err(Error::new(ErrorKind::ConnectRefused, "connect to a dead host"));
        }
        Ok(Response::new(Head::new(request.target()?, http::StatusCode::OK), ""))
    }
}

/// Notes when each host was asked first.
struct Noted {
    inner: Box<dyn Fetcher>,
    sim: Sim,
    first: Arc<Mutex<HashMap<u64, Duration>>>,
    fetches: Arc<AtomicU64>,
}

#[async_trait]
impl Fetcher for Noted {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let now = self.sim.elapsed();
        if let Ok(mut first) = self.first.lock() {
            first.entry(number(request.url())).or_insert(now);
        }
        self.inner.fetch(request, cx).await
    }

    async fn resolve(&self, target: &url::Url, cx: &FetchCx) -> Result<Option<std::net::IpAddr>, Error> {
        self.inner.resolve(target, cx).await
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let sim = Sim::builder().seed(args.seed).scheduling(Scheduling::Fifo).build();
    let runtime = sim.runtime().with_offload(Inline::new());
    let (first, fetches) = (Arc::default(), Arc::default());
    let fetcher = Noted {
        inner: fetcher(&args, &sim, &runtime)?,
        sim: sim.clone(),
        first: Arc::clone(&first),
        fetches: Arc::clone(&fetches),
    };
    #[expect(clippy::disallowed_methods, reason = "the time that the simulation itself takes")]
    let began = Instant::now();
    let report = sim.block_on(crawl(&args, runtime, fetcher))?;
    let wall = began.elapsed();
    let (virtual_time, trace) = (sim.elapsed(), sim.trace_hash());
    let first = first.lock().map_err(|_| "a fetch has panicked")?;
    let mut visits: Vec<_> = first.values().map(Duration::as_secs_f64).collect();
    visits.sort_by(f64::total_cmp);
    print(&args, &report, wall, virtual_time, &visits, fetches.load(Ordering::Relaxed), trace)?;
    Ok(())
}

fn fetcher(args: &Args, sim: &Sim, runtime: &Runtime) -> Result<Box<dyn Fetcher>, Failure> {
    if !args.http {
        return Ok(Box::new(NoBytes { dead: args.dead }));
    }
    let dead = args.dead;
    sim.names_by(|name| {
        let [_, a, b, c] = u32::try_from(number(&format!("http://{name}"))).unwrap_or_default().to_be_bytes();
        tidegate::sim::Lookup::found([[25, a, b, c].into()])
    });
    sim.net().hosts_by(move |addr| {
        let std::net::IpAddr::V4(addr) = addr else { return None };
        let host = u64::from(u32::from(addr) & 0x00ff_ffff);
        if is_dead(host, dead) {
            return Some(Host::refuses());
        }
        let latency = Duration::from_millis(10 + host * 7919 % 100);
        let host = Host::http(|_| Reply::ok("<title>a page of a simulated host</title>"));
        Some(host.with_link(Link::new().latency(latency)))
    });
    Ok(Box::new(HttpFetcher::builder(runtime).user_agent("large-crawl/1").build()?))
}

async fn crawl(args: &Args, runtime: Runtime, fetcher: Noted) -> Result<Report, Error> {
    let mut profile = Profile::list();
    profile.per_host = NonZeroU32::new(1);
    profile.gap = Duration::from_millis(args.gap);
    profile.gap_jitter = 0.0;
    let hosts = args.hosts;
    let urls = (0..args.urls).map(|n| Request::get(format!("http://h{}.test/{}", n % hosts, n / hosts)));
    Crawl::builder::<()>(runtime)
        .profile(profile)
        .random_seed(args.seed)
        .seeds(urls)
        .scope(Scope::any())
        .frontier(MemoryFrontier::new(usize::MAX, args.seed))
        .max_in_flight(args.in_flight)
        .retries(0)
        .fetcher(fetcher)
        .run()
        .await
}

fn print(
    args: &Args,
    report: &Report,
    wall: Duration,
    virtual_time: Duration,
    visits: &[f64],
    fetches: u64,
    trace: u64,
) -> io::Result<()> {
    let c = report.totals.counters;
    let at = |part: f64| {
        visits.get((visits.len() as f64 * part) as usize).or_else(|| visits.last()).copied().unwrap_or_default()
    };
    let kept = c.submitted == c.ok + c.error + c.skipped + c.cancelled && c.submitted == args.urls;
    let rss = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = rss.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned();
    let mut out = io::stdout().lock();
    writeln!(out, "{report}")?;
    writeln!(
        out,
        "wall time {:.1} s ({:.1} us a URL), virtual time {:.1} s, peak of memory {rss}",
        wall.as_secs_f64(),
        wall.as_secs_f64() * 1e6 / args.urls as f64,
        virtual_time.as_secs_f64()
    )?;
    writeln!(
        out,
        "{} hosts visited, first visit at (s): first {:.3}, p50 {:.3}, p99 {:.3}, last {:.3}; {fetches} fetches",
        visits.len(),
        at(0.0),
        at(0.5),
        at(0.99),
        at(1.0)
    )?;
    writeln!(out, "in flight at most {}; conservation: {kept}; trace {trace:016x}", c.in_flight_peak)
}
