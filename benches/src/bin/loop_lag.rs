//! What fetches do to the rest of the thread: the lateness of a 2 ms ticker while many pages come in, once through the
//! fetch loop of a crawl, once as a task each on the same executor.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tidegate::http::HttpFetcher;
use tidegate::raise_descriptor_limit;
use tidegate::rt::Runtime;
use tidegate::{Crawl, FetchCx, Fetcher as _, Output, Page, ParseError, Profile, Request};

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(2);

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

/// The lateness of every tick that should have been, in ms; a tick that was missed counts as late as it was noticed.
struct Lateness {
    p50: f64,
    p99: f64,
    max: f64,
    ticks: usize,
    seconds: f64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let server = Server::start(&args)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{:>5} {:>8} {:>8} {:>8} {:>7} {:>6}", "mode", "p50 ms", "p99 ms", "max ms", "ticks", "s")?;
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..args.pairs {
        for (mode, runs) in [Mode::Loop, Mode::Tasks].into_iter().zip(&mut runs) {
            let lateness = measure(mode, &args, &server.origin)?;
            print(&mut out, mode.name(), &lateness)?;
            runs.push(lateness);
        }
    }
    writeln!(out, "medians")?;
    for (mode, runs) in [Mode::Loop, Mode::Tasks].into_iter().zip(&runs) {
        let of = |part: fn(&Lateness) -> f64| median(runs.iter().map(part).collect());
        let ticks = runs.iter().map(|run| run.ticks).sum();
        let medians =
            Lateness { p50: of(|r| r.p50), p99: of(|r| r.p99), max: of(|r| r.max), ticks, seconds: of(|r| r.seconds) };
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

fn print(out: &mut impl io::Write, mode: &str, lateness: &Lateness) -> io::Result<()> {
    let Lateness { p50, p99, max, ticks, seconds } = lateness;
    writeln!(out, "{mode:>5} {p50:>8.2} {p99:>8.2} {max:>8.2} {ticks:>7} {seconds:>6.2}")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// One run on a runtime, a pool and connections of its own.
fn measure(mode: Mode, args: &Args, origin: &str) -> Result<Lateness, Failure> {
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
    Ok(ticker.stop(seconds)?)
}

fn crawl(runtime: &Runtime, fetcher: HttpFetcher, urls: Vec<String>, args: &Args) -> Result<(), Failure> {
    fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
        Ok(())
    }
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(args.pages)
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

/// A task that should wake every [`TICK`], and records how late each of these times it did.
struct Ticker {
    stop: Arc<AtomicBool>,
    late: mpsc::Receiver<Vec<Duration>>,
}

impl Ticker {
    fn start(runtime: &Runtime) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (done, late) = mpsc::channel();
        let (stopped, clock) = (Arc::clone(&stop), runtime.clone());
        runtime.spawn(async move {
            let mut ticks = Vec::new();
            let mut expected = clock.now() + TICK;
            let mut sleep = clock.sleep_until(expected);
            while !stopped.load(Ordering::Relaxed) {
                sleep.as_mut().reset(expected);
                sleep.as_mut().await;
                let now = clock.now();
                while expected <= now {
                    ticks.push(now - expected);
                    expected += TICK;
                }
            }
            let _ = done.send(ticks);
        });
        Self { stop, late }
    }

    fn stop(self, seconds: f64) -> Result<Lateness, mpsc::RecvError> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ticks = self.late.recv()?;
        ticks.sort_unstable();
        let at = |part: f64| {
            let index = (ticks.len() as f64 * part) as usize;
            ticks.get(index.min(ticks.len().saturating_sub(1))).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        Ok(Lateness { p50: at(0.5), p99: at(0.99), max: at(1.0), ticks: ticks.len(), seconds })
    }
}

/// The load server in a process of its own, which ends with this.
struct Server {
    process: Child,
    origin: String,
}

impl Server {
    fn start(args: &Args) -> Result<Self, Failure> {
        let program = std::env::current_exe()?.with_file_name(format!("load-server{}", std::env::consts::EXE_SUFFIX));
        let gate = if args.gate { args.pages.get() } else { 0 };
        let mut process = Command::new(&program)
            .args(["--bytes", &args.bytes.to_string(), "--gate", &gate.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("start {}: {e}; build it first", program.display()))?;
        let mut line = String::new();
        let read = process.stdout.take().map_or(Ok(0), |stdout| BufReader::new(stdout).read_line(&mut line));
        let server = Self { process, origin: format!("http://{}", line.trim_start_matches("listening on ").trim()) };
        read?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
