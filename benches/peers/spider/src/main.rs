//! spider as a client of `compare`: follows the links of a site and says what it took, as JSON. One thread, mimalloc and
//! `crawl_raw`, as its manual says for plain HTTP.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use spider::website::Website;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

/// Pages that may wait to be counted: more than there are, so that none is lost.
const ROOM: usize = 1 << 14;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let port = argument("--port")?;
    let path = argument("--path")?;
    let concurrency = argument("--concurrency")?.parse()?;
    let origin = format!("http://127.0.0.1:{port}");
    let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);

    let mut website = Website::new(&format!("{origin}{path}"));
    website
        .with_whitelist_url(Some(vec![format!("^{origin}{folder}").into()]))
        .with_concurrency_limit(Some(concurrency))
        .with_respect_robots_txt(false)
        .with_delay(0);
    let mut pages = website.subscribe(ROOM);
    let counting = tokio::spawn(async move {
        let (mut requests, mut errors, mut bytes) = (0_u64, 0_u64, 0);
        while let Ok(page) = pages.recv().await {
            if page.status_code.is_success() {
                requests += 1;
                bytes += page.get_html_bytes_u8().len();
            } else {
                errors += 1;
            }
        }
        (requests, errors, bytes)
    });

    let before = memory("VmRSS:")?;
    say("begin")?;
    let (since, cpu) = (Instant::now(), cpu_time()?);
    website.crawl_raw().await;
    website.unsubscribe();
    let (requests, errors, bytes) = counting.await?;
    let (seconds, cpu) = (since.elapsed(), cpu_time()?.saturating_sub(cpu));
    let measured = serde_json::json!({
        "requests": requests,
        "errors": errors,
        "bytes": bytes,
        "seconds": seconds.as_secs_f64(),
        "cpu_seconds": cpu.as_secs_f64(),
        "rss_before_kb": before,
        "rss_idle_kb": memory("VmRSS:")?,
        "rss_peak_kb": memory("VmHWM:")?,
    });
    say(&measured.to_string())?;
    Ok(())
}

fn argument(name: &str) -> Result<String, Failure> {
    std::env::args().skip_while(|word| word != name).nth(1).ok_or_else(|| format!("{name} is missing").into())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn memory(name: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// User's and system's, of all threads.
fn cpu_time() -> nix::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |value: nix::sys::time::TimeVal| Duration::new(value.tv_sec() as u64, value.tv_usec() as u32 * 1000);
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
