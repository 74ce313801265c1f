//! Scenario files and the arms that run them. Included by the tests of the core and of each adapter, so that all of them
//! run the same files.
//!
//! A new file is named in one of three lists here, by the arms that run it; a test compares them with the directory.

#![allow(dead_code, unused_macros, reason = "each test binary uses some of the arms")]

mod crawl_arm;
mod engine_arm;
mod format;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::crawl_arm::Spend;
use self::format::{Arms, Command, Scenario, Start, Verdict};
use tidegate::rt::{Runtime, ThreadPool};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/testdata/scenarios");

/// The files that every arm runs, handed to a macro.
macro_rules! scenarios_of_all_arms {
    ($then:ident, $($run:tt)*) => {
        $then! { ($($run)*)
            gap_is_over_at_the_tick
            gap_is_not_over_a_tick_before
            gap_is_of_one_host_alone
            crawl_delay_is_over_at_the_tick
            crawl_delay_is_not_over_a_tick_before
            crawl_delay_shortens_no_gap
            gap_holds_for_a_retry
            backoff_holds_beyond_the_gap
            hop_is_due_at_the_tick
            hop_is_not_due_a_tick_before
            hop_starts_the_gap_of_its_host
            hop_waits_for_a_permit_of_its_host
            hop_waits_for_a_permit_of_its_address
            hop_gives_back_the_permit_of_its_first_host
            hop_obeys_the_rules_of_its_host
            hop_is_no_attempt
            redirects_are_followed_up_to_the_limit
            redirects_end_beyond_the_limit
            limit_of_a_host_is_inclusive
            limit_of_an_address_is_over_its_hosts
            limit_of_an_address_is_of_it_alone
            hosts_at_one_address_take_turns
            limit_of_the_crawl_is_inclusive
            hosts_take_turns
            priority_goes_first
            retry_after_is_over_at_the_tick
            retry_after_is_not_over_a_tick_before
            retry_after_holds_the_host_without_a_retry
            retries_back_off
            retries_end_with_the_attempts
            attempts_of_a_job_go_before_those_of_the_crawl
            a_certain_error_is_not_retried
            retry_budget_grants_its_floor
            retry_budget_ends_after_its_floor
            rules_disallow
            rules_that_cannot_be_had_fail_the_url
            rules_come_at_the_last_attempt
            rules_run_out_at_the_tick
            rules_hold_a_tick_before
            a_host_that_is_prepared_holds_no_permit
            a_name_that_does_not_exist_settles
            a_name_server_that_fails_is_asked_again
            local_pressure_is_no_attempt
            max_pages_is_inclusive
            max_pages_that_are_all_there_are_end_nothing_early
            max_pages_counts_no_retries_and_no_hops
            shutdown_stops_what_hangs
            pause_starts_nothing
            not_before_is_over_at_the_tick
            not_before_is_not_over_a_tick_before
            rate_of_the_crawl
            rate_counts_hops_and_retries
            parser_asks_for_another_fetch
            parser_that_panics_fails_its_url_only
            parsing_holds_no_permit_of_the_host
            sink_rejects_one_item
            cancel_gives_back_the_permit_of_a_fetch
            cancel_of_what_waits
            hop_to_a_name_that_does_not_exist_settles
            an_overloaded_host_rests_for_the_backoff
            a_host_that_fails_does_not_rest
            a_post_is_not_sent_twice
            shutdown_lets_pages_reach_the_sink
            a_second_shutdown_may_be_stricter
            a_second_shutdown_is_not_laxer
            a_body_that_was_cut_off_is_fetched_again
        }
    };
}

/// Those of the bare engine and the simulated runtime.
macro_rules! exact_scenarios {
    ($then:ident, $($run:tt)*) => {
        $then! { ($($run)*)
            retry_after_at_the_cap_is_waited_for
            retry_after_beyond_the_cap_settles
            local_pressure_is_borne_for_ten_minutes
            local_pressure_settles_after_ten_minutes
            shutdown_waits_until_its_deadline
            shutdown_stops_at_its_deadline
            shutdown_starts_nothing
            drain_waits_for_what_was_started
            drain_ends_after_thirty_seconds
            parsing_may_take_half_a_minute
            parsing_that_takes_longer_is_given_up
            an_attempt_may_take_two_minutes
            an_attempt_that_takes_longer_is_stopped
            a_lookup_may_take_five_seconds
            a_lookup_that_takes_longer_is_stopped
            cancel_of_a_page_that_is_parsed
        }
    };
}

/// Those of the bare engine.
macro_rules! engine_scenarios {
    ($then:ident, $($run:tt)*) => {
        $then! { ($($run)*)
            gate_that_is_closed_keeps_its_floor
            gate_that_opens_ramps
            byte_budget_that_is_full_starts_nothing
            byte_budget_that_is_not_full_starts
            frontier_that_is_behind_holds_up_fetches
            slow_parser_holds_up_fetches
            slow_sink_holds_up_fetches
            ramp_doubles_with_each_round
            host_that_must_wait_is_not_forgotten
            hosts_are_prepared_a_few_at_a_time
            cancel_gives_back_the_permit_of_a_parser
        }
    };
}

/// One test for each name; the function takes the name.
macro_rules! scenario_tests {
    (($run:path) $($name:ident)*) => {
        $(#[test]
        fn $name() {
            $run(stringify!($name));
        })*
    };
}

/// The files of all arms, as crawls on a real runtime: a module of tests.
macro_rules! scenarios_on {
    ($module:ident, $runtime:expr) => {
        mod $module {
            fn run(name: &str) {
                crate::arms::on_a_real_runtime(name, $runtime.expect("threads and descriptors"));
            }

            scenarios_of_all_arms!(scenario_tests, run);
        }
    };
}

/// Threads of a runtime that has several.
pub(crate) const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

macro_rules! scenario_names {
    (() $($name:ident)*) => { &[$(stringify!($name)),*] };
}

/// Each file is named above, among those that its arms say.
pub(crate) fn check_lists() {
    let all: &[&str] = scenarios_of_all_arms!(scenario_names,);
    let exact: &[&str] = exact_scenarios!(scenario_names,);
    let engine: &[&str] = engine_scenarios!(scenario_names,);
    let mut listed = BTreeMap::new();
    for (names, arms) in [(all, Arms::All), (exact, Arms::Exact), (engine, Arms::Engine)] {
        for name in names {
            assert_eq!(load(name).arms, arms, "{name} is in the wrong list");
            assert_eq!(listed.insert((*name).to_owned(), arms), None, "{name} is listed twice");
        }
    }
    assert_eq!(listed.into_keys().collect::<Vec<_>>(), names(), "the lists, and the files of {DIRECTORY}");
}

/// What came of a scenario.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) starts: Vec<Start>,
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    /// Fetches in flight at most.
    pub(crate) peaks: HashMap<Holder, u32>,
    /// Bytes of bodies that are booked after the end.
    pub(crate) bytes_left: u64,
}

/// Whose permit a fetch holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    Crawl,
    Host(String),
    Address(IpAddr),
}

/// Reads a file by its name.
pub(crate) fn load(name: &str) -> Scenario {
    let path = format!("{DIRECTORY}/{name}.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let scenario: Scenario = toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    scenario.check();
    scenario
}

/// The names of all files.
pub(crate) fn names() -> Vec<String> {
    let files = std::fs::read_dir(DIRECTORY).expect("the directory of the scenarios");
    let paths =
        files.map(|file| file.expect("a file").path()).filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// On the bare engine: every start at its time, in its order.
pub(crate) fn on_the_engine(name: &str) {
    let scenario = load(name);
    let outcome = engine_arm::run(&scenario);
    assert_eq!(outcome.starts, scenario.starts, "{name}: {}", scenario.shows);
    assert_eq!(outcome.verdicts, scenario.verdicts, "{name}: {}", scenario.shows);
}

/// As a crawl on a clock that is exact. Starts of one moment may come in any order unless `ordered`.
pub(crate) async fn on_an_exact_runtime(name: &str, runtime: Runtime, spend: Spend, ordered: bool) {
    let scenario = Arc::new(load(name));
    let mut outcome = crawl_arm::run(runtime, Arc::clone(&scenario), spend).await;
    let mut expected = scenario.starts.clone();
    if !ordered {
        outcome.starts.sort();
        expected.sort();
    }
    assert_eq!(outcome.starts, expected, "{name}: {}", scenario.shows);
    assert_eq!(outcome.bytes_left, 0, "{name}: bytes are booked after the end");
    judge(name, &scenario, &outcome);
}

/// As a crawl on a real clock: the verdicts, the starts of each job, and the limits.
pub(crate) fn on_a_real_runtime(name: &str, runtime: Runtime) {
    let scenario = Arc::new(load(name));
    let spend: Spend = Arc::new(|time: Duration| {
        #[expect(clippy::disallowed_methods, reason = "a parser that works, on a thread of its own")]
        std::thread::sleep(time);
    });
    let parsers = NonZeroUsize::new(scenario.crawl.parsers as usize).expect("not zero");
    let runtime = runtime.with_offload(ThreadPool::new(parsers));
    let outcome = futures::executor::block_on(crawl_arm::run(runtime, Arc::clone(&scenario), spend));
    judge(name, &scenario, &outcome);
}

fn judge(name: &str, scenario: &Scenario, outcome: &Outcome) {
    assert_eq!(outcome.verdicts, scenario.verdicts, "{name}: {}", scenario.shows);
    for job in &scenario.jobs {
        let of = |starts: &[Start]| {
            let own = starts.iter().filter(|start| start.job == job.name);
            own.map(|start| (start.attempt, start.hop.clone())).collect::<Vec<_>>()
        };
        assert_eq!(of(&outcome.starts), of(&scenario.starts), "{name}: the starts of {}", job.name);
    }
    // A fetch that is stopped from outside may end a moment after its permit is free.
    let stops = |command: &format::Timed| matches!(command.command, Command::Cancel(_) | Command::Shutdown(_));
    if scenario.commands.iter().any(stops) {
        return;
    }
    for (holder, peak) in &outcome.peaks {
        let limit = match holder {
            Holder::Crawl => Some(scenario.crawl.max_in_flight),
            Holder::Host(_) => scenario.crawl.per_host,
            Holder::Address(_) => scenario.crawl.per_address,
        };
        assert!(limit.is_none_or(|limit| *peak <= limit), "{name}: {peak} in flight for {holder:?}");
    }
}
