//! The load server as a process of its own, so that it shares neither descriptors nor a core's account with the client.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tidegate::raise_descriptor_limit;
use tidegate_benches::{LoadOptions, LoadServer, LoadStats, keep_to_cores};

/// Serves loopback HTTP/1.1 until it is told to end: /bytes/<n>, /delay/<ms>, /drip/<n>, /gate, /release, /stats, a head that
/// drips for CONNECT, and a usual answer for all else. SIGUSR1 opens the gate. At SIGTERM it says what it has done, and what of it its CPU time was.
#[derive(Parser)]
struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Addresses to listen on, from 127.0.0.1 upwards.
    #[arg(long, default_value_t = 1)]
    addresses: u8,
    /// How long each usual answer is held back, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Usual answers that a thread holds back at a time; 0 for no limit.
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
    /// A folder whose HTML files are served in place of the usual answer.
    #[arg(long)]
    site: Option<PathBuf>,
    /// Requests to /gate that are answered together.
    #[arg(long, default_value_t = 0)]
    gate: usize,
    /// Time between two bytes of /drip/<n> and of the answer to CONNECT, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    drip_ms: u64,
    /// Threads that serve.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Cores that it keeps to; all by default.
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Speak TLS, with a certificate that is printed first.
    #[arg(long)]
    tls: bool,
    /// Tickets that each handshake gives.
    #[arg(long, default_value_t = 0)]
    tickets: usize,
    /// A file for the certificate, instead of printing it.
    #[arg(long)]
    certificate: Option<PathBuf>,
}

fn main() -> io::Result<()> {
    let Args {
        port,
        addresses,
        delay_ms,
        slots,
        slowdown,
        per_second,
        down_from,
        down_for,
        retry_after,
        bytes,
        site,
        gate,
        drip_ms,
        threads,
        cores,
        tls,
        tickets,
        certificate,
    } = Args::parse();
    if !cores.is_empty() {
        keep_to_cores(cores)?;
    }
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    // Before there are threads, so that all of them leave the signals to this one.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let mut options = LoadOptions::default();
    options.port = port;
    options.addresses = addresses;
    options.delay = Duration::from_millis(delay_ms);
    options.slots = slots;
    options.slowdown = slowdown;
    options.per_second = per_second;
    options.down = Duration::from_secs(down_from)..Duration::from_secs(down_from.saturating_add(down_for));
    options.retry_after = retry_after;
    options.body_bytes = bytes;
    options.site = site;
    options.gate = gate;
    options.drip = Duration::from_millis(drip_ms);
    options.threads = threads;
    options.tls = tls;
    options.tickets = tickets;
    let server = LoadServer::start(options)?;
    let mut out = io::stdout().lock();
    match (server.certificate(), certificate) {
        (Some(pem), Some(file)) => std::fs::write(file, pem)?,
        (Some(pem), None) => writeln!(out, "{}", pem.trim())?,
        (None, _) => {}
    }
    writeln!(out, "listening on {}", server.addr())?;
    out.flush()?;
    for signal in signals.forever() {
        if signal != SIGUSR1 {
            break;
        }
        server.release();
    }
    let LoadStats { requests, connections, peak, cpu, .. } = server.stats();
    let each = cpu.as_secs_f64() * 1e6 / (requests as f64).max(1.0);
    writeln!(
        out,
        "{requests} requests, {connections} connections, {peak} at once, {cpu:?} of CPU, {each:.2} us a request"
    )
}
