//! What the engine costs for each URL, without anything around it: run it under `valgrind --tool=callgrind` with two numbers
//! of URLs, and divide the difference of the instructions by that of the URLs.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use clap::Parser;
use tidegate::engine::{Action, Config, Engine, Event, HostId, JobSpec};

/// Submits jobs as the frontier would, host after host, and answers every action at once.
#[derive(Parser)]
struct Args {
    /// Hosts that the URLs are spread over.
    #[arg(long, default_value_t = 1000)]
    hosts: u32,
    /// URLs in all.
    #[arg(long, default_value_t = 100_000)]
    urls: u32,
    /// Time between two starts on a host, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    gap: u64,
    /// Jobs that are submitted before the first starts, and kept waiting from then on.
    #[arg(long, default_value_t = 10_000)]
    waiting: u32,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; it is moved by itself")]
    let start = Instant::now();
    let mut config = Config::default();
    config.gap = Duration::from_millis(args.gap);
    config.max_hosts = args.hosts as usize + 1;
    let mut engine = Engine::new(config);
    let hosts: Vec<HostId> = (0..args.hosts).map(|n| engine.host(&format!("http://host-{n}.test"))).collect();
    let mut next = 0;
    let mut now = start;
    let mut actions = VecDeque::new();
    while engine.counters().ok < u64::from(args.urls) {
        while next < args.urls && engine.waiting() < args.waiting {
            engine.submit(now, hosts[next as usize % hosts.len()], JobSpec::default());
            next += 1;
        }
        while let Some(action) = engine.poll(now) {
            actions.push_back(action);
        }
        if actions.is_empty() {
            now = engine.poll_timeout().map_or(now, |time| now.max(time));
            engine.handle_timeout(now);
        }
        for action in actions.drain(..) {
            let event = match action {
                Action::Fetch { job, .. } => Event::Fetched { job },
                Action::Parse(job) => Event::Parsed { job, deliver: false },
                Action::Settle { job, .. } => Event::Closed { job },
                _ => continue,
            };
            engine.handle_event(now, event);
        }
    }
    writeln!(io::stdout(), "{} URLs on {} hosts in {:?} of the engine's time", args.urls, args.hosts, now - start)
}
