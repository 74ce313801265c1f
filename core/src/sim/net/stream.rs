//! One end of a connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::pipe::{End, Found, Pipe};
use super::{Conn, Link, Network};
use crate::sim::Op;
use crate::sim::task::Wait;
use crate::sim::world::{Event, State, World};
use crate::sync::keep_waker;

/// A stream of bytes over the simulated network. Dropping it closes it; where bytes came that were not read, the other end
/// sees a reset, as with a real socket.
///
/// ```
/// use tidegate::sim::Sim;
/// let sim = Sim::new(1);
/// let mut listener = sim.net().listen(([192, 0, 2, 1], 80));
/// let runtime = sim.runtime();
/// sim.block_on(async {
///     let connecting = runtime.tcp().connect(listener.addr(), &Default::default());
///     let (client, mut server) = futures::future::join(connecting, listener.accept()).await;
///     let client = client.expect("it is accepted");
///     assert_eq!((server.local(), server.peer()), (client.peer, client.local));
///     server.write_all(b"hello").await.expect("open");
///     server.shutdown();
///     drop(client);
///     assert_eq!(server.read().await.expect("a clean end"), "");
/// });
/// ```
pub struct SimStream {
    world: Weak<World>,
    conn: usize,
    /// 0 asked for the connection, 1 was asked.
    side: usize,
    addrs: [SocketAddr; 2],
    /// A socket of the crawl's machine: faults and costs are its alone.
    is_ours: bool,
    resets: bool,
}

impl SimStream {
    /// Both ends of a new connection.
    pub(super) fn pair(
        world: &Arc<World>,
        net: &mut Network,
        link: &Link,
        addrs: [SocketAddr; 2],
        counted: bool,
    ) -> [Self; 2] {
        let counted = counted.then(|| addrs[1].ip());
        let pipes = [Pipe::new(link.clone()), Pipe::new(link.clone())];
        let conn = net.conns.insert(Conn { pipes, open: [true; 2], counted });
        net.serial += 1;
        [0, 1].map(|side| Self { world: Arc::downgrade(world), conn, side, addrs, is_ours: side == 0, resets: false })
    }

    /// This end's address.
    pub fn local(&self) -> SocketAddr {
        self.addrs[self.side]
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.addrs[1 - self.side]
    }

    /// Closes it so that the other end sees a reset, whatever was read.
    pub fn reset(mut self) {
        self.resets = true;
    }

    fn world(&self) -> io::Result<Arc<World>> {
        self.world.upgrade().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the simulation has ended"))
    }

    /// Counts the operation where it is the crawl's, and fails it where that was planned.
    fn begin(&self, world: &World, op: Op) -> io::Result<()> {
        if self.is_ours {
            world.pass(world.config.io_cost);
            let struck = world.lock().faults.strikes(op);
            if let Some(failure) = struck {
                return Err(failure());
            }
        }
        Ok(())
    }

    /// Ends the direction in which this end writes, from that moment on.
    fn end(&self, state: &mut State, from: u64, end: End) {
        let Some(conn) = state.net.conns.get_mut(self.conn) else { return };
        let at = conn.pipes[self.side].finish(from, end, &mut state.rng);
        state.schedule(at, Event::Arrive { conn: self.conn, side: 1 - self.side });
    }

    fn poll_read_bytes(&self, waker: &Waker, most: usize) -> Poll<io::Result<bytes::Bytes>> {
        let world = self.world()?;
        self.begin(&world, Op::Read)?;
        let mut state = world.lock();
        let now = state.now();
        let reset = || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        let Some(conn) = state.net.conns.get_mut(self.conn) else { return reset() };
        let pipe = &mut conn.pipes[1 - self.side];
        match pipe.take(now, most) {
            Found::Bytes(bytes) => {
                let writer = pipe.writer.take();
                state.trace(now);
                state.trace(self.conn as u64);
                state.trace(xxhash_rust::xxh3::xxh3_64(&bytes));
                drop(state);
                writer.into_iter().for_each(Waker::wake);
                Poll::Ready(Ok(bytes))
            }
            Found::End(End::Fin) => Poll::Ready(Ok(bytes::Bytes::new())),
            Found::End(End::Reset) => reset(),
            Found::Nothing => {
                let replaced = keep_waker(&mut pipe.reader, waker);
                state.waits_for(Wait::Read(self.peer()));
                drop(state);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    /// Reads the next bytes that came; empty at the end.
    ///
    /// # Errors
    /// `ConnectionReset` where the other end reset it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn read(&mut self) -> io::Result<bytes::Bytes> {
        std::future::poll_fn(|cx| self.poll_read_bytes(cx.waker(), usize::MAX)).await
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// `ConnectionReset` where the other end reset it.
    ///
    /// # Cancel safety
    /// A part may have been written when the future is dropped.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_write(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Ready once the other end was closed or reset and that has come here; reads nothing.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(world) = self.world.upgrade() else { return Poll::Ready(()) };
        let mut state = world.lock();
        let now = state.now();
        let Some(conn) = state.net.conns.get_mut(self.conn) else { return Poll::Ready(()) };
        let pipe = &mut conn.pipes[1 - self.side];
        if pipe.has_ended(now) {
            return Poll::Ready(());
        }
        let replaced = keep_waker(&mut pipe.reader, cx.waker());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Ends the direction in which this end writes.
    pub fn shutdown(&mut self) {
        if let Some(world) = self.world.upgrade() {
            let mut state = world.lock();
            let ended = state.net.conns.get(self.conn).is_none_or(|conn| conn.pipes[self.side].is_ended());
            if !ended {
                let now = state.now();
                self.end(&mut state, now, End::Fin);
            }
        }
    }
}

impl Read for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_read_bytes(cx.waker(), buf.remaining()).map_ok(|bytes| buf.put_slice(&bytes))
    }
}

impl Write for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let world = self.world()?;
        self.begin(&world, Op::Write)?;
        let mut state = world.lock();
        let State { net, rng, .. } = &mut *state;
        let now = world.nanos(world.now());
        let Some(conn) = net.conns.get_mut(self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if conn.pipes[1 - self.side].is_reset(now) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if conn.pipes[self.side].is_ended() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        if conn.pipes[self.side].unread {
            // It is taken and lost, and so is all that follows until the reset is here with which the other system answers.
            if !conn.pipes[1 - self.side].will_be_reset() {
                let arrives = conn.pipes[self.side].arrival(now, rng);
                let at = conn.pipes[1 - self.side].finish(arrives, End::Reset, rng);
                state.schedule(at, Event::Arrive { conn: self.conn, side: self.side });
            }
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let mut written = 0;
        let mut arrivals = Vec::new();
        let pipe = &mut conn.pipes[self.side];
        for buf in bufs {
            let mut rest = &buf[..];
            while !rest.is_empty() && pipe.room() > 0 {
                let (len, at) = pipe.send(now, rest, rng);
                rest = &rest[len..];
                written += len;
                arrivals.push(at);
            }
        }
        if written == 0 {
            let replaced = keep_waker(&mut pipe.writer, cx.waker());
            state.waits_for(Wait::Write(self.peer()));
            drop(state);
            drop(replaced);
            return Poll::Pending;
        }
        for at in arrivals {
            state.schedule(at, Event::Arrive { conn: self.conn, side: 1 - self.side });
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown();
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let Some(world) = self.world.upgrade() else { return };
        let mut state = world.lock();
        let now = state.now();
        let Some(conn) = state.net.conns.get_mut(self.conn) else { return };
        conn.open[self.side] = false;
        conn.pipes[1 - self.side].unread = true;
        let unread = conn.pipes[1 - self.side].unread_at();
        let resets = self.resets || unread.is_some_and(|at| at <= now);
        let (is_ended, is_reset) = (conn.pipes[self.side].is_ended(), conn.pipes[self.side].will_be_reset());
        let writer = conn.pipes[1 - self.side].writer.take();
        if resets && !is_reset {
            self.end(&mut state, now, End::Reset);
        } else if !is_ended {
            self.end(&mut state, now, End::Fin);
        }
        // Bytes that come to a closed end are answered by a reset.
        if let Some(at) = unread.filter(|_| !resets && !is_reset) {
            self.end(&mut state, at, End::Reset);
        }
        let net = &mut state.net;
        if self.is_ours {
            net.open -= 1;
            net.give_port(self.addrs[1]);
        }
        let conn = &net.conns[self.conn];
        let is_gone = conn.open == [false; 2];
        if self.side == 1
            && let Some(at) = conn.counted
        {
            net.release(at);
        }
        let gone = is_gone.then(|| net.conns.remove(self.conn));
        drop(state);
        // A writer that waits for room learns that nobody reads.
        writer.into_iter().for_each(Waker::wake);
        drop(gone);
    }
}

impl std::fmt::Debug for SimStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStream").field("local", &self.local()).field("peer", &self.peer()).finish_non_exhaustive()
    }
}
