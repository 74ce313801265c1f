//! Reaching one address over TCP.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::BoxFuture;

/// A byte stream: hyper's I/O traits, boxed once a connection.
pub trait Io: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static {}

impl<T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static> Io for T {}

/// A TCP connection that was made.
#[non_exhaustive]
pub struct TcpConn {
    /// The stream.
    pub io: Box<dyn Io>,
    /// Our end.
    pub local: SocketAddr,
    /// The other end: the address that was asked for.
    pub peer: SocketAddr,
}

impl TcpConn {
    /// A connection over `io`.
    pub fn new(io: impl Io, local: SocketAddr, peer: SocketAddr) -> Self {
        Self { io: Box::new(io), local, peer }
    }
}

impl std::fmt::Debug for TcpConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpConn").field("local", &self.local).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What is set on a socket before it is connected.
///
/// ```
/// use tidegate::rt::TcpOptions;
/// let mut options = TcpOptions::default();
/// options.local_address = Some("127.0.0.2".parse()?);
/// assert!(options.nodelay);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Source address. Bound without a port where the system can (`IP_BIND_ADDRESS_NO_PORT`), so that each destination
    /// has the whole range of ports.
    pub local_address: Option<IpAddr>,
    /// `TCP_NODELAY`; on.
    pub nodelay: bool,
    /// Idle time before keep-alive probes; off by default.
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT` (Linux): how long sent bytes may stay unacknowledged; the system's by default.
    pub user_timeout: Option<Duration>,
    /// Receive buffer in bytes; the system's by default.
    pub recv_buffer: Option<u32>,
    /// Send buffer in bytes; the system's by default.
    pub send_buffer: Option<u32>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            local_address: None,
            nodelay: true,
            keepalive: None,
            user_timeout: None,
            recv_buffer: None,
            send_buffer: None,
        }
    }
}

/// Makes TCP connections: one address, no lookup, no deadline.
///
/// # Errors
/// As the system gives them: `ConnectionRefused`, `EMFILE`; core tells them apart.
///
/// # Cancel safety
/// Dropping the future closes the socket.
///
/// # Implementing
/// [`start_connect`] makes the socket and starts connecting; register it, wait until it is writable, and ask
/// `take_error`. One that stands before another needs none of that:
///
/// ```
/// use std::io;
/// use std::net::SocketAddr;
///
/// use tidegate::rt::{BoxFuture, Runtime, TcpConn, TcpConnect, TcpOptions};
///
/// /// Refuses all but one port.
/// struct OnlyPort(u16, Runtime);
///
/// impl TcpConnect for OnlyPort {
///     fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
///         if addr.port() != self.0 {
///             return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
///         }
///         self.1.tcp().connect(addr, options)
///     }
/// }
/// ```
pub trait TcpConnect: Send + Sync + 'static {
    /// Connects to `addr`.
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>>;
}

/// A source address that this machine does not have: what [`start_connect`] gives in place of the bare errno, which
/// `connect` gives too when all ports are taken.
#[derive(Debug)]
pub(crate) struct ForeignAddress(pub(crate) IpAddr);

impl std::fmt::Display for ForeignAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the local address {} is not on this machine", self.0)
    }
}

impl std::error::Error for ForeignAddress {}

/// Makes a non-blocking socket with these options and starts to connect it. It is connected when it becomes writable
/// and `take_error` says `None`.
///
/// # Errors
/// Those of `socket`, `setsockopt`, `bind` and `connect`; "in progress" is none. A source address that is not on this
/// machine is an `AddrNotAvailable` that names it and has no errno.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let stream = tidegate::rt::start_connect(listener.local_addr()?, &Default::default())?;
/// assert!(stream.take_error()?.is_none());
/// # Ok(()) }
/// ```
pub fn start_connect(addr: SocketAddr, options: &TcpOptions) -> io::Result<TcpStream> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(idle) = options.keepalive {
        socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(idle))?;
    }
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(options.user_timeout)?;
    if let Some(local) = options.local_address.filter(|local| local.is_ipv4() == addr.is_ipv4()) {
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(local, 0).into()).map_err(|e| match e.kind() {
            io::ErrorKind::AddrNotAvailable => io::Error::new(e.kind(), ForeignAddress(local)),
            _ => e,
        })?;
    }
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        #[cfg(unix)]
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}

/// Whether this machine has no more descriptors or memory for any socket.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    #[cfg(unix)]
    if let Some(code) = error.raw_os_error() {
        use nix::errno::Errno;
        return [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM].contains(&Errno::from_raw(code));
    }
    error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_its_options_when_it_starts_to_connect() -> io::Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        for nodelay in [true, false] {
            let options = TcpOptions { nodelay, local_address: Some([127, 0, 0, 1].into()), ..TcpOptions::default() };
            let stream = start_connect(listener.local_addr()?, &options)?;
            assert_eq!(stream.nodelay()?, nodelay);
            assert_eq!(Some(stream.local_addr()?.ip()), options.local_address);
            assert!(!socket2::SockRef::from(&stream).keepalive()?, "off by default");
        }
        Ok(())
    }
}
