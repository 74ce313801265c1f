//! [`EventLoop`]: all connections of a thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::ServerConnection;
use slab::Slab;

use super::connection::{Asked, Connection, Doing, Id, Wanted};
use super::outgoing::Outgoing;
use super::site::Page;
use super::slots::Slots;
use super::timers::Timers;
use super::transport::{Flow, Transport};
use super::{Shared, head};
use crate::now;

/// Events that are taken at a time.
const EVENTS: usize = 1024;
/// What a thread reads into.
const BUFFER: usize = 64 * 1024;
/// Where the thread is out of descriptors, the next is accepted after so long.
const WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(5);
/// Listeners have the tokens above this one's, downwards; connections those from 0.
const WAKER: Token = Token(usize::MAX);

pub(crate) struct EventLoop {
    shared: Arc<Shared>,
    poll: Poll,
    listeners: Vec<TcpListener>,
    /// Whether somebody may wait to be accepted.
    backlog: bool,
    /// When to accept again after an error.
    accept_at: Option<Instant>,
    connections: Slab<Connection>,
    accepted: u32,
    timers: Timers,
    slots: Option<Slots<Id>>,
    /// Who waits at the gate, and how often it had been opened when they came.
    at_gate: Vec<(u64, Id)>,
    /// Part of an interval after which the last connection that drips began to.
    phase: f64,
    buffer: Box<[u8]>,
}

impl EventLoop {
    pub(crate) fn new(mut listeners: Vec<TcpListener>, shared: Arc<Shared>) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (n, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(WAKER.0 - 1 - n), Interest::READABLE)?;
        }
        shared.gate.add_thread(Waker::new(poll.registry(), WAKER)?);
        let slots = (shared.options.slots > 0).then(|| Slots::new(shared.options.slots, shared.options.slowdown));
        Ok(Self {
            shared,
            poll,
            listeners,
            backlog: false,
            accept_at: None,
            connections: Slab::new(),
            accepted: 0,
            timers: Timers::default(),
            slots,
            at_gate: Vec::new(),
            phase: 0.0,
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// Serves until the server is dropped.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.shared.stopped.load(Ordering::Relaxed) {
            let wait = self.wait();
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.expect("an epoll descriptor of our own can be waited for"),
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    Token(place) if place < self.connections.capacity() => {
                        if let Some(connection) = self.connections.get_mut(place) {
                            connection.drained = false;
                            connection.ending |= event.is_read_closed();
                            self.ready(place);
                        }
                    }
                    _ => self.backlog = true,
                }
            }
            self.accept();
            self.pass_gate();
            let now = now();
            while let Some(id) = self.timers.due(now) {
                self.go_on(id, now);
            }
        }
    }

    fn wait(&self) -> Option<Duration> {
        let now = now();
        let accept = self.accept_at.map(|at| at.saturating_duration_since(now));
        [self.timers.wait(now), accept].into_iter().flatten().min()
    }

    fn accept(&mut self) {
        if self.accept_at.is_some_and(|at| at > now()) {
            return;
        }
        self.accept_at = None;
        while self.backlog && self.connections.len() < self.shared.options.max_connections {
            self.backlog = false;
            for n in 0..self.listeners.len() {
                match self.listeners[n].accept() {
                    Ok((socket, _)) => {
                        self.backlog = true;
                        // One that is broken already is closed.
                        let _ = self.add(socket);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    // Out of descriptors, most likely: some will be given back.
                    Err(_) => {
                        self.backlog = true;
                        self.accept_at = Some(now() + WITHOUT_DESCRIPTORS);
                        return;
                    }
                }
            }
        }
    }

    fn add(&mut self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let tls = match &self.shared.tls {
            None => None,
            Some(identity) => {
                let config = Arc::clone(&identity.config);
                Some(Box::new(ServerConnection::new(config).map_err(io::Error::other)?))
            }
        };
        let entry = self.connections.vacant_entry();
        // Both ways at once, and edges only: no connection is registered a second time.
        self.poll.registry().register(&mut socket, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
        self.accepted = self.accepted.wrapping_add(1);
        let place = u32::try_from(entry.key()).map_err(io::Error::other)?;
        entry.insert(Connection {
            id: Id { place, number: self.accepted },
            unsure: tls.is_some(),
            transport: Transport { socket, tls },
            doing: Doing::Serving,
            outgoing: Outgoing::default(),
            last: false,
            drained: false,
            ending: false,
            unread: Vec::new(),
        });
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        let open = self.shared.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.peak.fetch_max(open, Ordering::Relaxed);
        Ok(())
    }

    /// A connection can go on.
    fn ready(&mut self, place: usize) {
        if self.serve(place).is_err() {
            self.close(place);
        }
    }

    /// Writes and reads on, as far as it goes. An error ends the connection, and is most often its usual end.
    fn serve(&mut self, place: usize) -> io::Result<()> {
        loop {
            let connection = &mut self.connections[place];
            if connection.write(&self.shared.piece)? == Flow::Blocked {
                return Ok(());
            }
            if connection.doing != Doing::Serving {
                return connection.read_ahead(&mut self.buffer);
            }
            let Some(asked) = connection.next_request(&mut self.buffer, &self.shared.site)? else { return Ok(()) };
            let id = connection.id;
            self.answer(id, asked);
        }
    }

    fn answer(&mut self, id: Id, Asked { wanted, head_only, last }: Asked) {
        let is_told = matches!(wanted, Wanted::Stats | Wanted::Release);
        if !is_told {
            self.shared.requests.fetch_add(1, Ordering::Relaxed);
        }
        let delay = self.shared.options.delay;
        let mut doing = Doing::Serving;
        let refusal = if is_told { None } else { self.shared.refuse() };
        let outgoing = match (wanted, refusal) {
            (_, Some(refusal)) => Outgoing::new(refusal.into(), 0),
            (Wanted::Stats, None) => of_text(&self.shared.stats().text()),
            (Wanted::Release, None) => of_text(&self.shared.gate.open().to_string()),
            (Wanted::Page(Page { answer, head }), None) => {
                Outgoing::new(if head_only { answer.slice(..head) } else { answer }, 0)
            }
            (Wanted::Bytes(length), None) => Outgoing::new(head(length).into(), if head_only { 0 } else { length }),
            (Wanted::Drip(length), None) => {
                let first = length.min(1);
                doing = Doing::Dripping { left: length - first };
                let second = self.second_drip();
                self.timers.add(now() + second, id);
                Outgoing::new(head(length).into(), first)
            }
            (Wanted::Tunnel, None) => {
                doing = Doing::Connecting { at: 1 };
                let second = self.second_drip();
                self.timers.add(now() + second, id);
                Outgoing::new(self.shared.tunnel.slice(..1), 0)
            }
            (Wanted::Gate, None) => {
                doing = Doing::AtGate { head_only };
                self.at_gate.push((self.shared.gate.enter(), id));
                Outgoing::default()
            }
            (Wanted::Delayed { ms }, None) => {
                self.hold_back(id, Duration::from_millis(ms.into()), head_only, &mut doing)
            }
            (Wanted::Usual, None) => self.hold_back(id, delay, head_only, &mut doing),
        };
        let connection = &mut self.connections[id.place as usize];
        connection.doing = doing;
        connection.outgoing = outgoing;
        connection.last = last;
    }

    /// When the second byte comes, so that connections opened at once do not drip at once ever after.
    fn second_drip(&mut self) -> Duration {
        // The golden section: however many there are, they are even.
        self.phase = (self.phase + 0.618_034) % 1.0;
        self.shared.options.drip.mul_f64(self.phase)
    }

    /// The usual answer, or nothing yet.
    fn hold_back(&mut self, id: Id, time: Duration, head_only: bool, doing: &mut Doing) -> Outgoing {
        let time = match &mut self.slots {
            None => Some(time),
            Some(slots) => slots.take(id, time),
        };
        let slot = self.slots.is_some();
        match time {
            Some(Duration::ZERO) if !slot => return Outgoing::new(self.usual(head_only), 0),
            Some(time) => {
                *doing = Doing::Held { slot, head_only };
                self.timers.add(now() + time, id);
            }
            None => *doing = Doing::InLine { head_only },
        }
        Outgoing::default()
    }

    fn usual(&self, head_only: bool) -> Bytes {
        if head_only { self.shared.usual.slice(..self.shared.usual_head) } else { self.shared.usual.clone() }
    }

    /// The time of a connection has come.
    fn go_on(&mut self, id: Id, now: Instant) {
        let Some(connection) = self.connection(id) else { return };
        match connection.doing {
            Doing::Held { slot, head_only } => {
                self.give_usual(id, head_only);
                if slot {
                    self.give_back_slot();
                }
            }
            Doing::Dripping { left } => {
                let next = left.min(1);
                connection.outgoing = Outgoing::new(Bytes::new(), next);
                connection.doing = if left <= 1 { Doing::Serving } else { Doing::Dripping { left: left - 1 } };
                if left > 1 {
                    let drip = self.shared.options.drip;
                    self.timers.add(now + drip, id);
                }
                self.ready(id.place as usize);
            }
            Doing::Connecting { at } => {
                let (next, last) = (at + 1, self.shared.tunnel.len());
                let byte = self.shared.tunnel.slice(at..next);
                let connection = &mut self.connections[id.place as usize];
                connection.outgoing = Outgoing::new(byte, 0);
                connection.doing = if next == last { Doing::Serving } else { Doing::Connecting { at: next } };
                if next < last {
                    self.timers.add(now + self.shared.options.drip, id);
                }
                self.ready(id.place as usize);
            }
            Doing::Serving | Doing::InLine { .. } | Doing::AtGate { .. } => {}
        }
    }

    fn pass_gate(&mut self) {
        if self.at_gate.is_empty() {
            return;
        }
        let opened = self.shared.gate.opened();
        let through = self.at_gate.partition_point(|(before, _)| *before < opened);
        for (_, id) in self.at_gate.drain(..through).collect::<Vec<_>>() {
            if let Some(&mut Connection { doing: Doing::AtGate { head_only }, .. }) = self.connection(id) {
                self.give_usual(id, head_only);
            }
        }
    }

    fn give_usual(&mut self, id: Id, head_only: bool) {
        let usual = self.usual(head_only);
        if let Some(connection) = self.connection(id) {
            connection.doing = Doing::Serving;
            connection.outgoing = Outgoing::new(usual, 0);
            self.ready(id.place as usize);
        }
    }

    fn give_back_slot(&mut self) {
        while let Some((id, time)) = self.slots.as_mut().and_then(Slots::give_back) {
            if let Some(connection) = self.connection(id)
                && let Doing::InLine { head_only } = connection.doing
            {
                connection.doing = Doing::Held { slot: true, head_only };
                self.timers.add(now() + time, id);
                return;
            }
        }
    }

    fn close(&mut self, place: usize) {
        let connection = self.connections.remove(place);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        if let Doing::Held { slot: true, .. } = connection.doing {
            self.give_back_slot();
        }
    }

    fn connection(&mut self, id: Id) -> Option<&mut Connection> {
        self.connections.get_mut(id.place as usize).filter(|connection| connection.id == id)
    }
}

fn of_text(text: &str) -> Outgoing {
    let mut answer = head(text.len() as u64);
    answer.extend_from_slice(text.as_bytes());
    Outgoing::new(answer.into(), 0)
}
