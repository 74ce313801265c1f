//! How tidegate reads a reply, over a wire that gives it the very pieces that it is cut into.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use http::Method;
use hyper::rt::ReadBufCursor;
use tidegate::http::HttpFetcher;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions};
use tidegate::sim::Sim;
use tidegate::{FetchCx, Fetcher, Request};

/// What a server sends, a piece a read; it closes when it is told to.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Sent>>);

#[derive(Default)]
struct Sent {
    pieces: VecDeque<Vec<u8>>,
    /// It was asked: before that it says nothing.
    was_asked: bool,
    closes: bool,
}

impl Wire {
    pub(crate) fn send(&self, pieces: Vec<Vec<u8>>) {
        let mut sent = self.0.lock().expect("not poisoned");
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        *sent = Sent { pieces, was_asked: false, closes: false };
    }

    pub(crate) fn close(&self) {
        self.0.lock().expect("not poisoned").closes = true;
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut sent = self.0.lock().expect("not poisoned");
        if !sent.was_asked {
            return Poll::Pending;
        }
        let Some(mut piece) = sent.pieces.pop_front() else {
            return if sent.closes { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            sent.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().expect("not poisoned").was_asked = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TcpConnect for Wire {
    fn connect(&self, addr: SocketAddr, _: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let conn = TcpConn::new(self.clone(), addr, addr);
        Box::pin(async move { Ok(conn) })
    }
}

/// Polls so often, then lets the server close, and polls on to the end.
pub(crate) fn finish<T>(wire: &Wire, polls: usize, mut work: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let task = &mut Context::from_waker(Waker::noop());
    for round in 0..2 * polls {
        if let Poll::Ready(done) = work(task) {
            return done;
        }
        if round == polls {
            wire.close();
        }
    }
    panic!("nothing goes on, though the server has closed")
}

pub(crate) const KEPT: &str = ", kept";

pub(crate) fn told(status: u16, body: &[u8], kept: bool) -> String {
    format!("{status} {}{}", body.escape_ascii(), if kept { KEPT } else { "" })
}

/// A fetcher over such a wire.
pub(crate) struct Ours {
    wire: Wire,
    sim: Sim,
    fetcher: HttpFetcher,
    port: u16,
}

impl Ours {
    pub(crate) fn new() -> Self {
        let (wire, sim) = (Wire::default(), Sim::new(1));
        let runtime = sim.runtime().with_tcp(wire.clone());
        // What is parked is never asked again: each reply has a port of its own.
        let fetcher = HttpFetcher::builder(&runtime).build().expect("defaults are valid");
        Self { wire, sim, fetcher, port: 0 }
    }

    pub(crate) fn verdict(&mut self, method: &Method, pieces: Vec<Vec<u8>>) -> String {
        self.wire.send(pieces);
        self.port = self.port.wrapping_add(1).max(1);
        let request =
            Request::new(method.clone(), format!("http://{}:{}/", IpAddr::from(Ipv4Addr::LOCALHOST), self.port));
        let cx = FetchCx::detached(&self.sim.runtime());
        let before = self.fetcher.idle_connections();
        let mut fetch = self.fetcher.fetch(&request, &cx);
        match finish(&self.wire, 9, |task| fetch.as_mut().poll(task)) {
            Ok(response) => {
                let kept = self.fetcher.idle_connections() > before;
                told(response.head.status.as_u16(), &response.body, kept)
            }
            Err(error) => error.kind().code().to_owned(),
        }
    }
}

/// The ways in which a reply is cut: whole, in two at each byte, and a byte at a time.
pub(crate) fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<Vec<u8>>> + '_ {
    let halves = (1..bytes.len()).step_by(bytes.len().div_ceil(300).max(1));
    let in_two = halves.map(|at| vec![bytes[..at].to_vec(), bytes[at..].to_vec()]);
    let dripped = bytes.chunks(1).map(<[u8]>::to_vec).collect();
    std::iter::once(vec![bytes.to_vec()]).chain(in_two).chain([dripped])
}
