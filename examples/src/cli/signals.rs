//! Ctrl-C and SIGTERM: the first ends the run gracefully, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Arriving;
use tidegate::{Handle, Shutdown};

use super::{Failure, say};

/// What is under way has this long to end after the first signal.
const DRAIN: Duration = Duration::from_secs(30);

/// Signals that are caught from now on, and kept until somebody watches.
pub(super) struct Signals(Arriving);

/// The first signal that came, 0 for none.
#[derive(Clone, Debug, Default)]
pub(super) struct Caught(Arc<AtomicI32>);

impl Signals {
    pub(super) fn catch() -> Result<Self, Failure> {
        let signals = Arriving::new([SIGINT, SIGTERM]);
        signals.map(Self).map_err(|error| Failure::run(format!("cannot catch signals: {error}")))
    }

    /// Ends the crawl at the first signal and the process at the second, with the same status.
    pub(super) fn watch(self, handle: Handle, quiet: bool) -> Result<Caught, Failure> {
        let caught = Caught::default();
        let for_thread = caught.clone();
        let Self(mut signals) = self;
        std::thread::Builder::new()
            .name("tidegate-signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    if let Some(code) = for_thread.code() {
                        std::process::exit(i32::from(code));
                    }
                    for_thread.0.store(signal, Ordering::SeqCst);
                    handle.shutdown(Shutdown::Graceful { within: DRAIN });
                    if !quiet {
                        say(format_args!("ending within {DRAIN:?}; a second signal ends at once"));
                    }
                }
            })
            .map_err(|error| Failure::run(format!("cannot start a thread: {error}")))?;
        Ok(caught)
    }
}

impl Caught {
    /// The exit status that the signal asks for, where one came.
    pub(super) fn code(&self) -> Option<u8> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128_u8.saturating_add(u8::try_from(signal).unwrap_or(0))),
        }
    }
}
