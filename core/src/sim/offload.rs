//! CPU work of a simulation: threads whose work takes time of the virtual clock.
//!
//! Each is a thread of the system, so that any parser may run on it, but only one thread of a simulation runs at a time:
//! whoever has work to do takes the baton, and gives it back when it ends or spends time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Op;
use super::world::{Event, World, nanos};
use crate::rt::offload::run_contained;
use crate::rt::{Job, Offload, Place, Rejected, ThreadPool, Ticket};

/// What the world knows of its workers.
pub(super) struct Pool {
    threads: NonZeroUsize,
    jobs: VecDeque<(Ticket, Job)>,
    workers: Vec<Option<Worker>>,
    idle: Vec<usize>,
    /// Waiting and running, given up ones apart.
    under_way: usize,
    next: u64,
    lost: usize,
}

struct Worker {
    baton: Arc<Baton>,
    thread: JoinHandle<()>,
    /// The job that it runs; `None` where it is idle, or its job was given up.
    runs: Option<Ticket>,
    given_up: bool,
}

/// Whose turn it is. One of the world and a worker waits while the other runs.
struct Baton {
    turn: Mutex<Turn>,
    changed: Condvar,
}

enum Turn {
    World,
    /// Run this job.
    Begin(Job),
    /// Go on with the job that spent time.
    GoOn,
    Running,
    /// The job has ended.
    Done,
    /// The simulation has ended: unwind.
    Ended,
}

impl Baton {
    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the worker run until it gives the baton back; `true` where its job has ended.
    fn hand_over(&self, turn: Turn) -> bool {
        let mut now = self.lock();
        *now = turn;
        self.changed.notify_all();
        loop {
            match *now {
                // It has ended the simulation itself, and is nobody's any more.
                Turn::World | Turn::Ended => return false,
                Turn::Done => return true,
                _ => now = self.changed.wait(now).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Gives the baton back and waits for it; `None` where the simulation has ended.
    fn give_back(&self, turn: Turn) -> Option<Turn> {
        let mut now = self.lock();
        if matches!(*now, Turn::Ended) {
            return None;
        }
        *now = turn;
        self.changed.notify_all();
        Self::wait(now, &self.changed)
    }

    /// Waits for the first job; the world may have handed it over already.
    fn first(&self) -> Option<Turn> {
        Self::wait(self.lock(), &self.changed)
    }

    fn wait(mut now: MutexGuard<'_, Turn>, changed: &Condvar) -> Option<Turn> {
        loop {
            match std::mem::replace(&mut *now, Turn::Running) {
                Turn::Ended => {
                    *now = Turn::Ended;
                    return None;
                }
                turn @ (Turn::Begin(_) | Turn::GoOn) => return Some(turn),
                turn => {
                    *now = turn;
                    now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// The worker whose thread this is: its world, its baton, its index.
type Own = (Arc<World>, Arc<Baton>, usize);

thread_local! {
    static SELF: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// Thrown through a job whose simulation has ended.
struct SimulationEnded;

/// Spends CPU time: on a worker the others go on meanwhile, anywhere else everything stands still.
pub(super) fn spend(world: &Arc<World>, time: Duration) {
    let worker = SELF.with_borrow(|own| own.as_ref().map(|(own, baton, n)| (Arc::clone(own), Arc::clone(baton), *n)));
    let Some((_, baton, worker)) = worker.filter(|(own, ..)| Arc::ptr_eq(own, world)) else {
        return world.pass(time);
    };
    {
        let mut state = world.lock();
        let at = state.now().saturating_add(nanos(time));
        state.schedule(at, Event::Resume { worker });
    }
    // What a destructor spends while the job unwinds is nothing.
    if baton.give_back(Turn::World).is_none() && !thread::panicking() {
        std::panic::resume_unwind(Box::new(SimulationEnded));
    }
}

/// Gives the next job to an idle worker, where there are both.
pub(super) fn start_job(world: &Arc<World>) {
    let mut state = world.lock();
    let pool = &mut state.pool;
    let running = pool.workers.iter().flatten().filter(|worker| !worker.given_up).count();
    if pool.jobs.is_empty() || (pool.idle.is_empty() && running >= pool.threads.get()) {
        return;
    }
    let index = pool.idle.pop().unwrap_or_else(|| {
        let baton = Arc::new(Baton { turn: Mutex::new(Turn::World), changed: Condvar::new() });
        let index = pool.workers.len();
        let thread = start_thread(world, Arc::clone(&baton), index);
        pool.workers.push(Some(Worker { baton, thread, runs: None, given_up: false }));
        index
    });
    let Some((ticket, job)) = pool.jobs.pop_front() else { return };
    let Some(worker) = pool.workers.get_mut(index).and_then(Option::as_mut) else { return };
    worker.runs = Some(ticket);
    let baton = Arc::clone(&worker.baton);
    drop(state);
    run_worker(world, index, &baton, Turn::Begin(job));
}

fn start_thread(world: &Arc<World>, baton: Arc<Baton>, index: usize) -> JoinHandle<()> {
    let world = Arc::clone(world);
    let body = move || {
        let cost = world.config.job_cost;
        SELF.set(Some((Arc::clone(&world), Arc::clone(&baton), index)));
        let mut turn = baton.first();
        while let Some(Turn::Begin(job)) = turn {
            run_contained(Box::new(move || {
                if !cost.is_zero() {
                    spend(&world_of_this_thread(), cost);
                }
                job();
            }));
            turn = baton.give_back(Turn::Done);
        }
        SELF.set(None);
    };
    let named = thread::Builder::new().name("tidegate-sim".into()).stack_size(ThreadPool::STACK);
    named.spawn(body).expect("the system gives a thread to a simulation")
}

fn world_of_this_thread() -> Arc<World> {
    SELF.with_borrow(|own| own.as_ref().map(|(world, ..)| Arc::clone(world))).expect("set when the thread began")
}

/// Lets a worker go on whose time has come.
pub(super) fn resume(world: &Arc<World>, index: usize) {
    let baton = world.lock().pool.workers.get(index).and_then(Option::as_ref).map(|worker| Arc::clone(&worker.baton));
    if let Some(baton) = baton {
        run_worker(world, index, &baton, Turn::GoOn);
    }
}

fn run_worker(world: &Arc<World>, index: usize, baton: &Baton, turn: Turn) {
    if !baton.hand_over(turn) {
        return;
    }
    let mut state = world.lock();
    let now = state.now();
    let Some(worker) = state.pool.workers.get_mut(index).and_then(Option::as_mut) else { return };
    worker.runs = None;
    if worker.given_up {
        // Its place was taken long ago.
        let worker = state.pool.workers[index].take();
        drop(state);
        worker.into_iter().for_each(end_worker);
        return;
    }
    state.pool.under_way -= 1;
    state.pool.idle.push(index);
    if !state.pool.jobs.is_empty() {
        state.schedule(now, Event::StartJob);
    }
}

/// A worker that has ended its own simulation lets the world go on, which waits for it.
pub(super) fn let_go(world: &Arc<World>) {
    SELF.with_borrow(|own| {
        if let Some((_, baton, _)) = own.as_ref().filter(|(own, ..)| Arc::ptr_eq(own, world)) {
            *baton.lock() = Turn::Ended;
            baton.changed.notify_all();
        }
    });
}

fn end_worker(worker: Worker) {
    // See `let_go`.
    if worker.thread.thread().id() == thread::current().id() {
        return;
    }
    *worker.baton.lock() = Turn::Ended;
    worker.baton.changed.notify_all();
    // What it panicked with was contained.
    let _ = worker.thread.join();
}

/// Ends all threads; a job in the middle of its work unwinds.
pub(super) fn end(world: &Arc<World>) {
    let ended = {
        let mut state = world.lock();
        let fresh = Pool::new(state.pool.threads);
        std::mem::replace(&mut state.pool, fresh)
    };
    ended.workers.into_iter().flatten().for_each(end_worker);
    drop(ended.jobs);
}

impl Pool {
    pub(super) fn new(threads: NonZeroUsize) -> Self {
        let (jobs, workers, idle) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { threads, jobs, workers, idle, under_way: 0, next: 0, lost: 0 }
    }

    pub(super) fn describe(&self) -> impl Iterator<Item = String> {
        let running = self.workers.iter().flatten().filter_map(|worker| worker.runs);
        let running = running.map(|ticket| format!("job {} runs", ticket.0));
        running.chain(self.jobs.iter().map(|(ticket, _)| format!("job {} waits for a worker", ticket.0)))
    }
}

/// The offload of a world.
pub(super) struct SimOffload(pub(super) Arc<World>);

impl Offload for SimOffload {
    fn submit(&self, job: Job) -> Result<Ticket, Rejected> {
        let mut state = self.0.lock();
        let struck = state.faults.strikes(Op::Offload).is_some();
        if struck || state.ended || state.pool.under_way >= self.capacity().get() {
            return Err(Rejected(job));
        }
        let now = state.now();
        let ticket = Ticket(state.pool.next);
        state.pool.next += 1;
        state.pool.under_way += 1;
        state.pool.jobs.push_back((ticket, job));
        state.schedule(now, Event::StartJob);
        Ok(ticket)
    }

    fn capacity(&self) -> NonZeroUsize {
        self.0.config.threads.saturating_add(self.0.config.queue)
    }

    fn place(&self) -> Place {
        Place::Offload
    }

    fn give_up(&self, job: Ticket) -> bool {
        let mut state = self.0.lock();
        let now = state.now();
        let pool = &mut state.pool;
        let Some(worker) = pool.workers.iter_mut().flatten().find(|worker| worker.runs == Some(job)) else {
            return false;
        };
        if pool.lost >= ThreadPool::MAX_LOST || worker.given_up {
            return false;
        }
        worker.given_up = true;
        pool.lost += 1;
        pool.under_way -= 1;
        if !pool.jobs.is_empty() {
            state.schedule(now, Event::StartJob);
        }
        true
    }
}
