//! A runtime without time, threads or a network of its own: everything is simulated, exact, and the same for the same seed.
//!
//! A [`Sim`] has a virtual clock that jumps to the next thing that happens, one thread that polls the ready tasks in an order
//! of your choice, name servers, hosts and the paths to them, workers for CPU work, and faults that strike when you say so.
//! A crawl of an hour takes milliseconds; one that fails fails again with the same seed. [`Sim::runtime`] gives a
//! [`Runtime`] like that of any adapter, so parsers, sinks, policies and whole crawls are tested as
//! they are.
//!
//! ```
//! use tidegate::sim::{Host, Reply, Sim};
//! use tidegate::{Crawl, Output, Page, ParseError};
//!
//! fn words(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
//!     out.item(page.utf8().to_string());
//!     Ok(())
//! }
//!
//! # #[cfg(feature = "http")]
//! Sim::check(0..3, |sim| async move {
//!     // Seven of ten answers are lost.
//!     sim.net().hosts_by(|_| {
//!         Some(Host::http(|asked| if asked.random % 10 < 7 { Reply::ok("lost").cut_last(2) } else { Reply::ok("found") }))
//!     });
//!     let crawl = Crawl::builder(sim.runtime())
//!         .user_agent("words-bot/0.1 (+mailto:me@example.org)")
//!         .seed("http://a.test/")
//!         .no_robots()
//!         .retries(50)
//!         .retry_budget(100.0)
//!         .parse_with(words);
//!     let report = crawl.run().await.expect("the run goes on");
//!     assert_eq!(report.totals.counters.ok, 1);
//! });
//! ```
//!
//! # What is exact
//! * Time passes only when nothing is ready, and while work is done that says how long it takes: [`Sim::spend`],
//!   [`SimBuilder::poll_cost`], [`SimBuilder::io_cost`], [`SimBuilder::job_cost`]. On the loop such work delays every timer,
//!   which is lag; on a worker of the offload the loop goes on meanwhile.
//! * The same seed, order and test give the same [`Sim::trace_hash`], on any machine. Where the crawl speaks TLS they do not: keys
//!   and signatures are random, and certificates are judged by the real clock.
//!
//! # What is not simulated
//! Cores: workers and the loop do not compete for one. TCP's slow start, loss, retransmission, TIME_WAIT, and window updates
//! that take time; a connection has a latency, jitter, a bandwidth and a window of its own in each direction, and does not share
//! them. Options of sockets other than the local address. TLS between the crawl and a scripted peer. The number of
//! descriptors of the machine that the test runs on still lowers the concurrency of a crawl.
//!
//! # Panics
//! A simulation in which nothing can happen any more panics with a list of its tasks, where they were spawned and what they
//! wait for; so does one whose clock passes [`SimBuilder::max_time`], and one that never rests
//! ([`SimBuilder::max_polls_at_once`]). A task that waits for anything that is not simulated (a thread, a real socket) is in
//! such a deadlock; a job of the offload that does so hangs the test.

mod builder;
mod dns;
mod fault;
mod net;
mod offload;
mod task;
mod timer;
mod watch;
mod world;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

pub use self::builder::{Scheduling, SimBuilder};
pub use self::dns::Lookup;
use self::dns::{SimResolve, address_of};
pub use self::fault::Op;
use self::net::SimConnect;
pub use self::net::{Host, Link, Net, PeerRequest, Reply, SimListener, SimStream};
use self::offload::SimOffload;
use self::task::Wait;
use self::timer::SimTimer;
use self::watch::SimWatch;
use self::world::World;
use crate::rt::{BoxFuture, Name, Runtime, Spawn};

/// What the clock on the wall shows at the start: 2030-01-01 00:00:00 UTC, and as many nanoseconds as the seed says, so that what
/// is drawn from the time differs from seed to seed.
fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

/// Addresses of the machine that the crawl runs on.
const OWN_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(24, 0, 0, 1));
const OWN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1));

/// A simulated world and its runtime. Cheap to clone.
///
/// It ends with [`end`](Self::end) or with its last clone, and everything in it is dropped then. A task that keeps a clone
/// keeps it alive, so call `end` where there is one; [`check`](Self::check) does.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::{Scheduling, Sim};
///
/// let sim = Sim::builder().seed(3).scheduling(Scheduling::Fifo).build();
/// let (began, clock) = (sim.now(), sim.clone());
/// sim.spawn(async move { clock.sleep(Duration::from_secs(3600)).await });
/// assert_eq!((sim.seed(), sim.tasks()), (3, 1));
/// sim.run_for(Duration::from_secs(7200));
/// assert_eq!((sim.elapsed(), sim.tasks()), (sim.now() - began, 0));
/// assert!(sim.panics().is_empty() && sim.polls() > 0);
/// let now = sim.block_on(async { sim.runtime().now() });
/// assert_eq!(now, sim.now());
/// println!("{} was drawn, {:x} is what happened", sim.random(), sim.trace_hash());
/// sim.end();
/// ```
#[derive(Clone)]
pub struct Sim {
    world: Arc<World>,
    _owner: Arc<Owner>,
}

struct Owner(Arc<World>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Sim {
    /// A simulation of random order with this seed.
    pub fn new(seed: u64) -> Self {
        Self::builder().seed(seed).build()
    }

    /// Describes a simulation.
    pub fn builder() -> SimBuilder {
        SimBuilder::new()
    }

    fn begin(builder: SimBuilder) -> Self {
        let world = World::new(builder);
        Self { _owner: Arc::new(Owner(Arc::clone(&world))), world }
    }

    /// Runs `test` for each seed and each [`Scheduling`], each time in a simulation of its own. A task that panics fails it
    /// too.
    ///
    /// With `TIDEGATE_SIM_SEED=17` in the environment only that seed is run, with `17:lifo` in that order alone.
    ///
    /// # Panics
    /// Where `test` does, with the seed and the order that failed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::sim::Sim;
    /// Sim::check(0..100, |sim| async move {
    ///     let hour = Duration::from_secs(3600);
    ///     sim.sleep(hour).await;
    ///     assert_eq!(sim.elapsed(), hour);
    /// });
    /// ```
    pub fn check<F: Future<Output = ()>>(seeds: impl IntoIterator<Item = u64>, test: impl Fn(Self) -> F) {
        Self::builder().check(seeds, test);
    }

    /// The runtime of this world: its clock, its network, its workers.
    pub fn runtime(&self) -> Runtime {
        let world = || Arc::clone(&self.world);
        Runtime::new("sim", SimTimer(world()), SimSpawn(world()), SimConnect(world()), SimResolve(world()))
            .with_offload(SimOffload(world()))
            // Nothing of the machine that runs the test.
            .simulated()
            .with_ledger_limits_of({
                let net = self.net();
                move || net.ledger_limits()
            })
            .with_watch(SimWatch(world()))
    }

    /// The network.
    pub fn net(&self) -> Net {
        Net(Arc::downgrade(&self.world))
    }

    /// Sets the answer to lookups of a name. One that nobody set has an address in 24.0.0.0/8 that depends on the name
    /// alone, except that `localhost` is 127.0.0.1 and names under `invalid` are not found.
    ///
    /// # Panics
    /// Where `name` cannot be one.
    ///
    /// ```
    /// use tidegate::sim::{Lookup, Sim};
    /// let sim = Sim::new(1);
    /// sim.name("a.test", Lookup::found([[192, 0, 2, 1].into()]));
    /// sim.name("gone.test", Lookup::not_found());
    /// ```
    pub fn name(&self, name: &str, lookup: Lookup) {
        self.world.lock().names.set(valid(name), lookup);
    }

    /// Sets the answer to lookups of every name that [`name`](Self::name) did not set.
    pub fn names_by(&self, rule: impl Fn(&Name) -> Lookup + Send + Sync + 'static) {
        let replaced = self.world.lock().names.set_rule(Arc::new(rule));
        drop(replaced);
    }

    /// The address of a name that nobody set.
    ///
    /// # Panics
    /// Where `name` cannot be one.
    pub fn address_of(name: &str) -> IpAddr {
        address_of(&valid(name))
    }

    /// Makes the n-th call of an operation fail, counted from 0 over the whole simulation: a connection with `EMFILE`, a read
    /// or write with `ConnectionReset`, a lookup with a failed answer. A task is dropped unpolled, a job is rejected. Only that
    /// call fails: what is read from the same connection next is read.
    ///
    /// # Panics
    /// Where that call is past.
    ///
    /// ```
    /// use tidegate::sim::{Op, Sim};
    /// let sim = Sim::new(1);
    /// sim.fail(Op::Read, 3);
    /// ```
    pub fn fail(&self, op: Op, nth: u64) {
        let error = move || match op {
            Op::Connect => net::descriptor_shortage(),
            Op::Read | Op::Write => io::ErrorKind::ConnectionReset.into(),
            Op::Resolve | Op::Spawn | Op::Offload => io::Error::other("failed as the test has planned"),
        };
        self.fail_with(op, nth, error);
    }

    /// The same with an error of your own, for connections, reads and writes.
    ///
    /// # Panics
    /// As [`fail`](Self::fail).
    ///
    /// ```
    /// use std::io;
    /// use tidegate::sim::{Op, Sim};
    /// let sim = Sim::new(1);
    /// sim.fail_with(Op::Connect, 0, || io::ErrorKind::AddrNotAvailable.into());
    /// ```
    pub fn fail_with(&self, op: Op, nth: u64, error: impl Fn() -> io::Error + Send + Sync + 'static) {
        let count = self.count(op);
        assert!(nth >= count, "{op:?} was called {count} times already, and call {nth} is past");
        self.world.lock().faults.plan(op, nth, Arc::new(error));
    }

    /// How often an operation was called.
    pub fn count(&self, op: Op) -> u64 {
        self.world.lock().faults.count(op)
    }

    /// Runs this world until `main` is ready.
    ///
    /// # Panics
    /// Where `main` does, and as the [module](self) says.
    pub fn block_on<F: Future>(&self, main: F) -> F::Output {
        self.world.block_on(main)
    }

    /// Runs this world for so long.
    ///
    /// # Panics
    /// As [`block_on`](Self::block_on).
    pub fn run_for(&self, time: Duration) {
        self.world.run_for(time);
    }

    /// Runs this world for so many polls of tasks, those of the network's servers included: to stop it in the middle of
    /// anything. `false` where nothing was left to happen before.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::sim::Sim;
    /// let sim = Sim::new(1);
    /// let sleeper = sim.clone();
    /// sim.spawn(async move { sleeper.sleep(Duration::from_secs(1)).await });
    /// assert!(sim.run_polls(1) && sim.tasks() == 1, "it sleeps");
    /// assert!(sim.run_polls(1) && sim.tasks() == 0, "it has ended");
    /// assert!(!sim.run_polls(1), "nothing is left");
    /// ```
    ///
    /// # Panics
    /// As [`block_on`](Self::block_on), but for a world in which nothing can happen any more.
    pub fn run_polls(&self, polls: u64) -> bool {
        self.world.run_polls(polls)
    }

    /// Starts a task; one that panics is reported by [`panics`](Self::panics).
    #[track_caller]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.world.spawn(Box::pin(task), Location::caller());
    }

    /// Waits for so long.
    pub async fn sleep(&self, time: Duration) {
        timer::SimSleep::after(&self.world, time).await;
    }

    /// Works for so long: CPU time. On a worker of the offload the rest of the world goes on meanwhile; anywhere else it
    /// stands still, and every timer is late.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::sim::Sim;
    /// use tidegate::{Output, Page, ParseError};
    ///
    /// // A parser that takes 10 ms a page.
    /// fn slow(sim: Sim) -> impl Fn(&Page, &mut Output<u32>) -> Result<(), ParseError> {
    ///     move |_, _| {
    ///         sim.spend(Duration::from_millis(10));
    ///         Ok(())
    ///     }
    /// }
    /// # let _ = slow;
    /// ```
    pub fn spend(&self, time: Duration) {
        offload::spend(&self.world, time);
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.world.elapsed()
    }

    /// Sets the clock on the wall, as somebody may who sets a machine right. [`now`](Self::now) is not touched.
    pub fn set_wall_clock(&self, time: SystemTime) {
        let elapsed = self.elapsed();
        self.world.lock().wall_clock = time.checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH);
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.world.config.seed
    }

    /// The order in which tasks are polled.
    pub fn scheduling(&self) -> Scheduling {
        self.world.config.scheduling
    }

    /// A number that is drawn from the seed.
    pub fn random(&self) -> u64 {
        self.world.lock().rng.u64(..)
    }

    /// Tasks that live, servers of the network apart.
    pub fn tasks(&self) -> usize {
        self.world.lock().tasks.iter().filter(|(_, task)| !task.is_peer).count()
    }

    /// Polls of tasks so far, those of the network's servers included.
    pub fn polls(&self) -> u64 {
        self.world.lock().polls()
    }

    /// What the tasks that panicked said, each with where it was spawned. Such a panic ends its task alone.
    pub fn panics(&self) -> Vec<String> {
        self.world.lock().panics.clone()
    }

    /// A hash of all that happened and when: two runs with the same are the same.
    pub fn trace_hash(&self) -> u64 {
        self.world.lock().trace_hash()
    }

    /// Ends this world: every task is dropped, and what is spawned later is dropped at once. Connections and jobs are refused, and
    /// whoever still runs it panics where it would wait.
    pub fn end(&self) {
        self.world.end();
    }
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed())
            .field("scheduling", &self.scheduling())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

fn valid(name: &str) -> Name {
    Name::new(name).unwrap_or_else(|| panic!("{name:?} is no name"))
}

/// The executor of a world.
struct SimSpawn(Arc<World>);

impl Spawn for SimSpawn {
    #[track_caller]
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task, Location::caller());
    }

    fn spawn_from(&self, task: BoxFuture<'static, ()>, from: &'static Location<'static>) {
        self.0.spawn(task, from);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        let world = Arc::clone(&self.0);
        let mut since = None;
        Box::pin(std::future::poll_fn(move |cx| {
            let mut state = world.lock();
            // Whatever else wakes the task meanwhile.
            if *since.get_or_insert(state.turns) != state.turns {
                return Poll::Ready(());
            }
            if !state.yielded.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.yielded.push(cx.waker().clone());
            }
            state.waits_for(Wait::Yield);
            Poll::Pending
        }))
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Sim>();
    send_sync::<Net>();
    send_sync::<Host>();
};
