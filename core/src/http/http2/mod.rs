//! HTTP/2 by hyper, on connections that requests to a host share, where the server chose it in its TLS handshake (ALPN).
//!
//! Each connection has tasks of hyper's, which are started by the runtime; a request is a stream of one.

mod links;
mod seam;
mod stream;

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;

pub(super) use self::links::{Dialing, Entry, Links};
use self::seam::{Clock, Line, Tasks, Wired};
pub(super) use self::stream::Stream;
use super::connect::Raw;
use crate::rt::Runtime;
use crate::{Error, ErrorKind};

/// What a server may send of one body before it is read, and of all bodies of a connection.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Bytes of a head, decoded and with 32 more for each field (RFC 9113, 6.5.2), that are kept at most. `Limits` judges what is below.
const MAX_HEAD: u32 = 256 << 10;

/// A connection that answers no ping is dead.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The handle by which requests go to hyper.
type Sender = http2::SendRequest<Full<Bytes>>;

/// Begins to speak HTTP/2. The connection lives until all its handles are dropped and its streams have ended.
async fn begin(runtime: &Runtime, line: &Arc<Line>) -> Result<Sender, Error> {
    let beginning = http2::Builder::new(Tasks(runtime.clone()))
        .timer(Clock(runtime.clone()))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_concurrent_reset_streams(10)
        .handshake(Wired(Arc::clone(line)));
    let begun = beginning.await;
    let (sender, mut connection) =
        begun.map_err(|e| Error::new(ErrorKind::ConnectReset, "begin to speak HTTP/2").with_source(e))?;
    let line = Arc::clone(line);
    // What is wrong with the connection is told to each of its streams.
    runtime.spawn(std::future::poll_fn(move |task| {
        let done = Pin::new(&mut connection).poll(task);
        line.allow(connection.current_max_send_streams());
        done.map(|_| ())
    }));
    Ok(sender)
}
