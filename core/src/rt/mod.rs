//! The seam: everything that tidegate asks of an executor, as parts that can be replaced one by one.
//!
//! An adapter implements [`Timer`], [`Spawn`], [`TcpConnect`] and [`Resolve`]; [`Offload`] has two implementations
//! here, [`ThreadPool`] and [`Inline`], and [`Watch`] has one, [`ThreadWatch`]. Everything else (channels, timeouts, cancellation, panic handling) is built once,
//! in this crate, so that every runtime behaves the same.

mod dns;
mod flight;
mod inline;
#[cfg(test)]
pub(crate) mod manual;
mod moment;
pub(crate) mod net;
pub(crate) mod offload;
mod resolve;
mod slice;
mod spawn;
mod stall_clock;
mod timer;
mod watch;
mod wheel;

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::dns::{CachedResolver, DnsLimits};
pub use self::inline::{InlineTasks, inline};
pub(crate) use self::moment::Moment;
pub use self::net::{Io, TcpConn, TcpConnect, TcpOptions, start_connect};
pub use self::offload::{Inline, Job, Offload, Place, Priority, Rejected, ThreadPool, Ticket};
pub use self::resolve::{Addrs, Name, Resolve, ResolveError, SystemResolver};
pub use self::slice::SliceClock;
pub use self::spawn::Spawn;
pub(crate) use self::stall_clock::StallClock;
pub use self::timer::{Sleep, Timer};
pub use self::watch::{Look, ThreadWatch, Watch};
pub use self::wheel::{PhaseTimer, Wheel};

use crate::LedgerLimits;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An executor, as tidegate sees it: a cheap handle to its parts.
///
/// Comes from an adapter (`tidegate_tokio::current()`, `tidegate_smol::runtime()`); a part is replaced by `with_*`:
///
/// ```
/// use tidegate::rt::{Runtime, ThreadPool};
/// fn four_parser_threads(runtime: Runtime) -> Runtime {
///     runtime.with_offload(ThreadPool::new(std::num::NonZeroUsize::MIN.saturating_add(3)))
/// }
/// ```
#[derive(Clone)]
pub struct Runtime(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    name: &'static str,
    timer: Arc<dyn Timer>,
    spawn: Arc<dyn Spawn>,
    tcp: Arc<dyn TcpConnect>,
    resolve: Arc<dyn Resolve>,
    offload: Arc<dyn Offload>,
    /// Its time is virtual, so that what this process and machine do meanwhile says nothing about it.
    simulated: bool,
    ledger_limits: Option<Arc<dyn Fn() -> LedgerLimits + Send + Sync>>,
    watch: Option<Arc<dyn Watch>>,
}

impl Runtime {
    /// A runtime of these parts, with [`ThreadPool::default`] for CPU work and a [`ThreadWatch`]. `name` appears in reports.
    pub fn new(
        name: &'static str,
        timer: impl Timer,
        spawn: impl Spawn,
        tcp: impl TcpConnect,
        resolve: impl Resolve,
    ) -> Self {
        Self(Arc::new(Parts {
            name,
            timer: Arc::new(timer),
            spawn: Arc::new(spawn),
            tcp: Arc::new(tcp),
            resolve: Arc::new(resolve),
            offload: Arc::new(ThreadPool::default()),
            simulated: false,
            ledger_limits: None,
            watch: Some(Arc::new(ThreadWatch::new())),
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Parts)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Replaces the clock.
    #[must_use]
    pub fn with_timer(self, timer: impl Timer) -> Self {
        self.with(|parts| parts.timer = Arc::new(timer))
    }

    /// Replaces the way tasks are started.
    #[must_use]
    pub fn with_spawn(self, spawn: impl Spawn) -> Self {
        self.with(|parts| parts.spawn = Arc::new(spawn))
    }

    /// Replaces the way connections are made.
    #[must_use]
    pub fn with_tcp(self, tcp: impl TcpConnect) -> Self {
        self.with(|parts| parts.tcp = Arc::new(tcp))
    }

    /// Replaces name resolution.
    #[must_use]
    pub fn with_resolve(self, resolve: impl Resolve) -> Self {
        self.with(|parts| parts.resolve = Arc::new(resolve))
    }

    /// Replaces where CPU work runs.
    #[must_use]
    pub fn with_offload(self, offload: impl Offload) -> Self {
        self.with(|parts| parts.offload = Arc::new(offload))
    }

    /// A runtime of virtual time: what the process and the machine do meanwhile differs from run to run.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub(crate) fn simulated(self) -> Self {
        self.with(|parts| parts.simulated = true)
    }

    /// Whether its time is virtual.
    pub(crate) fn is_simulated(&self) -> bool {
        self.0.simulated
    }

    /// CPU time that all threads of this process have used; nothing where it cannot be known.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        if self.is_simulated() { None } else { cpu_time() }
    }

    /// Sets the limits of the ledgers that are made on it by default; those of this machine, as they are at that time,
    /// where it is not called.
    #[must_use]
    pub fn with_ledger_limits(self, limits: LedgerLimits) -> Self {
        self.with(|parts| parts.ledger_limits = Some(Arc::new(move || limits.clone())))
    }

    /// The same for limits that may be others later.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub(crate) fn with_ledger_limits_of(self, limits: impl Fn() -> LedgerLimits + Send + Sync + 'static) -> Self {
        self.with(|parts| parts.ledger_limits = Some(Arc::new(limits)))
    }

    /// The limits of a ledger that is made on it now.
    pub fn ledger_limits(&self) -> LedgerLimits {
        self.0.ledger_limits.as_ref().map_or_else(LedgerLimits::of_this_machine, |limits| limits())
    }

    /// Replaces what looks at the executor from outside.
    #[must_use]
    pub fn with_watch(self, watch: impl Watch) -> Self {
        self.with(|parts| parts.watch = Some(Arc::new(watch)))
    }

    /// Does without: a stall is then seen when it is over, and no thread is started for it.
    #[must_use]
    pub fn without_watch(self) -> Self {
        self.with(|parts| parts.watch = None)
    }

    /// The name of the executor: `tokio`, `smol`.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The clock.
    pub fn timer(&self) -> &dyn Timer {
        &*self.0.timer
    }

    /// The way tasks are started.
    pub fn spawner(&self) -> &dyn Spawn {
        &*self.0.spawn
    }

    /// The way connections are made.
    pub fn tcp(&self) -> &dyn TcpConnect {
        &*self.0.tcp
    }

    /// Name resolution, not cached; see [`CachedResolver`].
    pub fn resolver(&self) -> &Arc<dyn Resolve> {
        &self.0.resolve
    }

    /// Where CPU work runs.
    pub fn offload(&self) -> &Arc<dyn Offload> {
        &self.0.offload
    }

    /// What looks at the executor from outside, where something does.
    pub fn watch(&self) -> Option<&dyn Watch> {
        self.0.watch.as_deref()
    }

    /// The time, by the monotonic clock of this runtime.
    pub fn now(&self) -> Instant {
        self.0.timer.now()
    }

    /// The time, by the clock on the wall.
    pub fn wall_clock(&self) -> SystemTime {
        self.0.timer.wall_clock()
    }

    /// Starts a task and forgets it. A panic in it is contained by the executor.
    #[track_caller]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn.spawn_from(Box::pin(task), Location::caller());
    }

    /// A future that is ready at `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.timer.sleep_until(deadline)
    }
}

#[cfg(unix)]
fn cpu_time() -> Option<Duration> {
    // By the C library: rustix reads the vDSO by itself, which crashes under valgrind.
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    Some(Duration::from(time))
}

#[cfg(not(unix))]
fn cpu_time() -> Option<Duration> {
    None
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("name", &self.0.name).finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn send_sync<T: Send + Sync>() {}
    send_sync::<Runtime>();
    send_sync::<Wheel>();
    send_sync::<CachedResolver>();
    fn object_safe(_: &dyn Timer, _: &dyn Spawn, _: &dyn TcpConnect, _: &dyn Resolve, _: &dyn Offload, _: &dyn Io) {}
    fn object_safe_too(_: &dyn Watch) {}
    let _ = object_safe_too;
    let _ = object_safe;
};
