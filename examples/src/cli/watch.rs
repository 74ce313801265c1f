//! A thread beside the run: samples of descriptors for the statistics, the line of progress, the lines of `--why`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidegate::{Handle, Snapshot};

use super::say;
use super::time::millis;

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// Looks between two lines of `--why`: a second.
const WHY_EVERY: u32 = 10;

/// Bounds that a line of `--why` names.
const BOUNDS: usize = 3;

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
    /// standard error is a terminal, `--why`.
    pub(super) fn start(handle: Handle, samples: bool, progress: bool, why: bool) -> Self {
        let bar = (progress && std::io::stderr().is_terminal()).then(bar);
        if !samples && bar.is_none() && !why {
            return Self(None);
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("tidegate-watch".into())
            .spawn(move || {
                let mut peaks = Peaks::default();
                for look in 1_u32.. {
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
                    if why && look % WHY_EVERY == 0 {
                        say(reason(&handle.snapshot()));
                    }
                }
                if why {
                    say(reason(&handle.snapshot()));
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

/// Why it is not faster: a line of `--why`.
fn reason(now: &Snapshot) -> String {
    let (c, recent) = (&now.counters, &now.recent);
    let mut line = format!(
        "{:.1} s: {} active, {} queued, {:.0}/s, lag p99 {} ms",
        now.elapsed.as_secs_f64(),
        c.in_flight,
        c.waiting,
        recent.starts_per_second,
        millis(now.lag.p99)
    );
    if let Some(cpu) = recent.cpu {
        line.push_str(&format!(", CPU {:.0} %", cpu * 100.0));
    }
    let booked = &now.booked;
    if booked.waiting > 0 {
        let (waiting, sockets, ports) = (booked.waiting, booked.sockets, booked.ports);
        line.push_str(&format!(", {waiting} wait at {} of {} sockets", sockets.now, sockets.most));
        line.push_str(&format!(" and {} of {} ports", ports.now, ports.most));
    }
    if booked.waiting_for_bytes > 0 {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (now, most) = (mb(booked.body_bytes.now), mb(booked.body_bytes.most));
        line.push_str(&format!(", {} wait at {now:.0} of {most:.0} MB", booked.waiting_for_bytes));
    }
    let mut bounds: Vec<_> = now.bounds.iter().filter(|share| share.recent >= 0.01).collect();
    bounds.sort_by(|a, b| b.recent.total_cmp(&a.recent));
    let bounds: Vec<_> =
        bounds.iter().take(BOUNDS).map(|s| format!("{} {:.0} %", s.bound.name(), s.recent * 100.0)).collect();
    line.push_str(", bound by ");
    line.push_str(&if bounds.is_empty() { "nothing".into() } else { bounds.join(", ") });
    line
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
