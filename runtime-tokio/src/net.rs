//! Connections on Tokio's reactor, as hyper's I/O traits by `TokioIo`.

use std::io;
use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions, start_connect};
use tokio::net::TcpStream;

use crate::Tokio;

impl TcpConnect for Tokio {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let (handle, options) = (self.handle.clone(), options.clone());
        Box::pin(async move {
            let socket = start_connect(addr, &options)?;
            let stream = {
                let _entered = handle.enter();
                TcpStream::from_std(socket)?
            };
            stream.writable().await?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            let local = stream.local_addr()?;
            Ok(TcpConn::new(TokioIo::new(stream), local, addr))
        })
    }
}
