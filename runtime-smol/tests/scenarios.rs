//! The scenario files of the core, as crawls on smol, with one thread and with two.

#[macro_use]
#[path = "../../core/tests/scenarios/mod.rs"]
mod arms;

scenarios_on!(one_thread, tidegate_smol::dedicated());
scenarios_on!(two_threads, tidegate_smol::runtime(crate::arms::TWO));
