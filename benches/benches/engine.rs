//! The engine alone: what admission, pacing and settlement of a URL cost without any I/O.

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::engine::{Action, Config, Engine, Event, JobSpec};

const URLS: u32 = 10_000;

/// Submits [`URLS`] jobs on so many hosts and answers every action until all are settled.
fn run(mut engine: Engine, hosts: u32, start: Instant) -> Engine {
    let hosts: Vec<_> = (0..hosts).map(|n| engine.host(&format!("http://host-{n}.test"))).collect();
    for n in 0..URLS {
        engine.submit(start, hosts[n as usize % hosts.len()], JobSpec::default());
    }
    let mut now = start;
    loop {
        while let Some(action) = engine.poll(now) {
            let event = match action {
                Action::Fetch { job, .. } => Event::Fetched { job },
                Action::Parse(job) => Event::Parsed { job, deliver: true },
                Action::Deliver(job) => Event::Delivered { job, rejected: false },
                Action::Settle { job, .. } => Event::Closed { job },
                _ => continue,
            };
            engine.handle_event(now, event);
        }
        match engine.poll_timeout() {
            Some(time) if engine.counters().jobs > 0 => now = now.max(time),
            _ => break,
        }
        engine.handle_timeout(now);
    }
    assert_eq!(engine.counters().ok, u64::from(URLS));
    engine
}

fn bench(c: &mut Criterion) {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; the bench moves it by itself")]
    let start = Instant::now();
    let mut group = c.benchmark_group("engine");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(URLS.into()));
    for (name, hosts, gap) in [("1 host", 1, 0), ("1,000 hosts", 1000, 0), ("1,000 hosts, 1 ms apart", 1000, 1)] {
        let mut config = Config::default();
        config.gap = Duration::from_millis(gap);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_batched(|| Engine::new(config.clone()), |engine| run(engine, hosts, start), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
