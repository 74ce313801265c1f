//! A thread beside the run: samples of descriptors for the statistics, and the line of progress.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidegate::{Handle, Snapshot};

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// The most descriptors that were open at a look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peaks {
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
}

/// The thread; ended by [`Watch::end`].
pub(super) struct Watch(Option<(mpsc::Sender<()>, JoinHandle<Peaks>)>);

impl Watch {
    /// Starts it where there is something to do: samples where they are wanted, progress where it is and
    /// standard error is a terminal.
    pub(super) fn start(handle: Handle, samples: bool, progress: bool) -> Self {
        let bar = (progress && std::io::stderr().is_terminal()).then(bar);
        if !samples && bar.is_none() {
            return Self(None);
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("tidegate-watch".into())
            .spawn(move || {
                let mut peaks = Peaks::default();
                loop {
                    if samples {
                        peaks.look();
                    }
                    if let Some(bar) = &bar {
                        bar.set_message(line(&handle.snapshot()));
                        bar.tick();
                    }
                    if stopped.recv_timeout(EVERY) != Err(mpsc::RecvTimeoutError::Timeout) {
                        break;
                    }
                }
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                peaks
            })
            .ok();
        // Without a thread there is no progress, but the run goes on.
        Self(thread.map(|thread| (stop, thread)))
    }

    /// Ends it.
    pub(super) fn end(mut self) -> Peaks {
        let Some((stop, thread)) = self.0.take() else { return Peaks::default() };
        drop(stop);
        thread.join().unwrap_or_default()
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{spinner} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn line(now: &Snapshot) -> String {
    let c = &now.counters;
    let seconds = now.elapsed.as_secs_f64().max(1e-3);
    format!(
        "{} ok, {} error, {} skipped, {} in flight, {:.0}/s, {:.0} MB, {:.0} s",
        c.ok,
        c.error,
        c.skipped,
        c.in_flight,
        c.starts as f64 / seconds,
        now.bytes as f64 / 1e6,
        seconds
    )
}

impl Peaks {
    fn look(&mut self) {
        const OPEN: &str = "/proc/self/fd";
        let Ok(entries) = std::fs::read_dir(OPEN) else { return };
        let descriptors = entries.count() as u64;
        if descriptors <= self.descriptors {
            return;
        }
        self.descriptors = descriptors;
        // A call for each descriptor, so only where there are more than ever before.
        let is_socket = |path: &Path| {
            std::fs::read_link(path).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
        };
        let Ok(entries) = std::fs::read_dir(OPEN) else { return };
        let sockets = entries.flatten().filter(|entry| is_socket(&entry.path())).count() as u64;
        self.sockets = self.sockets.max(sockets);
    }
}
