//! Connections on Tokio's reactor, as hyper's I/O traits by `TokioIo`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use hyper_util::rt::TokioIo;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions, start_connect};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::Tokio;

impl TcpConnect for Tokio {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let mut at = At::Start { handle: self.handle.clone(), options: options.clone() };
        Box::pin(poll_fn(move |cx| {
            let stream = match std::mem::replace(&mut at, At::End) {
                At::Start { handle, options } => {
                    let socket = start_connect(addr, &options)?;
                    let _entered = handle.enter();
                    TcpStream::from_std(socket)?
                }
                At::Connecting(stream) => stream,
                At::End => panic!("a connect that has ended was polled"),
            };
            if stream.poll_write_ready(cx)?.is_pending() {
                at = At::Connecting(stream);
                return Poll::Pending;
            }
            if let Some(error) = stream.take_error()? {
                return Poll::Ready(Err(error));
            }
            let local = stream.local_addr()?;
            Poll::Ready(Ok(TcpConn::new(TokioIo::new(stream), local, addr)))
        }))
    }
}

/// How far a connect is. Not an async block, which would keep the options beside the stream, and there may be thousands.
enum At {
    Start { handle: Handle, options: TcpOptions },
    Connecting(TcpStream),
    End,
}
