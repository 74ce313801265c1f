//! hyper without anything around it: a connection of its own for each worker, polled in the worker's task.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::Uri;
use http::header::HOST;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::roots;
use super::workers::Worker;
use crate::Failure;
use crate::work::Work;

/// Boxed, so that TLS is no second kind of worker.
type Io = Box<dyn Stream>;
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, in its two halves.
type Open = (SendRequest<Empty<Bytes>>, Connection<TokioIo<Io>, Empty<Bytes>>);

pub(super) struct Alone {
    tls: Option<TlsConnector>,
    fresh: bool,
    open: Option<Open>,
}

pub(super) fn worker(work: &Work) -> Result<impl Fn() -> Alone, Failure> {
    let tls = work.certificate.is_some().then(|| roots::config(work)).transpose()?;
    let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
    let fresh = work.fresh;
    Ok(move || Alone { tls: tls.clone(), fresh, open: None })
}

impl Worker for Alone {
    async fn fetch(&mut self, url: &str) -> Result<usize, Failure> {
        let uri: Uri = url.parse()?;
        let authority = uri.authority().ok_or("a URL with an authority")?.clone();
        let (mut sender, mut connection) = match self.open.take() {
            Some(open) => open,
            None => http1::handshake(TokioIo::new(connect(authority.as_str(), self.tls.as_ref()).await?)).await?,
        };
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = http::Request::get(target).header(HOST, authority.as_str()).body(Empty::new())?;
        let length = {
            let mut answer = pin!(async {
                sender.ready().await?;
                let body = sender.send_request(request).await?.into_body();
                Ok::<_, hyper::Error>(body.collect().await?.to_bytes().len())
            });
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                        return Poll::Ready(answer);
                    }
                    // What the connection does may be what the answer waits for.
                    let ended = std::pin::Pin::new(&mut connection).poll(cx)?.is_ready();
                    match answer.as_mut().poll(cx) {
                        Poll::Pending if ended => continue,
                        polled => return polled,
                    }
                }
            })
            .await?
        };
        if !self.fresh {
            self.open = Some((sender, connection));
        }
        Ok(length)
    }
}

async fn connect(authority: &str, tls: Option<&TlsConnector>) -> Result<Io, Failure> {
    let socket = TcpStream::connect(authority).await?;
    socket.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(socket)) };
    let name = ServerName::from(socket.peer_addr()?.ip());
    Ok(Box::new(tls.connect(name, socket).await?))
}
