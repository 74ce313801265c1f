//! A TCP stream as hyper's I/O traits.

#![expect(unsafe_code, reason = "hyper's read cursor is filled in no other way without a copy")]

use std::io::{self, IoSlice, Write as _};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use socket2::SockRef;

use crate::net::Socket;

pub(crate) struct SmolIo {
    socket: Socket,
    /// Whether there may be something to read. Cleared when the socket said so, or gave less than was asked for: a waiting
    /// connection is polled often, and a `recv` each time would be most of its cost.
    readable: bool,
    /// Whether the reactor was asked, and said that there is nothing yet.
    asked: bool,
    /// Whether there may be room to write; the same.
    writable: bool,
}

impl SmolIo {
    pub(crate) fn new(socket: Socket) -> Self {
        // Nothing has come yet, mostly; the reactor tells at once where it has.
        Self { socket, readable: false, asked: false, writable: true }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.writable {
                ready!(self.socket.poll_writable(cx))?;
                self.writable = true;
            }
            match send(self.socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => {
                    self.writable = sent.as_ref().is_ok_and(|&sent| sent == wanted);
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

impl Read for SmolIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let wanted = buf.remaining();
        if wanted == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.readable {
                let is_ready = self.socket.poll_readable(cx)?.is_ready();
                // async-io takes what it has heard in the turn in which it was asked for old news, and tells it in a later one. Who asks
                // once, whether a parked connection is quiet, would never hear of it.
                let looks = is_ready || (self.asked && self.socket.is_of_async_io());
                self.asked = !is_ready;
                if !looks {
                    return Poll::Pending;
                }
                self.readable = is_ready;
            }
            // SAFETY: nothing is made uninitialised: the socket only writes into what it is lent.
            let spare = unsafe { buf.as_mut() };
            let received = SockRef::from(self.socket.get_ref()).recv(spare);
            if let Ok(received) = received {
                // SAFETY: the system has filled the first `received` bytes.
                unsafe { buf.advance(received) };
            }
            match received {
                // The reactor was asked already.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.readable => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => {
                    // After the end (0) and an error the socket stays ready. Where the end, or more, came meanwhile, the
                    // reactor tells when it is asked: it looks at the state, not at a change.
                    self.readable = received.as_ref().is_ok_and(|&n| n == 0 || n == wanted) || received.is_err();
                    return Poll::Ready(received.map(drop));
                }
            }
        }
    }
}

impl Write for SmolIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf.len(), |mut stream| stream.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_send(cx, wanted, |mut stream| stream.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.socket.get_ref().shutdown(Shutdown::Write) {
            // The other end has reset it already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
