//! The scenario files, on the bare engine and on the simulated runtime.

#[macro_use]
#[path = "scenarios/mod.rs"]
mod arms;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arms::Spend;
use tidegate::sim::{Scheduling, Sim};

#[test]
fn every_file_is_in_its_list() {
    arms::check_lists();
}

mod engine {
    scenarios_of_all_arms!(scenario_tests, crate::arms::on_the_engine);
    exact_scenarios!(scenario_tests, crate::arms::on_the_engine);
    engine_scenarios!(scenario_tests, crate::arms::on_the_engine);
}

/// A crawl in a simulated world, in an order of tasks.
fn simulated(name: &str, scheduling: Scheduling) {
    let parsers = NonZeroUsize::new(arms::load(name).crawl.parsers as usize).expect("not zero");
    let sim = Sim::builder().scheduling(scheduling).threads(parsers).queue(0).build();
    let worker = sim.clone();
    let spend: Spend = Arc::new(move |time| worker.spend(time));
    let ordered = scheduling == Scheduling::Fifo;
    sim.block_on(arms::on_an_exact_runtime(name, sim.runtime(), spend, ordered));
    assert_eq!(sim.panics(), Vec::<String>::new());
    // The heart beats every 5 ms, and notices the end then.
    sim.run_for(Duration::from_millis(10));
    assert_eq!(sim.tasks(), 0, "no task outlives the crawl");
    sim.end();
}

macro_rules! simulated {
    ($module:ident, $scheduling:ident) => {
        mod $module {
            fn run(name: &str) {
                super::simulated(name, tidegate::sim::Scheduling::$scheduling);
            }

            scenarios_of_all_arms!(scenario_tests, run);
            exact_scenarios!(scenario_tests, run);
        }
    };
}

simulated!(sim_fifo, Fifo);
simulated!(sim_lifo, Lifo);
simulated!(sim_random, Random);
