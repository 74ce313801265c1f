//! CPU work off the loop: a bounded pool of threads, or inline.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread;

use crate::sync::{Condvar, Mutex, MutexGuard, ThreadBuilder};

/// A piece of CPU work.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs CPU work off the loop.
///
/// # Contract
/// * `submit` never blocks; above the capacity it gives the job back.
/// * A job that panics takes neither the pool nor another job down.
/// * Jobs that are submitted from a job make progress.
pub trait Offload: Send + Sync + 'static {
    /// Starts a job and names it, or gives it back where [`capacity`](Self::capacity) are under way already or the pool has ended.
    ///
    /// # Errors
    /// [`Rejected`], with the job.
    fn submit(&self, job: Job) -> Result<Ticket, Rejected>;

    /// Jobs that may be waiting or running at a time: the parse permits of a crawl.
    fn capacity(&self) -> NonZeroUsize;

    /// Whether `submit` runs the job itself before it returns.
    fn place(&self) -> Place;

    /// Gives up this job, which runs and does not end: a thread cannot be killed, so another takes its place, and the job
    /// no longer counts against the capacity. `false` where it does not run, or that cannot be done or has been done too
    /// often.
    fn give_up(&self, job: Ticket) -> bool;
}

/// Names a job that an [`Offload`] took; no two jobs of one that gives jobs up have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Where an [`Offload`] runs its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// On the thread that submits, before `submit` returns.
    Inline,
    /// Elsewhere.
    Offload,
}

/// A job that was not taken.
///
/// ```
/// use tidegate::rt::{Offload, Rejected};
/// fn here_if_not_there(offload: &dyn Offload, job: tidegate::rt::Job) {
///     if let Err(Rejected(job)) = offload.submit(job) {
///         job();
///     }
/// }
/// ```
pub struct Rejected(pub Job);

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rejected")
    }
}

/// Runs each job at once on the thread that submits it: for parsing that takes microseconds. A parser that takes
/// 10 ms on each of 1,000 pages that arrive together stops the loop for 10 s.
///
/// ```
/// use tidegate::rt::{Inline, Offload, Place};
/// assert_eq!(Inline::new().place(), Place::Inline);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Inline;

impl Inline {
    /// Inline work.
    pub fn new() -> Self {
        Self
    }
}

impl Offload for Inline {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        run_contained(job);
        Ok(Ticket(0))
    }

    fn capacity(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn place(&self) -> Place {
        Place::Inline
    }

    fn give_up(&self, _: Ticket) -> bool {
        false
    }
}

/// Runs a job. A panic was reported by the hook, and jobs carry their own result out.
pub(crate) fn run_contained(job: Job) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        drop_contained(panic);
    }
}

/// Drops what may panic when it is dropped, and that once more.
pub(super) fn drop_contained<T>(what: T) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(what))) {
        std::mem::forget(another);
    }
}

/// How the threads of a [`ThreadPool`] stand to the other threads of the machine, where the system can tell (Linux).
///
/// ```
/// use tidegate::rt::{Priority, ThreadPool};
/// let polite = ThreadPool::default().with_priority(Priority::Lowest);
/// # let _ = polite;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// As the thread that submits the first job.
    Same,
    /// Nice 10: about a tenth of a core that a thread of ordinary priority wants too.
    #[default]
    Low,
    /// Nice 19, the lowest: about a seventieth.
    Lowest,
}

/// A fixed number of threads behind a bounded queue.
///
/// The threads start with the first job, at a lower scheduling [`Priority`] so that the loop's thread goes
/// first, and end when the pool is dropped. By default one thread a core less one, at least one, and as many jobs waiting
/// as threads. At most [`MAX_LOST`](Self::MAX_LOST) threads are given up to jobs that do not end.
///
/// ```
/// use std::num::NonZeroUsize;
/// use tidegate::rt::{Offload, ThreadPool};
///
/// let pool = ThreadPool::new(NonZeroUsize::MIN);
/// let (sender, receiver) = std::sync::mpsc::channel();
/// pool.submit(Box::new(move || sender.send(6 * 7).expect("receiver lives"))).expect("room for one");
/// assert_eq!(receiver.recv(), Ok(42));
/// ```
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: NonZeroUsize,
    queue: usize,
    priority: Priority,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    jobs: VecDeque<(Ticket, Job)>,
    /// Waiting and running.
    under_way: usize,
    started: usize,
    closed: bool,
    /// Jobs that run, one a thread; one that is missing when it ends was given up.
    running: Vec<Ticket>,
    next: u64,
    lost: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadPool {
    /// Stack of a thread in bytes: 2 MiB.
    pub const STACK: usize = 2 << 20;

    /// Threads that are given up over the life of a pool: 64. They cost memory, and a core each while they spin.
    pub const MAX_LOST: usize = 64;

    /// A pool of so many threads.
    pub fn new(threads: NonZeroUsize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            under_way: 0,
            started: 0,
            closed: false,
            running: Vec::new(),
            next: 0,
            lost: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new() });
        Self { shared, threads, queue: threads.get(), priority: Priority::default() }
    }

    /// Sets how many jobs may wait while all threads are busy.
    #[must_use]
    pub fn with_queue(mut self, jobs: usize) -> Self {
        self.queue = jobs;
        self
    }

    /// Sets the priority of the threads: [`Priority::Low`] by default.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    fn start_thread(&self) -> std::io::Result<()> {
        let priority = self.priority;
        let shared = Arc::clone(&self.shared);
        ThreadBuilder::new()
            .name("tidegate-work".into())
            .stack_size(Self::STACK)
            .spawn(move || {
                lower_to(priority);
                run(&shared);
            })
            .map(drop)
    }
}

impl Default for ThreadPool {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(NonZeroUsize::new(cores.saturating_sub(1)).unwrap_or(NonZeroUsize::MIN))
    }
}

fn run(shared: &Shared) {
    loop {
        let mut state = shared.lock();
        let (ticket, job) = loop {
            if let Some(job) = state.jobs.pop_front() {
                break job;
            }
            if state.closed {
                return;
            }
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.running.push(ticket);
        drop(state);
        run_contained(job);
        let mut state = shared.lock();
        let Some(place) = state.running.iter().position(|running| *running == ticket) else {
            // Given up: another thread has this one's place.
            return;
        };
        state.running.swap_remove(place);
        state.under_way -= 1;
    }
}

#[cfg(target_os = "linux")]
fn lower_to(priority: Priority) {
    let nice = match priority {
        Priority::Same => return,
        Priority::Low => 10,
        Priority::Lowest => 19,
    };
    // On Linux the nice value belongs to the thread. It is a courtesy, so a refusal is not an error.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice);
}

#[cfg(not(target_os = "linux"))]
fn lower_to(_: Priority) {}

impl Offload for ThreadPool {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        let mut state = self.shared.lock();
        if state.closed || state.under_way >= self.capacity().get() {
            return Err(Rejected(job));
        }
        if state.started < self.threads.get() && state.under_way >= state.started {
            match self.start_thread() {
                Ok(()) => state.started += 1,
                Err(_) if state.started > 0 => {}
                Err(_) => return Err(Rejected(job)),
            }
        }
        state.under_way += 1;
        let ticket = Ticket(state.next);
        state.next += 1;
        state.jobs.push_back((ticket, job));
        drop(state);
        self.shared.work.notify_one();
        Ok(ticket)
    }

    fn capacity(&self) -> NonZeroUsize {
        self.threads.saturating_add(self.queue)
    }

    fn place(&self) -> Place {
        Place::Offload
    }

    fn give_up(&self, job: Ticket) -> bool {
        let mut state = self.shared.lock();
        let Some(place) = state.running.iter().position(|running| *running == job) else { return false };
        if state.lost >= Self::MAX_LOST || self.start_thread().is_err() {
            return false;
        }
        state.running.swap_remove(place);
        state.under_way -= 1;
        state.lost += 1;
        true
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads).field("queue", &self.queue).finish_non_exhaustive()
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    // I1, I7
    #[test]
    fn a_panic_keeps_the_thread_and_the_capacity() {
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(1);
        for round in 0..3 {
            let (sender, receiver) = channel::<()>();
            let (release, held) = channel::<()>();
            pool.submit(Box::new(move || {
                let _ = held.recv();
                drop(sender);
                std::panic::resume_unwind(Box::new("contained"));
            }))
            .expect("a thread is free");
            pool.submit(Box::new(|| {})).expect("one may wait");
            assert!(pool.submit(Box::new(|| {})).is_err(), "round {round}: above the capacity");
            drop(release);
            assert!(receiver.recv().is_err());
            while pool.shared.lock().under_way > 0 {
                thread::yield_now();
            }
            assert_eq!(pool.shared.lock().started, 1);
        }
    }

    // I3
    #[test]
    fn a_job_that_does_not_end_is_given_up_and_its_thread_replaced() {
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(0);
        let (release, held) = channel::<()>();
        let (began, has_begun) = channel();
        let stuck = pool.submit(Box::new(move || {
            began.send(()).expect("receiver lives");
            let _ = held.recv();
        }));
        let stuck = stuck.expect("a thread is free");
        has_begun.recv().expect("it begins");
        assert!(pool.submit(Box::new(|| {})).is_err(), "the only thread is busy");
        assert!(pool.give_up(stuck));
        let (sender, receiver) = channel();
        pool.submit(Box::new(move || sender.send(1).expect("receiver lives"))).expect("it was replaced");
        assert_eq!(receiver.recv(), Ok(1));
        while pool.shared.lock().under_way > 0 {
            thread::yield_now();
        }
        assert!(!pool.give_up(stuck), "it was given up already");
        drop(release);
        let (sender, receiver) = channel();
        pool.submit(Box::new(move || sender.send(2).expect("receiver lives"))).expect("a thread is free");
        assert_eq!(receiver.recv(), Ok(2));
    }

    // I3: the pool is shared, and another crawl's job may have run for longer.
    #[test]
    fn the_job_that_is_named_is_given_up_and_no_other() {
        let pool = ThreadPool::new(NonZeroUsize::MIN.saturating_add(1)).with_queue(1);
        let (began, has_begun) = channel();
        let hold = || {
            let (release, held) = channel::<()>();
            let began = began.clone();
            let ticket = pool.submit(Box::new(move || {
                began.send(()).expect("receiver lives");
                let _ = held.recv();
            }));
            (ticket.expect("a thread is free"), release)
        };
        let (older, release_older) = hold();
        let (newer, release_newer) = hold();
        (0..2).for_each(|_| has_begun.recv().expect("it begins"));
        let waits = pool.submit(Box::new(|| {})).expect("one may wait");
        assert!(!pool.give_up(waits), "it has not begun");
        assert!(pool.give_up(newer));
        assert!(pool.shared.lock().running.contains(&older));
        drop((release_older, release_newer));
        while pool.shared.lock().under_way > 0 {
            thread::yield_now();
        }
        assert!(!pool.give_up(older), "it has ended");
    }

    // I2
    #[test]
    fn what_a_job_throws_may_panic_when_it_is_dropped() {
        struct Bomb(bool);
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::resume_unwind(if self.0 { Box::new(Self(false)) } else { Box::new("contained") });
            }
        }
        let throw = || std::panic::resume_unwind(Box::new(Bomb(true)));
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(0);
        pool.submit(Box::new(throw)).expect("a thread is free");
        while pool.shared.lock().under_way > 0 {
            thread::yield_now();
        }
        let (sender, receiver) = channel();
        pool.submit(Box::new(move || sender.send(1).expect("receiver lives"))).expect("the thread is free again");
        assert_eq!(receiver.recv(), Ok(1));
        assert!(Inline::new().submit(Box::new(throw)).is_ok());
    }

    #[test]
    fn a_dropped_pool_still_runs_what_it_took() {
        let (sender, receiver) = channel();
        let pool = ThreadPool::new(NonZeroUsize::MIN).with_queue(8);
        for n in 0..8 {
            let sender = sender.clone();
            pool.submit(Box::new(move || sender.send(n).expect("receiver lives"))).expect("room for nine");
        }
        drop((pool, sender));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
