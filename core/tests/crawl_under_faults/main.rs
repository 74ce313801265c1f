//! A crawl of a world that is drawn from a seed: hosts, paths, faults of the network and of this machine, parsers, sinks,
//! the embedder's own doings. Whatever it is, the crawl ends and keeps its promises.
//!
//! `TIDEGATE_SEEDS=0..10000` runs more than the three hundred of an ordinary test run.
#![cfg(feature = "http")]

mod audit;
mod draw;

use std::sync::Arc;
use std::time::Duration;

use tidegate::http::HttpFetcher;
use tidegate::sim::{Scheduling, Sim};
use tidegate::{Crawl, FinishReason, MemoryFrontier, Report};

use self::audit::Audit;
use self::draw::World;

/// Of a crawl and of what is left after it. One that waits for ever beats until then.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// Runs one crawl and judges it; gives what there was to see.
async fn crawl(sim: Sim) -> (Report, u64) {
    let world = Arc::new(World::draw(&sim));
    world.build(&sim);
    let audit = Audit::new(&sim, &world);
    {
        let runtime = world.runtime(&sim);
        let fetcher = HttpFetcher::builder(&runtime).user_agent("audit/1").build().expect("valid");
        let frontier = MemoryFrontier::new(world.frontier_capacity, sim.seed());
        let mut crawl = Crawl::builder(runtime)
            .profile(world.profile())
            .user_agent("audit/1")
            .random_seed(sim.seed())
            .seeds(world.seeds())
            .scope(tidegate::Scope::any())
            .fetcher(audit.fetcher(fetcher))
            .frontier(audit.frontier(frontier))
            .retries(world.retries)
            .byte_budget(world.byte_budget)
            // Slow sinks that go wrong half of the time take long to take what is left.
            .close_limit(Duration::from_secs(3600))
            .parse_with(world.parser(&sim))
            .sink(audit.sink())
            .outcomes(audit.outcomes());
        if let Some(most) = world.max_in_flight {
            crawl = crawl.max_in_flight(most);
        }
        if let Some(rate) = world.rate {
            crawl = crawl.rate(rate);
        }
        if let Some(pages) = world.max_pages {
            crawl = crawl.max_pages(pages);
        }
        if let Some(time) = world.max_time {
            crawl = crawl.max_time(time);
        }
        let crawl = crawl.start().expect("valid");
        let handle = crawl.handle();
        world.meddle(&sim, &handle);
        let report =
            crawl.await.unwrap_or_else(|error| panic!("{error}: {:?}\n{world:#?}", std::error::Error::source(&error)));
        audit.judge(&report, &handle);
        // What closes by itself has a moment for it: the last parsers, the peers' ends.
        drop(handle);
        sim.sleep(world.patience()).await;
        assert_eq!(sim.net().open_sockets(), 0, "sockets are left\n{world:#?}");
        (report, sim.trace_hash())
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("TIDEGATE_SEEDS") else { return 0..300 };
    let (from, to) = text.split_once("..").expect("TIDEGATE_SEEDS is a range, as 0..10000");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Invariants 1, 2, 3, 4, 6, 7, 8, 10, 11, 18 and 21, as far as a whole crawl shows them.
#[test]
fn a_crawl_keeps_its_promises_whatever_the_world_does() {
    let micros = Duration::from_micros;
    // Polls and reads that cost nothing, and such that end the slices of the fetch loop.
    for (part, poll_cost, io_cost) in [(0, 0, 0), (1, 3, 20), (2, 0, 200), (3, 40, 0)] {
        let sims = Sim::builder().poll_cost(micros(poll_cost)).io_cost(micros(io_cost)).max_time(LONGEST);
        sims.check(seeds().filter(|seed| seed % 4 == part), |sim| async move {
            let (report, _) = crawl(sim.clone()).await;
            assert_eq!(sim.tasks(), 0, "tasks are left of {report}");
        });
    }
}

// Invariant 22
#[test]
fn the_same_seed_gives_the_same_crawl() {
    for seed in 0..10 {
        for &scheduling in Scheduling::ALL {
            let run = || {
                let sim = Sim::builder().seed(seed).scheduling(scheduling).max_time(LONGEST).build();
                let out = sim.block_on(crawl(sim.clone()));
                sim.end();
                out
            };
            let ((a, trace_a), (b, trace_b)) = (run(), run());
            assert_eq!(trace_a, trace_b, "seed {seed}, {scheduling:?}");
            assert_eq!(a.to_string(), b.to_string());
        }
    }
}

/// The worlds that are drawn are not all of one kind.
#[test]
fn the_worlds_are_as_bad_as_they_should_be() {
    let mut seen = std::collections::BTreeMap::<&str, u64>::new();
    for seed in 0..200 {
        let sim = Sim::builder().seed(seed).max_time(LONGEST).build();
        let (report, _) = sim.block_on(crawl(sim.clone()));
        sim.end();
        let t = &report.totals;
        let kinds = t.errors.keys().chain(t.skipped.keys()).copied();
        kinds.for_each(|kind| *seen.entry(kind).or_default() += 1);
        let retried = t.counters.retries > 0;
        let stalled = t.lag.gate_closed_count > 0;
        let ends = report.finish_reason != FinishReason::Done;
        for (what, is) in
            [("retries", retried), ("stalls", stalled), ("ended", ends), ("cancelled", t.counters.cancelled > 0)]
        {
            *seen.entry(what).or_default() += u64::from(is);
        }
    }
    for what in [
        "retries",
        "stalls",
        "ended",
        "cancelled",
        "robots",
        "frontier.full",
        "dns.not_found",
        "timeout.dns",
        "connect.refused",
        "timeout.connect",
        "connect.reset",
        "body.incomplete",
        "http.status_line",
        "http.status",
        "redirect.too_many",
        "timeout.first_byte",
        "timeout.head",
        "timeout.idle",
        "timeout.total",
        "parser.panic",
        "parser.failed",
        "sink.rejected",
        "body.encoding",
    ] {
        assert!(seen.contains_key(what), "{what} never happens: {seen:?}");
    }
}
