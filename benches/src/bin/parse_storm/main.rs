//! What parsing does to the rest of the fetch thread: the lateness of a 2 ms ticker while a thousand pages come in
//! together and each takes some milliseconds of CPU to parse. Once as everybody does it, a task a fetch over bare hyper;
//! once through a crawl. Whatever parses is the same in both.

mod crawl;
mod parse;
mod setup;
mod tasks;

use std::any::Any;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::json;
use tidegate::raise_descriptor_limit;
use tidegate::rt::{Offload, Runtime};
use tidegate_benches::{Lateness, Layout, ServerProcess, Ticker, keep_to_cores, median, process_cpu_time, spend};

use self::parse::Parse;
use self::setup::{Executor, Name, Setup};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long the ticker runs alone before each storm.
const IDLE: Duration = Duration::from_millis(400);

/// Measures how late a 2 ms ticker is on the fetch thread while pages come in together and are parsed.
///
/// The client keeps to the first `--cores` cores, the server, a process of its own, to `--server-cores`.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tokio,smol")]
    runtime: Vec<Name>,
    #[arg(long, value_enum, default_value = "dedicated")]
    setup: Setup,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tasks,loop")]
    way: Vec<Way>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none,inline,blocking,thread,rayon,niced")]
    parse: Vec<Parse>,
    /// Pages that are asked for together, on a connection each.
    #[arg(long, default_value = "1000")]
    pages: NonZeroU32,
    /// Length of a page.
    #[arg(long, default_value_t = 142 * 1024)]
    bytes: usize,
    /// CPU time that parsing takes, in milliseconds: the shortest and the longest, evenly spread over the pages.
    #[arg(long, num_args = 2, value_names = ["SHORTEST", "LONGEST"], default_values_t = [5.0, 10.0])]
    parse_ms: Vec<f64>,
    /// Hold all answers back until the last request has come.
    #[arg(long)]
    gate: bool,
    /// Cores for the client, all its threads together.
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// Cores for the server; by default the others. `--cores 1 --server-cores 0` has all on one core.
    #[arg(long, value_delimiter = ',')]
    server_cores: Vec<usize>,
    /// Runs of each row, in turn.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Print the medians as JSON too, a line a row.
    #[arg(long)]
    json: bool,
    /// Print each run as it ends.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// A task for each fetch, over bare hyper.
    Tasks,
    /// A crawl, whose fetches share one task.
    Loop,
}

/// What a storm is made of, the same for each row.
struct Storm {
    origin: String,
    addr: std::net::SocketAddr,
    pages: NonZeroU32,
    gate: bool,
    work: Arc<Work>,
}

/// What parsing is: reading the page again and again until its CPU time is spent.
struct Work {
    shortest: Duration,
    longest: Duration,
    next: AtomicU64,
}

/// How the pages of a run are parsed.
enum Stage {
    None,
    Inline(Arc<Work>),
    Offload(Arc<dyn Offload>, Arc<Work>),
}

/// What a run gives back.
struct Run {
    lateness: Lateness,
    seconds: f64,
    /// Pages that failed.
    failed: u64,
    /// What keeps the connections open.
    connections: Box<dyn Any>,
}

struct Measured {
    idle: Lateness,
    lateness: Lateness,
    pages_per_second: f64,
    cpu: f64,
    /// Keep-alive connections that were closed while they were still wanted.
    lost: u64,
    failed: u64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let layout = Layout::new(args.cores, &args.server_cores)?;
    let gate = if args.gate { args.pages.get() } else { 0 };
    let (bytes, gate) = (args.bytes.to_string(), gate.to_string());
    let mut server = ServerProcess::start(["--bytes", &bytes, "--gate", &gate, "--cores", &layout.server])?;
    keep_to_cores(layout.client.clone())?;
    let [shortest, longest] =
        [0, 1].map(|at| Duration::from_secs_f64(args.parse_ms.get(at).map_or(0.0, |ms| ms / 1e3)));
    let work = Arc::new(Work { shortest, longest, next: AtomicU64::new(0) });
    let origin = format!("http://{}", server.addr());
    let storm = Storm { origin, addr: server.addr(), pages: args.pages, gate: args.gate, work };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} pages of {} bytes{}, {shortest:?} to {longest:?} of parsing; {layout}; \
         set-up {}; medians of {}",
        args.pages,
        args.bytes,
        if args.gate { ", all answers in one instant" } else { "" },
        args.setup.name(),
        args.pairs,
    )?;
    writeln!(
        out,
        "{:<6} {:<6} {:<9} {:>8} {:>8} {:>8} {:>6} {:>8} {:>6} {:>5} {:>6}   {:>15}",
        "",
        "way",
        "parse",
        "p50 ms",
        "p99 ms",
        "max ms",
        "ticks",
        "pages/s",
        "CPU s",
        "lost",
        "failed",
        "idle p99 / max"
    )?;
    let mut rows: Vec<(Name, Way, Parse, Vec<Measured>)> = Vec::new();
    for name in &args.runtime {
        for parse in &args.parse {
            rows.extend(args.way.iter().map(|way| (*name, *way, *parse, Vec::new())));
        }
    }
    for _ in 0..args.pairs {
        for (name, way, parse, runs) in &mut rows {
            let measured = measure(*name, args.setup, *way, *parse, &storm, &mut server)?;
            if args.verbose {
                print(&mut out, *name, *way, *parse, &measured)?;
            }
            runs.push(measured);
        }
    }
    if args.verbose {
        writeln!(out, "medians")?;
    }
    for (name, way, parse, runs) in &rows {
        let medians = Measured::median(runs);
        print(&mut out, *name, *way, *parse, &medians)?;
        if args.json {
            let Measured { idle, lateness, pages_per_second, cpu, lost, failed } = medians;
            let row = json!({
                "runtime": name.name(), "setup": args.setup.name(), "cores": layout.client.len(), "server_cores": layout.server, "gate": args.gate,
                "way": way.name(), "parse": parse.name(), "runs": args.pairs,
                "p50_ms": lateness.p50, "p99_ms": lateness.p99, "max_ms": lateness.max, "ticks": lateness.ticks,
                "pages_per_second": pages_per_second, "cpu_seconds": cpu, "connections_lost": lost, "failed": failed,
                "idle_p50_ms": idle.p50, "idle_p99_ms": idle.p99, "idle_max_ms": idle.max,
            });
            writeln!(out, "{row}")?;
        }
    }
    Ok(())
}

/// One run on a runtime, a pool and connections of its own.
fn measure(
    name: Name,
    setup: Setup,
    way: Way,
    parse: Parse,
    storm: &Storm,
    server: &mut ServerProcess,
) -> Result<Measured, Failure> {
    let executor = Executor::start(name, setup)?;
    let runtime = executor.runtime();
    let stage = parse.stage(way, &executor, storm);
    let ticker = Ticker::start(runtime);
    wait(runtime, IDLE)?;
    let idle = ticker.stop()?;
    // The connection that the numbers are asked over is made before the storm.
    let before = server.stats()?;
    let cpu = process_cpu_time();
    let Run { lateness, seconds, failed, connections } = match way {
        Way::Tasks => tasks::run(&executor, storm, stage)?,
        Way::Loop => crawl::run(runtime, storm, stage)?,
    };
    let cpu = process_cpu_time().saturating_sub(cpu).as_secs_f64();
    let after = server.stats()?;
    drop(connections);
    let accepted = after.connections - before.connections;
    // Ours are all open unless they were lost.
    let lost = accepted.saturating_sub(after.open);
    let pages_per_second = f64::from(storm.pages.get()) / seconds;
    Ok(Measured { idle, lateness, pages_per_second, cpu, lost, failed })
}

/// Waits on the runtime's timer, so that this thread sleeps.
fn wait(runtime: &Runtime, time: Duration) -> Result<(), Failure> {
    let (done, is_done) = std::sync::mpsc::channel();
    let sleep = runtime.sleep_until(runtime.now() + time);
    runtime.spawn(async move {
        sleep.await;
        // The receiver waits below.
        let _ = done.send(());
    });
    Ok(is_done.recv()?)
}

impl Work {
    /// Parses a page: [`shortest`](Self::shortest) to [`longest`](Self::longest) of this thread's CPU time.
    fn parse(&self, page: &[u8]) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // A step that is prime to the thousand, so that the times are spread evenly and in no order.
        let part = (number * 617 % 1000) as f64 / 1000.0;
        spend(page, self.shortest + self.longest.saturating_sub(self.shortest).mul_f64(part));
    }
}

impl Measured {
    fn median(runs: &[Self]) -> Self {
        let all = |of: fn(&Self) -> Lateness| Lateness::median(&runs.iter().map(of).collect::<Vec<_>>());
        Self {
            idle: all(|run| run.idle),
            lateness: all(|run| run.lateness),
            pages_per_second: median(runs.iter().map(|run| run.pages_per_second)),
            cpu: median(runs.iter().map(|run| run.cpu)),
            lost: runs.iter().map(|run| run.lost).sum(),
            failed: runs.iter().map(|run| run.failed).sum(),
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Loop => "loop",
        }
    }
}

fn print(out: &mut impl io::Write, name: Name, way: Way, parse: Parse, measured: &Measured) -> io::Result<()> {
    let Measured { idle, lateness: Lateness { p50, p99, max, ticks, .. }, pages_per_second, cpu, lost, failed } =
        measured;
    writeln!(
        out,
        "{:<6} {:<6} {:<9} {p50:>8.2} {p99:>8.2} {max:>8.2} {ticks:>6} {pages_per_second:>8.0} {cpu:>6.2} {lost:>5} \
         {failed:>6}   {:>7.2} {:>7.2}",
        name.name(),
        way.name(),
        parse.name(),
        idle.p99,
        idle.max,
    )?;
    out.flush()
}
