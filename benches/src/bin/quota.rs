//! A crawl that would take all the CPU time there is, against a server that runs elsewhere: what it did, whom it named, and how
//! long its gate was shut. For a process that has a quota of processor time; prints a name and a number a line.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use tidegate::rt::ThreadPool;
use tidegate::{Crawl, Output, Page, ParseError, Profile, Request, StallCause};
use tidegate_benches::{process_cpu_time, spend};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Crawls a load server for a while, with pages that are long to parse.
#[derive(Parser)]
struct Args {
    /// Where the load server listens.
    server: SocketAddr,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// CPU time that parsing a page takes, in microseconds.
    #[arg(long, default_value_t = 500)]
    parse_us: u64,
    /// Threads that parse: more than one, so that a quota of half a core is used up in a quarter of its period.
    #[arg(long, default_value = "3")]
    parsers: NonZeroUsize,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let runtime = tidegate_tokio::dedicated()?.with_offload(ThreadPool::new(args.parsers));
    let work = Duration::from_micros(args.parse_us);
    let parser = move |page: &Page, _: &mut Output<()>| -> Result<(), ParseError> {
        spend(page.body(), work);
        Ok(())
    };
    let server = args.server;
    let began = runtime.now();
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(NonZeroU32::MIN.saturating_add(99))
        .max_in_flight_per_host(None)
        .adaptive(false)
        .requests(futures::stream::iter((0_u64..).map(move |n| Request::get(format!("http://{server}/{n}")))))
        .max_time(Duration::from_secs(args.seconds))
        .parse_with(parser)
        .start()?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    let totals = report.recv()??.totals;
    let seconds = runtime.now().saturating_duration_since(began).as_secs_f64();
    let cpu = process_cpu_time().as_secs_f64();
    let throttled = totals.stalls.get(StallCause::Throttled.code()).copied().unwrap_or(0);
    let mut out = io::stdout().lock();
    let pages = totals.counters.ok as f64;
    for (name, number) in [
        ("pages_per_second", pages / seconds),
        ("pages_per_cpu_second", pages / cpu),
        ("cpu_per_second", cpu / seconds),
        ("errors", totals.counters.error as f64),
        ("stalls", totals.stalls.values().sum::<u64>() as f64),
        ("stalls_by_quota", throttled as f64),
        ("stalls_with_url", totals.recent_stalls.iter().filter(|stall| stall.url.is_some()).count() as f64),
        ("gate_shut_percent", totals.lag.gate_closed.as_secs_f64() / seconds * 100.0),
    ] {
        writeln!(out, "{name} {number:.1}")?;
    }
    let causes: Vec<_> = totals.stalls.iter().map(|(cause, n)| format!("{n} by {cause}")).collect();
    writeln!(out, "# stalls: {}", causes.join(", "))?;
    for stall in &totals.recent_stalls {
        let url = stall.url.as_deref().unwrap_or("no URL");
        writeln!(out, "# {:.0} ms by {}: {url}", stall.lag.as_secs_f64() * 1e3, stall.cause.code())?;
    }
    Ok(())
}
