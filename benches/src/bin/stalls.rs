//! What somebody's blocking call does to a crawl: when the gate closes, whom it names, what is lost, and how long it takes to
//! be as fast as before. The call is one of the crawl's own sink, or of a service in whose Tokio runtime the crawl lives.

use std::io::{self, Write as _};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tidegate::raise_descriptor_limit;
use tidegate::rt::Runtime;
use tidegate::sink::Delivery;
use tidegate::{Crawl, Output, Page, ParseError, Profile, Request, Snapshot};
use tidegate_benches::{Lateness, ServerProcess, Ticker, median};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Width of a window in which pages are counted.
const WINDOW: Duration = Duration::from_millis(100);

/// How often the crawl is looked at from outside.
const LOOK: Duration = Duration::from_millis(1);

/// Blocks the thread of a crawl for a while each second, and tells what the crawl made of it.
#[derive(Parser)]
struct Args {
    /// Who blocks.
    #[arg(value_enum)]
    who: Who,
    /// Where the crawl runs.
    #[arg(long, value_enum, default_value = "dedicated-tokio")]
    on: On,
    /// How long each call blocks, in milliseconds.
    #[arg(long, default_value_t = 300)]
    block_ms: u64,
    /// Calls.
    #[arg(long, default_value_t = 5)]
    stalls: u32,
    /// Worker threads of the service, and how many of its handlers block at once.
    #[arg(long, default_value_t = NonZeroUsize::MIN.saturating_add(1))]
    workers: NonZeroUsize,
    #[arg(long, default_value_t = 2)]
    handlers: usize,
    /// Pages a second that the crawl may start.
    #[arg(long, default_value_t = 3000.0)]
    rate: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Who {
    /// The crawl's own sink.
    Sink,
    /// Handlers of a service on a multi-threaded Tokio runtime.
    Service,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    DedicatedTokio,
    DedicatedSmol,
    /// The runtime of the service.
    Service,
}

/// Calls that have blocked: when each began and ended.
type Calls = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// What was seen from outside.
struct Look {
    at: Instant,
    ok: u64,
    gate_closed: u64,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    let server = ServerProcess::start(["--bytes", "4096", "--delay-ms", "20"])?;
    let service =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.workers.get()).enable_all().build()?;
    let runtime = match args.on {
        On::DedicatedTokio => tidegate_tokio::dedicated()?,
        On::DedicatedSmol => tidegate_smol::dedicated()?,
        On::Service => tidegate_tokio::from_handle(service.handle().clone()),
    };
    let block = Duration::from_millis(args.block_ms);
    let calls = Calls::default();
    let began = runtime.now();
    if args.who == Who::Service {
        let clock = tidegate_tokio::from_handle(service.handle().clone());
        for handler in 0..args.handlers {
            let calls = (handler == 0).then(|| Arc::clone(&calls));
            drop(service.spawn(handle_requests(clock.clone(), calls, block, began, args.stalls)));
        }
    }
    let ticker = Ticker::start(&runtime);
    let (looks, last) = crawl(&runtime, &args, &server, &calls, began)?;
    let lateness = ticker.stop()?;
    let calls = std::mem::take(&mut *lock(&calls));
    tell(&calls, &looks, &last, &lateness, began)?;
    service.shutdown_background();
    Ok(())
}

/// A handler that blocks for a while in each second, from the second one on.
async fn handle_requests(clock: Runtime, calls: Option<Calls>, block: Duration, began: Instant, times: u32) {
    for second in 1..=times {
        clock.sleep_until(began + Duration::from_secs(second.into())).await;
        let at = clock.now();
        block_for(block);
        if let Some(calls) = &calls {
            lock(calls).push((at, clock.now()));
        }
    }
}

/// Blocks the thread, as a call that does not know about tasks.
fn block_for(time: Duration) {
    let (_nobody_sends, receiver) = mpsc::channel::<()>();
    let _ = receiver.recv_timeout(time);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Crawls until all calls have blocked and two seconds more, and looks at it all the time.
fn crawl(
    runtime: &Runtime,
    args: &Args,
    server: &ServerProcess,
    calls: &Calls,
    began: Instant,
) -> Result<(Vec<Look>, Snapshot), Failure> {
    fn one(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        out.item(page.url().to_string());
        Ok(())
    }
    let origin = format!("http://{}", server.addr());
    let urls = (0_u64..).map(move |n| Request::get(format!("{origin}/{n}")));
    let mut left = if args.who == Who::Sink { args.stalls } else { 0 };
    let (clock, calls, block) = (runtime.clone(), Arc::clone(calls), Duration::from_millis(args.block_ms));
    let mut due = began + Duration::from_secs(1);
    let sink = move |_: &Delivery<String>| {
        let now = clock.now();
        if left > 0 && now >= due {
            left -= 1;
            due += Duration::from_secs(1);
            block_for(block);
            lock(&calls).push((now, clock.now()));
        }
        Ok(())
    };
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(NonZeroU32::MIN.saturating_add(499))
        .max_in_flight_per_host(None)
        .adaptive(false)
        .rate(args.rate)
        .requests(futures::stream::iter(urls))
        .max_time(Duration::from_secs(u64::from(args.stalls) + 2))
        .parse_with(one)
        .sink(sink)
        .start()?;
    let handle = crawl.handle();
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    let mut looks = Vec::new();
    loop {
        match report.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {
                let snapshot = handle.snapshot();
                let at = runtime.now();
                looks.push(Look { at, ok: snapshot.counters.ok, gate_closed: snapshot.lag.gate_closed_count });
            }
            done => return Ok((looks, done??.totals)),
        }
    }
}

fn tell(
    calls: &[(Instant, Instant)],
    looks: &[Look],
    last: &Snapshot,
    lateness: &Lateness,
    began: Instant,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    // Pages in the window that ends then.
    let pages = |until: Instant| {
        let ok = |at| looks.partition_point(|look| look.at <= at).checked_sub(1).map_or(0, |i| looks[i].ok);
        ok(until) - ok(until.checked_sub(WINDOW).unwrap_or(until))
    };
    for (n, (from, to)) in calls.iter().enumerate() {
        let before = median((1..=5).map(|back| pages(*from - WINDOW * back) as f64));
        let closed = looks.partition_point(|look| look.at < *from).checked_sub(1).map_or(0, |i| looks[i].gate_closed);
        let closed = looks.iter().find(|look| look.at >= *from && look.gate_closed > closed);
        let closed = closed.map_or_else(
            || "the gate stayed open".to_owned(),
            |look| format!("the gate was seen closed {:.0} ms after its start", ms(look.at - *from)),
        );
        let recovered = looks.iter().find(|look| look.at >= *to + WINDOW && pages(look.at) as f64 >= 0.9 * before);
        let recovered = recovered.map_or_else(
            || "it did not recover".to_owned(),
            |look| format!("90 % of the rate again {:.0} ms after its end", ms(look.at.saturating_duration_since(*to))),
        );
        writeln!(out, "call {n}: blocked {:.0} ms; {closed}; {recovered}", ms(*to - *from))?;
        let windows: Vec<_> = (-3..=15)
            .map(|at: i32| {
                let offset = WINDOW * at.unsigned_abs();
                pages(if at < 0 { *from - offset } else { *from + offset }).to_string()
            })
            .collect();
        writeln!(out, "  pages in each 100 ms, from 300 ms before it began: {}", windows.join(" "))?;
    }
    let timeouts: u64 = last.errors.iter().filter(|(code, _)| code.starts_with("timeout")).map(|(_, n)| n).sum();
    writeln!(out, "{} pages, {timeouts} timeouts, other errors: {:?}", last.counters.ok, last.errors)?;
    let by: Vec<_> = last.stalls.iter().map(|(cause, n)| format!("{n} by {cause}")).collect();
    writeln!(out, "stalls, as the crawl says: {}", if by.is_empty() { "none".to_owned() } else { by.join(", ") })?;
    for stall in &last.recent_stalls {
        let url = stall.url.as_deref().unwrap_or("no URL");
        writeln!(out, "  {:.0} ms by {}: {url}", ms(stall.lag), stall.cause.code())?;
    }
    for event in &last.recent_gates {
        let did = if event.open { "opened" } else { "shut" };
        writeln!(out, "  gate {did} by {} ({})", event.name, event.signal.name())?;
    }
    writeln!(out, "gate: closed {} times, {:?} in all", last.lag.gate_closed_count, last.lag.gate_closed)?;
    writeln!(out, "lag, as the crawl says: p50 {:?}, p99 {:?}, max {:?}", last.lag.p50, last.lag.p99, last.lag.max)?;
    let Lateness { p50, p99, max, .. } = lateness;
    writeln!(out, "lag, by a ticker on its runtime: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
    writeln!(out, "{:.1} s in all", looks.last().map_or(0.0, |look| (look.at - began).as_secs_f64()))
}
