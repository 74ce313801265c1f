//! What both adapters must do, one `#[test]` per case and per way to get a runtime.

pub(crate) mod dns;
pub(crate) mod net;
pub(crate) mod spawn;
pub(crate) mod timer;

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};

use tidegate::rt::Runtime;

/// Runs `task` on the runtime, and gives what came of it.
pub(crate) fn on<T: Send + 'static>(runtime: &Runtime, task: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = channel();
    runtime.spawn(async move { drop(sender.send(task.await)) });
    receiver.recv().expect("the task has panicked or was dropped")
}

/// One poll, with a waker that tells nobody.
pub(crate) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Expands to the cases, for each runtime `$name` that `$make` makes.
#[macro_export]
macro_rules! adapter_tests {
    ($($name:ident: $make:expr;)*) => {$(
        mod $name {
            $crate::adapter_tests!(@cases $make, timer:
                never_early a_past_deadline_is_ready_at_once reset_moves_a_deadline ten_thousand_timers
                works_on_a_foreign_thread clocks_go_on);
            $crate::adapter_tests!(@cases $make, spawn:
                runs_what_nobody_keeps a_panic_is_contained from_a_task_and_a_destructor ten_thousand_tasks
                yield_now_lets_timers_run yield_now_lets_io_run);
            $crate::adapter_tests!(@cases $make, net:
                round_trip refused half_close_is_the_end a_short_read_loses_nothing eight_mebibytes_to_a_slow_reader
                vectored_writes_take_all_slices the_last_waker_wins a_read_leaves_the_rest_alone
                dropped_while_connecting dropped_is_closed shutdown_ends_one_direction source_address
                descriptors_close_on_exec);
            $crate::adapter_tests!(@cases $make, dns:
                localhost_resolves an_unknown_name_is_an_error timers_fire_during_a_lookup);
        }
    )*};
    (@cases $make:expr, $group:ident: $($case:ident)*) => {$(
        #[test]
        fn $case() {
            $crate::suite::$group::$case($make);
        }
    )*};
}
