//! From a URL to a connection: names to addresses, addresses to TCP by Happy Eyeballs, the proxy's tunnel, TLS.

use std::collections::HashMap;
#[cfg(unix)]
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use url::{Host, Url};

use super::conn::{Conn, Peer};
use super::proxy::{self, Proxy};
use crate::guard::is_public;
use crate::hash::KeyedState;
use crate::rt::net::ForeignAddress;
use crate::rt::{BoxFuture, CachedResolver, Io, Name, PhaseTimer, ResolveError, Runtime, TcpConn, TcpOptions};
use crate::{Error, ErrorKind, FetchCx, Limits, Phase};

/// How long an address has before the next one is tried beside it (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

pub(super) struct Connector {
    pub(super) runtime: Runtime,
    pub(super) dns: CachedResolver,
    /// Addresses that replace resolution, by host and port.
    pub(super) fixed: HashMap<(Box<str>, u16), SocketAddr, KeyedState>,
    pub(super) tcp: TcpOptions,
    #[cfg(feature = "tls")]
    pub(super) tls: crate::tls::Config,
}

impl Connector {
    /// Makes a connection that a request for `url` can be sent on.
    pub(super) async fn connect(
        &self,
        url: &Url,
        proxy: Option<&Proxy>,
        local: Option<IpAddr>,
        guarded: bool,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Conn, Error> {
        let https = url.scheme() == "https";
        let tcp = match proxy {
            None => {
                let (host, port) = endpoint(url)?;
                self.dial(host, port, local, guarded, limits, cx).await?
            }
            Some(proxy) => self
                .dial(proxy.host(), proxy.port(), local, false, limits, cx)
                .await
                .map_err(|e| proxy::unreachable(proxy, e))?,
        };
        let mut io = tcp.io;
        if let Some(proxy) = proxy.filter(|_| https) {
            let attempted = format!("open a tunnel through {}", proxy.shown());
            let opening = proxy::open_tunnel(io, proxy, url);
            io = cx.timeout(limits.deadlines.proxy, ErrorKind::TimeoutProxy, &attempted, opening).await??;
        }
        let mut peer = Peer { addr: tcp.peer, certificate_expiry: None };
        if https {
            io = self.secure(io, url, &mut peer, limits, cx).await?;
        }
        Conn::open(io, peer, limits).await
    }

    #[cfg(feature = "tls")]
    async fn secure(
        &self,
        io: Box<dyn Io>,
        url: &Url,
        peer: &mut Peer,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Box<dyn Io>, Error> {
        cx.phase(Phase::Tls);
        let (host, _) = endpoint(url)?;
        let attempted = format!("shake hands over TLS with {} at {}", host, peer.addr);
        let shaking = self.tls.connect(&host, io);
        let secured = cx.timeout(limits.deadlines.tls, ErrorKind::TimeoutTls, &attempted, shaking).await??;
        peer.certificate_expiry = secured.certificate_expiry();
        Ok(Box::new(secured))
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_async, reason = "as with the feature `tls`")]
    async fn secure(
        &self,
        _io: Box<dyn Io>,
        url: &Url,
        _peer: &mut Peer,
        _limits: &Limits,
        _cx: &FetchCx,
    ) -> Result<Box<dyn Io>, Error> {
        Err(Error::new(ErrorKind::UrlScheme, "fetch https without the feature `tls`").with_url(url.as_str()))
    }

    async fn dial(
        &self,
        host: Host<&str>,
        port: u16,
        local: Option<IpAddr>,
        guarded: bool,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<TcpConn, Error> {
        let is_fixed = self.fixed_address(&host, port).is_some();
        let mut addrs = self.addresses(host, port, limits, cx).await?;
        if guarded && !is_fixed {
            let found = list(&addrs);
            // What is left is what is connected to, so that no later answer of a name server changes the judgement.
            addrs.retain(|addr| is_public(addr.ip()));
            if addrs.is_empty() {
                let attempted = format!("connect to {found}, which is private, where a public page led");
                return Err(Error::new(ErrorKind::GuardBlocked, attempted));
            }
        }
        cx.phase(Phase::Connect);
        let mut options = self.tcp.clone();
        options.local_address = local.or(options.local_address);
        let attempted = format!("connect to {}", list(&addrs));
        let limit = limits.deadlines.connect;
        let racing = race(&self.runtime, addrs, &options, cx);
        cx.timeout(limit, ErrorKind::TimeoutConnect, &attempted, racing).await?
    }

    /// The addresses of an endpoint, in the order in which they are to be tried.
    pub(super) async fn addresses(
        &self,
        host: Host<&str>,
        port: u16,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Vec<SocketAddr>, Error> {
        if let Some(fixed) = self.fixed_address(&host, port) {
            return Ok(vec![fixed]);
        }
        let domain = match host {
            Host::Ipv4(ip) => return Ok(vec![SocketAddr::new(ip.into(), port)]),
            Host::Ipv6(ip) => return Ok(vec![SocketAddr::new(ip.into(), port)]),
            Host::Domain(domain) => domain,
        };
        let name = Name::new(domain)
            .ok_or_else(|| Error::new(ErrorKind::UrlInvalid, format!("look up {domain:?}, which is no host name")))?;
        cx.phase(Phase::Dns);
        let attempted = format!("look up {name}");
        let limit = limits.deadlines.dns;
        let found = cx.timeout(limit, ErrorKind::TimeoutDns, &attempted, self.dns.resolve(&name)).await?;
        let found = found.map_err(|e| {
            let kind = match e {
                ResolveError::NotFound(_) => ErrorKind::DnsNotFound,
                ResolveError::Failed { .. } => ErrorKind::DnsFailed,
                ResolveError::TimedOut(_) => ErrorKind::TimeoutDns,
            };
            Error::new(kind, attempted.as_str()).with_source(e)
        })?;
        if found.addrs.is_empty() {
            return Err(Error::new(ErrorKind::DnsNotFound, attempted));
        }
        Ok(interleave(&found.addrs).into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    pub(super) fn fixed_address(&self, host: &Host<&str>, port: u16) -> Option<SocketAddr> {
        if self.fixed.is_empty() {
            return None;
        }
        self.fixed.get(&(host.to_string().into_boxed_str(), port)).copied()
    }
}

/// Host and port of a URL that [`canonical`](crate::canonical) let through.
pub(super) fn endpoint(url: &Url) -> Result<(Host<&str>, u16), Error> {
    url.host()
        .zip(url.port_or_known_default())
        .ok_or_else(|| Error::new(ErrorKind::UrlInvalid, "fetch a URL without a host").with_url(url.as_str()))
}

/// Families in turn, beginning with that of the first address; the resolver's order within each (RFC 8305, 4).
fn interleave(addrs: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v4 = addrs.first().is_some_and(IpAddr::is_ipv4);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addrs.iter().partition(|ip| ip.is_ipv4() == first_is_v4);
    let mut mixed = Vec::with_capacity(addrs.len());
    first.reverse();
    second.reverse();
    while let Some(ip) = first.pop().or_else(|| second.pop()) {
        mixed.push(ip);
        mixed.extend(second.pop());
    }
    mixed
}

fn list(addrs: &[SocketAddr]) -> String {
    let shown: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

/// Connects to whichever answers first. The next address is tried when one fails, or beside it after a while.
async fn race(runtime: &Runtime, addrs: Vec<SocketAddr>, options: &TcpOptions, cx: &FetchCx) -> Result<TcpConn, Error> {
    let mut untried = addrs.into_iter();
    let mut attempts: Vec<(SocketAddr, BoxFuture<'static, io::Result<TcpConn>>)> = Vec::with_capacity(1);
    let mut delay: Option<PhaseTimer> = None;
    let mut failed = None;
    let mut next = true;
    std::future::poll_fn(|task| {
        loop {
            let mut i = 0;
            while i < attempts.len() {
                match attempts[i].1.as_mut().poll(task) {
                    Poll::Pending => i += 1,
                    Poll::Ready(Ok(conn)) => return Poll::Ready(Ok(conn)),
                    Poll::Ready(Err(e)) => {
                        let (addr, _) = attempts.swap_remove(i);
                        // Another address would need the same descriptor.
                        let short = is_shortage(&e);
                        let error = connect_error(e, addr, options);
                        if short {
                            return Poll::Ready(Err(error));
                        }
                        // That our ports are taken is said before what is wrong with other addresses.
                        if failed.as_ref().is_none_or(|e: &Error| e.kind() != ErrorKind::LocalResource) {
                            failed = Some(error);
                        }
                        next = true;
                    }
                }
            }
            if let Some(delay) = delay.as_mut() {
                next |= Pin::new(delay).poll(task).is_ready();
            }
            if !std::mem::take(&mut next) {
                return Poll::Pending;
            }
            delay = None;
            match untried.next() {
                Some(addr) => {
                    attempts.push((addr, runtime.tcp().connect(addr, options)));
                    if untried.len() > 0 {
                        delay = Some(cx.deadline(ATTEMPT_DELAY));
                    }
                }
                None if attempts.is_empty() => {
                    let none = || Error::new(ErrorKind::ConnectFailed, "connect without an address");
                    return Poll::Ready(Err(failed.take().unwrap_or_else(none)));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

fn connect_error(error: io::Error, addr: SocketAddr, options: &TcpOptions) -> Error {
    use io::ErrorKind as Io;
    if let Some(foreign) = error.get_ref().and_then(|e| e.downcast_ref::<ForeignAddress>()) {
        let attempted = format!("connect to {addr} from {}, which is no address of this machine", foreign.0);
        return Error::new(ErrorKind::ConnectFailed, attempted).with_source(error);
    }
    let bound = options.local_address.is_some_and(|local| local.is_ipv4() == addr.is_ipv4());
    let kind = match error.kind() {
        _ if is_shortage(&error) => ErrorKind::LocalResource,
        // All ports to this address are taken. Over IPv6 it is far more often that there is no IPv6 here at all.
        Io::AddrNotAvailable if addr.is_ipv4() || bound => ErrorKind::LocalResource,
        Io::ConnectionRefused => ErrorKind::ConnectRefused,
        Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => ErrorKind::ConnectReset,
        Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown | Io::AddrNotAvailable => {
            ErrorKind::ConnectUnreachable
        }
        Io::TimedOut => ErrorKind::TimeoutConnect,
        _ => ErrorKind::ConnectFailed,
    };
    Error::new(kind, format!("connect to {addr}")).with_source(error)
}

/// Whether this machine has no more descriptors or memory for any socket.
fn is_shortage(error: &io::Error) -> bool {
    #[cfg(unix)]
    if let Some(code) = error.raw_os_error() {
        use nix::errno::Errno;
        return [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM].contains(&Errno::from_raw(code));
    }
    error.kind() == io::ErrorKind::OutOfMemory
}

/// Whether there was no connection for want of a descriptor, which closing another socket makes free.
pub(super) fn lacks_descriptor(error: &Error) -> bool {
    #[cfg(unix)]
    if let Some(code) = error.source().and_then(|e| e.downcast_ref()).and_then(io::Error::raw_os_error) {
        use nix::errno::Errno;
        return [Errno::EMFILE, Errno::ENFILE].contains(&Errno::from_raw(code));
    }
    #[cfg(not(unix))]
    let _ = error;
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("literal");
        let mixed = interleave(&[ip("::1"), ip("::2"), ip("1.1.1.1"), ip("::3"), ip("2.2.2.2")]);
        assert_eq!(mixed, [ip("::1"), ip("1.1.1.1"), ip("::2"), ip("2.2.2.2"), ip("::3")]);
        assert_eq!(interleave(&[ip("1.1.1.1"), ip("2.2.2.2")]), [ip("1.1.1.1"), ip("2.2.2.2")]);
        assert!(interleave(&[]).is_empty());
    }

    // H1, H2, H3
    #[cfg(unix)]
    #[test]
    fn errors_of_the_system_are_told_apart() {
        use nix::errno::Errno;
        let told = |errno: Errno, addr: &str, local: Option<&str>| {
            let local_address = local.map(|local| local.parse().expect("literal"));
            let options = TcpOptions { local_address, ..TcpOptions::default() };
            let addr = addr.parse().expect("literal");
            connect_error(io::Error::from_raw_os_error(errno as i32), addr, &options).kind()
        };
        let kind = |errno| told(errno, "192.0.2.1:80", None);
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL] {
            assert_eq!(kind(errno), ErrorKind::LocalResource, "{errno}");
        }
        assert_eq!(kind(Errno::ECONNREFUSED), ErrorKind::ConnectRefused);
        assert_eq!(kind(Errno::ECONNRESET), ErrorKind::ConnectReset);
        assert_eq!(kind(Errno::EHOSTUNREACH), ErrorKind::ConnectUnreachable);
        assert_eq!(kind(Errno::ENETUNREACH), ErrorKind::ConnectUnreachable);
        assert_eq!(kind(Errno::ETIMEDOUT), ErrorKind::TimeoutConnect);
        assert_eq!(kind(Errno::EACCES), ErrorKind::ConnectFailed);
        // Without a source address of that family it is IPv6 that is missing; with one, ports are.
        let taken = |local| told(Errno::EADDRNOTAVAIL, "[2001:db8::1]:80", local);
        assert_eq!(taken(None), ErrorKind::ConnectUnreachable);
        assert_eq!(taken(Some("192.0.2.9")), ErrorKind::ConnectUnreachable);
        assert_eq!(taken(Some("2001:db8::9")), ErrorKind::LocalResource);
    }
}
