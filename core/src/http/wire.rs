//! [`Wire`]: what a request goes by, in the version of HTTP that its server chose.

use std::task::{Context, Poll};

use super::conn::{Answered, Conn, Peer, SendError};
#[cfg(feature = "tls")]
use super::http2::Stream;
use super::message::Message;
use crate::{Error, FetchCx, Limits};

/// A connection of HTTP/1.1, or a stream of one that speaks HTTP/2.
pub(super) enum Wire {
    One(Box<Conn>),
    #[cfg(feature = "tls")]
    Two(Box<Stream>),
}

impl Wire {
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::One(conn) => conn.peer(),
            #[cfg(feature = "tls")]
            Self::Two(stream) => stream.peer(),
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Cancel safety
    /// One whose `send` was dropped is to be dropped too.
    pub(super) async fn send(
        &mut self,
        message: &Message<'_>,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Answered, SendError> {
        match self {
            Self::One(conn) => conn.send(message, limits, cx).await,
            #[cfg(feature = "tls")]
            Self::Two(stream) => Box::pin(stream.send(message, limits, cx)).await,
        }
    }

    /// Appends more of the body to `out`, and says how many bytes; `None` where it has ended as its framing says.
    pub(super) fn poll_body(
        &mut self,
        task: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, Error>>> {
        match self {
            Self::One(conn) => conn.poll_body(task, out),
            #[cfg(feature = "tls")]
            Self::Two(stream) => stream.poll_body(task, out),
        }
    }

    /// Whether the whole body was read.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::One(conn) => conn.has_ended(),
            #[cfg(feature = "tls")]
            Self::Two(stream) => stream.has_ended(),
        }
    }
}
