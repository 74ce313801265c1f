//! Asking for a connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::host::{Answers, Link};
use super::{SimStream, peer, service_at};
use crate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions};
use crate::sim::Op;
use crate::sim::task::Wait;
use crate::sim::world::{After, Event, State, World, nanos};
use crate::sync::keep_waker;

/// The connector of a world.
pub(in crate::sim) struct SimConnect(pub(in crate::sim) Arc<World>);

impl TcpConnect for SimConnect {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        match Connecting::begin(&self.0, addr, options) {
            Ok(connecting) => Box::pin(connecting),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

/// `EMFILE` and `EADDRNOTAVAIL`, as a system that has them says it.
#[cfg(unix)]
pub(super) fn shortage(of_ports: bool) -> io::Error {
    use nix::errno::Errno;
    io::Error::from_raw_os_error(if of_ports { Errno::EADDRNOTAVAIL } else { Errno::EMFILE } as i32)
}

#[cfg(not(unix))]
pub(super) fn shortage(of_ports: bool) -> io::Error {
    if of_ports { io::ErrorKind::AddrNotAvailable } else { io::ErrorKind::OutOfMemory }.into()
}

/// What has become of an attempt, between the network and the future.
#[derive(Default)]
struct Attempt {
    ended: Option<io::Result<SimStream>>,
    /// The answer has come back.
    answered: bool,
    waker: Option<Waker>,
    dropped: bool,
}

struct Connecting {
    world: Arc<World>,
    addrs: [SocketAddr; 2],
    attempt: Arc<Mutex<Attempt>>,
    /// The socket is the stream's now, or was given back.
    done: bool,
}

fn lock(attempt: &Mutex<Attempt>) -> std::sync::MutexGuard<'_, Attempt> {
    attempt.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connecting {
    fn begin(world: &Arc<World>, to: SocketAddr, options: &TcpOptions) -> io::Result<Self> {
        let (link, most, answers) = service_at(world, to);
        world.pass(world.config.io_cost);
        let attempt = Arc::new(Mutex::new(Attempt::default()));
        let struck = world.lock().faults.strikes(Op::Connect);
        if let Some(failure) = struck {
            return Err(failure());
        }
        let mut state = world.lock();
        if state.ended {
            return Err(io::Error::new(io::ErrorKind::NetworkDown, "the simulation has ended"));
        }
        let net = &mut state.net;
        if net.descriptors.is_some_and(|most| net.open >= most) {
            return Err(shortage(false));
        }
        let port = net.take_port(to).ok_or_else(|| shortage(true))?;
        net.open += 1;
        net.open_peak = net.open_peak.max(net.open);
        let own = options.local_address.filter(|own| own.is_ipv4() == to.is_ipv4());
        let own = own.unwrap_or_else(|| if to.is_ipv4() { crate::sim::OWN_V4 } else { crate::sim::OWN_V6 });
        let addrs = [SocketAddr::new(own, port), to];
        if !matches!(answers, Answers::Nothing) {
            let at = state.now().saturating_add(nanos(link.latency));
            let question = Question { addrs, link, most, answers, attempt: Arc::clone(&attempt) };
            let arrives = move |world: &Arc<World>, state: &mut State, after: &mut After| {
                question.arrives(world, state, &mut after.wakers);
                // What answers is the user's.
                after.garbage.push(Box::new(question));
            };
            state.schedule(at, Event::Do(Box::new(arrives)));
        }
        drop(state);
        Ok(Self { world: Arc::clone(world), addrs, attempt, done: false })
    }
}

/// A connection that is asked for, on its way to the host.
struct Question {
    addrs: [SocketAddr; 2],
    link: Link,
    /// Connections that the host has at a time.
    most: Option<u32>,
    answers: Answers,
    attempt: Arc<Mutex<Attempt>>,
}

impl Question {
    /// The host accepts or refuses, and the answer goes back.
    fn arrives(&self, world: &Arc<World>, state: &mut State, wakers: &mut Vec<Waker>) {
        if lock(&self.attempt).dropped {
            return;
        }
        let at = state.now().saturating_add(nanos(self.link.latency));
        let ended = match self.answers {
            Answers::Unreachable => Err(io::ErrorKind::HostUnreachable.into()),
            Answers::Refuses | Answers::Nothing => Err(io::ErrorKind::ConnectionRefused.into()),
            Answers::Listener | Answers::Http(_) => self.accept(world, state, wakers),
        };
        // The attempt has it from now on, so that a stream that nobody waits for is dropped with it, and not in here.
        let attempt = Arc::clone(&self.attempt);
        lock(&attempt).ended = Some(ended);
        let back = move |_: &Arc<World>, _: &mut State, after: &mut After| {
            let mut attempt = lock(&attempt);
            attempt.answered = true;
            after.wakers.extend(attempt.waker.take());
        };
        state.schedule(at, Event::Do(Box::new(back)));
    }

    fn accept(&self, world: &Arc<World>, state: &mut State, wakers: &mut Vec<Waker>) -> io::Result<SimStream> {
        let (net, addrs) = (&mut state.net, self.addrs);
        let listens = net.listeners.contains_key(&addrs[1]);
        if matches!(self.answers, Answers::Listener) && !listens {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if let Some(most) = self.most {
            let accepted = net.accepted.entry(addrs[1].ip()).or_default();
            if *accepted >= most {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            *accepted += 1;
        }
        let serial = net.serial;
        let [ours, theirs] = SimStream::pair(world, net, &self.link, addrs, self.most.is_some());
        if let Answers::Http(answer) = &self.answers {
            let serving = peer::serve(Arc::downgrade(world), theirs, Arc::clone(answer), serial);
            state.insert_task(world, Box::pin(serving), Location::caller(), true);
        } else if let Some(backlog) = net.listeners.get_mut(&addrs[1]) {
            backlog.waiting.push_back(theirs);
            wakers.extend(backlog.waker.take());
        }
        Ok(ours)
    }
}

impl Future for Connecting {
    type Output = io::Result<TcpConn>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut attempt = lock(&self.attempt);
        let ended = if attempt.answered { attempt.ended.take() } else { None };
        let Some(ended) = ended else {
            let replaced = keep_waker(&mut attempt.waker, cx.waker());
            drop(attempt);
            drop(replaced);
            self.world.lock().waits_for(Wait::Connect(self.addrs[1]));
            return Poll::Pending;
        };
        drop(attempt);
        let [local, peer] = self.addrs;
        Poll::Ready(match ended {
            Ok(stream) => {
                self.done = true;
                Ok(TcpConn::new(stream, local, peer))
            }
            Err(error) => Err(error),
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let ended = {
            let mut attempt = lock(&self.attempt);
            attempt.dropped = true;
            attempt.ended.take()
        };
        if self.done {
            return;
        }
        if let Some(Ok(stream)) = ended {
            // It gives the socket back by itself.
            drop(stream);
            return;
        }
        let mut state = self.world.lock();
        state.net.open -= 1;
        state.net.give_port(self.addrs[1]);
    }
}
