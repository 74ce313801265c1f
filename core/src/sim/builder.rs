//! What a simulation is told before it begins, and running a test over many of them.

use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Sim;
use crate::panics::panic_message;

/// Which of the tasks that are ready is polled next.
///
/// ```
/// use tidegate::sim::Scheduling;
/// assert!(Scheduling::ALL.contains(&Scheduling::Lifo));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheduling {
    /// The one that has been ready for longest, as most executors do.
    Fifo,
    /// The one that became ready last; every 61st time the first, so that none waits for ever.
    Lifo,
    /// Any, drawn from the seed.
    Random,
}

impl Scheduling {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Fifo, Self::Lifo, Self::Random];

    /// Its name, as `TIDEGATE_SIM_SEED` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Lifo => "lifo",
            Self::Random => "random",
        }
    }
}

/// The variable with the one seed that [`Sim::check`] is to run, as `17` or `17:lifo`.
const SEED_VARIABLE: &str = "TIDEGATE_SIM_SEED";

/// Describes a simulation. Made by [`Sim::builder`].
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::{Scheduling, Sim};
///
/// let sim = Sim::builder().seed(7).scheduling(Scheduling::Lifo).poll_cost(Duration::from_micros(2)).build();
/// assert_eq!(sim.seed(), 7);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SimBuilder {
    pub(super) seed: u64,
    pub(super) scheduling: Scheduling,
    pub(super) threads: NonZeroUsize,
    pub(super) queue: usize,
    pub(super) poll_cost: Duration,
    pub(super) io_cost: Duration,
    pub(super) job_cost: Duration,
    pub(super) max_time: Duration,
    pub(super) max_polls_at_once: u64,
}

impl SimBuilder {
    pub(super) fn new() -> Self {
        Self {
            seed: 0,
            scheduling: Scheduling::Random,
            threads: NonZeroUsize::MIN,
            queue: 1,
            poll_cost: Duration::ZERO,
            io_cost: Duration::ZERO,
            job_cost: Duration::ZERO,
            max_time: Duration::from_secs(24 * 3600),
            max_polls_at_once: 10_000_000,
        }
    }

    /// Seed of everything that is drawn: 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Which ready task goes first: [`Scheduling::Random`] by default.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = scheduling;
        self
    }

    /// Workers of the offload: 1 by default.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Jobs that may wait while all workers are busy: 1 by default.
    pub fn queue(mut self, jobs: usize) -> Self {
        self.queue = jobs;
        self
    }

    /// CPU time of each poll of a task: none by default, so that every time is exact.
    pub fn poll_cost(mut self, time: Duration) -> Self {
        self.poll_cost = time;
        self
    }

    /// CPU time of each read and write on the crawl's side: none by default.
    pub fn io_cost(mut self, time: Duration) -> Self {
        self.io_cost = time;
        self
    }

    /// CPU time of each job before what it spends by itself ([`Sim::spend`]): none by default.
    pub fn job_cost(mut self, time: Duration) -> Self {
        self.job_cost = time;
        self
    }

    /// Time of the virtual clock after which the simulation panics with the list of its tasks: a day by default. A crawl that
    /// waits for ever is found by it where its heartbeat goes on, which is no deadlock; a tight bound finds it sooner.
    pub fn max_time(mut self, time: Duration) -> Self {
        self.max_time = time;
        self
    }

    /// Polls and events at one instant above which the simulation panics with the list of its tasks, because something in it
    /// never rests: 10,000,000 by default. A crawl of millions of URLs whose fetcher answers at once needs more.
    pub fn max_polls_at_once(mut self, polls: u64) -> Self {
        self.max_polls_at_once = polls;
        self
    }

    /// Begins.
    pub fn build(self) -> Sim {
        Sim::begin(self)
    }

    /// Runs `test` in a simulation of its own for each seed and each [`Scheduling`]; see [`Sim::check`].
    ///
    /// # Panics
    /// As [`Sim::check`].
    pub fn check<F: Future<Output = ()>>(self, seeds: impl IntoIterator<Item = u64>, test: impl Fn(Sim) -> F) {
        let chosen = std::env::var(SEED_VARIABLE).ok();
        match chosen.as_deref().map(parse_chosen) {
            Some(Some((seed, only))) => {
                let orders = Scheduling::ALL.iter().copied().filter(|order| only.is_none_or(|only| only == *order));
                orders.for_each(|scheduling| self.clone().seed(seed).scheduling(scheduling).run(&test));
            }
            Some(None) => panic!("{SEED_VARIABLE} is a number, or a number and one of :fifo, :lifo, :random"),
            None => {
                for seed in seeds {
                    for &scheduling in Scheduling::ALL {
                        self.clone().seed(seed).scheduling(scheduling).run(&test);
                    }
                }
            }
        }
    }

    fn run<F: Future<Output = ()>>(self, test: &impl Fn(Sim) -> F) {
        let (seed, scheduling) = (self.seed, self.scheduling);
        let sim = self.build();
        let outcome = catch_unwind(AssertUnwindSafe(|| sim.block_on(test(sim.clone()))));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            sim.end();
            let panics = sim.panics();
            assert!(panics.is_empty(), "{}", panics.join("\n"));
        }));
        if let Err(panic) = outcome.and(ended) {
            let (message, order) = (panic_message(panic), scheduling.name());
            panic!("seed {seed}, {order}: {message}\nalone: {SEED_VARIABLE}={seed}:{order}");
        }
    }
}

fn parse_chosen(text: &str) -> Option<(u64, Option<Scheduling>)> {
    match text.split_once(':') {
        None => Some((text.parse().ok()?, None)),
        Some((seed, order)) => {
            let order = *Scheduling::ALL.iter().find(|known| known.name() == order)?;
            Some((seed.parse().ok()?, Some(order)))
        }
    }
}
