//! [`Fetcher`]: a request in, the answer's bytes out; and [`FetchCx`], all that a fetch may ask of the crawl.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures::channel::oneshot;
use url::Url;

use crate::engine::JobId;
use crate::layer::Layer;
use crate::observer::{FetchWatch, What};
use crate::rt::{Moment, PhaseTimer, Runtime, SliceClock, Wheel};
use crate::sync::atomic::{AtomicU16, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::time::later;
use crate::{Accept, BodyBytes, Booking, Error, ErrorKind, Head, Ledger, Limits, Request, Response};

/// Brings the answer to a request. [`HttpFetcher`](crate::http::HttpFetcher) is the one that ships.
///
/// A function or closure `Fn(Request) -> impl Future<Output = Result<Response, Error>>` is a fetcher.
///
/// # Contract
/// * One call is one attempt at one hop: a redirect is returned, not followed, unless
///   [`FetchCx::follows_redirects`] says so. Retries and rates are the crawl's.
/// * No sleeping: a fetch holds permits while it runs.
/// * Each wait is bounded by [`FetchCx::timeout`] with the phase's deadline; the total deadline is the crawl's.
///
/// # Cancel safety
/// The future may be dropped at any await; it must then leave no connection behind that somebody else could be given.
///
/// # Panics
/// A panic fails its URL with `fetcher.panic` and nothing else.
#[async_trait]
pub trait Fetcher: Send + Sync + 'static {
    /// Fetches one hop.
    ///
    /// # Errors
    /// Any; its [`kind`](Error::kind) decides about a retry.
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error>;

    /// Finds the address of an origin before the first of its URLs is admitted, so that a slow name server holds no
    /// permit. `Ok(None)`: there is nothing to find (a proxy does it, or the fetcher needs no address).
    ///
    /// # Errors
    /// Those of name resolution; all waiting URLs of the origin are then judged by it.
    async fn resolve(&self, _target: &Url, _cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        Ok(None)
    }

    /// The ledger that its sockets are booked in. While somebody waits there for a descriptor, the crawl starts nothing.
    /// `None`: it keeps none.
    fn ledger(&self) -> Option<&Ledger> {
        None
    }

    /// Wraps it: what `layer` makes is the first to see a request and the last to see its answer. See [`layer`](crate::layer).
    ///
    /// ```
    /// use tidegate::Fetcher;
    /// use tidegate::layer::TraceLayer;
    ///
    /// fn told(fetcher: impl Fetcher) -> impl Fetcher {
    ///     fetcher.layer(TraceLayer::new(|fetched| eprintln!("{fetched}")))
    /// }
    /// ```
    fn layer<L: Layer<Self>>(self, layer: L) -> L::Fetcher
    where
        Self: Sized,
    {
        layer.layer(self)
    }
}

#[async_trait]
impl<F, Fut> Fetcher for F
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response, Error>> + Send + 'static,
{
    async fn fetch(&self, request: &Request, _cx: &FetchCx) -> Result<Response, Error> {
        self(request.clone()).await
    }
}

/// The phases of a fetch, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Admitted, not yet begun, or waiting for room: our own lag.
    Local,
    /// Name to addresses.
    Dns,
    /// TCP connection, and the tunnel where there is a proxy.
    Connect,
    /// TLS handshake.
    Tls,
    /// Request sent, waiting for the first byte; the rest of the head.
    FirstByte,
    /// Body.
    Body,
}

impl Phase {
    /// The stable name: `local`, `dns`, `connect`, `tls`, `first_byte`, `body`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::FirstByte => "first_byte",
            Self::Body => "body",
        }
    }
}

/// How long each part of a URL's life took; `None` where it did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// From submission to the start of the last attempt: queue, politeness, back-off.
    pub queue: Option<Duration>,
    /// What this machine added: from admission to the first poll, waiting for room in the ledger and in the byte budget, and
    /// the time that the loop stood still within the phases below, of which they are free.
    pub local: Option<Duration>,
    /// Name resolution.
    pub dns: Option<Duration>,
    /// Connection, all of a proxy's part included.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// From the request being sent to the complete head.
    pub first_byte: Option<Duration>,
    /// From the head to the last byte of the body.
    pub body: Option<Duration>,
    /// The last attempt as a whole.
    pub total: Option<Duration>,
}

impl Timings {
    fn slot(&mut self, phase: Phase) -> &mut Option<Duration> {
        match phase {
            Phase::Local => &mut self.local,
            Phase::Dns => &mut self.dns,
            Phase::Connect => &mut self.connect,
            Phase::Tls => &mut self.tls,
            Phase::FirstByte => &mut self.first_byte,
            Phase::Body => &mut self.body,
        }
    }
}

/// What the crawl wants of its fetches.
#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only a fetcher that books its sockets stands in line"))]
pub(crate) trait Wishes: Send + Sync {
    /// Whether the body is wanted.
    fn accept(&self, wish: &Wish, head: &Head) -> Accept;

    /// The fetch must wait for a port or a descriptor, without its permit.
    fn waits(&self, job: JobId);

    /// It has what it waited for; the answer, or the end of the crawl, says that it has its permit again.
    fn turn(&self, job: JobId) -> oneshot::Receiver<()>;
}

/// What the crawl wants of one of them.
pub(crate) struct Wish {
    pub(crate) job: JobId,
    pub(crate) request: Arc<Request>,
    /// Where it has observers: what they are told.
    pub(crate) watch: Option<Arc<FetchWatch>>,
    /// A redirect will be followed.
    pub(crate) follows: bool,
    /// Somebody waits for the page itself, whatever the parser would say.
    pub(crate) page_only: bool,
}

/// What all fetches of a loop share: one allocation for them all, and one count that each goes through.
pub(crate) struct Home {
    pub(crate) runtime: Runtime,
    pub(crate) timing: Option<(Wheel, Arc<SliceClock>)>,
    pub(crate) bytes: Option<Arc<BodyBytes>>,
    pub(crate) wishes: Option<Box<dyn Wishes>>,
}

/// Where a fetch belongs.
enum Place {
    /// Nowhere: it is somebody's own, and allocates nothing for it.
    Alone(Runtime),
    Home(Arc<Home>),
}

impl Place {
    fn runtime(&self) -> &Runtime {
        match self {
            Self::Alone(runtime) => runtime,
            Self::Home(home) => &home.runtime,
        }
    }

    fn home(&self) -> Option<&Home> {
        match self {
            Self::Alone(_) => None,
            Self::Home(home) => Some(home),
        }
    }

    fn timing(&self) -> Option<&(Wheel, Arc<SliceClock>)> {
        self.home()?.timing.as_ref()
    }
}

/// All that a fetch may ask of the crawl: clock, deadlines, limits, byte booking, phases.
///
/// A fetcher that is used without a crawl is given [`FetchCx::detached`]; a test fetcher ignores it.
pub struct FetchCx {
    place: Place,
    limits: Arc<Limits>,
    /// `None`: nobody's but the caller's.
    wish: Option<Wish>,
    guards: bool,
    guarded: bool,
    job: u64,
    attempt: u32,
    /// Until when a deadline of a phase wakes the fetch as of its last poll, in whole seconds after `started`; 0 where none does.
    woken_within: AtomicU16,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    timings: Timings,
    phase: Option<Current>,
    booking: Option<Booking>,
}

/// The phase that a fetch is in.
struct Current {
    phase: Phase,
    since: Instant,
    /// The stalls of the loop when it began, in microseconds that wrap: a fetch is small.
    stalled: u32,
    /// What there is no room for.
    waits_for: Option<ErrorKind>,
}

impl FetchCx {
    /// A context for a fetcher that is used without a crawl: default limits, timers of the runtime, redirects followed.
    ///
    /// ```no_run
    /// # async fn example(runtime: tidegate::rt::Runtime, fetcher: impl tidegate::Fetcher) -> Result<(), tidegate::Error> {
    /// use tidegate::{FetchCx, Request};
    /// let response = fetcher.fetch(&Request::get("http://127.0.0.1:8080/"), &FetchCx::detached(&runtime)).await?;
    /// println!("{}", response.head.status);
    /// # Ok(()) }
    /// ```
    pub fn detached(runtime: &Runtime) -> Self {
        Self::make(Place::Alone(runtime.clone()), runtime.now(), Arc::new(Limits::listed()), 0, 1)
    }

    /// One that starts now.
    pub(crate) fn new(home: Arc<Home>, started: Instant, limits: Arc<Limits>, job: u64, attempt: u32) -> Self {
        Self::make(Place::Home(home), started, limits, job, attempt)
    }

    fn make(place: Place, started: Instant, limits: Arc<Limits>, job: u64, attempt: u32) -> Self {
        let bytes = place.home().and_then(|home| home.bytes.as_ref());
        let booking = bytes.map(|bytes| Booking::new(Arc::clone(bytes)));
        Self {
            place,
            limits,
            wish: None,
            guards: true,
            guarded: false,
            job,
            attempt,
            woken_within: AtomicU16::new(0),
            started,
            state: Mutex::new(State { timings: Timings::default(), phase: None, booking }),
        }
    }

    /// Replaces the limits, for a detached context. Many contexts share them as an `Arc`.
    #[must_use]
    pub fn with_limits(mut self, limits: impl Into<Arc<Limits>>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Whether a redirect from a public address to a private one is refused with `guard.blocked`, for a detached context:
    /// on by default.
    #[must_use]
    pub fn with_guard(mut self, guards: bool) -> Self {
        self.guards = guards;
        self
    }

    /// `guarded`: a page of the public network led to this request.
    pub(crate) fn guarding(&mut self, guards: bool, guarded: bool) {
        self.guards = guards;
        self.guarded = guards && guarded;
    }

    /// Whether redirects from public to private addresses are refused.
    pub fn guards(&self) -> bool {
        self.guards
    }

    /// Whether this request must not reach a private address: the guard is on, and a page of the public network led to
    /// it. The fetcher judges the address that it really connects to; through a proxy it cannot.
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    pub(crate) fn wishing(&mut self, wish: Wish) {
        self.wish = Some(wish);
    }

    pub(crate) fn wish(&self) -> Option<&Wish> {
        self.wish.as_ref()
    }

    fn wished(&self) -> Option<(&dyn Wishes, &Wish)> {
        Some((&**self.place.home()?.wishes.as_ref()?, self.wish.as_ref()?))
    }

    fn tell(&self, now: impl FnOnce() -> Instant, what: What<'_>) {
        if let Some(watch) = self.wish.as_ref().and_then(|wish| wish.watch.as_ref()) {
            watch.tell(now(), self.job, self.attempt, what);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime that the fetch runs on.
    pub fn runtime(&self) -> &Runtime {
        self.place.runtime()
    }

    /// The clock.
    pub fn now(&self) -> Instant {
        self.place.runtime().now()
    }

    /// When the poll under way began, where a fetch loop polls; now elsewhere.
    pub(crate) fn moment(&self) -> Instant {
        Moment::now().filter(|_| self.place.timing().is_some()).unwrap_or_else(|| self.now())
    }

    /// The clock on the wall.
    pub fn wall_clock(&self) -> SystemTime {
        self.place.runtime().wall_clock()
    }

    /// The number of the job in its crawl; 0 when detached.
    pub fn job(&self) -> u64 {
        self.job
    }

    /// The attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When this attempt began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The bounds of this request, its overrides applied.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the fetcher follows redirects by itself: only where there is no crawl to re-admit the target.
    pub fn follows_redirects(&self) -> bool {
        self.wish.is_none()
    }

    /// Asks the parser whether it wants the body.
    pub fn accept(&self, head: &Head) -> Accept {
        self.tell(|| self.now(), What::Headers { status: head.status, version: head.version });
        self.wished().map_or(Accept::Body, |(wishes, wish)| wishes.accept(wish, head))
    }

    /// Says that `phase` begins, and so that the one before it ended.
    pub fn phase(&self, phase: Phase) {
        let now = self.moment();
        let stalled = self.stalled(now);
        let mut state = self.state();
        Self::end_phase(&mut state, now, stalled);
        state.phase = Some(Current { phase, since: now, stalled, waits_for: None });
        drop(state);
        self.tell(|| self.now(), What::Phase(phase));
    }

    /// Says that nothing goes on until there is room; `kind` says for what. It ends with the next phase.
    pub(crate) fn waits_for(&self, kind: ErrorKind) {
        self.phase(Phase::Local);
        if let Some(current) = self.state().phase.as_mut() {
            current.waits_for = Some(kind);
        }
    }

    /// Gives the permit back while the fetch waits for a port or a descriptor.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "only a fetcher that books its sockets stands in line")
    )]
    pub(crate) fn stands_in_line(&self) {
        if let Some((wishes, wish)) = self.wished() {
            wishes.waits(wish.job);
        }
    }

    /// Waits until a fetch that stood in line, and has what it waited for, has its permit again.
    ///
    /// # Cancel safety
    /// It is dropped only with the fetch.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "only a fetcher that books its sockets stands in line")
    )]
    pub(crate) async fn readmitted(&self) {
        let Some(admission) = self.wished().map(|(wishes, wish)| wishes.turn(wish.job)) else { return };
        // Nobody answers where the crawl has ended, and the fetch is dropped then.
        let _ = admission.await;
    }

    /// The attempt was cut off by its total deadline. Where it waited for room, that is what it failed for.
    pub(crate) fn cut_off(&self, error: Error) -> Error {
        let total = self.limits.deadlines.total;
        let Some(kind) = self.state().phase.as_ref().and_then(|current| current.waits_for) else { return error };
        let what = match kind {
            ErrorKind::LocalPorts => "find a free port",
            ErrorKind::LocalDescriptors => "find a free descriptor",
            ErrorKind::LocalBytes => "find room for the body",
            _ => "have its turn",
        };
        Error::new(kind, format!("{what} within {total:?}"))
    }

    /// Says that the fetch has a connection to `remote`, which served another request before where it is `reused`. For
    /// the crawl's [observers](crate::Observer) alone.
    pub fn connected(&self, remote: std::net::SocketAddr, reused: bool) {
        self.tell(|| self.now(), What::Connected { remote, reused });
    }

    /// The time that the loop stood still, up to the [`moment`](Self::moment), in microseconds; never without a crawl.
    fn stalled(&self, moment: Instant) -> u32 {
        let Some((wheel, _)) = self.place.timing() else { return 0 };
        Moment::stalled(|now| wheel.stalled(now)).unwrap_or_else(|| wheel.stalled(moment)).as_micros() as u32
    }

    fn end_phase(state: &mut State, now: Instant, stalled: u32) {
        if let Some(Current { phase, since, stalled: before, .. }) = state.phase.take() {
            let mut took = now.saturating_duration_since(since);
            if stalled != before {
                let ours = Duration::from_micros(stalled.wrapping_sub(before).into()).min(took);
                took -= ours;
                state.timings.local = Some(state.timings.local.unwrap_or_default() + ours);
            }
            let slot = state.timings.slot(phase);
            *slot = Some(slot.map_or(took, |before| before + took));
        }
    }

    /// Says that the attempt ended; gives what was measured.
    pub fn finish(&self) -> Timings {
        let now = self.moment();
        let stalled = self.stalled(now);
        let mut state = self.state();
        Self::end_phase(&mut state, now, stalled);
        state.timings.total = Some(now.saturating_duration_since(self.started));
        state.timings
    }

    pub(crate) fn set_local(&self, local: Duration) {
        self.state().timings.local = Some(local);
    }

    /// A future that is ready once `limit` has passed from now, by the clock and not by the timer's word.
    ///
    /// In a crawl it is put off by the time that the loop itself stands still meanwhile, at most by `limit`, so that no server is
    /// blamed for our lag; [`PhaseTimer::reset`] begins anew.
    pub fn deadline(&self, limit: Duration) -> PhaseTimer {
        let now = self.moment();
        match self.place.timing() {
            Some((wheel, _)) => wheel.phase(now, limit),
            None => PhaseTimer::from_sleep(self.runtime().clone(), later(now, limit)),
        }
    }

    /// Polls one that [`deadline`](Self::deadline) gave, for a fetch that waits for nothing else: a total deadline that is later
    /// then needs no timer of its own. One that is put off says so here when it wakes the fetch.
    #[cfg(feature = "http")]
    pub(crate) fn poll_deadline(&self, timer: &mut PhaseTimer, task: &mut Context<'_>) -> Poll<()> {
        let poll = Pin::new(&mut *timer).poll(task);
        if poll.is_pending() {
            let seconds = timer.deadline().saturating_duration_since(self.started).as_secs() + 1;
            // One that is too far off to be told is as good as none.
            self.woken_within.store(u16::try_from(seconds).unwrap_or(0), Ordering::Relaxed);
        }
        poll
    }

    /// Whether a deadline of a phase, as of its last poll, wakes the fetch at this time or before.
    fn is_woken_by(&self, at: Instant) -> bool {
        let within = self.woken_within.load(Ordering::Relaxed);
        within > 0 && later(self.started, Duration::from_secs(within.into())) <= at
    }

    /// A deadline that nothing puts off.
    fn firm_deadline(&self, limit: Duration) -> PhaseTimer {
        let at = later(self.moment(), limit);
        match self.place.timing() {
            Some((wheel, _)) => wheel.timer(at),
            None => PhaseTimer::from_sleep(self.runtime().clone(), at),
        }
    }

    /// Runs `work` under a deadline. The work is polled before the deadline is judged, and once more after the loop stood still.
    /// The deadline is put off as that of [`deadline`](Self::deadline) is, unless `kind` is [`ErrorKind::TimeoutTotal`]: that one
    /// is a promise.
    ///
    /// # Errors
    /// An error of `kind` when the deadline is over; `attempted` says what was being done.
    ///
    /// # Cancel safety
    /// As that of `work`, which is dropped when the deadline is over.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    pub fn timeout<'a, F: Future + 'a>(
        &'a self,
        limit: Duration,
        kind: ErrorKind,
        attempted: &'a str,
        work: F,
    ) -> impl Future<Output = Result<F::Output, Error>> + use<'a, F> {
        async move {
            let mut work = std::pin::pin!(work);
            let mut timer = None;
            std::future::poll_fn(|cx| {
                let is_total = kind == ErrorKind::TimeoutTotal;
                if is_total {
                    self.woken_within.store(0, Ordering::Relaxed);
                }
                if let Poll::Ready(out) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(out));
                }
                // Made on the first wait only: most work under a deadline is ready at once.
                let begin = || if is_total { self.firm_deadline(limit) } else { self.deadline(limit) };
                let timer: &mut PhaseTimer = timer.get_or_insert_with(begin);
                if is_total && self.is_woken_by(timer.deadline()) {
                    // What wakes the fetch brings it here again.
                    return Poll::Pending;
                }
                ready!(Pin::new(timer).poll(cx));
                Poll::Ready(Err(Error::new(kind, format!("{attempted} within {limit:?}"))))
            })
            .await
        }
    }

    /// Books bytes of a body before they are kept. Where the crawl's byte budget is spent it waits, and that time is no time
    /// of the phase: a fetch that waits reads nothing, and lets none of its deadlines but the total one run meanwhile.
    ///
    /// # Cancel safety
    /// Dropping it passes the turn on; what was booked before stays so until the body is dropped.
    pub async fn book(&self, bytes: u64) {
        let Some(reader) = self.state().booking.as_mut().map(Booking::reader) else { return };
        let Some(mut growth) = reader.book(bytes) else { return };
        let phase = self.state().phase.as_ref().map(|current| current.phase);
        self.waits_for(ErrorKind::LocalBytes);
        growth.granted().await;
        if let Some(phase) = phase {
            self.phase(phase);
        }
    }

    /// Its bytes are booked without waiting: of an embedder's own fetch, for which a sink may wait, and with it the pages
    /// that would have to make room.
    pub(crate) fn books_at_once(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(booking) = &mut state.booking {
            booking.never_waits();
        }
    }

    /// The attempt is over: what it has booked goes with the body.
    pub(crate) fn take_booking(&self) -> Option<Booking> {
        let mut booking = self.state().booking.take()?;
        booking.end();
        Some(booking)
    }

    /// Whether the loop wants its thread back: a fetch that has more to read then calls [`yield_now`](Self::yield_now).
    pub fn slice_is_over(&self) -> bool {
        self.place.timing().is_some_and(|(_, slice)| slice.is_over(self.now()))
    }

    /// Gives the thread back; the fetch is polled again in the next slice, before others.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|cx: &mut Context<'_>| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl std::fmt::Debug for FetchCx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchCx").field("job", &self.job).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
