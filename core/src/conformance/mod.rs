//! The suite that every runtime passes: one `#[test]` for each case and each way to get a runtime.
//!
//! An adapter runs it in a line, in a file of its `tests/`: [`conformance_tests!`](crate::conformance_tests). A [`Harness`]
//! brings the runtime: [`StdHarness`] is the one for threads and sockets of the system, a simulated runtime has its own.
//! Servers are data, a [`Script`], so that both play the same ones. What a runtime cannot be asked for its [`Capabilities`]
//! say, and [`cases`] tells which case needs what: one that does not apply returns at once.
//!
//! The feature `http` adds the groups that need the fetcher, `tls` those over TLS.
//!
//! The cases are public functions because the macro calls them by name; nothing else has to.
//!
//! # Panics
//! The cases panic: that is how a test fails. They are for tests, and for nothing else.

#[cfg(feature = "tls")]
mod certificate;
#[cfg(target_os = "linux")]
mod descriptor;
pub mod dns;
mod harness;
#[cfg(feature = "http")]
pub mod http;
pub mod idle;
pub mod net;
pub mod offload;
mod player;
#[cfg(feature = "http")]
pub mod proxies;
#[cfg(feature = "http")]
pub mod replies;
mod script;
mod server;
pub mod spawn;
mod std_harness;
mod support;
#[cfg(feature = "http")]
pub mod targets;
pub mod timer;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "http")]
mod trial;

use std::sync::Arc;

#[cfg(feature = "tls")]
pub use self::certificate::Certified;
pub use self::harness::{Capabilities, Harness};
pub use self::player::{Op, Player};
pub use self::script::{Outcome, Reporter, Script, Served, Signal, Step};
pub use self::std_harness::StdHarness;

/// All cases, in their order.
///
/// ```
/// let timers = tidegate::conformance::cases().filter(|case| case.group == "timer");
/// assert!(timers.count() >= 7);
/// ```
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [BASE, HTTP, TLS].into_iter().flatten()
}

/// A case of the suite.
///
/// ```
/// use tidegate::conformance::cases;
/// let refused = cases().find(|case| case.group == "net" && case.name == "refused").expect("it is one");
/// assert_eq!(refused.needs, None);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Its group: the module of this one that it is in.
    pub group: &'static str,
    /// Its name: the function.
    pub name: &'static str,
    /// The capability that it needs, where it needs one.
    pub needs: Option<&'static str>,
    has: fn(&Capabilities) -> bool,
}

impl Case {
    /// Whether a runtime of these capabilities is asked for it.
    ///
    /// ```
    /// use tidegate::conformance::{Capabilities, cases};
    /// let mut capabilities = Capabilities::all();
    /// assert!(cases().all(|case| case.applies_to(&capabilities)));
    /// capabilities.threads = false;
    /// assert!(cases().any(|case| !case.applies_to(&capabilities)));
    /// ```
    pub fn applies_to(&self, capabilities: &Capabilities) -> bool {
        (self.has)(capabilities)
    }
}

/// Runs a case where it applies.
#[doc(hidden)]
pub fn run<H: Harness>(harness: H, has: fn(&Capabilities) -> bool, case: fn(&Arc<H>)) {
    if has(&harness.capabilities()) {
        case(&Arc::new(harness));
    }
}

/// The list of the cases that need no fetcher, with what they need of a runtime. Hands it to the macro in brackets.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { [$($with)*]
            timer {
                never_early; a_past_deadline_is_ready_at_once; reset_moves_a_deadline; ten_thousand_timers;
                moves_between_tasks; works_on_a_foreign_thread if threads; clocks_go_on;
            }
            spawn {
                runs_what_nobody_keeps; a_panic_is_contained; from_a_task_and_a_destructor;
                from_a_foreign_thread if threads; a_hundred_thousand_tasks; yield_now_lets_timers_run if one_thread;
                yield_now_lasts_though_the_task_is_woken if one_thread;
                yield_now_lets_io_run; a_ticker_keeps_its_time_beside_work if one_thread;
                tasks_are_dropped_at_the_end if ends; what_is_spawned_after_the_end_is_dropped if ends;
                the_last_clone_may_be_dropped_in_a_task if owned;
            }
            net {
                round_trip; works_outside_of_tasks; refused; half_close_is_the_end; a_short_read_loses_nothing;
                what_comes_meanwhile_is_not_lost if threads; a_reset_is_an_error; eight_mebibytes_to_a_slow_reader;
                vectored_writes_take_all_slices if vectored; the_last_waker_wins; a_read_leaves_the_rest_alone;
                dropped_while_connecting if sockets; dropped_is_closed; shutdown_ends_one_direction;
                options_are_set if sockets; source_address if sockets; descriptors_close_on_exec if sockets;
            }
            dns {
                localhost_resolves; an_unknown_name_is_an_error; timers_fire_during_a_lookup;
                a_dropped_lookup_is_forgotten;
            }
            offload {
                is_where_it_says; a_panic_is_contained; twice_the_capacity_makes_progress;
                timers_fire_meanwhile if offload; a_job_submits_a_job;
            }
            idle {
                a_crawl_that_waits_polls_nothing; a_crawl_that_waits_again_polls_nothing;
            }
        }
    };
}

/// The list of the cases that need the fetcher.
#[cfg(feature = "http")]
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_http_cases {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { [$($with)*]
            http {
                get_a_page; a_connection_is_reused; a_connection_closed_while_parked_is_replaced; chunked; byte_by_byte;
                body_cap; redirect; refused; deadline_of_dns; deadline_of_connect; deadline_of_the_first_byte;
                deadline_of_the_head; deadline_of_an_idle_body; deadline_of_an_unread_request; deadline_of_the_whole;
                dropped_mid_body_closes_the_connection; given_up_mid_body_frees_the_permit;
            }
            replies {
                broken_off; no_status_line; large_heads; interim_answers; lengths_that_lie; bad_chunks; trailers; odd_fields;
                endless_body; bytes_after_an_answer; an_unsolicited_answer; an_early_answer; an_end_without_a_close;
                endless_drips; bombs; a_bomb_on_a_redirect; encodings; dropped_after_any_poll;
            }
            targets {
                a_redirect_loop; redirects_to_nowhere; secrets_on_redirects; line_ends; names;
            }
            proxies {
                dead; another_takes_over; an_answer_of_its_own; garbled_answers; socks5; a_slow_socks5_handshake;
                an_eager_socks5_handshake; socks4a;
            }
        }
    };
}

/// Without the feature `http` there are none.
#[cfg(not(feature = "http"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_http_cases {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { [$($with)*] }
    };
}

/// The list of the cases that need TLS.
#[cfg(feature = "tls")]
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tls_cases {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { [$($with)*]
            tls {
                a_trusted_server_answers; many_records; another_name_is_refused; truncated; deadline_of_tls;
                what_is_no_handshake; a_storm_of_records; refused_tunnels;
            }
        }
    };
}

/// Without the feature `tls` there are none.
#[cfg(not(feature = "tls"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tls_cases {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { [$($with)*] }
    };
}

/// What a case needs of the capabilities.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_needs {
    () => {
        |_| true
    };
    ($need:ident) => {
        |capabilities| capabilities.$need
    };
}

/// Expands to the suite, one `#[test]` for each case, for each harness that an expression makes.
///
/// The harnesses are named, and each becomes a module; the expression is evaluated for each case, and sees what is in scope
/// here.
///
/// ```
/// use tidegate::conformance::StdHarness;
/// # use tidegate::rt::Runtime;
/// # fn one_thread() -> Runtime { unreachable!("an adapter makes it") }
/// # fn two_threads() -> Runtime { unreachable!("an adapter makes it") }
/// tidegate::conformance_tests! {
///     one_thread: StdHarness::new(one_thread());
///     two_threads: StdHarness::new(two_threads()).lacking(|capabilities| capabilities.one_thread = false);
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($($name:ident: $make:expr);+ $(;)?) => {$(
        mod $name {
            #[allow(unused_imports, reason = "for the expression, which may need nothing")]
            use super::*;

            $crate::__conformance_cases! { [$crate::__conformance_tests_of] $make }
            $crate::__conformance_http_cases! { [$crate::__conformance_tests_of] $make }
            $crate::__conformance_tls_cases! { [$crate::__conformance_tests_of] $make }
        }
    )+};
}

/// The tests of one harness, from a list.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests_of {
    ([$make:expr] $($group:ident { $($case:ident $(if $need:ident)?;)* })*) => {$(
        mod $group {
            #[allow(unused_imports, reason = "for the expression, which may need nothing")]
            use super::*;

            $(
                #[test]
                fn $case() {
                    $crate::conformance::run(
                        $make,
                        $crate::__conformance_needs!($($need)?),
                        $crate::conformance::$group::$case,
                    );
                }
            )*
        }
    )*};
}

/// The cases as values, from a list.
macro_rules! cases_of {
    ([] $($group:ident { $($case:ident $(if $need:ident)?;)* })*) => {
        &[$($(Case {
            group: stringify!($group),
            name: stringify!($case),
            needs: cases_of!(@needs $($need)?),
            has: $crate::__conformance_needs!($($need)?),
        },)*)*]
    };
    (@needs) => { None };
    (@needs $need:ident) => { Some(stringify!($need)) };
}

const BASE: &[Case] = __conformance_cases! { [cases_of] };
const HTTP: &[Case] = __conformance_http_cases! { [cases_of] };
const TLS: &[Case] = __conformance_tls_cases! { [cases_of] };
