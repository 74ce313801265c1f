//! The door to the HTTP/1.1 implementation: one connection that sends a request and gives head and body.
//!
//! There is no task and no channel: whoever awaits an answer polls the connection itself, so that dropping a fetch drops its
//! connection. It owns no buffer: it reads into one of the thread, and only what is left of a head waits in one of its fetch.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use hyper::rt::{Read as _, ReadBuf, Write as _};

use super::h1::{Answer, Head, Progress, Violation};
use super::message::Message;
use super::scratch::{with_head, with_scratch};
use crate::ledger::Socket;
use crate::rt::{Io, PhaseTimer};
use crate::time::later;
use crate::{Error, ErrorKind, FetchCx, Limits};

/// A body up to this is copied behind its head, so that one write takes both.
const COPIED: usize = 16 << 10;

/// What is known of a connection from the time it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) certificate_expiry: Option<SystemTime>,
}

/// A connection, busy with one request or parked.
pub(super) struct Conn {
    peer: Peer,
    io: Box<dyn Io>,
    /// The answer that is being read, or the last one.
    answer: Answer,
    /// What the peer has not taken yet of the request.
    unsent: Option<Box<Unsent>>,
    /// Given back after the socket was closed: the last field.
    socket: Socket,
}

/// The head of an answer.
pub(super) struct Answered {
    pub(super) head: Head,
    /// The length of the body, where it is known.
    pub(super) length: Option<u64>,
    /// What came of the body with the head.
    pub(super) early: Vec<u8>,
}

/// Why no head came.
pub(super) struct SendError {
    pub(super) error: Error,
    /// Whether the peer may have seen the request.
    pub(super) sent: bool,
    /// Whether any byte of an answer came.
    pub(super) answered: bool,
    /// The peer says that it did nothing with the request, or never saw it: a stream of HTTP/2 alone.
    pub(super) refused: bool,
}

/// A request, as far as it was not taken. An empty one is only to be flushed.
#[derive(Default)]
struct Unsent {
    head: Bytes,
    body: Bytes,
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

/// What ended an answer.
#[derive(Debug)]
enum Broken {
    Io(io::Error),
    Violation(Violation),
}

impl From<Violation> for Broken {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl Broken {
    /// `answered`: whether any byte of the answer came.
    fn into_error(self, answered: bool, attempted: &str) -> Error {
        match self {
            Self::Violation(violation) => Error::new(violation.kind(), attempted).with_source(violation),
            Self::Io(error) => {
                let kind = match error.kind() {
                    // TLS that ends without a word, which may be an attack (D5).
                    io::ErrorKind::UnexpectedEof if answered => ErrorKind::BodyIncomplete,
                    io::ErrorKind::UnexpectedEof => ErrorKind::HttpEmptyReply,
                    io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::TimedOut => ErrorKind::ConnectReset,
                    _ => ErrorKind::HttpProtocol,
                };
                Error::new(kind, attempted).with_source(error)
            }
        }
    }
}

/// How far an exchange is that has no head yet.
#[derive(Default)]
struct Exchange {
    /// Bytes of the request that the peer's system has taken.
    sent: u64,
    /// Whether any byte of an answer came.
    answered: bool,
    /// Bytes of a head that is not complete.
    unread: Vec<u8>,
    /// Why no more of the request can be sent. The answer may have come before that.
    failed: Option<io::Error>,
}

impl Conn {
    /// Makes a connection of a stream.
    pub(super) fn new(io: Box<dyn Io>, peer: Peer, socket: Socket) -> Self {
        let answer = Answer::to(&http::Method::GET, true);
        Self { peer, io, answer, unsent: None, socket }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// What is booked for it.
    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Whether nothing came that nobody asked for, the end included. It wakes nobody from then on.
    pub(super) fn is_quiet(&mut self) -> bool {
        let task = &mut Context::from_waker(Waker::noop());
        with_scratch(|scratch| Pin::new(&mut self.io).poll_read(task, ReadBuf::new(scratch).unfilled()).is_pending())
    }

    /// Ends the exchange: whether another request may be sent.
    pub(super) fn finish(&mut self) -> bool {
        self.unsent.is_none() && self.answer.is_reusable() && self.is_quiet()
    }

    /// Sends a request and waits for the head of its answer, under the deadlines for writing, first byte and head.
    ///
    /// # Cancel safety
    /// A connection whose `send` was dropped is not reusable; drop it too.
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    pub(super) fn send<'a>(
        &'a mut self,
        message: &'a Message<'a>,
        limits: &'a Limits,
        cx: &'a FetchCx,
    ) -> impl Future<Output = Result<Answered, SendError>> + Send + 'a {
        async move {
            self.answer = Answer::to(message.method(), message.stays());
            let mut exchange = Exchange::default();
            let mut begun = false;
            let mut timer: Option<(Waiting, PhaseTimer)> = None;
            std::future::poll_fn(|task| {
                let sent = if std::mem::replace(&mut begun, true) {
                    self.poll_unsent(task, &mut exchange.sent)
                } else {
                    self.begin(message, task, &mut exchange.sent)
                };
                let is_blocked = sent.is_pending();
                if let Poll::Ready(Err(error)) = sent {
                    exchange.failed = Some(error);
                }
                let answered = match self.poll_head(&mut exchange, limits, cx, task) {
                    // Nothing came before the connection broke, and nothing will.
                    Poll::Pending if !exchange.answered && exchange.failed.is_some() => {
                        Poll::Ready(Err(Violation::Cut.into()))
                    }
                    answered => answered,
                };
                if let Poll::Ready(answered) = answered {
                    return Poll::Ready(answered.map_err(|broken| {
                        let answered = exchange.answered;
                        // Of a connection that broke while we wrote, that is what is told.
                        let broken = exchange.failed.take().filter(|_| !answered).map_or(broken, Broken::Io);
                        let error = broken.into_error(answered, "read the head of the answer");
                        SendError { error, sent: exchange.sent > 0, answered, refused: false }
                    }));
                }
                let deadlines = &limits.deadlines;
                let (waiting, limit) = if exchange.answered {
                    (Waiting::Head, deadlines.head)
                } else if is_blocked {
                    (Waiting::Write(exchange.sent), deadlines.idle)
                } else {
                    (Waiting::FirstByte(exchange.sent), deadlines.first_byte)
                };
                let (was, timer) = timer.get_or_insert_with(|| (waiting, cx.deadline(limit)));
                if *was != waiting {
                    *was = waiting;
                    timer.reset(later(cx.moment(), limit));
                }
                ready!(cx.poll_deadline(timer, task));
                let (kind, what) = match waiting {
                    Waiting::Write(_) => (ErrorKind::TimeoutWrite, "send more of the request"),
                    Waiting::FirstByte(_) => (ErrorKind::TimeoutFirstByte, "receive the first byte of the answer"),
                    Waiting::Head => (ErrorKind::TimeoutHead, "receive the whole head of the answer"),
                };
                let error = Error::new(kind, format!("{what} within {limit:?}"));
                Poll::Ready(Err(SendError { error, sent: true, answered: exchange.answered, refused: false }))
            })
            .await
        }
    }

    /// Writes the request out of the thread's buffer. Only what the peer does not take at once is kept.
    fn begin(&mut self, message: &Message<'_>, task: &mut Context<'_>, sent: &mut u64) -> Poll<io::Result<()>> {
        with_head(|head| {
            message.write_head(head);
            let mut body = message.body();
            if body.len() <= COPIED {
                head.extend_from_slice(&body);
                body = Bytes::new();
            }
            let mut rest = &head[..];
            let done = poll_write(&mut self.io, &mut rest, &mut body, sent, task);
            match &done {
                Poll::Pending => self.unsent = Some(Box::new(Unsent { head: Bytes::copy_from_slice(rest), body })),
                Poll::Ready(done) if done.is_err() => self.answer.spoil(),
                Poll::Ready(_) => {}
            }
            done
        })
    }

    /// Goes on writing.
    fn poll_unsent(&mut self, task: &mut Context<'_>, sent: &mut u64) -> Poll<io::Result<()>> {
        let Some(unsent) = self.unsent.as_deref_mut() else { return Poll::Ready(Ok(())) };
        let done = ready!(poll_write(&mut self.io, &mut unsent.head, &mut unsent.body, sent, task));
        self.unsent = None;
        if done.is_err() {
            self.answer.spoil();
        }
        Poll::Ready(done)
    }

    fn poll_head(
        &mut self,
        exchange: &mut Exchange,
        limits: &Limits,
        cx: &FetchCx,
        task: &mut Context<'_>,
    ) -> Poll<Result<Answered, Broken>> {
        loop {
            let looked = with_scratch(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.io).poll_read(task, buf.unfilled())).map_err(Broken::Io)?;
                let came = buf.filled();
                let unread = &mut exchange.unread;
                if came.is_empty() {
                    return Poll::Ready(Err(Broken::Violation(self.answer.cut_head(unread, limits))));
                }
                exchange.answered = true;
                let is_first = unread.is_empty();
                if !is_first {
                    unread.extend_from_slice(came);
                }
                let bytes = if is_first { came } else { &unread[..] };
                Poll::Ready(match self.answer.head(bytes, limits)? {
                    Progress::Head(end, head, length) => {
                        let mut early = Vec::new();
                        if end < bytes.len() {
                            // What is wrong with it is told when the body is asked for.
                            let _ = self.answer.body(&bytes[end..], &mut early);
                        }
                        *unread = Vec::new();
                        Ok(Some(Answered { head, length, early }))
                    }
                    Progress::Skip(skip) => {
                        if is_first {
                            unread.extend_from_slice(&came[skip..]);
                        } else {
                            unread.drain(..skip);
                        }
                        Ok(None)
                    }
                })
            });
            if let Some(answered) = ready!(looked)? {
                return Poll::Ready(Ok(answered));
            }
            if cx.slice_is_over() {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Appends more of the body to `out`, and says how many bytes; `None` where it has ended as its framing says.
    pub(super) fn poll_body(
        &mut self,
        task: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, Error>>> {
        // A request that is answered before all of it was sent is sent on: what fails is that alone.
        let _ = self.poll_unsent(task, &mut 0);
        let before = out.len();
        loop {
            match self.answer.has_ended() {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(None),
                Err(violation) => return Poll::Ready(Some(Err(body_error(violation.into())))),
            }
            let read = with_scratch(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.io).poll_read(task, buf.unfilled())).map_err(Broken::Io)?;
                let taken = match buf.filled() {
                    [] => self.answer.close(),
                    bytes => self.answer.body(bytes, out),
                };
                Poll::Ready(taken.map_err(Broken::Violation))
            });
            if let Err(broken) = ready!(read) {
                self.answer.spoil();
                return Poll::Ready(Some(Err(body_error(broken))));
            }
            // Bytes of the framing alone are no progress.
            if out.len() > before {
                return Poll::Ready(Some(Ok(out.len() - before)));
            }
        }
    }

    /// Whether the whole body was read.
    pub(super) fn has_ended(&self) -> bool {
        self.answer.has_ended().is_ok_and(|ended| ended)
    }
}

fn body_error(broken: Broken) -> Error {
    broken.into_error(true, "read the body")
}

/// Writes head and body and flushes them. What was taken is gone from both, also where there is more.
fn poll_write(
    io: &mut Box<dyn Io>,
    head: &mut impl Buf,
    body: &mut Bytes,
    sent: &mut u64,
    task: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while head.has_remaining() || body.has_remaining() {
        let taken = if head.has_remaining() && body.has_remaining() && io.is_write_vectored() {
            let both = [IoSlice::new(head.chunk()), IoSlice::new(body)];
            ready!(Pin::new(&mut *io).poll_write_vectored(task, &both))?
        } else {
            let next = if head.has_remaining() { head.chunk() } else { &body[..] };
            ready!(Pin::new(&mut *io).poll_write(task, next))?
        };
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *sent += taken as u64;
        let of_head = taken.min(head.remaining());
        head.advance(of_head);
        body.advance(taken - of_head);
    }
    Pin::new(io).poll_flush(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a parked connection takes beside its socket.
    #[test]
    fn a_connection_owns_no_buffer() {
        assert!(size_of::<Conn>() <= 256, "{}", size_of::<Conn>());
    }
}
