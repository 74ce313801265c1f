//! [`Stream`]: one request on a shared connection, and its answer.

use std::error::Error as StdError;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use h2::Reason;
use hyper::body::{Body as _, Incoming};

use super::links::Lease;
use crate::http::conn::{Answered, Peer, SendError};
use crate::http::h1::{Head, Violation};
use crate::http::message::Message;
use crate::http::pool::Key;
use crate::{Error, ErrorKind, FetchCx, Limits};

/// A stream. Dropping it resets it where its answer has not ended, and gives its place back.
pub(in crate::http) struct Stream {
    body: Option<Incoming>,
    lease: Lease,
}

impl Stream {
    pub(super) fn new(lease: Lease) -> Self {
        Self { body: None, lease }
    }

    pub(in crate::http) fn peer(&self) -> Peer {
        self.lease.peer
    }

    pub(in crate::http) fn key(&self) -> &std::sync::Arc<Key> {
        &self.lease.key
    }

    /// Whether other requests went before it on its connection.
    pub(in crate::http) fn is_reused(&self) -> bool {
        self.lease.is_reused
    }

    /// Whether its connection was idle, so that it may have been closed meanwhile.
    pub(in crate::http) fn was_idle(&self) -> bool {
        self.lease.was_idle
    }

    /// Has no other request go by this connection.
    pub(in crate::http) fn retire(&self) {
        self.lease.retire();
    }

    /// Sends the request and waits for the head of its answer, under the deadline for the first byte.
    pub(in crate::http) async fn send(
        &mut self,
        message: &Message<'_>,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Answered, SendError> {
        let failed = |error, answered| SendError { error, sent: true, answered, refused: false };
        let request = message.to_http2().map_err(|e| failed(e, false))?;
        let limit = limits.deadlines.first_byte;
        let answering = pin!(self.lease.sender.send_request(request));
        let answered = cx.timeout(limit, ErrorKind::TimeoutFirstByte, "receive the head of the answer", answering);
        let answer = match answered.await.map_err(|e| failed(e, false))? {
            Ok(answer) => answer,
            Err(e) => {
                let refused = is_refused(&e);
                let error = Error::new(kind(&e, false), "read the head of the answer").with_source(e);
                return Err(SendError { error, sent: !refused, answered: false, refused });
            }
        };
        let (parts, body) = answer.into_parts();
        if let Some(violation) = judge(&parts.headers, limits) {
            let error = Error::new(violation.kind(), "read the head of the answer").with_source(violation);
            return Err(failed(error, true));
        }
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        self.body = Some(body);
        let head = Head { status: parts.status, version: parts.version, headers: parts.headers };
        Ok(Answered { head, length, early: Vec::new() })
    }

    /// Appends more of the body to `out`, and says how many bytes; `None` where it has ended. What is not taken here stays within
    /// the window of the stream.
    pub(in crate::http) fn poll_body(
        &mut self,
        task: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, Error>>> {
        loop {
            let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(task)) {
                None => self.body = None,
                Some(Err(e)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(Error::new(kind(&e, true), "read the body").with_source(e))));
                }
                // Trailers are nobody's.
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                        out.extend_from_slice(data);
                        return Poll::Ready(Some(Ok(data.len())));
                    }
                }
            }
        }
    }

    /// Whether the whole body was read.
    pub(in crate::http) fn has_ended(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }
}

/// The limits for a head of HTTP/1.1, for the same bytes.
fn judge(headers: &http::HeaderMap, limits: &Limits) -> Option<Violation> {
    if headers.len() > limits.headers {
        return Some(Violation::TooManyFields(limits.headers));
    }
    // A colon, a space and the end of a line.
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (bytes > limits.head_bytes).then_some(Violation::HeadTooLarge(limits.head_bytes))
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the server did nothing with the request (RFC 9113, 8.7), or it never left.
fn is_refused(error: &hyper::Error) -> bool {
    let by_peer =
        |e: &h2::Error| e.is_remote() && (e.is_go_away() || e.is_reset() && e.reason() == Some(Reason::REFUSED_STREAM));
    error.is_canceled() || find::<h2::Error>(error).is_some_and(by_peer)
}

/// `answered`: whether a head came.
fn kind(error: &hyper::Error, answered: bool) -> ErrorKind {
    let cut = if answered { ErrorKind::BodyIncomplete } else { ErrorKind::HttpEmptyReply };
    if error.is_timeout() {
        // No answer to a ping.
        return ErrorKind::ConnectReset;
    }
    // hyper gives what the stream said without h2 around it.
    if let Some(io) = find::<io::Error>(error) {
        return match io.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::TimedOut => {
                ErrorKind::ConnectReset
            }
            _ => cut,
        };
    }
    let Some(error) = find::<h2::Error>(error) else {
        return if error.is_canceled() { cut } else { ErrorKind::HttpProtocol };
    };
    if error.is_io() {
        return cut;
    }
    let gave_up = matches!(
        error.reason(),
        Some(Reason::NO_ERROR | Reason::CANCEL | Reason::INTERNAL_ERROR | Reason::REFUSED_STREAM)
    );
    match (gave_up && error.is_remote(), answered) {
        (true, true) => ErrorKind::BodyIncomplete,
        (true, false) => ErrorKind::ConnectReset,
        (false, _) => ErrorKind::HttpProtocol,
    }
}
