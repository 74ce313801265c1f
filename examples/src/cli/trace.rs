//! `--trace`: a line for each event, written by a thread of its own.

use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tidegate::observer::Event;
use tidegate::{Handle, Observer, Shutdown};

use super::Failure;
use super::output::{Output, WriteError};

/// Bytes of lines that wait to be written; beyond it events are left out, and counted.
const ROOM: usize = 16 << 20;

/// The writing thread; ended by [`Trace::end`].
pub(super) struct Trace {
    shared: Arc<Shared>,
    thread: JoinHandle<Option<WriteError>>,
}

/// What takes the events down: formats a line and leaves it to the thread, so that no disk or pipe holds up the loop.
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
    /// To end the run where nobody reads any more, or the disk is full.
    handle: OnceLock<Handle>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    left_out: u64,
    ended: bool,
    /// Nothing can be written any more.
    broken: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines that have come since, and whether there will be more.
    fn next(&self, written: Vec<u8>) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        while state.buffer.is_empty() && !state.ended {
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut lines = std::mem::replace(&mut state.buffer, written);
        let left_out = std::mem::take(&mut state.left_out);
        if left_out > 0 {
            lines.extend_from_slice(format!("{left_out} events left out: they came faster than written\n").as_bytes());
        }
        (lines, !state.ended)
    }
}

impl Trace {
    /// Starts the thread.
    pub(super) fn start(mut output: Output) -> Result<(Self, Lines), Failure> {
        let shared = Arc::<Shared>::default();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tidegate-trace".into())
            .spawn(move || {
                let mut buffer = Vec::new();
                loop {
                    let (lines, more) = for_thread.next(std::mem::take(&mut buffer));
                    if let Err(error) = output.write(&lines) {
                        for_thread.lock().broken = true;
                        if let Some(handle) = for_thread.handle.get() {
                            handle.shutdown(Shutdown::Now);
                        }
                        return Some(error);
                    }
                    if !more {
                        return None;
                    }
                    buffer = lines;
                    buffer.clear();
                }
            })
            .map_err(|error| Failure::run(format!("cannot start a thread: {error}")))?;
        Ok((Self { shared: Arc::clone(&shared), thread }, Lines(shared)))
    }

    /// Ends the crawl of this handle where the trace cannot be written.
    pub(super) fn ends(&self, handle: Handle) {
        let handle = self.shared.handle.get_or_init(|| handle);
        if self.shared.lock().broken {
            handle.shutdown(Shutdown::Now);
        }
    }

    /// Waits until everything is written; what went wrong.
    pub(super) fn end(self) -> Option<WriteError> {
        self.shared.lock().ended = true;
        self.shared.more.notify_one();
        self.thread.join().unwrap_or_else(|_| Some(WriteError::Failed("the trace's thread has panicked".into())))
    }
}

impl Observer for Lines {
    fn event(&self, event: &Event<'_>) {
        let mut state = self.0.lock();
        if state.broken {
            return;
        }
        if state.buffer.len() >= ROOM {
            state.left_out += 1;
            return;
        }
        // Writing to memory does not fail.
        let _ = writeln!(state.buffer, "{event}");
        drop(state);
        self.0.more.notify_one();
    }
}
