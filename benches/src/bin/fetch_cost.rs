//! What a bare [`HttpFetcher`] costs for each request over connections that are kept alive. The server is a process of its
//! own (`load-server`), so that its work is not counted.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::{Parser, ValueEnum};
use futures::future::join_all;
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{FetchCx, Fetcher, Request};
use tidegate_benches::process_cpu_time;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Fetches one URL again and again on one thread, and says what CPU time a request took. Run it twice under callgrind with
/// two numbers of requests: the difference is free of what is done once.
#[derive(Parser)]
struct Args {
    /// What is fetched, as `http://127.0.0.1:8080/`.
    url: String,
    #[arg(long, value_enum, default_value = "tokio")]
    runtime: Name,
    /// Requests in all.
    #[arg(long, default_value_t = 100_000)]
    requests: u32,
    /// Requests that are under way at a time.
    #[arg(long, default_value_t = 256)]
    concurrent: u32,
    /// Give the URL as text, so that parsing it for each request counts as well.
    #[arg(long)]
    text: bool,
    /// Measure nothing: for callgrind, under which the clock of the process cannot be read.
    #[arg(long)]
    unmeasured: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Tokio,
    Smol,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let before = (!args.unmeasured).then(process_cpu_time);
    // On the first thread: callgrind does not tell what one that is stopped with the process has done.
    match args.runtime {
        Name::Tokio => {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio.block_on(async { fetch_all(&tidegate_tokio::current(), &args).await })?;
        }
        Name::Smol => {
            let executor = Arc::new(async_executor::Executor::new());
            let runtime = tidegate_smol::from_executor(&executor, NonZeroUsize::MIN)?;
            async_io::block_on(executor.run(fetch_all(&runtime, &args)))?;
        }
    }
    if let Some(before) = before {
        let took = process_cpu_time().saturating_sub(before).as_secs_f64();
        writeln!(io::stdout(), "{:.2} us of CPU a request", took / f64::from(args.requests) * 1e6)?;
    }
    Ok(())
}

/// Each of the tasks has a request under way until all were sent.
async fn fetch_all(runtime: &Runtime, args: &Args) -> Result<(), Failure> {
    let fetcher = HttpFetcher::builder(runtime).user_agent("fetch-cost").build()?;
    let url: url::Url = args.url.parse()?;
    let left = Arc::new(AtomicU32::new(args.requests));
    let tasks = (0..args.concurrent).map(|_| {
        let (own, fetcher, left) = (runtime.clone(), fetcher.clone(), Arc::clone(&left));
        let request = if args.text { Request::get(args.url.as_str()) } else { Request::from(url.clone()) };
        let (done, result) = futures::channel::oneshot::channel::<Result<(), tidegate::Error>>();
        let task = async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                fetcher.fetch(&request, &FetchCx::detached(&own)).await?;
            }
            Ok(())
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
