//! The door to the HTTP/1.1 implementation: one connection that sends a request and gives head and body.
//!
//! Nothing else names hyper's connection types. There is no task and no channel of ours: whoever awaits an answer polls
//! the connection itself, so that dropping a fetch drops its connection.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use bytes::Bytes;
use http::response::Parts;
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::scratch::with_scratch;
use crate::ledger::Socket;
use crate::rt::{Io, PhaseTimer};
use crate::time::later;
use crate::{Error, ErrorKind, FetchCx, Limits};

/// The least that hyper takes as `max_buf_size`.
const LEAST_BUFFER: usize = 8 << 10;

/// What is known of a connection from the time it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) certificate_expiry: Option<SystemTime>,
}

/// A connection, busy with one request or parked.
pub(super) struct Conn {
    peer: Peer,
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Box<http1::Connection<Watched, Full<Bytes>>>>,
    wire: Arc<Wire>,
    body: Option<Incoming>,
    /// Given back after the socket was closed: the last field.
    socket: Socket,
}

/// Why no head came.
pub(super) struct SendError {
    pub(super) error: Error,
    /// Whether the peer may have seen the request.
    pub(super) sent: bool,
    /// Whether any byte of an answer came.
    pub(super) answered: bool,
}

/// What a request is waiting for; each has a deadline and an error of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For the peer to take bytes; counted, so that each one begins the deadline anew.
    Write(u64),
    /// For the first byte of an answer, since this many bytes were sent.
    FirstByte(u64),
    /// For the rest of the head, since its first byte.
    Head,
}

impl Conn {
    /// Makes a connection of a stream. The buffer holds one head, so the limits of the first request are those of the
    /// connection; a later one with smaller limits is judged by its own.
    pub(super) async fn open(io: Box<dyn Io>, peer: Peer, limits: &Limits, socket: Socket) -> Result<Self, Error> {
        let wire = Arc::new(Wire::default());
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(limits.head_bytes.max(LEAST_BUFFER))
            .max_headers(limits.headers)
            .handshake(Watched { io, wire: Arc::clone(&wire) })
            .await
            .map_err(|e| Error::new(ErrorKind::HttpProtocol, "begin HTTP on a connection").with_source(e))?;
        Ok(Self { peer, sender, driver: Some(Box::new(driver)), wire, body: None, socket })
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// What is booked for it.
    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn drive(&mut self, task: &mut Context<'_>) {
        // Its result is not looked at: the request or the body that it belongs to is told the same.
        if self.driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(task).is_ready()) {
            self.driver = None;
        }
    }

    /// Whether another request may be sent: the connection is open, and nothing came that nobody asked for.
    pub(super) fn poll_reusable(&mut self, task: &mut Context<'_>) -> bool {
        self.drive(task);
        self.driver.is_some() && self.body.is_none() && self.sender.is_ready()
    }

    /// As [`poll_reusable`](Self::poll_reusable) for a connection that is to be parked: it wakes nobody from then on.
    pub(super) fn park(&mut self) -> bool {
        self.poll_reusable(&mut Context::from_waker(Waker::noop()))
    }

    /// Sends a request and waits for the head of its answer, under the deadlines for writing, first byte and head.
    ///
    /// # Cancel safety
    /// A connection whose `send` was dropped is not reusable; drop it too.
    pub(super) async fn send(
        &mut self,
        request: Box<http::Request<Full<Bytes>>>,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Parts, SendError> {
        let received_before = self.wire.received();
        let mut reply = std::pin::pin!(self.sender.try_send_request(*request));
        let mut timer: Option<(Waiting, PhaseTimer)> = None;
        std::future::poll_fn(|task| {
            self.drive(task);
            let received = self.wire.received() - received_before;
            let answered = received > 0;
            match reply.as_mut().poll(task) {
                Poll::Ready(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    self.body = Some(body);
                    return Poll::Ready(Ok(parts));
                }
                Poll::Ready(Err(mut failed)) => {
                    let sent = failed.take_message().is_none();
                    let error = classify(failed.into_error(), answered, "read the head of the answer");
                    return Poll::Ready(Err(SendError { error, sent, answered }));
                }
                Poll::Pending => {}
            }
            let fail = |kind, attempted: String| {
                Poll::Ready(Err(SendError { error: Error::new(kind, attempted), sent: true, answered }))
            };
            if received > limits.head_bytes as u64 {
                let attempted = format!("read a head of at most {} bytes", limits.head_bytes);
                return fail(ErrorKind::HttpHeadTooLarge, attempted);
            }
            let sent = self.wire.sent.load(Ordering::Relaxed);
            let deadlines = &limits.deadlines;
            let (waiting, limit) = if answered {
                (Waiting::Head, deadlines.head)
            } else if self.wire.blocked.load(Ordering::Relaxed) {
                (Waiting::Write(sent), deadlines.idle)
            } else {
                (Waiting::FirstByte(sent), deadlines.first_byte)
            };
            let (was, timer) = timer.get_or_insert_with(|| (waiting, cx.deadline(limit)));
            if *was != waiting {
                *was = waiting;
                timer.reset(later(cx.now(), limit));
            }
            ready!(Pin::new(timer).poll(task));
            let (kind, what) = match waiting {
                Waiting::Write(_) => (ErrorKind::TimeoutWrite, "send more of the request"),
                Waiting::FirstByte(_) => (ErrorKind::TimeoutFirstByte, "receive the first byte of the answer"),
                Waiting::Head => (ErrorKind::TimeoutHead, "receive the whole head of the answer"),
            };
            fail(kind, format!("{what} within {limit:?}"))
        })
        .await
    }

    /// The length that the head announced.
    pub(super) fn announced(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.size_hint().exact())
    }

    /// Ends the exchange: whether nothing of the body was left to read.
    pub(super) fn finish(&mut self) -> bool {
        self.body.take().is_none_or(|body| body.is_end_stream())
    }

    /// The next bytes of the body; `None` where it ended as its framing says.
    pub(super) fn poll_data(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut driven = false;
        while let Some(body) = self.body.as_mut() {
            match Pin::new(body).poll_frame(task) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are dropped: they never change framing, cookies or fields.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(e))) => {
                    self.driver = None;
                    return Poll::Ready(Some(Err(classify(e, true, "read the body"))));
                }
                Poll::Ready(None) => self.body = None,
                Poll::Pending if driven => return Poll::Pending,
                Poll::Pending => {
                    self.drive(task);
                    driven = true;
                }
            }
        }
        Poll::Ready(None)
    }
}

/// Gives hyper's error its kind. `answered`: whether any byte of the answer came.
fn classify(error: hyper::Error, answered: bool, attempted: &str) -> Error {
    let ended = if answered { ErrorKind::BodyIncomplete } else { ErrorKind::HttpEmptyReply };
    let text = error.to_string();
    let kind = if error.is_parse() {
        // hyper has no question for these but its words.
        match text.as_str() {
            text if text.contains("too large") => ErrorKind::HttpHeadTooLarge,
            text if text.contains("content-length") || text.contains("transfer-encoding") => ErrorKind::HttpFraming,
            text if text.contains("header") => ErrorKind::HttpHeader,
            _ => ErrorKind::HttpStatusLine,
        }
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        ended
    } else {
        match io_cause(&error).map(io::Error::kind) {
            Some(io::ErrorKind::UnexpectedEof) => ended,
            Some(
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                | io::ErrorKind::TimedOut,
            ) => ErrorKind::ConnectReset,
            _ => ErrorKind::HttpProtocol,
        }
    };
    Error::new(kind, attempted).with_source(error)
}

fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// What went over a connection, so that a deadline and an error can say what was being waited for.
#[derive(Debug, Default)]
struct Wire {
    received: AtomicU64,
    sent: AtomicU64,
    /// The last write was not taken.
    blocked: AtomicBool,
}

impl Wire {
    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked.store(result.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(n)) = &result {
            self.sent.fetch_add(*n as u64, Ordering::Relaxed);
        }
        result
    }
}

struct Watched {
    io: Box<dyn Io>,
    wire: Arc<Wire>,
}

impl Read for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // Through the scratch, because a cursor that was given away does not tell how much was read.
        let this = &mut *self;
        with_scratch(|scratch| {
            let room = buf.remaining().min(scratch.len());
            let mut read = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(&mut this.io).poll_read(cx, read.unfilled()))?;
            buf.put_slice(read.filled());
            this.wire.received.fetch_add(read.filled().len() as u64, Ordering::Relaxed);
            Poll::Ready(Ok(()))
        })
    }
}

impl Write for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wire.wrote(result)
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
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wire.wrote(result)
    }
}
