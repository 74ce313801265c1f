//! [`Links`]: the connections that speak HTTP/2, by host; each request of a host takes a place on one of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::channel::oneshot;

use super::stream::Stream;
use super::{Line, Raw, Sender, begin};
use crate::hash::KeyedState;
use crate::http::conn::Peer;
use crate::http::pool::{AsKey, Key, KeyRef, PoolLimits};
use crate::ledger::Evict;
use crate::rt::Runtime;
use crate::time::later;
use crate::{Error, Ledger};

/// Hosts without a connection of which it is remembered that they speak HTTP/2.
const MOST_KNOWN: usize = 4096;

/// See the file's head. Locks are taken in this order: this table's, that of a line, the ledger's.
pub(in crate::http) struct Links {
    runtime: Runtime,
    ledger: Ledger,
    limits: PoolLimits,
    max_streams: usize,
    state: Mutex<State>,
}

struct State {
    /// Those that are known to speak HTTP/2.
    hosts: HashMap<Arc<Key>, Host, KeyedState>,
    /// Connections without a stream, by the order in which they became so.
    idle: BTreeMap<u64, (Instant, Arc<Key>)>,
    next: u64,
}

#[derive(Default)]
struct Host {
    links: Vec<Link>,
    /// Somebody makes a connection.
    is_dialing: bool,
    /// Those that wait for it, or for a stream to end.
    waiting: VecDeque<oneshot::Sender<()>>,
}

struct Link {
    number: u64,
    sender: Sender,
    line: Arc<Line>,
    peer: Peer,
    streams: usize,
    /// Its place among the idle ones.
    idle: Option<u64>,
    /// It takes no more requests.
    is_retired: bool,
}

/// A place on a connection; given back on drop.
pub(super) struct Lease {
    links: Arc<Links>,
    pub(super) key: Arc<Key>,
    number: u64,
    pub(super) sender: Sender,
    pub(super) peer: Peer,
    pub(super) was_idle: bool,
    pub(super) is_reused: bool,
}

/// What a request that needs a connection is to do.
pub(in crate::http) enum Entry {
    /// Go by this stream.
    Stream(Box<Stream>),
    /// Wait until it is worth asking again; where it is cancelled, dial.
    Wait(oneshot::Receiver<()>),
    /// Dial.
    Dial(Option<Dialing>),
}

/// The one that makes a connection to a host, while others wait for it; they are told on drop.
pub(in crate::http) struct Dialing {
    links: Arc<Links>,
    key: Arc<Key>,
}

impl Links {
    pub(in crate::http) fn new(
        runtime: Runtime,
        ledger: Ledger,
        limits: PoolLimits,
        max_streams: usize,
        seed: u64,
    ) -> Self {
        let hosts = HashMap::with_hasher(KeyedState::new(seed));
        let state = Mutex::new(State { hosts, idle: BTreeMap::new(), next: 0 });
        Self { runtime, ledger, limits, max_streams, state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that no request uses now.
    pub(in crate::http) fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    /// Looks for a stream.
    pub(in crate::http) fn enter(self: &Arc<Self>, key: KeyRef<'_>) -> Entry {
        let now = self.runtime.now();
        let mut state = self.lock();
        let old = state.sweep(now, &self.limits);
        let entry = self.look(&mut state, &key);
        drop(state);
        old.into_iter().for_each(Link::close);
        entry
    }

    fn look(self: &Arc<Self>, state: &mut State, key: &dyn AsKey) -> Entry {
        if let Some(lease) = self.lease(state, key) {
            return Entry::Stream(Box::new(Stream::new(lease)));
        }
        let Some((own, _)) = state.hosts.get_key_value(key) else { return Entry::Dial(None) };
        let own = Arc::clone(own);
        let Some(host) = state.hosts.get_mut(key) else { return Entry::Dial(None) };
        if std::mem::replace(&mut host.is_dialing, true) {
            let (sender, receiver) = oneshot::channel();
            host.waiting.retain(|waiting| !waiting.is_canceled());
            host.waiting.push_back(sender);
            return Entry::Wait(receiver);
        }
        Entry::Dial(Some(Dialing { links: Arc::clone(self), key: own }))
    }

    /// A place on a connection that has one.
    fn lease(self: &Arc<Self>, state: &mut State, key: &dyn AsKey) -> Option<Lease> {
        state.prune(key);
        let (own, _) = state.hosts.get_key_value(key)?;
        let key = Arc::clone(own);
        let host = state.hosts.get_mut(&key)?;
        // The first that has room, so that the others may become idle.
        let link = host.links.iter_mut().find(|link| link.has_room(self.max_streams))?;
        link.streams += 1;
        let idle = link.idle.take();
        if idle.is_some() {
            link.line.set_idle(false);
        }
        let lease = Lease {
            links: Arc::clone(self),
            key,
            number: link.number,
            sender: link.sender.clone(),
            peer: link.peer,
            was_idle: idle.is_some(),
            is_reused: true,
        };
        if let Some(idle) = idle {
            state.idle.remove(&idle);
        }
        Some(lease)
    }

    /// Makes a connection of a stream that was dialed, and takes the first place on it. Where another was made meanwhile that has
    /// room, it is that one's, and the stream is closed.
    pub(in crate::http) async fn join(self: &Arc<Self>, key: KeyRef<'_>, raw: Raw) -> Result<Box<Stream>, Error> {
        let Raw { io, peer, socket } = raw;
        let key = KeyRef { local: socket.source(), ..key };
        let found = self.lease(&mut self.lock(), &key);
        if let Some(lease) = found {
            return Ok(Box::new(Stream::new(lease)));
        }
        let line = Line::new(io, socket);
        let sender = begin(&self.runtime, &line).await?;
        let mut state = self.lock();
        if state.hosts.len() >= MOST_KNOWN {
            state.hosts.retain(|_, host| host.is_in_use());
        }
        let number = state.next;
        state.next += 1;
        let key: Arc<Key> = match state.hosts.get_key_value(&key as &dyn AsKey) {
            Some((own, _)) => Arc::clone(own),
            None => Arc::new(key.into()),
        };
        let host = state.hosts.entry(Arc::clone(&key)).or_default();
        let of_stream = sender.clone();
        host.links.push(Link { number, sender, line, peer, streams: 1, idle: None, is_retired: false });
        drop(state);
        let lease =
            Lease { links: Arc::clone(self), key, number, sender: of_stream, peer, was_idle: false, is_reused: false };
        Ok(Box::new(Stream::new(lease)))
    }

    /// The host chose HTTP/1.1: it is dialed by everyone from now on.
    pub(in crate::http) fn forget(&self, key: KeyRef<'_>) {
        let mut state = self.lock();
        let key: &dyn AsKey = &key;
        let out =
            if state.hosts.get(key).is_some_and(|host| host.links.is_empty()) { state.hosts.remove(key) } else { None };
        drop(state);
        drop(out);
    }

    /// A stream has ended.
    fn give_back(&self, key: &Arc<Key>, number: u64) {
        let now = self.runtime.now();
        let mut state = self.lock();
        let mut out = state.sweep(now, &self.limits);
        let mut parked = None;
        let idle = state.next;
        if let Some(host) = state.hosts.get_mut(key)
            && let Some(place) = host.links.iter().position(|link| link.number == number)
        {
            let link = &mut host.links[place];
            link.streams -= 1;
            let is_over = link.is_retired || link.sender.is_closed();
            if link.streams == 0 && (is_over || self.limits.total == 0 || self.limits.per_key == 0) {
                out.push(host.links.swap_remove(place));
            } else if link.streams == 0 {
                link.line.set_idle(true);
                link.idle = Some(idle);
                parked = Some(link.line.to());
            }
            host.wake_one();
        }
        if parked.is_some() {
            state.next += 1;
            state.idle.insert(idle, (now, Arc::clone(key)));
            while state.idle.len() > self.limits.total {
                let Some(oldest) = state.remove_oldest() else { break };
                out.push(oldest);
            }
        }
        drop(state);
        out.into_iter().for_each(Link::close);
        // Where somebody waits for what this connection holds, it makes room.
        if let Some(to) = parked
            && !self.ledger.parked(to)
        {
            self.ledger.evict(1);
        }
    }

    fn retire(&self, key: &Arc<Key>, number: u64) {
        let mut state = self.lock();
        if let Some(host) = state.hosts.get_mut(key) {
            { host.links.iter_mut() }.filter(|link| link.number == number).for_each(|link| link.is_retired = true);
        }
    }
}

impl State {
    /// Takes out those that were idle for too long.
    fn sweep(&mut self, now: Instant, limits: &PoolLimits) -> Vec<Link> {
        let mut old = Vec::new();
        while let Some((_, (since, _))) = self.idle.first_key_value()
            && later(*since, limits.idle_timeout) <= now
            && let Some(link) = self.remove_oldest()
        {
            old.push(link);
        }
        old
    }

    /// Takes out those of a host that ended while they were idle.
    fn prune(&mut self, key: &dyn AsKey) {
        let Self { hosts, idle, .. } = self;
        let Some(host) = hosts.get_mut(key) else { return };
        host.links.retain(|link| {
            let is_over = link.idle.is_some() && link.sender.is_closed();
            if let Some(place) = link.idle.filter(|_| is_over) {
                idle.remove(&place);
            }
            !is_over
        });
    }

    fn remove_oldest(&mut self) -> Option<Link> {
        let (idle, _) = self.idle.first_key_value()?;
        self.remove_idle(*idle)
    }

    fn remove_idle(&mut self, idle: u64) -> Option<Link> {
        let (_, key) = self.idle.remove(&idle)?;
        let host = self.hosts.get_mut(&key)?;
        let place = host.links.iter().position(|link| link.idle == Some(idle))?;
        Some(host.links.swap_remove(place))
    }
}

impl Host {
    fn is_in_use(&self) -> bool {
        !self.links.is_empty() || self.is_dialing
    }

    fn wake_one(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            if waiting.send(()).is_ok() {
                break;
            }
        }
    }
}

impl Link {
    fn has_room(&self, max_streams: usize) -> bool {
        let most = max_streams.min(self.line.allowed());
        !self.is_retired && !self.sender.is_closed() && self.streams < most
    }

    /// Closes its socket. Without a stream nobody hears of it.
    fn close(self) {
        self.line.close();
    }
}

impl Lease {
    pub(super) fn retire(&self) {
        self.links.retire(&self.key, self.number);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.links.give_back(&self.key, self.number);
    }
}

impl Dialing {
    /// A connection was made, or found: those that wait look again.
    pub(in crate::http) fn succeeded(self) {
        let mut state = self.links.lock();
        if let Some(host) = state.hosts.get_mut(&self.key) {
            for waiting in host.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        let mut state = self.links.lock();
        let waiting = state.hosts.get_mut(&self.key).map(|host| {
            host.is_dialing = false;
            std::mem::take(&mut host.waiting)
        });
        drop(state);
        // Who is not told of a connection dials.
        drop(waiting);
    }
}

impl Evict for Links {
    fn oldest(&self) -> Option<Instant> {
        self.lock().idle.first_key_value().map(|(_, (since, _))| *since)
    }

    fn evict_oldest(&self) -> bool {
        let out = self.lock().remove_oldest();
        out.map(Link::close).is_some()
    }

    fn evict_to(&self, to: SocketAddr) -> bool {
        let mut state = self.lock();
        let is_to = |idle: &u64, key: &Arc<Key>| {
            let links = state.hosts.get(key).map(|host| &host.links[..]).unwrap_or_default();
            links.iter().any(|link| link.idle == Some(*idle) && link.line.to() == to)
        };
        let found = state.idle.iter().find(|(idle, (_, key))| is_to(idle, key)).map(|(idle, _)| *idle);
        let out = found.and_then(|idle| state.remove_idle(idle));
        drop(state);
        out.map(Link::close).is_some()
    }
}
