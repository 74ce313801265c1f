//! The program `tidegate`: `crawl`, `fetch` and `monitor` from the command line.
//!
//! | file | what it has |
//! |---|---|
//! | `args`, `values` | the command line and the values of its options |
//! | `crawl`, `fetch`, `monitor` | one subcommand each: its URLs, its parser, its summary |
//! | `input` | lists of URLs, read lazily |
//! | `page` | what is found out about a page where it is parsed |
//! | `record`, `time` | the line of JSON that a URL becomes |
//! | `output` | files and streams, and the sink that writes records |
//! | `setup` | options to runtime, fetcher and builder |
//! | `run` | from a builder to an exit status |
//! | `signals`, `watch`, `trace`, `stats` | Ctrl-C, progress and samples, the line of each event, the figures at the end |

mod args;
mod crawl;
mod fetch;
mod input;
mod monitor;
mod output;
mod page;
mod record;
mod run;
mod setup;
mod signals;
mod stats;
mod time;
mod trace;
mod values;
mod watch;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Cli, Command};

/// Runs the program with the arguments of the process.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     tidegate_examples::cli::main()
/// }
/// ```
pub fn main() -> ExitCode {
    setup::raise_descriptor_limit();
    let ended = match Cli::parse().command {
        Command::Crawl(args) => crawl::run(*args),
        Command::Fetch(args) => fetch::run(*args),
        Command::Monitor(args) => monitor::run(*args),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            say(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Why the program ends with another status than the run's own.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Wrong usage: found before any request.
    fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The run could not go on.
    fn run(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }
}

/// One line, or a few, on standard error. Where that is closed there is nobody to tell.
fn say(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "tidegate: {text}");
}
