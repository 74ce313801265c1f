//! What fetches do to the rest of the thread: the lateness of a 2 ms ticker while many pages come in, once through the
//! fetch loop of a crawl, once as a task each on the same executor.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::{Parser, ValueEnum};
use tidegate::http::HttpFetcher;
use tidegate::raise_descriptor_limit;
use tidegate::rt::Runtime;
use tidegate::{Crawl, FetchCx, Fetcher as _, Output, Page, ParseError, Profile, Request};
use tidegate_benches::{Lateness, ServerProcess, Ticker, median};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures how late a 2 ms ticker is on the I/O thread while pages are fetched together, without parsing them.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "tokio")]
    runtime: Name,
    /// Pages that are asked for together, on a connection each.
    #[arg(long, default_value = "1000")]
    pages: NonZeroU32,
    /// Length of a page.
    #[arg(long, default_value_t = 142 * 1024)]
    bytes: usize,
    /// Hold all answers back until the last request has come.
    #[arg(long)]
    gate: bool,
    /// Runs of each mode, in turn.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Tokio,
    Smol,
}

#[derive(Clone, Copy)]
enum Mode {
    /// A crawl, whose fetches share one task.
    Loop,
    /// A task for each fetch.
    Tasks,
}

/// What a run measured.
struct Measured {
    lateness: Lateness,
    seconds: f64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let gate = if args.gate { args.pages.get() } else { 0 };
    let server = ServerProcess::start(["--bytes", &args.bytes.to_string(), "--gate", &gate.to_string()])?;
    let origin = format!("http://{}", server.addr());
    let mut out = io::stdout().lock();
    writeln!(out, "{:>5} {:>8} {:>8} {:>8} {:>7} {:>6}", "mode", "p50 ms", "p99 ms", "max ms", "ticks", "s")?;
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..args.pairs {
        for (mode, runs) in [Mode::Loop, Mode::Tasks].into_iter().zip(&mut runs) {
            let measured = measure(mode, &args, &origin)?;
            print(&mut out, mode.name(), &measured)?;
            runs.push(measured);
        }
    }
    writeln!(out, "medians")?;
    for (mode, runs) in [Mode::Loop, Mode::Tasks].into_iter().zip(&runs) {
        let lateness: Vec<_> = runs.iter().map(|run| run.lateness).collect();
        let lateness = Lateness::median(&lateness);
        let medians = Measured { lateness, seconds: median(runs.iter().map(|run| run.seconds)) };
        print(&mut out, mode.name(), &medians)?;
    }
    Ok(())
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Tasks => "tasks",
        }
    }
}

fn print(out: &mut impl io::Write, mode: &str, measured: &Measured) -> io::Result<()> {
    let Measured { lateness: Lateness { p50, p99, max, ticks, .. }, seconds } = measured;
    writeln!(out, "{mode:>5} {p50:>8.2} {p99:>8.2} {max:>8.2} {ticks:>7} {seconds:>6.2}")
}

/// One run on a runtime, a pool and connections of its own.
fn measure(mode: Mode, args: &Args, origin: &str) -> Result<Measured, Failure> {
    let runtime = match args.runtime {
        Name::Tokio => tidegate_tokio::dedicated()?,
        Name::Smol => tidegate_smol::dedicated()?,
    };
    let path = if args.gate { "gate" } else { "page" };
    let urls: Vec<_> = (0..args.pages.get()).map(|n| format!("{origin}/{path}/{n}")).collect();
    let fetcher = HttpFetcher::builder(&runtime).build()?;
    let started = runtime.now();
    let ticker = Ticker::start(&runtime);
    match mode {
        // The clone that stays here is the last: closing a thousand connections is no part of fetching.
        Mode::Loop => crawl(&runtime, fetcher.clone(), urls, args)?,
        Mode::Tasks => tasks(&runtime, &fetcher, urls)?,
    }
    let seconds = runtime.now().saturating_duration_since(started).as_secs_f64();
    Ok(Measured { lateness: ticker.stop()?, seconds })
}

fn crawl(runtime: &Runtime, fetcher: HttpFetcher, urls: Vec<String>, args: &Args) -> Result<(), Failure> {
    fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
        Ok(())
    }
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(args.pages)
        .adaptive(false)
        .seeds(urls)
        .fetcher(fetcher)
        .parse_with(nothing)
        .start()?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    let report = report.recv()??;
    if report.totals.counters.ok != u64::from(args.pages.get()) {
        return Err(report.to_string().into());
    }
    Ok(())
}

fn tasks(runtime: &Runtime, fetcher: &HttpFetcher, urls: Vec<String>) -> Result<(), Failure> {
    let pages = urls.len();
    let (done, answers) = mpsc::channel();
    let done = Arc::new(done);
    let left = Arc::new(AtomicUsize::new(pages));
    for url in urls {
        let (cx, fetcher) = (FetchCx::detached(runtime), fetcher.clone());
        let (done, left) = (Arc::clone(&done), Arc::clone(&left));
        runtime.spawn(async move {
            let answer = fetcher.fetch(&Request::get(url), &cx).await.map(drop);
            // One message for all, so that the waiting thread does not compete for the core.
            if left.fetch_sub(1, Ordering::Relaxed) == 1 || answer.is_err() {
                let _ = done.send(answer);
            }
        });
    }
    answers.recv()??;
    Ok(())
}
