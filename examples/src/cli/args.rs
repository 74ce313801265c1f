//! The command line.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue};
use regex::Regex;
use tidegate::Scope;

use super::values::{self, Fixed, Most, ParsePlace, Place, StatusList};

const AFTER: &str = "\
Durations are written 500ms, 10s, 2m; sizes 64k, 8MiB; rates 200/s.

Records are JSON lines, one for each URL, in the order of completion; every key is always there.

Exit status: 0 done (URLs that failed are records), 1 the run could not go on or no seed was reachable, 2 wrong usage, \
3 with --fail when a URL failed, 130 or 143 after Ctrl-C or SIGTERM and up to 30 s for what is under way; a second \
signal ends at once.";

/// Crawls, fetches and watches web pages.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = AFTER, max_term_width = 110)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Follows links from some URLs on.
    ///
    /// Polite by default: 2 connections a host, 500 ms (half to one and a half) between two starts on it, robots.txt.
    Crawl(Box<CrawlArgs>),
    /// Fetches a list of URLs.
    ///
    /// Nothing is left out as a duplicate and no robots.txt is asked. By default 8 connections a host and no delay.
    Fetch(Box<FetchArgs>),
    /// Looks at each URL of a list once a period.
    ///
    /// Looks are spread evenly over the period. Each is a HEAD, or a GET closed after the head where HEAD is refused
    /// (405, 501), and gives a record with "state": "up", "suspect" after one bad look (an error, or a status from 400
    /// on), "down" after two in a row; and "certificate_expires_at". A look that is due while the one before is under
    /// way is left out.
    Monitor(Box<MonitorArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(super) struct CrawlArgs {
    /// Where to begin
    #[arg(value_name = "URL", required_unless_present = "demo")]
    pub(super) urls: Vec<String>,

    /// Crawl a site of some 3,000 pages that this program serves on loopback, with a politeness that lets it end in
    /// seconds; records are written only with --out
    #[arg(long, conflicts_with = "urls")]
    pub(super) demo: bool,

    /// Links between a page and its seed at most [default: no limit]
    #[arg(long, value_name = "N")]
    pub(super) depth: Option<u32>,

    /// End after so many URLs were started; or "unlimited"
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::most)]
    pub(super) max_pages: Most,

    /// Which links are followed: site (the registrable domains of the seeds and of where they redirect to), origin, host,
    /// any, or prefix:URL
    #[arg(long, value_name = "RULE", default_value = "site", value_parser = values::scope)]
    pub(super) scope: Scope,

    /// Of those, only URLs that match one of these expressions (repeatable)
    #[arg(long, value_name = "REGEX")]
    pub(super) include: Vec<Regex>,

    /// And none that match one of these (repeatable)
    #[arg(long, value_name = "REGEX")]
    pub(super) exclude: Vec<Regex>,

    /// Write the links of each page into its record
    #[arg(long)]
    pub(super) links: bool,

    /// Heed robots.txt [default: on]
    #[arg(long, overrides_with = "no_robots")]
    pub(super) robots: bool,

    /// Do not ask for robots.txt
    #[arg(long, overrides_with = "robots")]
    pub(super) no_robots: bool,

    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(super) struct FetchArgs {
    #[command(flatten)]
    pub(super) list: ListArgs,

    /// Fetch the list so many times
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) repeat: NonZeroU64,

    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(super) struct MonitorArgs {
    #[command(flatten)]
    pub(super) list: ListArgs,

    /// Watch 5,000 URLs that this program serves on loopback: unless told otherwise every 5 s, two rounds, 64
    /// connections; records are written only with --out
    #[arg(long, conflicts_with_all = ["urls", "input"])]
    pub(super) demo: bool,

    /// Time between two looks at a URL
    #[arg(long, value_name = "DUR", default_value = "10m", value_parser = values::positive_duration,
        default_value_if("demo", ArgPredicate::Equals("true".into()), "5s"))]
    pub(super) period: Duration,

    /// End after so many looks at each URL [default: no end; 2 with --demo]
    #[arg(long, value_name = "N")]
    pub(super) rounds: Option<NonZeroU64>,

    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// URLs
    #[arg(value_name = "URL")]
    pub(super) urls: Vec<String>,

    /// More URLs, from a file or standard input (-): one a line, or JSON lines with id, url, method, headers, body,
    /// timeouts {connect, first_byte, idle, total} and proxy. Lines that begin with # are left out; a bad line is a
    /// record with the error url.invalid
    #[arg(long, value_name = "FILE|-", value_parser = values::place)]
    pub(super) input: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeName {
    Tokio,
    Smol,
}

impl RuntimeName {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BodyMode {
    /// Nothing of the body
    None,
    /// "sha256" of the decoded body
    Hash,
    /// That, and "body" in base64
    Inline,
}

/// The options of all subcommands.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// What runs the I/O
    #[arg(long, value_enum, default_value = "tokio", help_heading = "Machine")]
    pub(super) runtime: RuntimeName,

    /// Threads that run it
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Machine")]
    pub(super) io_threads: NonZeroUsize,

    /// Where pages are decoded and parsed: inline (on an I/O thread) or threads:N [default: threads, one for each core
    /// but one]
    #[arg(long, value_name = "PLACE", value_parser = values::parse_place, help_heading = "Machine")]
    pub(super) parse: Option<ParsePlace>,

    /// Fetches in flight, from the start [default: ramps up from 16 to 10,000 or what the descriptors allow]
    #[arg(long, value_name = "N", help_heading = "Pace")]
    pub(super) concurrency: Option<NonZeroU32>,

    /// Fetches in flight for each host (scheme, name and port), or "unlimited" [default: crawl 2, fetch and monitor 8,
    /// --demo 64]
    #[arg(long, value_name = "N", value_parser = values::most, help_heading = "Pace")]
    pub(super) per_host: Option<Most>,

    /// Time between two starts on a host, give or take half of it [default: crawl 500ms, others and --demo 0]
    #[arg(long, value_name = "DUR", value_parser = values::duration, help_heading = "Pace")]
    pub(super) delay: Option<Duration>,

    /// Starts over all hosts [default: no limit]
    #[arg(long, value_name = "N/s", value_parser = values::rate, help_heading = "Pace")]
    pub(super) rate: Option<f64>,

    /// Find out what each host bears, and leave one alone that is down or says so (429, 503) [default: on, monitor off]
    #[arg(long, overrides_with = "no_adaptive", help_heading = "Pace")]
    pub(super) adaptive: bool,

    /// Ask each host for all that the limits allow, also while it is down
    #[arg(long, overrides_with = "adaptive", help_heading = "Pace")]
    pub(super) no_adaptive: bool,

    /// Tries after the first, for transport errors and the statuses 408 425 429 500 502 503 504 520-524 [default: 2,
    /// monitor 0]
    #[arg(long, value_name = "N", help_heading = "Pace")]
    pub(super) retries: Option<u32>,

    /// End the run after this time [default: no limit]
    #[arg(long, value_name = "DUR", value_parser = values::positive_duration, help_heading = "Pace")]
    pub(super) max_time: Option<Duration>,

    /// Deadline for the TCP connection
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = values::positive_duration, help_heading = "Bounds")]
    pub(super) connect_timeout: Duration,

    /// Deadline from the request being sent to the first byte of the answer
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = values::positive_duration, help_heading = "Bounds")]
    pub(super) first_byte_timeout: Duration,

    /// Deadline between two bytes of the body
    #[arg(long, value_name = "DUR", default_value = "15s", value_parser = values::positive_duration, help_heading = "Bounds")]
    pub(super) idle_timeout: Duration,

    /// Deadline for each attempt as a whole
    #[arg(long, value_name = "DUR", default_value = "120s", value_parser = values::positive_duration, help_heading = "Bounds")]
    pub(super) total_timeout: Duration,

    /// Largest body, on the wire and decoded [default: crawl 8MiB, fetch 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size, help_heading = "Bounds")]
    pub(super) max_body: Option<u64>,

    /// Redirects to follow; 0: the redirect is the answer
    #[arg(long, value_name = "N", default_value = "10", help_heading = "Bounds")]
    pub(super) max_redirects: u32,

    /// A header to send, to the seeds' sites only (repeatable)
    #[arg(long, value_name = "K: V", value_parser = values::header, help_heading = "Request")]
    pub(super) header: Vec<(HeaderName, HeaderValue)>,

    /// How the program names itself, to robots.txt too [default: tidegate/VERSION; crawl requires it, except for seeds on
    /// loopback addresses]
    #[arg(long, value_name = "NAME", help_heading = "Request")]
    pub(super) user_agent: Option<String>,

    /// A proxy, scheme://[user:password@]host[:port] with http, https, socks4a, socks5 or socks5h (which resolves the target);
    /// several take turns (repeatable) [default: none]
    #[arg(long, value_name = "URL", help_heading = "Request")]
    pub(super) proxy: Vec<String>,

    /// Certificates to trust beside the Mozilla roots, as PEM
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    pub(super) cacert: Option<PathBuf>,

    /// Accept any certificate: anybody on the way can read and change what is sent
    #[arg(long, help_heading = "Request")]
    pub(super) insecure: bool,

    /// The address of a host and port, in place of DNS (repeatable)
    #[arg(long, value_name = "HOST:PORT:ADDR", value_parser = values::fixed, help_heading = "Request")]
    pub(super) resolve: Vec<Fixed>,

    /// A source address; several take turns (repeatable) [default: the system's choice]
    #[arg(long, value_name = "IP", help_heading = "Request")]
    pub(super) local_address: Vec<IpAddr>,

    /// Neither ask for compressed bodies nor decode them
    #[arg(long, help_heading = "Request")]
    pub(super) no_decompress: bool,

    /// What of the body goes into the record
    #[arg(long, value_enum, value_name = "MODE", default_value = "hash", help_heading = "Output")]
    pub(super) body: BodyMode,

    /// Write the header fields of the answer into the record
    #[arg(long, help_heading = "Output")]
    pub(super) include_headers: bool,

    /// Statuses that are an answer, as 200-299,404; others are the error http.status [default: all]
    #[arg(long, value_name = "LIST", value_parser = values::status_list, help_heading = "Output")]
    pub(super) accept_status: Option<StatusList>,

    /// Where records go [default: -, standard output; with --demo nowhere]
    #[arg(long, value_name = "FILE|-", value_parser = values::place, help_heading = "Output")]
    pub(super) out: Option<Place>,

    /// Append to the files of --out and --trace
    #[arg(long, conflicts_with = "force", help_heading = "Output")]
    pub(super) append: bool,

    /// Replace the files of --out and --trace
    #[arg(long, help_heading = "Output")]
    pub(super) force: bool,

    /// Where the figures of the run go at its end, as one JSON object [default: nowhere]
    #[arg(long, value_name = "FILE|-", value_parser = values::place, help_heading = "Output")]
    pub(super) stats: Option<Place>,

    /// Where each event in the life of each URL goes, a line each: seconds since the start, job, attempt, what, URL
    /// [default: nowhere]
    #[arg(long, value_name = "FILE|-", value_parser = values::place, help_heading = "Output")]
    pub(super) trace: Option<Place>,

    /// Say once a second on standard error why it is not faster: active and queued URLs, starts a second, lag, CPU, and
    /// what it was bound by with its share of that second
    #[arg(long, help_heading = "Output")]
    pub(super) why: bool,

    /// No progress and no summary on standard error
    #[arg(long, short, help_heading = "Output")]
    pub(super) quiet: bool,

    /// Exit with status 3 when any URL failed
    #[arg(long, help_heading = "Output")]
    pub(super) fail: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_crawl_needs_a_seed() {
        assert!(Cli::try_parse_from(["tidegate", "crawl"]).is_err());
        assert!(Cli::try_parse_from(["tidegate", "crawl", "--demo"]).is_ok());
        assert!(Cli::try_parse_from(["tidegate", "crawl", "--demo", "http://a.test/"]).is_err());
    }

    #[test]
    fn the_last_word_on_adapting_counts() {
        let adapts = |args: &[&str]| match Cli::try_parse_from(args).expect("valid").command {
            Command::Fetch(args) => (args.common.adaptive, args.common.no_adaptive),
            _ => (false, false),
        };
        assert_eq!(adapts(&["tidegate", "fetch", "http://a.test/"]), (false, false));
        assert_eq!(adapts(&["tidegate", "fetch", "--adaptive", "--no-adaptive", "http://a.test/"]), (false, true));
        assert_eq!(adapts(&["tidegate", "fetch", "--no-adaptive", "--adaptive", "http://a.test/"]), (true, false));
    }

    #[test]
    fn periods_depend_on_the_demo() {
        let period = |args: &[&str]| match Cli::try_parse_from(args).expect("valid").command {
            Command::Monitor(args) => args.period,
            _ => Duration::ZERO,
        };
        assert_eq!(period(&["tidegate", "monitor", "http://a.test/"]), Duration::from_secs(600));
        assert_eq!(period(&["tidegate", "monitor", "--demo"]), Duration::from_secs(5));
        assert_eq!(period(&["tidegate", "monitor", "--demo", "--period", "1m"]), Duration::from_secs(60));
    }
}
