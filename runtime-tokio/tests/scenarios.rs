//! The scenario files of the core, as crawls on Tokio, with one thread and with two.

#[macro_use]
#[path = "../../core/tests/scenarios/mod.rs"]
mod arms;

macro_rules! on {
    ($module:ident, $runtime:expr) => {
        mod $module {
            fn run(name: &str) {
                crate::arms::on_a_real_runtime(name, $runtime.expect("threads and descriptors"));
            }

            scenarios_of_all_arms!(scenario_tests, run);
        }
    };
}

const TWO: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(1);

on!(one_thread, tidegate_tokio::dedicated());
on!(two_threads, tidegate_tokio::runtime(crate::TWO));
