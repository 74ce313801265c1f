//! How a crawl finds the concurrency that a server can bear: the engine against a model of servers, in virtual time,
//! beside fixed limits and another crawler's rule. It prints figures, and writes curves and pictures.

mod crawlee;
mod loopback;
mod measure;
mod model;
mod picture;
mod policy;
mod scenario;
mod server;
mod table;

use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};

use self::policy::Policy;
use self::scenario::Name;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Crawls a model of servers by several rules and compares them.
#[derive(Parser)]
struct Args {
    /// Scenarios; all of them by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Name>,
    /// Only policies that begin with this.
    #[arg(long, default_value = "")]
    policy: String,
    /// Seconds of virtual time, where the scenario's own are not wanted.
    #[arg(long)]
    seconds: Option<u32>,
    /// Requests that a server serves at once, where the scenario's own are not wanted.
    #[arg(long)]
    slots: Option<u32>,
    /// Standard deviation of the logarithm of a service time, likewise.
    #[arg(long)]
    spread: Option<f64>,
    /// Part of itself by which a service gets longer for each further `slots` open requests, likewise.
    #[arg(long)]
    slowdown: Option<f64>,
    /// Seconds for which a server is down, in the scenarios where it is: from 20 s on.
    #[arg(long, default_value_t = 30)]
    down: u32,
    /// Seed of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for a CSV of each scenario.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Folder for a picture of each scenario.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Crawl a real server instead, by the clock: on loopback, in a process of its own and on the last core. It can be that
    /// of the scenarios degrading (the default), rate, down and down-told.
    #[arg(long)]
    loopback: bool,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let down = Duration::from_secs(args.down.into());
    if args.loopback {
        let names = if args.scenario.is_empty() { vec![Name::Degrading] } else { args.scenario };
        let length = args.seconds.map(|n| Duration::from_secs(n.into()));
        return loopback::run(&names, down, length, &args.policy);
    }
    let names = if args.scenario.is_empty() { Name::value_variants().to_vec() } else { args.scenario };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table::HEAD)?;
    for name in names {
        let mut scenario = name.scenario(down);
        scenario.length = args.seconds.map_or(scenario.length, |n| Duration::from_secs(n.into()));
        let limits = &mut scenario.limits;
        limits.slots = args.slots.unwrap_or(limits.slots);
        limits.spread = args.spread.unwrap_or(limits.spread);
        limits.slowdown = args.slowdown.unwrap_or(limits.slowdown);
        let mut runs = Vec::new();
        for policy in Policy::ALL.into_iter().filter(|policy| policy.text().starts_with(&args.policy)) {
            let run = model::run(&scenario, policy, args.seed);
            writeln!(out, "{}", table::line(name.text(), &policy.text(), &run.measures))?;
            if let (policy::MOST, at) = run.measures.peak
                && policy == Policy::Tidegate
            {
                writeln!(out, "{:<10} {:<10} {} in flight after {:.2} s", "", "", policy::MOST, at.as_secs_f64())?;
            }
            out.flush()?;
            runs.push(run);
        }
        if let Some(folder) = &args.csv {
            fs::create_dir_all(folder)?;
            let file = fs::File::create(folder.join(format!("limiter-{}.csv", name.text())))?;
            table::csv(&scenario, &runs, BufWriter::new(file))?;
        }
        if let Some(folder) = &args.svg {
            fs::create_dir_all(folder)?;
            picture::draw(&folder.join(format!("limiter-{}.svg", name.text())), &scenario, &runs)?;
        }
    }
    Ok(())
}
