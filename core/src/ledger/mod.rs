//! [`Ledger`]: what a process may hold of sockets, ports and handshakes, booked before anything is opened.

mod body;
mod book;
mod bytes;
mod evict;
mod limits;
mod share;
mod turnstile;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

pub(crate) use self::body::{BodyBytes, Booking};
use self::book::{Book, Told};
pub(crate) use self::evict::Evict;
use self::evict::Evictors;
pub use self::limits::LedgerLimits;
pub use self::share::{Booked, Share};
use self::turnstile::{Pass, Turnstile};
use crate::sync::{Mutex, MutexGuard};

/// Counts sockets, ports, handshakes and lookups against their limits. Clones are the same ledger.
///
/// Everything is booked before it is opened and given back on drop. Who finds no room closes an idle connection first;
/// where there is none it waits, in the order of arrival. Several fetchers may share one ledger
/// (`HttpFetcherBuilder::ledger`): the idle connections of each make room for all.
///
/// ```
/// use tidegate::{Ledger, LedgerLimits};
/// let mut limits = LedgerLimits::default();
/// limits.sockets = 200;
/// let ledger = Ledger::new(limits);
/// assert_eq!(ledger.usage().sockets, 0);
/// assert_eq!(ledger.usage().socket_cap, 200);
/// ```
#[derive(Clone)]
pub struct Ledger(Arc<Shared>);

struct Shared {
    limits: LedgerLimits,
    book: Mutex<Book>,
    handshakes: Turnstile,
    lookups: Turnstile,
    evictors: Evictors,
}

/// What is booked in a [`Ledger`] now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerUsage {
    /// Sockets that are open or being opened, idle ones too.
    pub sockets: u32,
    /// Connections among them that are parked.
    pub idle: u32,
    /// Sockets that may be open now: the limit, or less while the system has less.
    pub socket_cap: u32,
    /// Fetches that wait for a socket or a port.
    pub waiting: u32,
    /// Ports in use from one source address to one destination, where they are most.
    pub ports_of_fullest: u32,
    /// Ports that may be in use there: the limit, or less while the system has less.
    pub port_cap: u32,
    /// TLS handshakes under way.
    pub handshakes: u32,
    /// Lookups of names under way.
    pub lookups: u32,
}

impl Ledger {
    /// An empty ledger with these limits; a limit of 0 counts as 1.
    pub fn new(limits: LedgerLimits) -> Self {
        Self(Arc::new(Shared {
            book: Mutex::new(Book::new(limits.sockets, limits.ports)),
            handshakes: Turnstile::new(limits.handshakes),
            lookups: Turnstile::new(limits.lookups),
            evictors: Evictors::default(),
            limits,
        }))
    }

    /// The limits that it was made with.
    pub fn limits(&self) -> &LedgerLimits {
        &self.0.limits
    }

    /// What is booked now.
    pub fn usage(&self) -> LedgerUsage {
        let mut usage = self.book().usage();
        usage.handshakes = self.0.handshakes.inside();
        usage.lookups = self.0.lookups.inside();
        usage
    }

    /// Connections that may still be opened to `destination` from `sources` (empty: the system chooses one) before their
    /// ports are used up; `None` where nothing is known of it, as nothing is open.
    pub fn room(&self, destination: SocketAddr, sources: &[IpAddr]) -> Option<u32> {
        self.book().room(destination, sources)
    }

    /// Whether somebody waits for a descriptor.
    pub(crate) fn is_short(&self) -> bool {
        self.book().is_short()
    }

    /// How many wait for a lookup.
    pub(crate) fn lookups_in_line(&self) -> u32 {
        self.0.lookups.waiting()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Books a socket and a port, where there is room and nobody was there before.
    pub(crate) fn try_book(&self, to: SocketAddr, sources: &[IpAddr], now: Instant) -> Option<Socket> {
        let mut book = self.book();
        let wake = book.tick(now);
        let booked = book.try_book(to, sources);
        drop(book);
        wake_all(wake);
        Some(Socket { ledger: self.clone(), to, source: booked?, idle: false })
    }

    /// Has what is parked in `pool` make room for everybody, as long as it lives.
    pub(crate) fn register(&self, pool: std::sync::Weak<dyn Evict>) {
        self.0.evictors.add(pool);
    }

    /// Closes the `most` connections that were parked longest ago, and says how many they were.
    pub(crate) fn evict(&self, most: usize) -> usize {
        self.0.evictors.evict(most)
    }

    /// Closes the connection to `to` that was parked longest ago.
    pub(crate) fn evict_to(&self, to: SocketAddr) -> bool {
        self.0.evictors.evict_to(to)
    }

    /// Takes a place in the queue.
    pub(crate) fn wait(&self, to: SocketAddr, sources: &[IpAddr]) -> Waiting {
        let number = self.book().enqueue(to, sources.into());
        Waiting { ledger: self.clone(), to, number: Some(number) }
    }

    /// Whether a parked connection to `to` stands in the way of somebody who waits for its port.
    pub(crate) fn has_idle(&self, to: SocketAddr) -> bool {
        self.book().idle_to(to) > 0
    }

    /// Whether all ports to `to` are taken.
    pub(crate) fn lacks_ports(&self, to: SocketAddr, sources: &[IpAddr]) -> bool {
        !self.book().has_port(to, sources)
    }

    /// A connection to `to` was parked: who waits for one is told to look for it. `false` where somebody waits for a
    /// descriptor who cannot use it, so that one that is idle is to be closed.
    pub(crate) fn parked(&self, to: SocketAddr) -> bool {
        let (stays, wake) = self.book().offer(to);
        wake_all(wake.into_iter().collect());
        stays
    }

    /// The system had no descriptor: no more than are open now, for a while.
    pub(crate) fn descriptors_ran_out(&self, now: Instant) {
        self.book().descriptors_ran_out(now);
    }

    /// The system had no port from this source to this destination: no more than are in use now, for a while.
    pub(crate) fn ports_ran_out(&self, to: SocketAddr, source: Option<IpAddr>, now: Instant) {
        self.book().ports_ran_out(to, source, now);
    }

    /// Waits until another TLS handshake may begin; `waits` is called where that is not now.
    ///
    /// # Cancel safety
    /// Dropping it passes the turn on.
    pub(crate) async fn handshake(&self, waits: impl FnOnce()) -> Permit {
        Permit::of(self, |shared| &shared.handshakes, waits).await
    }

    /// Waits until another lookup may begin; `waits` is called where that is not now.
    ///
    /// # Cancel safety
    /// Dropping it passes the turn on.
    pub(crate) async fn lookup(&self, waits: impl FnOnce()) -> Permit {
        Permit::of(self, |shared| &shared.lookups, waits).await
    }
}

impl Default for Ledger {
    /// With the limits of this machine.
    fn default() -> Self {
        Self::new(LedgerLimits::of_this_machine())
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ledger").field(&self.usage()).finish()
    }
}

fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// A socket with its port, booked; given back on drop, which is to be after the socket was closed.
pub(crate) struct Socket {
    ledger: Ledger,
    to: SocketAddr,
    source: Option<IpAddr>,
    idle: bool,
}

impl Socket {
    /// Where it leads.
    pub(crate) fn to(&self) -> SocketAddr {
        self.to
    }

    /// The source address to bind to.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Says whether the connection is parked.
    pub(crate) fn set_idle(&mut self, idle: bool) {
        if std::mem::replace(&mut self.idle, idle) != idle {
            self.ledger.book().set_idle(self.to, idle);
        }
    }

    /// Keeps the descriptor for another destination, where that has a port.
    pub(crate) fn move_to(&mut self, to: SocketAddr, sources: &[IpAddr]) -> bool {
        let mut book = self.ledger.book();
        let Some(source) = book.take_port(to, sources) else { return false };
        book.give_port(self.to, self.source);
        let wake = book.pump();
        drop(book);
        (self.to, self.source) = (to, source);
        wake_all(wake);
        true
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        if self.idle {
            book.set_idle(self.to, false);
        }
        let wake = book.give_back(self.to, self.source);
        drop(book);
        wake_all(wake);
    }
}

/// A place in the queue for a socket; given up on drop.
pub(crate) struct Waiting {
    ledger: Ledger,
    to: SocketAddr,
    /// `None` once it was granted.
    number: Option<u64>,
}

/// What became of a place in the queue.
pub(crate) enum Turn {
    /// Booked.
    Granted(Socket),
    /// A connection to the destination was parked, or an idle one may be closed: worth another look.
    Look,
}

impl Waiting {
    /// Waits for the turn.
    pub(crate) async fn turn(&mut self) -> Turn {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let number = self.number.expect("nobody waits on after the grant");
        let told = self.ledger.book().poll(number, cx.waker());
        match told {
            Told::Wait(replaced) => {
                drop(replaced);
                Poll::Pending
            }
            Told::Look => Poll::Ready(Turn::Look),
            Told::Granted(source) => {
                self.number = None;
                Poll::Ready(Turn::Granted(Socket { ledger: self.ledger.clone(), to: self.to, source, idle: false }))
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let wake = self.ledger.book().leave(number);
            wake_all(wake);
        }
    }
}

/// A turn to shake hands or to look up; given back on drop.
pub(crate) struct Permit {
    ledger: Ledger,
    of: fn(&Shared) -> &Turnstile,
}

impl Permit {
    async fn of(ledger: &Ledger, of: fn(&Shared) -> &Turnstile, waits: impl FnOnce()) -> Self {
        let mut pass = Pass::new(of(&ledger.0));
        let mut waits = Some(waits);
        poll_fn(|cx| {
            let poll = pass.poll(cx);
            if let Some(waits) = waits.take().filter(|_| poll.is_pending()) {
                waits();
            }
            poll
        })
        .await;
        pass.keep();
        Self { ledger: ledger.clone(), of }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.of)(&self.ledger.0).leave();
    }
}

#[cfg(test)]
mod tests;

#[cfg(all(test, tidegate_loom))]
mod loom_tests;
