//! [`Violation`]: what is wrong with an answer.

use thiserror::Error;

use crate::{ErrorKind, Limits};

/// What is wrong with an answer; the source of the error that a fetch ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(in crate::http) enum Violation {
    #[error("the first line is no status line of HTTP/1.0 or HTTP/1.1")]
    StatusLine,
    #[error("a header field cannot be parsed")]
    Field,
    #[error("there are more than {0} header fields")]
    TooManyFields(usize),
    #[error("there are more than {0} bytes of head")]
    HeadTooLarge(usize),
    #[error("there are more than {} interim answers", Limits::INTERIM)]
    TooManyInterim,
    #[error("it switches to another protocol, which nobody asked for")]
    Switched,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("Transfer-Encoding does not say where the body ends")]
    TransferEncoding,
    #[error("a chunk has no valid size")]
    ChunkSize,
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    #[error("there are more than {} bytes of chunk extensions", Limits::TRAILERS)]
    ChunkExtensions,
    #[error("a trailer field cannot be parsed, or there are more than {} bytes of them", Limits::TRAILERS)]
    Trailers,
    #[error("the connection was closed before any byte of an answer")]
    Empty,
    #[error("the connection was closed in the middle of the answer")]
    Cut,
}

impl Violation {
    /// The kind of the error that it makes.
    pub(in crate::http) fn kind(self) -> ErrorKind {
        match self {
            Self::StatusLine => ErrorKind::HttpStatusLine,
            Self::Field => ErrorKind::HttpHeader,
            Self::TooManyFields(_) | Self::HeadTooLarge(_) | Self::TooManyInterim => ErrorKind::HttpHeadTooLarge,
            Self::ContentLength | Self::TransferEncoding => ErrorKind::HttpFraming,
            Self::Switched | Self::ChunkSize | Self::ChunkEnd | Self::ChunkExtensions | Self::Trailers => {
                ErrorKind::HttpProtocol
            }
            Self::Empty => ErrorKind::HttpEmptyReply,
            Self::Cut => ErrorKind::BodyIncomplete,
        }
    }
}
