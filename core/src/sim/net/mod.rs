//! The network of a simulation: hosts, the paths to them, and the limits of the machine that connects.

mod connect;
mod host;
mod listener;
mod peer;
mod pipe;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::Waker;

use slab::Slab;

pub(super) use self::connect::SimConnect;
use self::host::Answers;
pub use self::host::{Host, Link};
pub use self::listener::SimListener;
pub use self::peer::{PeerRequest, Reply};
use self::pipe::Pipe;
pub use self::stream::SimStream;
use super::world::World;
use crate::LedgerLimits;
use crate::hash::KeyedState;

type Rule = Arc<dyn Fn(IpAddr) -> Option<Host> + Send + Sync>;

/// What the world knows of its network. A host that nobody talks to is nowhere in it.
pub(super) struct Network {
    hosts: HashMap<IpAddr, Host, KeyedState>,
    rule: Option<Rule>,
    listeners: HashMap<SocketAddr, Backlog, KeyedState>,
    conns: Slab<Conn>,
    /// Connections of each address that has a limit of them.
    accepted: HashMap<IpAddr, u32, KeyedState>,
    /// Connections in the order in which they were accepted.
    serial: u64,
    next_port: u16,
    descriptors: Option<u32>,
    ports: Option<u32>,
    open: u32,
    open_peak: u32,
    /// Ports taken for each destination.
    taken: HashMap<SocketAddr, u32, KeyedState>,
}

/// Connections that a listener has not accepted.
#[derive(Default)]
struct Backlog {
    waiting: VecDeque<SimStream>,
    waker: Option<Waker>,
}

/// A connection: end 0 asked for it, end 1 was asked.
struct Conn {
    /// What end 0 and end 1 write.
    pipes: [Pipe; 2],
    open: [bool; 2],
    /// It counts against the limit of this address.
    counted: Option<IpAddr>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            hosts: HashMap::with_hasher(KeyedState::new(0)),
            rule: None,
            listeners: HashMap::with_hasher(KeyedState::new(0)),
            conns: Slab::new(),
            accepted: HashMap::with_hasher(KeyedState::new(0)),
            serial: 0,
            next_port: 0,
            descriptors: None,
            ports: None,
            open: 0,
            open_peak: 0,
            taken: HashMap::with_hasher(KeyedState::new(0)),
        }
    }
}

impl Network {
    /// A segment or an end has come to end `side` of a connection: it may be read now.
    pub(super) fn arrive(&mut self, conn: usize, side: usize, now: u64, wakers: &mut Vec<Waker>) {
        if let Some(conn) = self.conns.get_mut(conn) {
            wakers.extend(conn.pipes[1 - side].reader.take());
            // Who waits for room learns of a reset too.
            if conn.pipes[1 - side].is_reset(now) {
                wakers.extend(conn.pipes[side].writer.take());
            }
        }
    }

    /// Takes the address of a socket of the crawl's machine; `None` where all ports to `to` are taken.
    fn take_port(&mut self, to: SocketAddr) -> Option<u16> {
        let taken = self.taken.entry(to).or_default();
        if self.ports.is_some_and(|ports| *taken >= ports) {
            return None;
        }
        *taken += 1;
        self.next_port = self.next_port.wrapping_add(1);
        Some(32_768 | self.next_port)
    }

    /// The end of the simulation: what the user put here, to be dropped without the lock. Connections are counted on until
    /// their ends are dropped.
    pub(super) fn close(&mut self) -> impl Sized + use<> {
        let hosts = std::mem::replace(&mut self.hosts, HashMap::with_hasher(KeyedState::new(0)));
        let listeners = std::mem::replace(&mut self.listeners, HashMap::with_hasher(KeyedState::new(0)));
        (hosts, listeners, self.rule.take())
    }

    /// A connection of an address that has a limit of them is gone.
    fn release(&mut self, at: IpAddr) {
        if let Some(accepted) = self.accepted.get_mut(&at) {
            *accepted -= 1;
            if *accepted == 0 {
                self.accepted.remove(&at);
            }
        }
    }

    fn give_port(&mut self, to: SocketAddr) {
        if let Some(taken) = self.taken.get_mut(&to) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&to);
            }
        }
    }
}

/// The network of a simulation, as a test sets it up. Made by [`Sim::net`](super::Sim::net).
///
/// Nothing is at an address until something is put there: a connection to it is refused.
///
/// ```
/// use tidegate::sim::{Host, Reply, Sim};
///
/// let sim = Sim::new(1);
/// sim.net().host([192, 0, 2, 1], Host::http(|asked| Reply::ok(format!("you asked for {}", asked.path))));
/// sim.net().host([192, 0, 2, 2], Host::black_hole());
/// ```
#[derive(Clone)]
pub struct Net(pub(super) Weak<World>);

impl Net {
    fn with<T>(&self, change: impl FnOnce(&Arc<World>, &mut Network) -> T) -> Option<T> {
        let world = self.0.upgrade()?;
        let mut state = world.lock();
        Some(change(&world, &mut state.net))
    }

    /// Puts a host at an address, for connections that are asked for from now on.
    pub fn host(&self, at: impl Into<IpAddr>, host: Host) {
        self.with(|_, net| net.hosts.insert(at.into(), host));
    }

    /// Says what is at every address where [`host`](Self::host) put nothing. It is asked at each connection, so that a
    /// hundred thousand hosts cost nothing until somebody talks to them.
    ///
    /// ```
    /// use tidegate::sim::{Host, Reply, Sim};
    /// let sim = Sim::new(1);
    /// sim.net().hosts_by(|addr| addr.is_ipv4().then(|| Host::http(|_| Reply::ok("hello"))));
    /// ```
    pub fn hosts_by(&self, rule: impl Fn(IpAddr) -> Option<Host> + Send + Sync + 'static) {
        // Dropped without the lock.
        let replaced = self.with(|_, net| net.rule.replace(Arc::new(rule)));
        drop(replaced);
    }

    /// Accepts connections at an address by hand. The path to it is that of the [`Host`] at the address, where there is
    /// one, and [`Link::default`] otherwise.
    ///
    /// # Panics
    /// Where somebody listens there already.
    ///
    /// ```
    /// use tidegate::sim::Sim;
    /// let sim = Sim::new(1);
    /// let mut listener = sim.net().listen(([127, 0, 0, 1], 80));
    /// let runtime = sim.runtime();
    /// let (client, server) = sim.block_on(async {
    ///     let connecting = runtime.tcp().connect(listener.addr(), &Default::default());
    ///     futures::future::join(connecting, listener.accept()).await
    /// });
    /// assert_eq!(client.expect("it is accepted").local, server.peer());
    /// ```
    pub fn listen(&self, at: impl Into<SocketAddr>) -> SimListener {
        let at = at.into();
        let is_free = self.with(|_, net| {
            let is_free = !net.listeners.contains_key(&at);
            if is_free {
                net.listeners.insert(at, Backlog::default());
            }
            is_free
        });
        assert!(is_free != Some(false), "somebody listens at {at} already");
        SimListener::new(self.0.clone(), at)
    }

    /// What a ledger may book here: the limits below, and nothing of the machine that runs the test.
    pub(super) fn ledger_limits(&self) -> LedgerLimits {
        let (sockets, ports) = self.with(|_, net| (net.descriptors, net.ports)).unwrap_or_default();
        let mut limits = LedgerLimits::default();
        limits.sockets = sockets.map_or(limits.sockets, |most| most.min(limits.sockets));
        limits.ports = ports.map_or(limits.ports, |most| most.min(limits.ports));
        limits
    }

    /// Sockets that the crawl's machine may have at a time; a connection above it fails with `EMFILE`. No limit by default.
    /// A ledger that is made afterwards knows it, and asks for no more, unless the runtime was told other limits
    /// ([`Runtime::with_ledger_limits`](crate::rt::Runtime::with_ledger_limits)).
    pub fn limit_descriptors(&self, sockets: Option<u32>) {
        self.with(|_, net| net.descriptors = sockets);
    }

    /// Connections that the crawl's machine may have to one address and port; one above it fails with `EADDRNOTAVAIL`. No
    /// limit by default. A ledger that is made afterwards knows it, as that of descriptors.
    pub fn limit_ports(&self, connections: Option<u32>) {
        self.with(|_, net| net.ports = connections);
    }

    /// Sockets of the crawl's machine that are open, those that are still connecting included.
    pub fn open_sockets(&self) -> u32 {
        self.with(|_, net| net.open).unwrap_or_default()
    }

    /// The most that were open at a time.
    pub fn open_sockets_peak(&self) -> u32 {
        self.with(|_, net| net.open_peak).unwrap_or_default()
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.with(|_, net| net.serial).unwrap_or_default()
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("open_sockets", &self.open_sockets()).finish_non_exhaustive()
    }
}

/// What a connection fails with that finds no descriptor.
pub(super) fn descriptor_shortage() -> std::io::Error {
    connect::shortage(false)
}

/// The host at an address, asked for without the lock of the world.
fn host_at(world: &World, at: IpAddr) -> Option<Host> {
    let (known, rule) = {
        let state = world.lock();
        (state.net.hosts.get(&at).cloned(), state.net.rule.clone())
    };
    known.or_else(|| rule?(at))
}

/// What is at an address and port: a listener goes before a host.
fn service_at(world: &World, to: SocketAddr) -> (Link, Option<u32>, Answers) {
    let host = host_at(world, to.ip());
    let listens = world.lock().net.listeners.contains_key(&to);
    let (link, limit, answers) = match host {
        Some(host) => (host.link, host.connections, host.answers),
        None => (Link::default(), None, Answers::Refuses),
    };
    (
        link,
        limit,
        if listens && !matches!(answers, Answers::Nothing | Answers::Unreachable) {
            Answers::Listener
        } else {
            answers
        },
    )
}
