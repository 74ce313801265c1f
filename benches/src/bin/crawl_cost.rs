//! What a crawl costs for each URL apart from its fetch: engine, driver, frontier, fetch loop, lag and telemetry together.
//! The fetcher answers at once, the parser does nothing.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::mpsc;

use clap::{Parser, ValueEnum};
use futures::stream;
use tidegate::rt::{Inline, Runtime};
use tidegate::{Crawl, Head, Output, Page, ParseError, Profile, Report, Request, Response};
use tidegate_benches::{median, process_cpu_time};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures CPU time a URL: the difference between crawls of two sizes, so that what is done once does not count.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "tokio")]
    runtime: Name,
    /// Hosts that the URLs are spread over.
    #[arg(long, default_value_t = 1000)]
    hosts: u32,
    /// URLs of the smaller crawl.
    #[arg(long, default_value_t = 50_000)]
    few: u32,
    /// URLs of the larger one.
    #[arg(long, default_value_t = 150_000)]
    many: u32,
    #[arg(long, default_value = "1000")]
    in_flight: NonZeroU32,
    /// Parse in the pool of threads instead of inline.
    #[arg(long)]
    pool: bool,
    /// Pairs of runs.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Give the URLs as a stream of requests instead of as seeds of a frontier that knows each one.
    #[arg(long)]
    stream: bool,
    /// Run one crawl of so many URLs on Tokio, on the first thread, and measure nothing: for callgrind.
    #[arg(long)]
    once: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Tokio,
    Smol,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    if let Some(urls) = args.once {
        // On the first thread: callgrind does not tell what one that is stopped with the process has done.
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let report = tokio.block_on(async {
            let runtime = tidegate_tokio::current().with_offload(Inline::new());
            start(&runtime, &args, urls)?.await
        })?;
        return judged(&report, urls);
    }
    let runtime = match args.runtime {
        Name::Tokio => tidegate_tokio::dedicated()?,
        Name::Smol => tidegate_smol::dedicated()?,
    };
    let runtime = if args.pool { runtime } else { runtime.with_offload(Inline::new()) };
    let mut out = io::stdout().lock();
    let mut costs = Vec::new();
    for _ in 0..args.pairs {
        let mut took = [0.0; 2];
        for (took, urls) in took.iter_mut().zip([args.few, args.many]) {
            let before = process_cpu_time();
            crawl(&runtime, &args, urls)?;
            *took = process_cpu_time().saturating_sub(before).as_secs_f64();
        }
        let cost = (took[1] - took[0]) / f64::from(args.many.saturating_sub(args.few)) * 1e6;
        writeln!(out, "{:.3} s for {}, {:.3} s for {}: {cost:.2} us a URL", took[0], args.few, took[1], args.many)?;
        costs.push(cost);
    }
    let cost = median(costs);
    Ok(writeln!(out, "median {cost:.2} us of CPU a URL, {:.1} % of a core at 4,000 URLs/s", cost * 0.4)?)
}

fn start(runtime: &Runtime, args: &Args, urls: u32) -> Result<Crawl, tidegate::Error> {
    fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
        Ok(())
    }
    let hosts = args.hosts.max(1);
    let requests = (0..urls).map(move |n| Request::get(format!("http://host-{}.test/{n}", n % hosts)));
    let builder = Crawl::builder(runtime.clone());
    let builder = if args.stream { builder.requests(stream::iter(requests)) } else { builder.seeds(requests) };
    builder
        .profile(Profile::own())
        .max_in_flight(args.in_flight)
        .max_in_flight_per_host(None)
        .adaptive(false)
        .fetcher(
            |request: Request| async move { Ok(Response::new(Head::new(request.target()?, http::StatusCode::OK), "")) },
        )
        .parse_with(nothing)
        .random_seed(1)
        .start()
}

fn crawl(runtime: &Runtime, args: &Args, urls: u32) -> Result<(), Failure> {
    let crawl = start(runtime, args, urls)?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    judged(&report.recv()??, urls)
}

fn judged(report: &Report, urls: u32) -> Result<(), Failure> {
    if report.totals.counters.ok != u64::from(urls) {
        return Err(report.to_string().into());
    }
    Ok(())
}
