//! A TCP stream of async-io as hyper's I/O traits.
//!
//! It reads through a buffer of the thread and copies out of it. That costs one copy of what arrived, and saves what the
//! alternatives cost: clearing the caller's buffer on every poll, or `unsafe` to read into memory that is not initialised.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use hyper::rt::{Read, ReadBufCursor, Write};

/// Read at most at a time, and kept by each thread that reads.
const SCRATCH: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

pub(crate) struct SmolIo {
    stream: Async<TcpStream>,
    /// Whether there may be something to read. Cleared when the socket said so, or gave less than was asked for: hyper polls
    /// a waiting connection often, and a `recv` each time would be most of its cost.
    readable: bool,
    /// Whether there may be room to write; the same.
    writable: bool,
}

impl SmolIo {
    pub(crate) fn new(stream: Async<TcpStream>) -> Self {
        // Nothing has come yet, mostly; the reactor tells at once where it has.
        Self { stream, readable: false, writable: true }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.writable {
                ready!(self.stream.poll_writable(cx))?;
                self.writable = true;
            }
            match send(self.stream.get_ref()) {
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
        let wanted = buf.remaining().min(SCRATCH);
        if wanted == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.readable {
                ready!(self.stream.poll_readable(cx))?;
                self.readable = true;
            }
            let received = BUFFER.with_borrow_mut(|buffer| {
                let received = self.stream.get_ref().read(&mut buffer[..wanted]);
                received.inspect(|&received| buf.put_slice(&buffer[..received]))
            });
            match received {
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
        match self.stream.get_ref().shutdown(Shutdown::Write) {
            // The other end has reset it already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
