//! A thousand compressed bombs at once under a byte budget: what they take of memory, of the loop, and of another host's pages.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::{Parser, ValueEnum};
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::sink::{Batch, Sink, SinkError};
use tidegate::{Crawl, Output, Page, ParseError, Profile, Report, Request, Settled, raise_descriptor_limit};
use tidegate_benches::{Lateness, Ticker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Crawls bombs of each encoding beside the pages of another host, each in a process of its own.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "tokio")]
    runtime: Name,
    /// Bombs that are fetched at once.
    #[arg(long, default_value = "1000")]
    bombs: NonZeroU32,
    /// Length of each bomb when decoded, in MiB; a page may have 8.
    #[arg(long, default_value_t = 64)]
    decoded: usize,
    /// The byte budget, in MiB.
    #[arg(long, default_value_t = 64)]
    budget: u64,
    /// Pages of the other host.
    #[arg(long, default_value_t = 20_000)]
    pages: u32,
    /// What a child does.
    #[arg(long, hide = true)]
    serve: bool,
    #[arg(long, value_enum, hide = true)]
    one: Option<Coding>,
    #[arg(long, hide = true)]
    at: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Tokio,
    Smol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Coding {
    /// No bombs, for comparison.
    None,
    Gzip,
    Deflate,
    Br,
    Zstd,
}

impl Coding {
    fn encode(self, length: usize) -> io::Result<Vec<u8>> {
        let (zeros, level, mut out) = (io::repeat(0).take(length as u64), flate2::Compression::best(), Vec::new());
        match self {
            Self::None => {}
            Self::Gzip => drop(flate2::read::GzEncoder::new(zeros, level).read_to_end(&mut out)?),
            Self::Deflate => drop(flate2::read::ZlibEncoder::new(zeros, level).read_to_end(&mut out)?),
            Self::Br => drop(brotli::CompressorReader::new(zeros, 1 << 16, 5, 22).read_to_end(&mut out)?),
            Self::Zstd => zstd::stream::copy_encode(zeros, &mut out, 3)?,
        }
        Ok(out)
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }
}

const ALL: [Coding; 5] = [Coding::None, Coding::Gzip, Coding::Deflate, Coding::Br, Coding::Zstd];

/// Ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    raise_descriptor_limit(1 << 20, 1 << 15)?;
    if args.serve {
        return serve(&args);
    }
    if let (Some(coding), Some(at)) = (args.one, &args.at) {
        return one(&args, coding, at);
    }
    let own = std::env::current_exe()?;
    let passed: Vec<_> = std::env::args_os().skip(1).collect();
    let mut server = Running(Command::new(&own).args(&passed).arg("--serve").stdout(Stdio::piped()).spawn()?);
    let mut at = String::new();
    BufReader::new(server.0.stdout.take().ok_or("no output")?).read_line(&mut at)?;
    writeln!(
        io::stdout(),
        "{:>8} {:>6} {:>17} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "bombs",
        "ok",
        "errors",
        "base MiB",
        "peak MiB",
        "booked",
        "p99 ms",
        "max ms",
        "pages/s"
    )?;
    for coding in ALL {
        let status = Command::new(&own).args(&passed).args(["--one", coding.name(), "--at", at.trim()]).status()?;
        if !status.success() {
            return Err(format!("the run with {coding:?} failed").into());
        }
    }
    Ok(())
}

/// Serves `/page/n` on one port and `/gzip/n` and so on on another; says where on a line.
fn serve(args: &Args) -> Result<(), Failure> {
    let reply = |field: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\n{field}Content-Length: {}\r\n\r\n", body.len());
        bytes::Bytes::from([head.as_bytes(), body].concat())
    };
    let mut replies = vec![("/page".to_owned(), reply("", &[b'x'; 10_000]))];
    for coding in ALL {
        let name = coding.name();
        let field = format!("Content-Encoding: {name}\r\n");
        replies.push((format!("/{name}/"), reply(&field, &coding.encode(args.decoded << 20)?)));
    }
    let replies = Arc::new(replies);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let [bombs, pages] =
            [tokio::net::TcpListener::bind("127.0.0.1:0").await?, tokio::net::TcpListener::bind("127.0.0.1:0").await?];
        writeln!(io::stdout(), "{} {}", bombs.local_addr()?, pages.local_addr()?)?;
        loop {
            let (mut stream, _) = tokio::select! {
                accepted = bombs.accept() => accepted?,
                accepted = pages.accept() => accepted?,
            };
            let replies = Arc::clone(&replies);
            #[expect(clippy::disallowed_methods, reason = "a server of a bench")]
            drop(tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let path = head.strip_prefix(b"GET ").unwrap_or_default();
                    let reply = replies.iter().find(|(start, _)| path.starts_with(start.as_bytes()));
                    let Some((_, reply)) = reply else { return };
                    if stream.write_all(reply).await.is_err() {
                        return;
                    }
                    head.clear();
                }
            }));
        }
    })
}

/// When the last page of the other host was there.
#[derive(Clone)]
struct Last {
    runtime: Runtime,
    pages: String,
    at: Arc<Mutex<Option<Instant>>>,
}

#[async_trait]
impl Sink<Settled> for Last {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        let now = self.runtime.now();
        let is_page = batch.drain().filter(|told| told.item.request.url().starts_with(&self.pages)).count() > 0;
        if let (true, Ok(mut at)) = (is_page, self.at.lock()) {
            *at = Some(now);
        }
        Ok(())
    }
}

fn one(args: &Args, coding: Coding, at: &str) -> Result<(), Failure> {
    let runtime = match args.runtime {
        Name::Tokio => tidegate_tokio::dedicated()?,
        Name::Smol => tidegate_smol::dedicated()?,
    };
    let (bombs, pages) = at.split_once(' ').ok_or("two addresses")?;
    let count = if coding == Coding::None { 0 } else { args.bombs.get() };
    // By turns, so that neither begins before the other.
    let urls = (0..args.pages.max(count)).flat_map(|n| {
        let bomb = (n < count).then(|| Request::get(format!("http://{bombs}/{}/{n}", coding.name())));
        let page = (n < args.pages).then(|| Request::get(format!("http://{pages}/page/{n}")));
        [bomb, page]
    });
    let urls: Vec<_> = urls.flatten().collect();
    let base = memory("VmRSS:");
    let last = Last { runtime: runtime.clone(), pages: format!("http://{pages}/"), at: Arc::default() };
    let started = runtime.now();
    let ticker = Ticker::start(&runtime);
    let report = crawl(args, &runtime, urls, last.clone())?;
    let Lateness { p99, max, .. } = ticker.stop()?;
    let ended = last.at.lock().map_err(|_| "a sink has panicked")?.unwrap_or(started);
    let seconds = ended.saturating_duration_since(started).max(Duration::from_micros(1)).as_secs_f64();
    let errors: Vec<_> = report.totals.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let line = format!(
        "{:>8} {:>6} {:>17} {base:>9.1} {:>9.1} {:>9.1} {p99:>9.2} {max:>9.2} {:>10.0}",
        coding.name(),
        report.totals.counters.ok,
        errors.join(" "),
        memory("VmHWM:"),
        report.totals.bytes_in_memory_peak as f64 / f64::from(1 << 20),
        f64::from(args.pages) / seconds,
    );
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

fn crawl(args: &Args, runtime: &Runtime, urls: Vec<Request>, last: Last) -> Result<Report, Failure> {
    fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
        Ok(())
    }
    let mut profile = Profile::own();
    profile.per_host = Some(args.bombs);
    let crawl = Crawl::builder(runtime.clone())
        .profile(profile)
        .max_in_flight(args.bombs.saturating_mul(NonZeroU32::MIN.saturating_add(1)))
        .byte_budget(args.budget << 20)
        .adaptive(false)
        .retries(0)
        .seeds(urls)
        .fetcher(HttpFetcher::builder(runtime).build()?)
        .outcomes(last)
        .parse_with(nothing)
        .start()?;
    let (done, report) = mpsc::channel();
    runtime.spawn(async move {
        // The receiver waits below.
        let _ = done.send(crawl.await);
    });
    Ok(report.recv()??)
}

/// A line of `/proc/self/status`, in MiB; 0 where there is none.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
