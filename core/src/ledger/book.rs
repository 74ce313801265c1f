//! The rules of the ledger: who may open what, and whose turn it is. It wakes nobody and reads no clock.

use std::collections::{BTreeSet, HashMap};
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

#[cfg_attr(test, derive(Clone))]
pub(super) struct Book {
    sockets: Cap,
    open: u32,
    idle: u32,
    ports: u32,
    destinations: HashMap<SocketAddr, Destination, KeyedState>,
    /// Those with fewer ports than they should have.
    shrunk: Vec<SocketAddr>,
    next: u64,
    /// By the order of arrival.
    waiting: HashMap<u64, Waiter, KeyedState>,
    /// Those that have not been granted anything, by what they wait for; none is empty.
    lines: HashMap<SocketAddr, Vec<Line>, KeyedState>,
    /// The first of each line for which there is a port.
    heads: BTreeSet<u64>,
    /// How many stand in lines.
    ungranted: u32,
}

/// Those that wait for the same ports. Looking for the next one costs the logarithm of how many wait, and for a destination
/// as many steps as it has lists of sources: one, unless fetchers differ.
#[cfg_attr(test, derive(Clone))]
struct Line {
    sources: Box<[IpAddr]>,
    all: BTreeSet<u64>,
    /// Of those, who was not told to look for a parked connection.
    unlooking: BTreeSet<u64>,
    /// Who of it is among the heads.
    head: Option<u64>,
}

/// A limit, or what the system has left of it.
#[cfg_attr(test, derive(Clone))]
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

#[cfg_attr(test, derive(Clone))]
struct Destination {
    sources: Vec<Source>,
    idle: u32,
}

/// The ports of one source address to one destination.
#[cfg_attr(test, derive(Clone))]
struct Source {
    address: Option<IpAddr>,
    cap: Cap,
    used: u32,
}

#[cfg_attr(test, derive(Clone))]
struct Waiter {
    to: SocketAddr,
    sources: Box<[IpAddr]>,
    waker: Option<Waker>,
    state: State,
}

#[cfg_attr(test, derive(Clone, Debug, PartialEq))]
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
            shrunk: Vec::new(),
            next: 0,
            waiting: HashMap::with_hasher(KeyedState::new(0)),
            lines: HashMap::with_hasher(KeyedState::new(0)),
            heads: BTreeSet::new(),
            ungranted: 0,
        }
    }

    pub(super) fn usage(&self) -> LedgerUsage {
        let sources = self.destinations.values().flat_map(|d| &d.sources);
        let ports = sources.map(|source| (source.used, source.cap.now));
        let (used, cap) = ports.max_by_key(|(used, cap)| (*used, std::cmp::Reverse(*cap))).unwrap_or((0, self.ports));
        LedgerUsage {
            sockets: self.open,
            idle: self.idle,
            socket_cap: self.sockets.now,
            waiting: self.ungranted,
            ports_of_fullest: used,
            port_cap: cap,
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
        for to in std::mem::take(&mut self.shrunk) {
            let Some(destination) = self.destinations.get_mut(&to) else { continue };
            for source in &mut destination.sources {
                grew |= source.cap.tick(now);
            }
            let is_shrunk = destination.sources.iter().any(|source| source.cap.grows_at.is_some());
            self.tidy(to);
            self.line_up(to);
            if is_shrunk {
                self.shrunk.push(to);
            }
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
        self.line_up(to);
        Some(chosen)
    }

    pub(super) fn give_port(&mut self, to: SocketAddr, source: Option<IpAddr>) {
        let Some(destination) = self.destinations.get_mut(&to) else { return };
        let address = counted(source, to);
        if let Some(source) = destination.sources.iter_mut().find(|source| source.address == address) {
            source.used -= 1;
        }
        self.tidy(to);
        self.line_up(to);
    }

    /// Forgets what is as if it had never been used. What the system said of its ports is kept until it is outdated.
    fn tidy(&mut self, to: SocketAddr) {
        let Some(destination) = self.destinations.get_mut(&to) else { return };
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
            if !self.shrunk.contains(&to) {
                self.shrunk.push(to);
            }
            self.line_up(to);
        }
    }

    pub(super) fn enqueue(&mut self, to: SocketAddr, sources: Box<[IpAddr]>) -> u64 {
        self.next += 1;
        let number = self.next;
        let lines = self.lines.entry(to).or_default();
        let known = lines.iter().position(|line| line.sources == sources).unwrap_or_else(|| {
            let sources = sources.clone();
            lines.push(Line { sources, all: BTreeSet::new(), unlooking: BTreeSet::new(), head: None });
            lines.len() - 1
        });
        lines[known].all.insert(number);
        lines[known].unlooking.insert(number);
        self.waiting.insert(number, Waiter { to, sources, waker: None, state: State::Waits });
        self.ungranted += 1;
        self.line_up(to);
        number
    }

    pub(super) fn poll(&mut self, number: u64, waker: &Waker) -> Told {
        // Room may have come between the look and the place in the queue.
        self.grant(number);
        let Some(waiter) = self.waiting.get_mut(&number) else { return Told::Look };
        match waiter.state {
            State::Waits => Told::Wait(keep_waker(&mut waiter.waker, waker)),
            State::Look => {
                waiter.state = State::Waits;
                let (to, sources) = (waiter.to, &waiter.sources);
                if let Some(line) = line_of(&mut self.lines, to, sources) {
                    line.unlooking.insert(number);
                }
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
        self.step_out(number, to, &sources);
        let waiter = self.waiting.get_mut(&number)?;
        waiter.state = State::Granted(source);
        waiter.waker.take()
    }

    /// Grants what there is, in the order of arrival. Who lacks a port lets others pass.
    pub(super) fn pump(&mut self) -> Vec<Waker> {
        let mut wake = Vec::new();
        while self.has_socket()
            && let Some(first) = self.heads.first().copied()
        {
            wake.extend(self.grant(first));
        }
        wake
    }

    /// A waiter does not stand in its line any more.
    fn step_out(&mut self, number: u64, to: SocketAddr, sources: &[IpAddr]) {
        let Some(line) = line_of(&mut self.lines, to, sources) else { return };
        line.all.remove(&number);
        line.unlooking.remove(&number);
        self.ungranted -= 1;
        self.line_up(to);
    }

    /// Finds the heads of the lines for a destination, after its ports or its lines have changed.
    fn line_up(&mut self, to: SocketAddr) {
        let Some(lines) = self.lines.get_mut(&to) else { return };
        let (destination, ports) = (self.destinations.get(&to), self.ports);
        for line in &mut *lines {
            let has_port = destination.is_none_or(|destination| destination.has_port(to, &line.sources, ports));
            let head = line.all.first().copied().filter(|_| has_port);
            if line.head != head {
                line.head.inspect(|old| _ = self.heads.remove(old));
                line.head = head.inspect(|new| _ = self.heads.insert(*new));
            }
        }
        lines.retain(|line| !line.all.is_empty());
        if lines.is_empty() {
            self.lines.remove(&to);
        }
    }

    /// A connection to `to` is parked. Whether it may stay, and who is to look for it.
    pub(super) fn offer(&mut self, to: SocketAddr) -> (bool, Option<Waker>) {
        if self.ungranted == 0 {
            return (true, None);
        }
        let lines = self.lines.get_mut(&to).into_iter().flatten();
        let fits =
            lines.filter_map(|line| line.unlooking.first().copied().map(|first| (first, line))).min_by_key(|f| f.0);
        if let Some((number, line)) = fits {
            line.unlooking.remove(&number);
            let waker = self.waiting.get_mut(&number).and_then(|waiter| {
                waiter.state = State::Look;
                waiter.waker.take()
            });
            return (true, waker);
        }
        // Nobody can use it as it is, but somebody may use its descriptor.
        (self.has_socket(), None)
    }

    pub(super) fn leave(&mut self, number: u64) -> Vec<Waker> {
        let Some(waiter) = self.waiting.remove(&number) else { return Vec::new() };
        match waiter.state {
            State::Granted(source) => self.give_back(waiter.to, source),
            State::Waits => {
                self.step_out(number, waiter.to, &waiter.sources);
                self.pump()
            }
            State::Look => {
                self.step_out(number, waiter.to, &waiter.sources);
                let (_, passed) = self.offer(waiter.to);
                passed.into_iter().chain(self.pump()).collect()
            }
        }
    }
}

fn line_of<'a>(
    lines: &'a mut HashMap<SocketAddr, Vec<Line>, KeyedState>,
    to: SocketAddr,
    sources: &[IpAddr],
) -> Option<&'a mut Line> {
    lines.get_mut(&to)?.iter_mut().find(|line| *line.sources == *sources)
}

impl Destination {
    fn has_port(&self, to: SocketAddr, sources: &[IpAddr], ports: u32) -> bool {
        let has = |source| self.room(counted(source, to), ports) > 0;
        if sources.is_empty() { has(None) } else { sources.iter().any(|source| has(Some(*source))) }
    }

    fn room(&self, address: Option<IpAddr>, ports: u32) -> u32 {
        let known = self.sources.iter().find(|source| source.address == address);
        known.map_or(ports, |source| source.cap.now.saturating_sub(source.used))
    }
}

#[cfg(test)]
mod tests;
