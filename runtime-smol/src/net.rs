//! Connections on the reactor of the runtime.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::task::{Context, Poll};

use async_io::Async;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions, start_connect};

use crate::io::SmolIo;
#[cfg(target_os = "linux")]
use crate::reactor::OwnTcp;
use crate::{Driver, Smol};

impl TcpConnect for Smol {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let (driver, options) = (self.driver.clone(), options.clone());
        Box::pin(async move {
            let stream = start_connect(addr, &options)?;
            let socket = match driver {
                Driver::AsyncIo(_) => Socket::AsyncIo(Async::new_nonblocking(stream)?),
                #[cfg(target_os = "linux")]
                Driver::Own(reactor) => Socket::Own(reactor.register(stream)?),
            };
            poll_fn(|cx| socket.poll_writable(cx)).await?;
            if let Some(error) = socket.get_ref().take_error()? {
                return Err(error);
            }
            let local = socket.get_ref().local_addr()?;
            Ok(TcpConn::new(SmolIo::new(socket), local, addr))
        })
    }
}

/// One of async-io's, for what is not the crawl's own.
#[cfg(feature = "hickory")]
pub(crate) async fn connect(addr: SocketAddr, options: &TcpOptions) -> io::Result<Async<TcpStream>> {
    let stream = Async::new_nonblocking(start_connect(addr, options)?)?;
    stream.writable().await?;
    match stream.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// A TCP stream that tells when it is ready.
pub(crate) enum Socket {
    AsyncIo(Async<TcpStream>),
    #[cfg(target_os = "linux")]
    Own(OwnTcp),
}

impl Socket {
    pub(crate) fn get_ref(&self) -> &TcpStream {
        match self {
            Self::AsyncIo(stream) => stream.get_ref(),
            #[cfg(target_os = "linux")]
            Self::Own(stream) => stream.get_ref(),
        }
    }

    pub(crate) fn is_of_async_io(&self) -> bool {
        matches!(self, Self::AsyncIo(_))
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::AsyncIo(stream) => stream.poll_readable(cx),
            #[cfg(target_os = "linux")]
            Self::Own(stream) => stream.poll_readable(cx).map(Ok),
        }
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::AsyncIo(stream) => stream.poll_writable(cx),
            #[cfg(target_os = "linux")]
            Self::Own(stream) => stream.poll_writable(cx).map(Ok),
        }
    }
}
