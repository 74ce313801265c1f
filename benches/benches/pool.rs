//! What it takes to find a connection among those that are parked, seen from outside: whole fetches in the simulated network,
//! whose own work counts too and is the same in the first two. The third parks none, so that each fetch opens one.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate::http::HttpFetcher;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{FetchCx, Fetcher as _, Request};

const FETCHES: usize = 2_000;

/// A world in which a connection to each host is parked, where any may be.
struct World {
    sim: Sim,
    fetcher: HttpFetcher,
    requests: Vec<Request>,
}

impl World {
    fn new(hosts: usize, parked: usize) -> Self {
        let sim = Sim::new(1);
        sim.net().hosts_by(|_| Some(Host::http(|_| Reply::ok("hello"))));
        let fetcher = HttpFetcher::builder(&sim.runtime())
            .pool_max_idle(parked)
            .pool_max_idle_per_host(parked)
            // Longer than a simulation may last.
            .pool_idle_timeout(Duration::from_secs(7 * 24 * 3600))
            .build()
            .expect("no proxy to get wrong");
        let requests = (0..hosts).map(|n| Request::get(format!("http://host-{n}.test/"))).collect();
        let world = Self { sim, fetcher, requests };
        world.fetch(hosts);
        world
    }

    /// One after the other, host by host.
    fn fetch(&self, times: usize) {
        let cx = FetchCx::detached(&self.sim.runtime());
        self.sim.block_on(async {
            for request in self.requests.iter().cycle().take(times) {
                self.fetcher.fetch(request, &cx).await.expect("the host answers");
            }
        });
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(FETCHES as u64));
    for (name, hosts, parked) in [("1 parked", 1, 1_000), ("1,000 parked", 1_000, 1_000), ("none parked", 1, 0)] {
        group.bench_function(name, |b| {
            let after = |world: World| {
                let before = world.sim.net().connections();
                world.fetch(FETCHES);
                let opened = world.sim.net().connections() - before;
                assert_eq!(opened, if parked == 0 { FETCHES as u64 } else { 0 });
                world
            };
            b.iter_batched(|| World::new(hosts, parked), after, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
