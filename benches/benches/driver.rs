//! A crawl without a network: engine, driver, frontier and fetch loop together, on one thread. The fetcher answers at once, so
//! what is measured is what a crawl adds to its fetches; `engine` has the part of it that is pure.

use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::stream;
use tidegate::rt::{Inline, Runtime};
use tidegate::{Crawl, Head, Output, Page, ParseError, Profile, Request, Response};

const URLS: u32 = 5_000;
const HOSTS: u32 = 1_000;

#[derive(Clone, Copy)]
enum Source {
    /// A stream that the crawl takes as it is.
    Stream,
    /// Seeds of a frontier that knows each URL.
    Frontier,
}

async fn crawl(runtime: &Runtime, from: Source) {
    fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
        Ok(())
    }
    let requests = (0..URLS).map(|n| Request::get(format!("http://host-{}.test/{n}", n % HOSTS)));
    let builder = Crawl::builder(runtime.clone().with_offload(Inline::new()));
    let builder = match from {
        Source::Stream => builder.requests(stream::iter(requests)),
        Source::Frontier => builder.seeds(requests),
    };
    let report = builder
        .profile(Profile::own())
        .max_in_flight(NonZeroU32::MIN.saturating_add(999))
        .max_in_flight_per_host(None)
        .adaptive(false)
        .fetcher(
            |request: Request| async move { Ok(Response::new(Head::new(request.target()?, http::StatusCode::OK), "")) },
        )
        .parse_with(nothing)
        .random_seed(1)
        .run()
        .await
        .expect("no sink can fail");
    assert_eq!(report.totals.counters.ok, u64::from(URLS), "{report}");
}

fn bench(c: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a reactor");
    let mut group = c.benchmark_group("driver");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(URLS.into()));
    for (name, from) in [("stream of requests", Source::Stream), ("seeds of a frontier", Source::Frontier)] {
        group.bench_function(name, |b| {
            b.iter(|| tokio.block_on(async { crawl(&tidegate_tokio::current(), from).await }));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
