//! A TLS session over [`Io`]: rustls turns bytes into bytes, this file moves them.

use std::io::{self, BufRead, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use rustls::ClientConnection;
use url::Host;

use super::{HTTP2, expiry, handshake_error};
use crate::http::scratch::{RECORD, with_scratch};
use crate::rt::Io;
use crate::{Error, ErrorKind};

/// A stream after its handshake. The end of the stream without the peer's `close_notify` is an `UnexpectedEof`, so that
/// a body that ends with the connection cannot be cut short unnoticed.
pub(crate) struct TlsStream {
    io: Box<dyn Io>,
    /// Boxed: it is large, and moves through the futures that make a connection.
    tls: Box<ClientConnection>,
    /// Bytes that were read and that rustls had no room for; rarely any.
    unread: Vec<u8>,
    closing: bool,
    certificate_expiry: Option<SystemTime>,
}

/// What one read of the socket brought.
enum Fed {
    Bytes,
    Eof,
}

impl TlsStream {
    pub(super) async fn handshake(
        tls: Box<ClientConnection>,
        io: Box<dyn Io>,
        host: &Host<&str>,
    ) -> Result<Self, Error> {
        let mut stream = Self { io, tls, unread: Vec::new(), closing: false, certificate_expiry: None };
        std::future::poll_fn(|task| stream.poll_handshake(task)).await.map_err(|e| classify(e, host))?;
        stream.certificate_expiry =
            stream.tls.peer_certificates().and_then(|chain| chain.first()).and_then(|leaf| expiry::not_after(leaf));
        Ok(stream)
    }

    /// When the server's certificate ends.
    pub(crate) fn certificate_expiry(&self) -> Option<SystemTime> {
        self.certificate_expiry
    }

    /// Whether the server chose HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.tls.alpn_protocol() == Some(HTTP2)
    }

    fn poll_handshake(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(task))?;
            if !self.tls.is_handshaking() {
                return Pin::new(&mut self.io).poll_flush(task);
            }
            ready!(Pin::new(&mut self.io).poll_flush(task))?;
            match ready!(self.poll_feed(task)) {
                Ok(Fed::Bytes) => {}
                Ok(Fed::Eof) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(e) => {
                    // The alert that tells the peer why; it may not get through.
                    let _ = self.poll_send(task);
                    return Poll::Ready(Err(e));
                }
            }
        }
    }

    /// Sends what rustls has to send.
    fn poll_send(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let mut to = Sender { io: &mut self.io, task: &mut *task };
            match self.tls.write_tls(&mut to) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the socket once and gives rustls all that it has room for.
    fn poll_feed(&mut self, task: &mut Context<'_>) -> Poll<io::Result<Fed>> {
        if !self.unread.is_empty() {
            let unread = std::mem::take(&mut self.unread);
            self.feed(&unread)?;
            return Poll::Ready(Ok(Fed::Bytes));
        }
        with_scratch(|scratch| {
            let mut buf = ReadBuf::new(&mut scratch[..RECORD]);
            ready!(Pin::new(&mut self.io).poll_read(task, buf.unfilled()))?;
            if buf.filled().is_empty() {
                self.tls.read_tls(&mut io::empty())?;
                return Poll::Ready(Ok(Fed::Eof));
            }
            self.feed(buf.filled())?;
            Poll::Ready(Ok(Fed::Bytes))
        })
    }

    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // rustls refuses more while decrypted bytes wait to be read.
            if has_plaintext(&mut self.tls) {
                self.unread.extend_from_slice(bytes);
                return Ok(());
            }
            if self.tls.read_tls(&mut bytes)? == 0 {
                // After close_notify nothing is read any more.
                return Ok(());
            }
            self.tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
        Ok(())
    }
}

fn has_plaintext(tls: &mut ClientConnection) -> bool {
    tls.reader().fill_buf().is_ok_and(|bytes| !bytes.is_empty())
}

fn classify(error: io::Error, host: &Host<&str>) -> Error {
    let attempted = || format!("shake hands over TLS with {host}");
    match error.kind() {
        io::ErrorKind::InvalidData => match error.downcast::<rustls::Error>() {
            Ok(tls) => handshake_error(tls, host),
            Err(other) => Error::new(ErrorKind::TlsHandshake, attempted()).with_source(other),
        },
        _ => Error::new(ErrorKind::ConnectReset, attempted()).with_source(error),
    }
}

/// The sending half of a stream, for rustls to write to.
struct Sender<'a, 'b> {
    io: &'a mut Box<dyn Io>,
    task: &'a mut Context<'b>,
}

impl io::Write for Sender<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.io).poll_write(self.task, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.io).poll_write_vectored(self.task, bufs) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let mut reader = this.tls.reader();
            match reader.fill_buf() {
                // The peer said that this is the end.
                Ok([]) => return Poll::Ready(Ok(())),
                Ok(bytes) => {
                    let n = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..n]);
                    reader.consume(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
            ready!(this.poll_feed(cx))?;
            // An answer to a key update; that it does not get through at once is no reason not to read on.
            if let Poll::Ready(sent) = this.poll_send(cx) {
                sent?;
            }
        }
    }
}

impl Write for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            let taken = this.tls.writer().write(buf)?;
            if let Poll::Ready(sent) = this.poll_send(cx) {
                if taken == 0 && !buf.is_empty() {
                    sent?;
                    continue;
                }
                // What is wrong is told by the flush: these bytes may have got through.
            } else if taken == 0 && !buf.is_empty() {
                return Poll::Pending;
            }
            return Poll::Ready(Ok(taken));
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
