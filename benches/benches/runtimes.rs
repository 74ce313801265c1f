//! The same requests on Tokio and on smol, one thread each: through a whole crawl, and through the bare fetcher. The
//! server has a thread of its own in this process.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{Crawl, FetchCx, Fetcher as _, Output, Page, ParseError, Profile, Request};
use tidegate_benches::{LoadOptions, LoadServer};

const REQUESTS: u64 = 2_000;
const CONCURRENCY: u32 = 64;

fn runtimes() -> [Runtime; 2] {
    [tidegate_tokio::dedicated().expect("a thread"), tidegate_smol::dedicated().expect("a thread")]
}

fn urls(server: &LoadServer) -> Vec<String> {
    (0..REQUESTS).map(|n| server.url(&format!("/{n}"))).collect()
}

/// Admission, fetch loop, parser thread, settlement.
fn crawl(runtime: &Runtime, fetcher: &HttpFetcher, urls: &[String]) {
    fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
        Ok(())
    }
    let crawl = Crawl::builder(runtime.clone())
        .profile(Profile::own())
        .max_in_flight(NonZeroU32::new(CONCURRENCY).expect("not zero"))
        .adaptive(false)
        .seeds(urls)
        .fetcher(fetcher.clone())
        .parse_with(nothing)
        .start()
        .expect("a valid configuration");
    let (done, report) = mpsc::channel();
    runtime.spawn(async move { done.send(crawl.await).expect("the bench waits") });
    let report = report.recv().expect("the crawl ends").expect("no sink can fail");
    assert_eq!(report.totals.counters.ok, REQUESTS, "{report}");
}

/// The fetcher alone: tasks that take the next URL until there is none.
fn fetch(runtime: &Runtime, fetcher: &HttpFetcher, urls: &Arc<Vec<String>>) {
    let (done, ended) = mpsc::channel();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..CONCURRENCY {
        let (cx, fetcher, done) = (FetchCx::detached(runtime), fetcher.clone(), done.clone());
        let (next, urls) = (Arc::clone(&next), Arc::clone(urls));
        runtime.spawn(async move {
            while let Some(url) = urls.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                fetcher.fetch(&Request::get(url), &cx).await.expect("the server answers");
            }
            done.send(()).expect("the bench waits");
        });
    }
    // Without its own sender the loop below ends when a task panics.
    drop(done);
    assert_eq!(ended.iter().count(), CONCURRENCY as usize);
}

fn bench(c: &mut Criterion) {
    let server = LoadServer::start(LoadOptions::default()).expect("loopback");
    let urls = Arc::new(urls(&server));
    for (name, whole) in [("crawl", true), ("fetcher", false)] {
        let mut group = c.benchmark_group(name);
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(REQUESTS));
        for runtime in runtimes() {
            let fetcher = HttpFetcher::builder(&runtime).build().expect("no proxy to get wrong");
            group.bench_function(BenchmarkId::from_parameter(runtime.name()), |b| {
                b.iter(|| if whole { crawl(&runtime, &fetcher, &urls) } else { fetch(&runtime, &fetcher, &urls) });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
