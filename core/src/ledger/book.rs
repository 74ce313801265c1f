//! The rules of the ledger: who may open what, and whose turn it is. It wakes nobody and reads no clock.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::LedgerUsage;
use crate::hash::KeyedState;
use crate::sync::keep_waker;

/// What the system took away comes back in so many steps.
const STEPS: u32 = 16;

/// The time of a step: a closed connection keeps its port for a minute.
const STEP: Duration = Duration::from_secs(4);

pub(super) struct Book {
    sockets: Cap,
    open: u32,
    idle: u32,
    ports: u32,
    destinations: HashMap<SocketAddr, Destination, KeyedState>,
    next: u64,
    /// By arrival.
    waiting: BTreeMap<u64, Waiter>,
    /// Those that have not been granted anything.
    ungranted: u32,
}

/// A limit, or what the system has left of it.
struct Cap {
    most: u32,
    now: u32,
    grows_at: Option<Instant>,
}

impl Cap {
    fn new(most: u32) -> Self {
        Self { most, now: most, grows_at: None }
    }

    fn shrink(&mut self, to: u32, now: Instant) {
        self.now = to.clamp(1, self.most);
        self.grows_at = now.checked_add(STEP);
    }

    /// Whether it grew.
    fn tick(&mut self, now: Instant) -> bool {
        let Some(at) = self.grows_at.filter(|at| *at <= now) else { return false };
        let steps = 1 + u32::try_from(now.duration_since(at).as_nanos() / STEP.as_nanos()).unwrap_or(u32::MAX);
        let more = (self.most / STEPS).max(1).saturating_mul(steps);
        self.now = self.now.saturating_add(more).min(self.most);
        self.grows_at = if self.now < self.most { now.checked_add(STEP) } else { None };
        true
    }
}

struct Destination {
    sources: Vec<Source>,
    idle: u32,
}

/// The ports of one source address to one destination.
struct Source {
    address: Option<IpAddr>,
    cap: Cap,
    used: u32,
}

struct Waiter {
    to: SocketAddr,
    sources: Box<[IpAddr]>,
    waker: Option<Waker>,
    state: State,
}

enum State {
    Waits,
    Look,
    Granted(Option<IpAddr>),
}

/// What a waiter is told.
pub(super) enum Told {
    /// Not yet; with the waker that was replaced, to be dropped without the lock.
    Wait(Option<Waker>),
    Look,
    Granted(Option<IpAddr>),
}

/// The source address whose ports count: one of the other family is not bound to.
fn counted(source: Option<IpAddr>, to: SocketAddr) -> Option<IpAddr> {
    source.filter(|source| source.is_ipv4() == to.is_ipv4())
}

impl Book {
    pub(super) fn new(sockets: u32, ports: u32) -> Self {
        Self {
            sockets: Cap::new(sockets.max(1)),
            open: 0,
            idle: 0,
            ports: ports.max(1),
            destinations: HashMap::with_hasher(KeyedState::new(0)),
            next: 0,
            waiting: BTreeMap::new(),
            ungranted: 0,
        }
    }

    pub(super) fn usage(&self) -> LedgerUsage {
        let fullest = self.destinations.values().flat_map(|d| d.sources.iter().map(|s| s.used)).max();
        LedgerUsage {
            sockets: self.open,
            idle: self.idle,
            socket_cap: self.sockets.now,
            waiting: self.ungranted,
            ports_of_fullest: fullest.unwrap_or(0),
            handshakes: 0,
            lookups: 0,
        }
    }

    pub(super) fn has_socket(&self) -> bool {
        self.open < self.sockets.now
    }

    pub(super) fn is_short(&self) -> bool {
        self.ungranted > 0 && !self.has_socket()
    }

    pub(super) fn idle_to(&self, to: SocketAddr) -> u32 {
        self.destinations.get(&to).map_or(0, |d| d.idle)
    }

    /// Lets what the system took away come back.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Waker> {
        let mut grew = self.sockets.tick(now);
        for source in self.destinations.values_mut().flat_map(|d| &mut d.sources) {
            grew |= source.cap.tick(now);
        }
        if grew { self.pump() } else { Vec::new() }
    }

    pub(super) fn room(&self, to: SocketAddr, sources: &[IpAddr]) -> Option<u32> {
        let destination = self.destinations.get(&to)?;
        let left = |source| destination.room(counted(source, to), self.ports);
        Some(match sources {
            [] => left(None),
            _ => sources.iter().fold(0, |sum, source| left(Some(*source)).saturating_add(sum)),
        })
    }

    pub(super) fn has_port(&self, to: SocketAddr, sources: &[IpAddr]) -> bool {
        self.room(to, sources).is_none_or(|room| room > 0)
    }

    /// The source address with most room takes a port; the first of them where several have as much.
    pub(super) fn take_port(&mut self, to: SocketAddr, sources: &[IpAddr]) -> Option<Option<IpAddr>> {
        let ports = self.ports;
        let empty = || Destination { sources: Vec::new(), idle: 0 };
        let destination = self.destinations.entry(to).or_insert_with(empty);
        let sources = sources.iter().copied().map(Some);
        let chosen = sources
            .min_by_key(|source| std::cmp::Reverse(destination.room(counted(*source, to), ports)))
            .unwrap_or(None);
        let address = counted(chosen, to);
        if destination.room(address, ports) == 0 {
            return None;
        }
        match destination.sources.iter_mut().find(|source| source.address == address) {
            Some(source) => source.used += 1,
            None => destination.sources.push(Source { address, cap: Cap::new(ports), used: 1 }),
        }
        Some(chosen)
    }

    pub(super) fn give_port(&mut self, to: SocketAddr, source: Option<IpAddr>) {
        let Some(destination) = self.destinations.get_mut(&to) else { return };
        let address = counted(source, to);
        if let Some(source) = destination.sources.iter_mut().find(|source| source.address == address) {
            source.used -= 1;
        }
        // What the system said of its ports is kept until it is outdated.
        destination.sources.retain(|source| source.used > 0 || source.cap.grows_at.is_some());
        if destination.sources.is_empty() {
            self.destinations.remove(&to);
        }
    }

    pub(super) fn try_book(&mut self, to: SocketAddr, sources: &[IpAddr]) -> Option<Option<IpAddr>> {
        if !self.has_socket() {
            return None;
        }
        let source = self.take_port(to, sources)?;
        self.open += 1;
        Some(source)
    }

    pub(super) fn give_back(&mut self, to: SocketAddr, source: Option<IpAddr>) -> Vec<Waker> {
        self.open -= 1;
        self.give_port(to, source);
        self.pump()
    }

    pub(super) fn set_idle(&mut self, to: SocketAddr, idle: bool) {
        let Some(destination) = self.destinations.get_mut(&to) else { return };
        if idle {
            destination.idle += 1;
            self.idle += 1;
        } else {
            destination.idle -= 1;
            self.idle -= 1;
        }
    }

    pub(super) fn descriptors_ran_out(&mut self, now: Instant) {
        // The one that failed is booked too.
        self.sockets.shrink(self.open.saturating_sub(1), now);
    }

    pub(super) fn ports_ran_out(&mut self, to: SocketAddr, source: Option<IpAddr>, now: Instant) {
        let address = counted(source, to);
        let sources = self.destinations.get_mut(&to).map(|d| &mut d.sources);
        if let Some(source) = sources.and_then(|s| s.iter_mut().find(|s| s.address == address)) {
            source.cap.shrink(source.used.saturating_sub(1), now);
        }
    }

    pub(super) fn enqueue(&mut self, to: SocketAddr, sources: Box<[IpAddr]>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, Waiter { to, sources, waker: None, state: State::Waits });
        self.ungranted += 1;
        self.next
    }

    pub(super) fn poll(&mut self, number: u64, waker: &Waker) -> Told {
        // Room may have come between the look and the place in the queue.
        self.grant(number);
        let Some(waiter) = self.waiting.get_mut(&number) else { return Told::Look };
        match waiter.state {
            State::Waits => Told::Wait(keep_waker(&mut waiter.waker, waker)),
            State::Look => {
                waiter.state = State::Waits;
                Told::Look
            }
            State::Granted(source) => {
                self.waiting.remove(&number);
                Told::Granted(source)
            }
        }
    }

    fn grant(&mut self, number: u64) -> Option<Waker> {
        let waiter = self.waiting.get(&number)?;
        if matches!(waiter.state, State::Granted(_)) || !self.has_socket() {
            return None;
        }
        let (to, sources) = (waiter.to, waiter.sources.clone());
        let source = self.try_book(to, &sources)?;
        self.ungranted -= 1;
        let waiter = self.waiting.get_mut(&number)?;
        waiter.state = State::Granted(source);
        waiter.waker.take()
    }

    /// Grants what there is, in the order of arrival. Who lacks a port lets others pass.
    pub(super) fn pump(&mut self) -> Vec<Waker> {
        if self.ungranted == 0 || !self.has_socket() {
            return Vec::new();
        }
        let mut wake = Vec::new();
        let mut full: Vec<(SocketAddr, Box<[IpAddr]>)> = Vec::new();
        let numbers: Vec<u64> = self.waiting.keys().copied().collect();
        for number in numbers {
            if !self.has_socket() {
                break;
            }
            let Some(waiter) = self.waiting.get(&number) else { continue };
            if matches!(waiter.state, State::Granted(_))
                || full.iter().any(|(to, sources)| *to == waiter.to && *sources == waiter.sources)
            {
                continue;
            }
            let lacks = (!self.has_port(waiter.to, &waiter.sources)).then(|| (waiter.to, waiter.sources.clone()));
            match lacks {
                Some(lacks) => full.push(lacks),
                None => wake.extend(self.grant(number)),
            }
        }
        wake
    }

    /// A connection to `to` is parked. Whether it may stay, and who is to look for it.
    pub(super) fn offer(&mut self, to: SocketAddr) -> (bool, Option<Waker>) {
        if self.ungranted == 0 {
            return (true, None);
        }
        let fits = self.waiting.values_mut().find(|w| w.to == to && matches!(w.state, State::Waits));
        if let Some(waiter) = fits {
            waiter.state = State::Look;
            return (true, waiter.waker.take());
        }
        // Nobody can use it as it is, but somebody may use its descriptor.
        (self.has_socket(), None)
    }

    pub(super) fn leave(&mut self, number: u64) -> Vec<Waker> {
        let Some(waiter) = self.waiting.remove(&number) else { return Vec::new() };
        match waiter.state {
            State::Granted(source) => self.give_back(waiter.to, source),
            State::Waits => {
                self.ungranted -= 1;
                self.pump()
            }
            State::Look => {
                self.ungranted -= 1;
                let (_, passed) = self.offer(waiter.to);
                passed.into_iter().chain(self.pump()).collect()
            }
        }
    }
}

impl Destination {
    fn room(&self, address: Option<IpAddr>, ports: u32) -> u32 {
        let known = self.sources.iter().find(|source| source.address == address);
        known.map_or(ports, |source| source.cap.now.saturating_sub(source.used))
    }
}
