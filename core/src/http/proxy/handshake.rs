//! The way of any handshake with a proxy over a stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::Proxy;
use crate::http::scratch::with_scratch;
use crate::rt::Io;
use crate::{Error, ErrorKind};

/// Asks a proxy for a tunnel: bytes in, bytes out, no I/O.
pub(super) trait Handshake {
    /// What is sent first.
    fn begin(&mut self) -> Vec<u8>;

    /// Takes bytes that the proxy sent, however they are cut; none to go on with those it has.
    fn push(&mut self, bytes: &[u8], proxy: &Proxy) -> Result<Step, Error>;
}

/// What a handshake wants next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    Send(Vec<u8>),
    /// The tunnel is open, and these bytes came through it already.
    Open(Bytes),
}

/// Goes through the handshake; the result is the tunnel.
pub(super) async fn run(
    mut io: Box<dyn Io>,
    mut handshake: impl Handshake,
    proxy: &Proxy,
) -> Result<Box<dyn Io>, Error> {
    let broken =
        |e: io::Error| Error::new(ErrorKind::ProxyReply, format!("talk to the proxy {}", proxy.shown())).with_source(e);
    let mut unsent = Bytes::from(handshake.begin());
    // What it has may be the next answer already: a proxy need not wait for the question.
    let mut goes_on = false;
    std::future::poll_fn(|task| {
        loop {
            while !unsent.is_empty() {
                let n = ready!(Pin::new(&mut io).poll_write(task, &unsent)).map_err(broken)?;
                if n == 0 {
                    return Poll::Ready(Err(broken(io::ErrorKind::WriteZero.into())));
                }
                unsent.advance(n);
            }
            ready!(Pin::new(&mut io).poll_flush(task)).map_err(broken)?;
            let step = if std::mem::take(&mut goes_on) {
                Poll::Ready(handshake.push(&[], proxy))
            } else {
                with_scratch(|scratch| {
                    let mut buf = ReadBuf::new(scratch);
                    ready!(Pin::new(&mut io).poll_read(task, buf.unfilled())).map_err(broken)?;
                    Poll::Ready(match buf.filled() {
                        [] => Err(broken(io::ErrorKind::UnexpectedEof.into())),
                        bytes => handshake.push(bytes, proxy),
                    })
                })
            };
            match ready!(step)? {
                Step::Read => {}
                Step::Send(bytes) => {
                    unsent = bytes.into();
                    goes_on = true;
                }
                Step::Open(early) => return Poll::Ready(Ok(early)),
            }
        }
    })
    .await
    .map(|early| if early.is_empty() { io } else { Box::new(Early { early, io }) as Box<dyn Io> })
}

/// A stream of which some bytes were read already.
struct Early {
    early: Bytes,
    io: Box<dyn Io>,
}

impl Read for Early {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..n]);
        self.early.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl Write for Early {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Read for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Write for Silent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    // F2
    #[test]
    fn early_bytes_are_read_first() {
        let mut io = Early { early: Bytes::from_static(b"early"), io: Box::new(Silent) };
        let mut read = |room: usize| {
            let mut bytes = vec![0; room];
            let mut buf = ReadBuf::new(&mut bytes);
            let task = &mut Context::from_waker(std::task::Waker::noop());
            let polled = Pin::new(&mut io).poll_read(task, buf.unfilled());
            polled.map(|result| result.map(|()| buf.filled().to_vec()).expect("no error"))
        };
        assert_eq!(read(3), Poll::Ready(b"ear".to_vec()));
        assert_eq!(read(9), Poll::Ready(b"ly".to_vec()));
        assert_eq!(read(9), Poll::Pending);
    }
}
