//! The world of a simulation: the clock, the events to come, the tasks, and the loop that takes the next step.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
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
use super::watch::Watches;
use crate::hash::{KeyedHasher, KeyedState};
use crate::panics::panic_message;
use crate::rt::BoxFuture;

/// Lines of a report on tasks that wait; those that are alike share one.
const REPORTED: usize = 60;

/// Events, stale ones included, below which nobody minds them.
const FEW_EVENTS: usize = 4096;

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
    pub(super) watches: Watches,
}

pub(super) struct State {
    elapsed: Arc<AtomicU64>,
    pub(super) rng: fastrand::Rng,
    scheduling: Scheduling,
    pub(super) tasks: Slab<Task>,
    generation: u32,
    ready: VecDeque<(TaskId, u32)>,
    /// Tasks that gave the thread back: they go on after events were looked at.
    pub(super) yielded: Vec<Waker>,
    /// How often all that was due has happened.
    pub(super) turns: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    /// Events that are no sleeps.
    others: usize,
    seq: u64,
    pub(super) sleeps: Slab<SleepSlot>,
    /// Who is polled now.
    current: Option<TaskId>,
    main_waits: Vec<Wait>,
    main_polls: u64,
    main_queued: bool,
    /// Somebody runs this world.
    running: bool,
    since_turn: u32,
    polls: u64,
    /// The instant of the last poll or event, and how many there were at it.
    instant: (u64, u64),
    trace: KeyedHasher,
    pub(super) wall_clock: SystemTime,
    pub(super) panics: Vec<String>,
    pub(super) net: Network,
    pub(super) names: Names,
    pub(super) pool: Pool,
    pub(super) faults: Faults,
    pub(super) ended: bool,
}

/// What comes of something that happened, outside the lock.
#[derive(Default)]
pub(super) struct After {
    pub(super) wakers: Vec<Waker>,
    /// Dropped there: it may be the user's.
    pub(super) garbage: Vec<Box<dyn Any + Send>>,
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

/// Changes the world, and says what comes of it.
type Act = dyn FnOnce(&Arc<World>, &mut State, &mut After) + Send;

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
    /// Nothing happens before this instant.
    Idle(u64),
    GiveUp(Reason),
}

/// Why a simulation cannot go on.
enum Reason {
    /// Nothing will ever happen.
    Deadlock,
    /// The same, because the simulation was ended.
    Ended,
    /// The clock has passed the limit.
    TimePassed,
    /// The next event is beyond it, after so many nanoseconds.
    TimeAhead(u64),
    /// Too much happens at one instant.
    Restless,
}

/// The right to run a world.
struct Running<'a>(&'a World);

impl<'a> Running<'a> {
    fn begin(world: &'a World) -> Self {
        let was_running = std::mem::replace(&mut world.lock().running, true);
        assert!(!was_running, "a simulation is run from within itself, or by two threads");
        Self(world)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running = false;
    }
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
            others: 0,
            seq: 0,
            sleeps: Slab::new(),
            current: None,
            main_waits: Vec::new(),
            main_polls: 0,
            main_queued: false,
            running: false,
            since_turn: 0,
            polls: 0,
            instant: (0, 0),
            trace: KeyedState::new(config.seed).build_hasher(),
            wall_clock: super::epoch() + Duration::from_nanos(config.seed % 1_000_000_000),
            panics: Vec::new(),
            net: Network::default(),
            names: Names::default(),
            pool: Pool::new(config.threads),
            faults: Faults::default(),
            ended: false,
        };
        Arc::new(Self { origin, elapsed, config, state: Mutex::new(state), watches: Watches::default() })
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

    /// Time passes while whoever calls this works: nothing else happens meanwhile, but that somebody looks.
    pub(super) fn pass(&self, by: Duration) {
        let until = self.elapsed.load(Ordering::Relaxed).saturating_add(nanos(by));
        self.watches.look_until(until, &self.elapsed);
        self.elapsed.store(until, Ordering::Relaxed);
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
        let _running = Running::begin(self);
        {
            let mut state = self.lock();
            state.main_queued = true;
            state.main_polls = 0;
            state.ready.push_back((MAIN, 0));
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
                        state.ready.retain(|(id, _)| *id != MAIN);
                        state.main_queued = false;
                        return out;
                    }
                }
                Step::Poll(id) => self.poll_task(id),
                Step::Again => self.turn(),
                Step::Idle(until) => self.idle(until),
                Step::GiveUp(reason) => self.give_up(&reason),
            }
        }
    }

    pub(super) fn run_for(self: &Arc<Self>, time: Duration) {
        let sleep = super::timer::SimSleep::after(self, time);
        self.block_on(sleep);
    }

    /// Polls so many tasks, with all that happens in between; `false` where nothing is left to happen before.
    pub(super) fn run_polls(self: &Arc<Self>, polls: u64) -> bool {
        let _running = Running::begin(self);
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
                Step::Idle(until) => self.idle(until),
                Step::GiveUp(Reason::Deadlock | Reason::Ended) => return false,
                Step::GiveUp(reason) => self.give_up(&reason),
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
            let dropped = catch_unwind(AssertUnwindSafe(move || drop(future))).map_err(panic_message);
            let mut state = self.lock();
            state.panics.extend(dropped.err());
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

    /// Moves the clock to the next event, or to a look before it: that may wake somebody.
    fn idle(self: &Arc<Self>, until: u64) {
        match self.watches.next().filter(|at| *at < until) {
            Some(at) => self.watches.look_until(at, &self.elapsed),
            None => {
                self.elapsed.store(until, Ordering::Relaxed);
                self.turn();
            }
        }
    }

    /// Lets everything happen that is due, and then wakes those that gave way.
    fn turn(self: &Arc<Self>) {
        let mut after = After::default();
        loop {
            let mut state = self.lock();
            let now = state.now();
            // Looked at again by the step that follows.
            let due = if state.is_restless(&self.config) { None } else { state.pop_due(now) };
            let Some(event) = due else {
                state.turns += 1;
                after.wakers.append(&mut state.yielded);
                break;
            };
            match event {
                Event::Sleep { slot } => {
                    let ended = state.sleeps.get(slot).filter(|sleep| sleep.at <= now).map(|sleep| sleep.waker.clone());
                    after.wakers.extend(ended);
                }
                Event::Arrive { conn, side } => state.net.arrive(conn, side, now, &mut after.wakers),
                Event::StartJob => {
                    drop(state);
                    super::offload::start_job(self);
                }
                Event::Resume { worker } => {
                    drop(state);
                    super::offload::resume(self, worker);
                }
                Event::Do(act) => {
                    act(self, &mut state, &mut after);
                    drop(state);
                    after.garbage.clear();
                }
            }
        }
        after.wakers.into_iter().for_each(Waker::wake);
    }

    #[track_caller]
    fn give_up(&self, reason: &Reason) -> ! {
        let limit = self.config.max_time;
        let why = match reason {
            Reason::Deadlock => "deadlock: nothing is ready, and nothing will ever happen".to_owned(),
            Reason::Ended => "the simulation was ended: nothing will ever happen in it".to_owned(),
            Reason::TimePassed => format!("more than {limit:?} of the simulation's time have passed"),
            Reason::TimeAhead(at) => {
                let at = Duration::from_nanos(*at);
                format!("nothing happens before {at:?}, and the simulation's time is limited to {limit:?}")
            }
            Reason::Restless => {
                format!("livelock: {} polls and events, and the clock stands still", self.config.max_polls_at_once)
            }
        };
        let report = self.lock().describe();
        panic!("{why} (at {:?})\n{report}", self.elapsed());
    }

    /// Drops every task and what they left; nothing runs afterwards.
    pub(super) fn end(self: &Arc<Self>) {
        let garbage = {
            let mut state = self.lock();
            state.ended = true;
            let (names, faults) = (std::mem::take(&mut state.names), std::mem::take(&mut state.faults));
            (state.net.close(), names, faults)
        };
        drop(garbage);
        self.watches.end();
        super::offload::end(self);
        loop {
            let mut state = self.lock();
            let tasks: Vec<_> = state.tasks.drain().collect();
            let events = std::mem::take(&mut state.events);
            state.others = 0;
            let yielded = std::mem::take(&mut state.yielded);
            let sleeps: Vec<_> = state.sleeps.drain().collect();
            drop(state);
            let were_none = tasks.is_empty();
            // Destructors may spawn, which drops what they spawn, and may panic.
            for task in tasks {
                let dropped = catch_unwind(AssertUnwindSafe(move || drop(task))).map_err(panic_message);
                self.lock().panics.extend(dropped.err());
            }
            drop((events, yielded, sleeps));
            if were_none {
                break;
            }
        }
        super::offload::let_go(self);
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
        self.ready.push_back((id, generation));
    }

    /// Puts a task into the queue, where it lives and is not there.
    pub(super) fn wake(&mut self, id: TaskId, generation: u32) {
        let queued = match self.tasks.get_mut(id as usize) {
            _ if id == MAIN => &mut self.main_queued,
            Some(task) if task.generation == generation => &mut task.queued,
            _ => return,
        };
        if !std::mem::replace(queued, true) {
            self.ready.push_back((id, generation));
        }
    }

    pub(super) fn schedule(&mut self, at: u64, what: Event) {
        self.seq += 1;
        self.others += usize::from(!matches!(what, Event::Sleep { .. }));
        // Sleeps that were dropped or set anew stay until their time, which may be far away.
        if self.events.len() > FEW_EVENTS.max(2 * (self.sleeps.len() + self.others)) {
            let events = std::mem::take(&mut self.events);
            self.events = events.into_iter().filter(|Reverse(event)| !self.is_stale(event)).collect();
        }
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

    /// Whether more happens at this instant than can be meant.
    fn is_restless(&self, config: &SimBuilder) -> bool {
        self.instant.0 == self.now() && self.instant.1 > config.max_polls_at_once
    }

    fn count(&mut self, now: u64) {
        self.instant = if self.instant.0 == now { (now, self.instant.1 + 1) } else { (now, 1) };
    }

    fn next_step(&mut self, config: &SimBuilder) -> Step {
        let now = self.now();
        let is_beyond = |at: u64| u128::from(at) > config.max_time.as_nanos();
        if is_beyond(now) {
            return Step::GiveUp(Reason::TimePassed);
        }
        if self.is_restless(config) {
            return Step::GiveUp(Reason::Restless);
        }
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
        while let Some((id, generation)) = self.next_ready() {
            // One that ended while it was queued has no turn, and its index may be another's.
            if id == MAIN || self.tasks.get(id as usize).is_some_and(|task| task.generation == generation) {
                self.since_turn += 1;
                self.begin_poll(id, now);
                return Step::Poll(id);
            }
        }
        self.since_turn = 0;
        if !self.yielded.is_empty() {
            return Step::Again;
        }
        let Some(at) = self.next_event() else {
            return Step::GiveUp(if self.ended { Reason::Ended } else { Reason::Deadlock });
        };
        if is_beyond(at) {
            return Step::GiveUp(Reason::TimeAhead(at));
        }
        if at > now { Step::Idle(at) } else { Step::Again }
    }

    fn begin_poll(&mut self, id: TaskId, now: u64) {
        self.polls += 1;
        self.count(now);
        self.trace(now);
        self.trace(u64::from(id));
        if id == MAIN {
            self.main_queued = false;
            self.main_polls += 1;
            self.main_waits.clear();
        } else if let Some(task) = self.tasks.get_mut(id as usize) {
            task.queued = false;
            task.polls += 1;
            task.waits.clear();
        }
    }

    fn next_ready(&mut self) -> Option<(TaskId, u32)> {
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

    /// A sleep that was dropped or set anew is no event.
    fn is_stale(&self, event: &Scheduled) -> bool {
        match event.what {
            Event::Sleep { slot } => self.sleeps.get(slot).is_none_or(|sleep| sleep.at != event.at),
            _ => false,
        }
    }

    /// When the next event is.
    fn next_event(&mut self) -> Option<u64> {
        while let Some(Reverse(next)) = self.events.peek() {
            if !self.is_stale(next) {
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
        self.others -= usize::from(!matches!(next.what, Event::Sleep { .. }));
        self.count(now);
        self.trace(next.at);
        Some(next.what)
    }

    /// Who waits where and for what; those that are alike in one line.
    fn describe(&self) -> String {
        use std::fmt::Write as _;
        let waits = |waits: &[Wait]| match waits {
            // A wake-up that is still to come was asked for in a poll before, or by nothing that is simulated.
            [] => "nothing that its last poll asked this simulation for".to_owned(),
            waits => waits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let mut text = String::new();
        let _ = writeln!(text, "  block_on, polled {} times, waits for {}", self.main_polls, waits(&self.main_waits));
        let mut lines: Vec<(String, u64, u64)> = Vec::new();
        let mut places: HashMap<String, usize, KeyedState> = HashMap::with_hasher(KeyedState::new(0));
        for (_, task) in &self.tasks {
            let kind = if task.is_peer { "peer" } else { "task" };
            let line = format!("{kind} spawned at {}, waits for {}", task.from, waits(&task.waits));
            let place = *places.entry(line.clone()).or_insert_with(|| {
                lines.push((line, 0, 0));
                lines.len() - 1
            });
            lines[place].1 += 1;
            lines[place].2 += task.polls;
        }
        let more = lines.len().saturating_sub(REPORTED);
        for (line, tasks, polls) in lines.into_iter().take(REPORTED) {
            let _ = writeln!(text, "  {tasks} x {line}; polled {polls} times");
        }
        if more > 0 {
            let _ = writeln!(text, "  and {more} other places or waits");
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
