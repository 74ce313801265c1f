//! Connections on async-io's reactor.

use std::io;
use std::net::{SocketAddr, TcpStream};

use async_io::Async;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions, start_connect};

use crate::Smol;
use crate::io::SmolIo;

impl TcpConnect for Smol {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let options = options.clone();
        Box::pin(async move {
            let stream = connect(addr, &options).await?;
            let local = stream.get_ref().local_addr()?;
            Ok(TcpConn::new(SmolIo::new(stream), local, addr))
        })
    }
}

pub(crate) async fn connect(addr: SocketAddr, options: &TcpOptions) -> io::Result<Async<TcpStream>> {
    let stream = Async::new_nonblocking(start_connect(addr, options)?)?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}
