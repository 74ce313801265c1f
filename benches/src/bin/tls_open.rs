//! What opening thousands of TLS connections at once does to the fetch thread: how late a 2 ms ticker is until the last of
//! them is open, and how long that takes. Server and client are processes of their own, so that each has its own descriptors.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::sync::mpsc;

use clap::{Parser, ValueEnum};
use tidegate::http::HttpFetcher;
use tidegate::raise_descriptor_limit;
use tidegate::rt::Runtime;
use tidegate::{Crawl, Profile, tls};
use tidegate_benches::{Lateness, Layout, ServerProcess, Ticker, keep_to_cores, median, process_cpu_time};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures how late a 2 ms ticker is while TLS connections are opened together. Each is held open by the server until the
/// last one has asked, and every handshake is a full one.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tokio,smol")]
    runtime: Vec<Name>,
    /// Connections.
    #[arg(long, default_value = "10000")]
    connections: NonZeroU32,
    /// Cores for the client; the server keeps to the others, or shares them where there are none.
    #[arg(long, default_value_t = 1)]
    cores: usize,
    /// Runs on each runtime, in turn.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Without TLS, to compare.
    #[arg(long)]
    plain: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Tokio,
    Smol,
}

struct Measured {
    lateness: Lateness,
    seconds: f64,
    cpu: f64,
    failed: u64,
    gate_closed: u64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let layout = Layout::new(args.cores, &[])?;
    let gate = args.connections.to_string();
    let mut arguments = vec!["--bytes", "64", "--gate", &gate, "--cores", &layout.server];
    arguments.extend((!args.plain).then_some("--tls"));
    let server = ServerProcess::start(arguments)?;
    keep_to_cores(layout.client.clone())?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} connections{}, {layout}, medians of {}",
        args.connections,
        if args.plain { " without TLS" } else { " with TLS" },
        args.runs
    )?;
    writeln!(
        out,
        "{:<6} {:>8} {:>8} {:>8} {:>6} {:>8} {:>6} {:>6} {:>11}",
        "", "p50 ms", "p99 ms", "max ms", "ticks", "all in s", "CPU s", "failed", "gate closed"
    )?;
    let mut rows: Vec<(Name, Vec<Measured>)> = args.runtime.iter().map(|name| (*name, Vec::new())).collect();
    for _ in 0..args.runs {
        for (name, runs) in &mut rows {
            runs.push(measure(*name, &args, &server)?);
        }
    }
    for (name, runs) in &rows {
        let Lateness { p50, p99, max, ticks, .. } =
            Lateness::median(&runs.iter().map(|run| run.lateness).collect::<Vec<_>>());
        let seconds = median(runs.iter().map(|run| run.seconds));
        let cpu = median(runs.iter().map(|run| run.cpu));
        let failed: u64 = runs.iter().map(|run| run.failed).sum();
        let gate_closed: u64 = runs.iter().map(|run| run.gate_closed).sum();
        let name = match name {
            Name::Tokio => "tokio",
            Name::Smol => "smol",
        };
        writeln!(
            out,
            "{name:<6} {p50:>8.2} {p99:>8.2} {max:>8.2} {ticks:>6} {seconds:>8.2} {cpu:>6.2} {failed:>6} {gate_closed:>11}"
        )?;
    }
    Ok(())
}

/// One run on a runtime, a pool and connections of its own.
fn measure(name: Name, args: &Args, server: &ServerProcess) -> Result<Measured, Failure> {
    let runtime = match name {
        Name::Tokio => tidegate_tokio::dedicated()?,
        Name::Smol => tidegate_smol::dedicated()?,
    };
    let mut tls = tls::Config::builder();
    if !args.plain {
        tls = tls.add_root_pem(server.certificate());
    }
    let fetcher = HttpFetcher::builder(&runtime).tls(tls.build()?).build()?;
    let scheme = if args.plain { "http" } else { "https" };
    let urls: Vec<_> = (0..args.connections.get()).map(|n| format!("{scheme}://{}/gate/{n}", server.addr())).collect();
    let (before, cpu) = (runtime.now(), process_cpu_time());
    let ticker = Ticker::start(&runtime);
    // The clone that stays here is the last: closing thousands of connections is no part of opening them.
    let (failed, gate_closed) = crawl(&runtime, args, fetcher.clone(), urls)?;
    let seconds = runtime.now().saturating_duration_since(before).as_secs_f64();
    let cpu = process_cpu_time().saturating_sub(cpu).as_secs_f64();
    Ok(Measured { lateness: ticker.stop()?, seconds, cpu, failed, gate_closed })
}

fn crawl(runtime: &Runtime, args: &Args, fetcher: HttpFetcher, urls: Vec<String>) -> Result<(u64, u64), Failure> {
    let crawl = Crawl::builder::<()>(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(args.connections)
        .adaptive(false)
        .seeds(urls)
        .fetcher(fetcher)
        .start()?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    let totals = report.recv()??.totals;
    Ok((u64::from(args.connections.get()).saturating_sub(totals.counters.ok), totals.lag.gate_closed_count))
}
