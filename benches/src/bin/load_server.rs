//! The load server as a process of its own, so that it shares neither descriptors nor a core's account with the client.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Parser;
use tidegate::raise_descriptor_limit;
use tidegate_benches::{LoadOptions, LoadServer, keep_to_cores};

/// Serves loopback HTTP/1.1 until it is killed: /bytes/<n>, /delay/<ms>, /gate, /stats, and a usual answer for all else.
#[derive(Parser)]
struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// How long each usual answer is held back, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Usual answers that are held back at a time; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    slots: usize,
    /// Part of itself by which an answer is held back longer for each further `slots` open requests.
    #[arg(long, default_value_t = 0.0)]
    slowdown: f64,
    /// Requests a second that are answered, by a bucket that holds a second's worth; further ones get a 429. 0 for all.
    #[arg(long, default_value_t = 0)]
    per_second: u32,
    /// From when on it answers 503 to all, in seconds from its first request.
    #[arg(long, default_value_t = 0)]
    down_from: u64,
    /// For how many seconds it does.
    #[arg(long, default_value_t = 0)]
    down_for: u64,
    /// Seconds in the Retry-After of what it refuses.
    #[arg(long)]
    retry_after: Option<u32>,
    /// Length of the usual body.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// Requests to /gate that are answered together.
    #[arg(long, default_value_t = 0)]
    gate: usize,
    /// Threads that serve.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Cores that it keeps to; all by default.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Speak TLS, with a certificate that is printed first.
    #[arg(long)]
    tls: bool,
}

fn main() -> io::Result<()> {
    let Args {
        port,
        delay_ms,
        slots,
        slowdown,
        per_second,
        down_from,
        down_for,
        retry_after,
        bytes,
        gate,
        threads,
        cores,
        tls,
    } = Args::parse();
    if !cores.is_empty() {
        keep_to_cores(cores)?;
    }
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let mut options = LoadOptions::default();
    options.port = port;
    options.delay = Duration::from_millis(delay_ms);
    options.slots = slots;
    options.slowdown = slowdown;
    options.per_second = per_second;
    options.down = Duration::from_secs(down_from)..Duration::from_secs(down_from.saturating_add(down_for));
    options.retry_after = retry_after;
    options.body_bytes = bytes;
    options.gate = gate;
    options.threads = threads;
    options.tls = tls;
    let server = LoadServer::start(options)?;
    let mut out = io::stdout().lock();
    if let Some(certificate) = server.certificate() {
        writeln!(out, "{}", certificate.trim())?;
    }
    writeln!(out, "listening on {}", server.addr())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
