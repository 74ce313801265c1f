//! What a fetch costs, side by side: tidegate, the floor, and what people would use instead, in turn and each as a process of
//! its own, against load servers of their own. The client side has the first core, the servers have the others.

mod case;
mod client;
mod figure;
mod measured;
mod meter;
mod page;
mod picture;
mod process;
mod report;
mod runner;
mod scenario;
mod summary;
mod work;

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use tidegate::raise_descriptor_limit;
use tidegate_benches::keep_to_cores;

use self::client::Client;
use self::report::{Report, Told};
use self::runner::Runner;
use self::scenario::{Scenario, Size};
use self::work::Work;

type Failure = Box<dyn Error + Send + Sync>;

/// Compares HTTP clients. Prints a table for each case as soon as it is done.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs scenarios.
    Run {
        /// Which ones.
        #[arg(value_enum, required = true)]
        scenarios: Vec<Scenario>,
        /// Runs of each client, in turn.
        #[arg(long, default_value_t = 5)]
        pairs: u32,
        /// Only these clients.
        #[arg(long, value_enum, value_delimiter = ',')]
        clients: Vec<Client>,
        /// Part of the requests and of the time: 0.1 for a first look.
        #[arg(long, default_value_t = 1.0)]
        part: f64,
        /// The folder with the documentation of Rust, for `pages`; that of rustup by default.
        #[arg(long)]
        site: Option<PathBuf>,
        /// A file for all runs.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Draws the curves of a scenario over the number of connections.
    Draw {
        /// The file of an earlier run.
        json: PathBuf,
        /// The picture.
        svg: PathBuf,
        #[arg(long, value_enum, default_value = "sockets")]
        scenario: Scenario,
    },
    /// Puts the tables of an earlier run into a page, between the lines `<!-- SCENARIO -->` and `<!-- end -->`.
    Page {
        /// The file of an earlier run.
        json: PathBuf,
        /// The page of Markdown.
        page: PathBuf,
    },
    /// Is a client: does some work and says what it took, as JSON.
    #[command(hide = true)]
    Client {
        client: Client,
        #[command(flatten)]
        work: Work,
    },
}

fn main() -> Result<(), Failure> {
    match Args::parse().command {
        Command::Client { client, work } => {
            // More than may be open: the table never grows.
            raise_descriptor_limit(1 << 20, 1 << 15)?;
            // As its parent has them, one is what it has.
            if work.cores > 1 {
                keep_to_cores(0..work.cores)?;
            }
            client.run(&work)
        }
        Command::Draw { json, svg, scenario } => {
            picture::draw(&serde_json::from_slice(&fs::read(json)?)?, scenario.name(), &svg)
        }
        Command::Page { json, page } => {
            let filled = page::fill(&serde_json::from_slice(&fs::read(json)?)?, &fs::read_to_string(&page)?)?;
            Ok(fs::write(page, filled)?)
        }
        Command::Run { scenarios, pairs, clients, part, site, json } => {
            run(&scenarios, pairs, &clients, Size { part }, &Runner::new(site)?, json.as_deref())
        }
    }
}

fn run(
    scenarios: &[Scenario],
    pairs: u32,
    clients: &[Client],
    size: Size,
    runner: &Runner,
    json: Option<&Path>,
) -> Result<(), Failure> {
    let mut report = Report { machine: runner.layout().to_string(), cases: Vec::new() };
    let mut out = io::stdout().lock();
    writeln!(out, "{}, {pairs} runs each\n", report.machine)?;
    for mut case in scenarios.iter().flat_map(|scenario| scenario.cases(size)) {
        case.clients.retain(|client| (clients.is_empty() || clients.contains(client)) && runner.is_there(*client));
        let mut told = Told::new(&case);
        let mut servers = runner.start_servers(&case)?;
        for _ in 0..pairs {
            for client in &case.clients {
                if told.is_void(*client) {
                    continue;
                }
                let run = runner.run(&case, *client, &mut servers);
                if run.is_err() {
                    // What it has left there is nobody else's.
                    servers = runner.start_servers(&case)?;
                }
                told.add(*client, run);
            }
        }
        writeln!(out, "{}", told.table(&case))?;
        out.flush()?;
        report.cases.push(told);
        if let Some(file) = json {
            fs::write(file, serde_json::to_string_pretty(&report)?)?;
        }
    }
    Ok(())
}

/// An error and all that caused it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
