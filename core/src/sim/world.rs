//! The world of a simulation: the clock, the events to come, the tasks, and the loop that takes the next step.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;

use super::builder::{Scheduling, SimBuilder};
use super::dns::Names;
use super::fault::Faults;
use super::net::Network;
use super::offload::Pool;
use super::task::{MAIN, Task, TaskId, TaskWaker, Wait};
use crate::hash::{KeyedHasher, KeyedState};
use crate::panics::panic_message;
use crate::rt::BoxFuture;

/// Polls at one instant above which nothing but a loop that never rests explains them.
const LIVELOCK: u64 = 10_000_000;

/// Polls after which events and tasks that gave way are looked at although others are ready.
const TURN: u32 = 61;

/// Everything that one simulation shares.
pub(super) struct World {
    /// Every simulation begins at an instant of its own; only differences to it are ever used.
    origin: Instant,
    /// Nanoseconds since the origin.
    elapsed: Arc<AtomicU64>,
    pub(super) config: SimBuilder,
    state: Mutex<State>,
}

pub(super) struct State {
    elapsed: Arc<AtomicU64>,
    pub(super) rng: fastrand::Rng,
    scheduling: Scheduling,
    pub(super) tasks: Slab<Task>,
    generation: u32,
    ready: VecDeque<TaskId>,
    /// Tasks that gave the thread back: they go on after events were looked at.
    pub(super) yielded: Vec<Waker>,
    /// How often all that was due has happened.
    pub(super) turns: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    seq: u64,
    pub(super) sleeps: Slab<SleepSlot>,
    /// Who is polled now.
    current: Option<TaskId>,
    main_waits: Vec<Wait>,
    main_queued: bool,
    since_turn: u32,
    polls: u64,
    /// The instant of the last poll, and how many there were at it.
    instant: (u64, u64),
    trace: KeyedHasher,
    pub(super) wall_clock: SystemTime,
    pub(super) panics: Vec<String>,
    pub(super) net: Network,
    pub(super) names: Names,
    pub(super) pool: Pool,
    pub(super) faults: Faults,
    ended: bool,
}

/// A sleep that is armed.
pub(super) struct SleepSlot {
    pub(super) at: u64,
    pub(super) waker: Waker,
}

struct Scheduled {
    at: u64,
    seq: u64,
    what: Event,
}

/// What happens by itself.
pub(super) enum Event {
    /// The sleep in this slot ends, where it is still that deadline.
    Sleep { slot: usize },
    /// A segment or the end of a stream arrives.
    Arrive { conn: usize, side: usize },
    /// A job may begin.
    StartJob,
    /// A worker has spent what it wanted to.
    Resume { worker: usize },
    /// Anything else.
    Do(Box<Act>),
}

/// Changes the world, and says who is to be woken.
type Act = dyn FnOnce(&Arc<World>, &mut State, &mut Vec<Waker>) + Send;

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// A poll that is under way; costs what a poll costs.
struct Polling<'a>(&'a World);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.pass(self.0.config.poll_cost);
        self.0.lock().current = None;
    }
}

/// What the loop does next.
enum Step {
    Poll(TaskId),
    /// Something was woken, or the clock moved.
    Again,
    /// Nothing will ever happen.
    Deadlock,
    TimeOver,
    Livelock,
}

impl World {
    pub(super) fn new(config: SimBuilder) -> Arc<Self> {
        let elapsed = Arc::new(AtomicU64::new(0));
        #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; only differences are used")]
        let origin = Instant::now();
        let state = State {
            elapsed: Arc::clone(&elapsed),
            rng: fastrand::Rng::with_seed(config.seed),
            scheduling: config.scheduling,
            tasks: Slab::new(),
            generation: 0,
            ready: VecDeque::new(),
            yielded: Vec::new(),
            turns: 0,
            events: BinaryHeap::new(),
            seq: 0,
            sleeps: Slab::new(),
            current: None,
            main_waits: Vec::new(),
            main_queued: false,
            since_turn: 0,
            polls: 0,
            instant: (0, 0),
            trace: KeyedState::new(config.seed).build_hasher(),
            wall_clock: super::epoch(),
            panics: Vec::new(),
            net: Network::default(),
            names: Names::default(),
            pool: Pool::new(config.threads),
            faults: Faults::default(),
            ended: false,
        };
        Arc::new(Self { origin, elapsed, config, state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Instant {
        self.origin + self.elapsed()
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed.load(Ordering::Relaxed))
    }

    /// Nanoseconds after the start at which `at` is.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.origin))
    }

    /// Time passes while whoever calls this works: nothing else happens meanwhile.
    pub(super) fn pass(&self, by: Duration) {
        self.elapsed.fetch_add(nanos(by), Ordering::Relaxed);
    }

    pub(super) fn spawn(self: &Arc<Self>, task: BoxFuture<'static, ()>, from: &'static Location<'static>) {
        let mut state = self.lock();
        if state.ended || state.faults.strikes(super::Op::Spawn).is_some() {
            drop(state);
            drop(task);
            return;
        }
        state.insert_task(self, task, from, false);
    }

    /// Runs everything until `main` is ready.
    pub(super) fn block_on<F: Future>(self: &Arc<Self>, main: F) -> F::Output {
        let mut main = std::pin::pin!(main);
        let waker = Waker::from(Arc::new(TaskWaker::new(self, MAIN, 0)));
        {
            let mut state = self.lock();
            assert!(state.current.is_none(), "block_on within a task of the same simulation");
            state.main_queued = true;
            state.ready.push_back(MAIN);
        }
        loop {
            let step = self.lock().next_step(&self.config);
            match step {
                Step::Poll(MAIN) => {
                    let polling = self.polling(MAIN);
                    let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
                    drop(polling);
                    if let Poll::Ready(out) = polled {
                        let mut state = self.lock();
                        state.ready.retain(|id| *id != MAIN);
                        state.main_queued = false;
                        return out;
                    }
                }
                Step::Poll(id) => self.poll_task(id),
                Step::Again => self.turn(),
                Step::Deadlock | Step::TimeOver | Step::Livelock => self.give_up(&step),
            }
        }
    }

    /// Runs what is due until the clock shows `until`.
    pub(super) fn run_for(self: &Arc<Self>, time: Duration) {
        let sleep = super::timer::SimSleep::new(self, self.now() + time);
        self.block_on(sleep);
    }

    /// Polls so many tasks, with all that happens in between; `false` where nothing is left to happen before.
    pub(super) fn run_polls(self: &Arc<Self>, polls: u64) -> bool {
        let mut left = polls;
        while left > 0 {
            let step = self.lock().next_step(&self.config);
            match step {
                // Woken for a `block_on` that has ended.
                Step::Poll(MAIN) => {}
                Step::Poll(id) => {
                    self.poll_task(id);
                    left -= 1;
                }
                Step::Again => self.turn(),
                Step::Deadlock => return false,
                Step::TimeOver | Step::Livelock => self.give_up(&step),
            }
        }
        true
    }

    fn polling(&self, id: TaskId) -> Polling<'_> {
        self.lock().current = Some(id);
        Polling(self)
    }

    fn poll_task(&self, id: TaskId) {
        let taken = {
            let mut state = self.lock();
            state.tasks.get_mut(id as usize).and_then(|task| Some((task.future.take()?, task.waker.clone())))
        };
        let Some((mut future, waker)) = taken else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _polling = self.polling(id);
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let ended = match polled {
            Ok(Poll::Pending) => false,
            Ok(Poll::Ready(())) => true,
            Err(panic) => {
                let message = panic_message(panic);
                let mut state = self.lock();
                let from = state.tasks.get(id as usize).map(|task| task.from);
                let text =
                    from.map_or_else(|| message.clone(), |from| format!("the task spawned at {from}: {message}"));
                state.panics.push(text);
                true
            }
        };
        if ended {
            // What a task owns is dropped before it counts as gone, and without the lock.
            let dropped = catch_unwind(AssertUnwindSafe(move || drop(future)));
            let mut state = self.lock();
            if let Err(panic) = dropped {
                state.panics.push(panic_message(panic));
            }
            let task = state.tasks.try_remove(id as usize);
            drop(state);
            drop(task);
            return;
        }
        let mut state = self.lock();
        if let Some(task) = state.tasks.get_mut(id as usize) {
            task.future = Some(future);
        } else {
            drop(state);
            drop(future);
        }
    }

    /// Lets everything happen that is due, and then wakes those that gave way.
    fn turn(self: &Arc<Self>) {
        let mut wakers = Vec::new();
        loop {
            let mut state = self.lock();
            let now = state.now();
            let Some(event) = state.pop_due(now) else {
                state.turns += 1;
                wakers.append(&mut state.yielded);
                break;
            };
            match event {
                Event::Sleep { slot } => {
                    let ended = state.sleeps.get(slot).filter(|sleep| sleep.at <= now).map(|sleep| sleep.waker.clone());
                    wakers.extend(ended);
                }
                Event::Arrive { conn, side } => state.net.arrive(conn, side, now, &mut wakers),
                Event::StartJob => {
                    drop(state);
                    super::offload::start_job(self);
                }
                Event::Resume { worker } => {
                    drop(state);
                    super::offload::resume(self, worker);
                }
                Event::Do(act) => act(self, &mut state, &mut wakers),
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    #[track_caller]
    fn give_up(&self, at: &Step) -> ! {
        let why = match at {
            Step::TimeOver => format!("more than {:?} of the simulation's time have passed", self.config.max_time),
            Step::Livelock => format!("livelock: {LIVELOCK} polls, and the clock stands still"),
            Step::Deadlock | Step::Poll(_) | Step::Again => {
                "deadlock: nothing is ready, and nothing will ever happen".to_owned()
            }
        };
        let report = self.lock().describe();
        panic!("{why} (at {:?})\n{report}", self.elapsed());
    }

    /// Drops every task and what they left; nothing runs afterwards.
    pub(super) fn end(self: &Arc<Self>) {
        self.lock().ended = true;
        super::offload::end(self);
        loop {
            let mut state = self.lock();
            let tasks: Vec<_> = state.tasks.drain().collect();
            let events = std::mem::take(&mut state.events);
            let yielded = std::mem::take(&mut state.yielded);
            let sleeps: Vec<_> = state.sleeps.drain().collect();
            drop(state);
            let were_none = tasks.is_empty();
            // Destructors may spawn, which drops what they spawn, and may panic.
            for task in tasks {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(move || drop(task))) {
                    self.lock().panics.push(panic_message(panic));
                }
            }
            drop((events, yielded, sleeps));
            if were_none {
                break;
            }
        }
        let net = std::mem::take(&mut self.lock().net);
        drop(net);
    }
}

impl State {
    pub(super) fn now(&self) -> u64 {
        self.elapsed.load(Ordering::Relaxed)
    }

    pub(super) fn insert_task(
        &mut self,
        world: &Arc<World>,
        future: BoxFuture<'static, ()>,
        from: &'static Location<'static>,
        is_peer: bool,
    ) {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.tasks.vacant_entry();
        let id = TaskId::try_from(entry.key()).expect("fewer than 2^32 tasks");
        let waker = Waker::from(Arc::new(TaskWaker::new(world, id, self.generation)));
        let (generation, waits) = (self.generation, Vec::new());
        entry.insert(Task { future: Some(future), waker, generation, queued: true, from, waits, is_peer, polls: 0 });
        self.ready.push_back(id);
    }

    /// Puts a task into the queue, where it lives and is not there.
    pub(super) fn wake(&mut self, id: TaskId, generation: u32) {
        let queued = match self.tasks.get_mut(id as usize) {
            _ if id == MAIN => &mut self.main_queued,
            Some(task) if task.generation == generation => &mut task.queued,
            _ => return,
        };
        if !std::mem::replace(queued, true) {
            self.ready.push_back(id);
        }
    }

    pub(super) fn schedule(&mut self, at: u64, what: Event) {
        self.seq += 1;
        self.events.push(Reverse(Scheduled { at, seq: self.seq, what }));
    }

    /// Says what the task that is polled waits for.
    pub(super) fn waits_for(&mut self, wait: Wait) {
        match self.current {
            Some(MAIN) => self.main_waits.push(wait),
            Some(id) => {
                if let Some(task) = self.tasks.get_mut(id as usize) {
                    task.waits.push(wait);
                }
            }
            None => {}
        }
    }

    pub(super) fn polls(&self) -> u64 {
        self.polls
    }

    pub(super) fn trace(&mut self, n: u64) {
        self.trace.write_u64(n);
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.finish()
    }

    fn next_step(&mut self, config: &SimBuilder) -> Step {
        let now = self.now();
        let turn = match self.scheduling {
            Scheduling::Random => self.since_turn > 0 && self.rng.u8(..8) == 0,
            Scheduling::Fifo | Scheduling::Lifo => self.since_turn >= TURN,
        };
        if turn {
            self.since_turn = 0;
            if !self.yielded.is_empty() || self.next_event().is_some_and(|at| at <= now) {
                return Step::Again;
            }
        }
        if let Some(id) = self.next_ready() {
            self.since_turn += 1;
            return self.begin_poll(id, now);
        }
        self.since_turn = 0;
        if !self.yielded.is_empty() {
            return Step::Again;
        }
        let Some(at) = self.next_event() else { return Step::Deadlock };
        if u128::from(at) > config.max_time.as_nanos() {
            return Step::TimeOver;
        }
        if at > now {
            self.elapsed.store(at, Ordering::Relaxed);
        }
        Step::Again
    }

    fn begin_poll(&mut self, id: TaskId, now: u64) -> Step {
        self.polls += 1;
        self.instant = if self.instant.0 == now { (now, self.instant.1 + 1) } else { (now, 1) };
        if self.instant.1 > LIVELOCK {
            return Step::Livelock;
        }
        self.trace(now);
        self.trace(u64::from(id));
        if id == MAIN {
            self.main_queued = false;
            self.main_waits.clear();
        } else if let Some(task) = self.tasks.get_mut(id as usize) {
            task.queued = false;
            task.polls += 1;
            task.waits.clear();
        }
        Step::Poll(id)
    }

    fn next_ready(&mut self) -> Option<TaskId> {
        match self.scheduling {
            Scheduling::Fifo => self.ready.pop_front(),
            // A task that wakes itself would keep all others from running.
            Scheduling::Lifo if self.polls.is_multiple_of(u64::from(TURN)) => self.ready.pop_front(),
            Scheduling::Lifo => self.ready.pop_back(),
            Scheduling::Random if self.ready.is_empty() => None,
            Scheduling::Random => {
                let pick = self.rng.usize(..self.ready.len());
                self.ready.swap_remove_back(pick)
            }
        }
    }

    /// When the next event is; sleeps that were dropped or set anew are no events.
    fn next_event(&mut self) -> Option<u64> {
        while let Some(Reverse(next)) = self.events.peek() {
            let is_stale = match next.what {
                Event::Sleep { slot } => self.sleeps.get(slot).is_none_or(|sleep| sleep.at != next.at),
                _ => false,
            };
            if !is_stale {
                return Some(next.at);
            }
            self.events.pop();
        }
        None
    }

    fn pop_due(&mut self, now: u64) -> Option<Event> {
        if self.next_event()? > now {
            return None;
        }
        let Reverse(next) = self.events.pop()?;
        self.trace(next.at);
        Some(next.what)
    }

    fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut line = |what: &str, waits: &[Wait], polls: u64| {
            let waits = if waits.is_empty() {
                "a wake-up by something outside the simulation, or one that was lost".to_owned()
            } else {
                waits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let _ = writeln!(text, "  {what}, polled {polls} times, waits for {waits}");
        };
        line("block_on", &self.main_waits, 0);
        for (id, task) in &self.tasks {
            let kind = if task.is_peer { "peer" } else { "task" };
            line(&format!("{kind} {id}, spawned at {}", task.from), &task.waits, task.polls);
        }
        for job in self.pool.describe() {
            let _ = writeln!(text, "  {job}");
        }
        text
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
