//! The scenario files of the core, as crawls on Tokio, with one thread and with two.

#[macro_use]
#[path = "../../core/tests/scenarios/mod.rs"]
mod arms;

scenarios_on!(one_thread, tidegate_tokio::dedicated());
scenarios_on!(two_threads, tidegate_tokio::runtime(crate::arms::TWO));
