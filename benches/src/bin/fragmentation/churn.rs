//! What is resident while bodies come and go: real fetches from a load server, whose bodies are held for as long as a slot is
//! theirs and are dropped on another thread, as after a parser.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::{fs, thread};

use clap::Parser;
use fastrand::Rng;
use futures::future::join_all;
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{FetchCx, Fetcher as _, Request};
use tidegate_benches::{ServerProcess, process_cpu_time};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Spread of the logarithm of a body's length.
const SPREAD: f64 = 1.5;

/// Fetches bodies of log-normal length, each of which takes the slot of a random one before it, and says what is resident beside
/// the bytes that are held.
#[derive(Clone, Parser)]
struct Args {
    /// Bodies in all.
    #[arg(long, default_value_t = 1_000_000)]
    bodies: u64,
    /// Bodies that are held at a time.
    #[arg(long, default_value_t = 1_000)]
    held: usize,
    /// Fetches that are under way at a time.
    #[arg(long, default_value_t = 64)]
    concurrent: u64,
    /// The median of their lengths, in bytes.
    #[arg(long, default_value_t = 16 << 10)]
    median: u32,
    /// The longest, in bytes.
    #[arg(long, default_value_t = 2 << 20)]
    longest: u32,
    /// No head above the row.
    #[arg(long)]
    bare: bool,
}

impl Args {
    fn length(&self, rng: &mut Rng) -> u32 {
        // Box and Muller.
        let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
        // Within u32: the longest is.
        (f64::from(self.median) * (SPREAD * normal).exp()).clamp(1.0, f64::from(self.longest)) as u32
    }
}

/// Bytes of the bodies that are there: in slots, or on their way to being dropped.
#[derive(Default)]
struct Live {
    bytes: AtomicU64,
    /// With what their buffers have beyond them.
    reserved: AtomicU64,
}

impl Live {
    fn come(&self, body: &Vec<u8>) {
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.reserved.fetch_add(body.capacity() as u64, Ordering::Relaxed);
    }

    fn go(&self, body: &Vec<u8>) {
        self.bytes.fetch_sub(body.len() as u64, Ordering::Relaxed);
        self.reserved.fetch_sub(body.capacity() as u64, Ordering::Relaxed);
    }
}

/// The bodies that are held, and what was seen of them.
struct Slots {
    bodies: Vec<Vec<u8>>,
    rng: Rng,
    live: Arc<Live>,
    dropped: mpsc::SyncSender<Vec<u8>>,
    seen: Seen,
}

impl Slots {
    fn put(&mut self, body: Vec<u8>) -> Result<(), Failure> {
        let slot = self.rng.usize(..self.bodies.len());
        self.live.come(&body);
        Ok(self.dropped.send(std::mem::replace(&mut self.bodies[slot], body))?)
    }

    fn look(&mut self) -> Result<(), Failure> {
        self.seen.held += self.live.bytes.load(Ordering::Relaxed) as f64 / 1e6;
        self.seen.reserved += self.live.reserved.load(Ordering::Relaxed) as f64 / 1e6;
        self.seen.resident += resident("VmRSS:")?;
        self.seen.looks += 1.0;
        Ok(())
    }
}

/// Sums of what was seen after the first half, in MB.
#[derive(Default)]
struct Seen {
    held: f64,
    reserved: f64,
    resident: f64,
    looks: f64,
}

pub(crate) fn run(allocator: &str) -> Result<(), Failure> {
    let args = Args::parse();
    let server = ServerProcess::start::<&str>([])?;
    let before = resident("VmRSS:")?;
    let live = Arc::new(Live::default());
    let (dropped, dropping) = mpsc::sync_channel(1_000);
    let there = Arc::clone(&live);
    let dropper = thread::spawn(move || dropping.into_iter().for_each(|body| there.go(&body)));
    let bodies = vec![Vec::new(); args.held.max(1)];
    let slots = Slots { bodies, rng: Rng::with_seed(1), live, dropped, seen: Seen::default() };
    let slots = Arc::new(Mutex::new(slots));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let origin = format!("http://{}", server.addr());
    tokio.block_on(async { churn(&tidegate_tokio::current(), &args, &origin, &slots).await })?;
    let cpu = process_cpu_time().as_secs_f64() / args.bodies as f64 * 1e6;
    let peak = resident("VmHWM:")?;
    drop(tokio);
    let slots = Arc::into_inner(slots).ok_or("a fetch goes on")?.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Slots { bodies, dropped, seen, .. } = slots;
    drop((bodies, dropped));
    dropper.join().map_err(|_| "the thread that drops bodies panicked")?;
    let after = resident("VmRSS:")?;
    let [held, reserved, now] = [seen.held, seen.reserved, seen.resident].map(|sum| sum / seen.looks);
    let mut out = io::stdout().lock();
    if !args.bare {
        writeln!(
            out,
            "| allocator | held MB | reserved MB | resident MB | ratio | peak MB | afterwards MB | CPU us a body |"
        )?;
        writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    }
    // What the program takes without a body is no matter of bodies.
    let ratio = (now - before) / held;
    writeln!(
        out,
        "| {allocator} | {held:.0} | {reserved:.0} | {now:.0} | {ratio:.2} | {peak:.0} | {after:.0} | {cpu:.1} |"
    )?;
    Ok(())
}

async fn churn(runtime: &Runtime, args: &Args, origin: &str, slots: &Arc<Mutex<Slots>>) -> Result<(), Failure> {
    let fetcher = HttpFetcher::builder(runtime).build()?;
    let next = Arc::new(AtomicU64::new(0));
    let look = (args.bodies / 200).max(1);
    let tasks = (0..args.concurrent).map(|seed| {
        let (args, origin, fetcher, cx) =
            (args.clone(), origin.to_owned(), fetcher.clone(), FetchCx::detached(runtime));
        let (next, slots, mut rng) = (Arc::clone(&next), Arc::clone(slots), Rng::with_seed(seed));
        let (done, result) = futures::channel::oneshot::channel::<Result<(), Failure>>();
        let task = async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= args.bodies {
                    return Ok(());
                }
                let url = format!("{origin}/bytes/{}", args.length(&mut rng));
                let body = fetcher.fetch(&Request::get(url), &cx).await?.body;
                let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
                // Of a body that has one owner the vector is taken as it is.
                slots.put(body.into())?;
                if n >= args.bodies / 2 && n % look == 0 {
                    slots.look()?;
                }
            }
        };
        runtime.spawn(async move {
            // The receiver waits below.
            let _ = done.send(task.await);
        });
        result
    });
    for result in join_all(tasks).await {
        result??;
    }
    Ok(())
}

/// A figure of this process in MB, as Linux tells it.
fn resident(name: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("this system does not tell")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / 1e6)
}
