//! Signals that shut the gate: how loaded something is, relative to what it can take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::Message;
use crate::engine::Bound;
use crate::machine;
use crate::rt::Runtime;

/// Something that a crawl should start less for while it is overloaded: the memory of a cache, the queue of a database.
///
/// While a signal is above its limit the gate is shut: only a small floor of fetches is kept going (16). It opens again when
/// the load is below nine tenths of the limit, so that it does not flutter. Asked every 100 ms while something is in
/// flight, so [`load`](Self::load) is quick and never blocks.
///
/// A function `FnMut() -> f64` is a signal; [`Builder::load_signal`](crate::Builder::load_signal) gives it a name.
///
/// # Panics
/// A panic counts as no load.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tidegate::Builder;
///
/// /// Starts little while more than 10,000 rows wait for the database.
/// fn with_backlog(crawl: Builder<String>, rows: Arc<AtomicU64>) -> Builder<String> {
///     crawl.load_signal("rows", move || rows.load(Ordering::Relaxed) as f64 / 10_000.0)
/// }
/// ```
pub trait LoadSignal: Send + 'static {
    /// The load now: 1 is at the limit, more is too much. What is no number is no load.
    fn load(&mut self) -> f64;
}

impl<F: FnMut() -> f64 + Send + 'static> LoadSignal for F {
    fn load(&mut self) -> f64 {
        self()
    }
}

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// The part of its limit below which a signal that shut the gate opens it.
const OPENS: f64 = 0.9;

/// The signals of a crawl.
pub(super) struct Signals {
    list: Vec<One>,
    due: Option<Instant>,
}

struct One {
    bound: Bound,
    name: Arc<str>,
    signal: Box<dyn LoadSignal>,
    shut: bool,
}

impl Signals {
    pub(super) fn new() -> Self {
        Self { list: Vec::new(), due: None }
    }

    pub(super) fn add(&mut self, bound: Bound, name: Arc<str>, signal: Box<dyn LoadSignal>) {
        self.list.push(One { bound, name, signal, shut: false });
    }

    /// The memory of this process against a limit; `None` is nine tenths of what the container or machine has. A simulated
    /// crawl depends on nothing of the machine that runs it, unless it is told to.
    pub(super) fn add_memory(&mut self, runtime: &Runtime, limit: Option<u64>) {
        let all = || if runtime.is_simulated() { None } else { machine::memory() };
        let Some(limit) = limit.or_else(|| all().map(|all| all / 10 * 9)) else { return };
        let load = move || machine::resident().map_or(0.0, |bytes| bytes as f64 / limit.max(1) as f64);
        self.add(Bound::Memory, "memory".into(), Box::new(load));
    }

    /// Whether any holds the gate shut.
    pub(super) fn is_shut(&self) -> bool {
        self.list.iter().any(|one| one.shut)
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.due.is_some_and(|due| now < due) {
            return false;
        }
        self.due = Some(now + EVERY);
        true
    }

    /// Looks at all; gives what changed. Signals that share a bound hold it shut together.
    pub(super) fn look(&mut self) -> Vec<Message> {
        let mut changes = Vec::new();
        for index in 0..self.list.len() {
            let one = &mut self.list[index];
            let signal = std::panic::AssertUnwindSafe(&mut one.signal);
            let load = std::panic::catch_unwind(move || {
                let signal = signal;
                signal.0.load()
            });
            let load = load.unwrap_or(0.0);
            let shut = if one.shut { load >= OPENS } else { load > 1.0 };
            if shut == std::mem::replace(&mut one.shut, shut) {
                continue;
            }
            let (bound, name) = (one.bound, Arc::clone(&one.name));
            let bound_open = self.list.iter().all(|one| one.bound != bound || !one.shut);
            changes.push(Message::Gate { signal: bound, open: !shut, name, bound_open });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::rt::manual::Manual;

    #[test]
    fn a_simulation_knows_no_memory_but_that_of_which_it_is_told() {
        let manual = Manual::new();
        let parts = || manual.clone();
        let real = Runtime::new("real", parts(), parts(), parts(), parts());
        let added = |runtime: &Runtime, limit| {
            let mut signals = Signals::new();
            signals.add_memory(runtime, limit);
            signals.list.len()
        };
        assert_eq!((added(&manual.runtime(), None), added(&manual.runtime(), Some(1))), (0, 1));
        assert_eq!(added(&real, None), usize::from(cfg!(target_os = "linux")));
    }

    #[test]
    fn a_signal_shuts_above_its_limit_and_opens_well_below() {
        let load = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&load);
        let mut signals = Signals::new();
        signals.add(Bound::Signal, "rows".into(), Box::new(move || seen.load(Ordering::Relaxed) as f64 / 100.0));
        let mut look = |percent| {
            load.store(percent, Ordering::Relaxed);
            signals.look().iter().map(|change| matches!(change, Message::Gate { open: true, .. })).collect::<Vec<_>>()
        };
        assert_eq!(look(100), [false; 0]);
        assert_eq!(look(101), [false]);
        assert_eq!(look(90), [false; 0]);
        assert_eq!(look(89), [true]);
        assert_eq!(look(100), [false; 0]);
    }

    #[test]
    fn two_of_a_kind_hold_the_gate_together_and_nonsense_is_no_load() {
        let load = Arc::new(AtomicU64::new(200));
        let seen = Arc::clone(&load);
        let mut signals = Signals::new();
        signals.add(Bound::Signal, "rows".into(), Box::new(move || seen.load(Ordering::Relaxed) as f64 / 100.0));
        signals.add(Bound::Signal, "always".into(), Box::new(|| 2.0));
        signals.add(Bound::Signal, "nonsense".into(), Box::new(|| f64::NAN));
        signals.add(Bound::Signal, "broken".into(), Box::new(|| -> f64 { panic!("it cannot tell") }));
        let holds = |changes: Vec<Message>| {
            let one = |change: &Message| matches!(change, Message::Gate { bound_open: true, .. });
            changes.iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(holds(signals.look()), [false, false]);
        load.store(0, Ordering::Relaxed);
        assert_eq!(holds(signals.look()), [false], "the other holds it");
        assert!(signals.is_shut());
    }
}
