//! From a URL to a connection: names to addresses, addresses to TCP by Happy Eyeballs, the proxy's tunnel, TLS.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use url::{Host, Url};

use super::conn::{Conn, Peer};
use super::pool::{Key, KeyRef, Pool};
use super::proxy::{self, Proxy};
use crate::guard::is_public;
use crate::hash::KeyedState;
use crate::ledger::{Socket, Turn};
use crate::rt::net::{ForeignAddress, is_shortage};
use crate::rt::{BoxFuture, CachedResolver, Io, Name, PhaseTimer, ResolveError, Runtime, TcpConn, TcpOptions};
use crate::{Error, ErrorKind, FetchCx, Ledger, Limits, Phase};

/// How long an address has before the next one is tried beside it (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Parked connections that are closed when the system has fewer descriptors than the ledger: a few, so that the next dials
/// find room too.
const EVICT: usize = 32;

/// A connection for a request: made for it, or parked by another while it waited for its turn.
pub(super) enum Made {
    New(Box<Conn>),
    Parked(Arc<Key>, Box<Conn>),
    #[cfg(feature = "tls")]
    Http2(Box<Raw>),
}

/// A stream whose two ends agreed on HTTP/2.
#[cfg(feature = "tls")]
pub(super) struct Raw {
    pub(super) io: Box<dyn Io>,
    pub(super) peer: Peer,
    pub(super) socket: Socket,
}

/// Where a connection goes, and how.
#[derive(Clone, Copy)]
struct Way<'a> {
    url: &'a Url,
    proxy: Option<&'a Proxy>,
    guarded: bool,
}

enum Dialed {
    New(Socket, TcpConn),
    Parked(Arc<Key>, Box<Conn>),
}

/// The parked connections that a request may use, or that make room for it.
#[derive(Clone, Copy)]
pub(super) struct Idle<'a> {
    pub(super) pool: &'a Pool,
    pub(super) key: KeyRef<'a>,
}

impl Idle<'_> {
    /// A parked connection from any of the source addresses.
    fn take(self, sources: &[IpAddr], cx: &FetchCx) -> Option<(Arc<Key>, Box<Conn>)> {
        let others = sources.iter().copied().map(Some).filter(|source| *source != self.key.local);
        self.pool.take_quiet(self.key, cx.now()).or_else(|| {
            let mut keys = others.map(|source| KeyRef { local: source, ..self.key });
            keys.find_map(|key| self.pool.take_quiet(key, cx.now()))
        })
    }
}

pub(super) struct Connector {
    pub(super) ledger: Ledger,
    pub(super) runtime: Runtime,
    pub(super) dns: CachedResolver,
    /// Addresses that replace resolution, by host and port.
    pub(super) fixed: HashMap<(Box<str>, u16), SocketAddr, KeyedState>,
    pub(super) tcp: TcpOptions,
    #[cfg(feature = "tls")]
    pub(super) tls: crate::tls::Config,
    /// That for origins, which may offer HTTP/2.
    #[cfg(feature = "tls")]
    pub(super) origin_tls: crate::tls::Config,
}

/// Whom a handshake is with.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there is no handshake"))]
enum End<'a> {
    /// By way of this proxy.
    Origin(Option<&'a Proxy>),
    Proxy(&'a Proxy),
}

impl Connector {
    /// Makes a connection that a request for `url` can be sent on, from one of `sources`, the first before others.
    ///
    /// What not every connection needs is boxed: thousands may be made at a time, and each holds its future.
    #[allow(clippy::too_many_arguments, reason = "all that a connection depends on")]
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    pub(super) fn connect<'a>(
        &'a self,
        url: &'a Url,
        proxy: Option<&'a Proxy>,
        sources: &'a [IpAddr],
        guarded: bool,
        idle: Idle<'a>,
        limits: &'a Limits,
        cx: &'a FetchCx,
    ) -> impl Future<Output = Result<Made, Error>> + Send + 'a {
        async move {
            let (host, port) = match proxy {
                None => endpoint(url)?,
                Some(proxy) => (proxy.host(), proxy.port()),
            };
            let dialing = self.dial(host, port, sources, guarded && proxy.is_none(), &idle, limits, cx);
            // In a block, so that what was dialed is not kept a second time while more is done with it.
            let securing = {
                let dialed = dialing.await.map_err(|e| match proxy {
                    Some(proxy) => proxy::unreachable(proxy, e),
                    None => e,
                });
                match dialed? {
                    Dialed::Parked(key, conn) => return Ok(Made::Parked(key, conn)),
                    Dialed::New(socket, tcp)
                        if url.scheme() != "https" && !proxy.is_some_and(Proxy::is_spoken_to_first) =>
                    {
                        let peer = Peer { addr: tcp.peer, certificate_expiry: None };
                        return Ok(Made::New(Box::new(Conn::new(tcp.io, peer, socket))));
                    }
                    Dialed::New(socket, tcp) => {
                        Box::pin(self.secure(socket, tcp, Way { url, proxy, guarded }, limits, cx))
                    }
                }
            };
            securing.await
        }
    }

    /// Makes a connection of one to its server or its proxy, through a tunnel or over TLS. The booking goes after the socket,
    /// whatever happens.
    async fn secure(
        &self,
        socket: Socket,
        tcp: TcpConn,
        way: Way<'_>,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Made, Error> {
        let Way { url, proxy, guarded } = way;
        let mut io = tcp.io;
        let mut peer = Peer { addr: tcp.peer, certificate_expiry: None };
        let is_https = url.scheme() == "https";
        if let Some(proxy) = proxy {
            if proxy.is_https() {
                let shaking =
                    self.shake_hands(io, End::Proxy(proxy), (proxy.host(), proxy.port()), &mut peer, limits, cx);
                (io, _) = shaking.await.map_err(|e| proxy::insecure(proxy, e))?;
                peer.certificate_expiry = None;
            }
            if is_https || !proxy.reads_requests() {
                let (mut host, mut port) = endpoint(url)?;
                if proxy.wants_address() {
                    let is_fixed = self.fixed_address(&host, port).is_some();
                    let mut addrs = self.addresses(host, port, limits, cx).await?;
                    if guarded && !is_fixed {
                        judge(&mut addrs)?;
                    }
                    let addr = addrs.first().ok_or_else(no_address)?;
                    (host, port) = (literal(addr.ip()), addr.port());
                }
                let attempted = format!("open a tunnel through {}", proxy.shown());
                let opening = proxy::open_tunnel(io, proxy, host, port);
                io = cx.timeout(limits.deadlines.proxy, ErrorKind::TimeoutProxy, &attempted, opening).await??;
            }
        }
        if is_https {
            #[cfg_attr(not(feature = "tls"), allow(unused_variables, reason = "HTTP/2 needs TLS"))]
            let (secured, is_http2) =
                self.shake_hands(io, End::Origin(proxy), endpoint(url)?, &mut peer, limits, cx).await?;
            io = secured;
            #[cfg(feature = "tls")]
            if is_http2 {
                return Ok(Made::Http2(Box::new(Raw { io, peer, socket })));
            }
        }
        Ok(Made::New(Box::new(Conn::new(io, peer, socket))))
    }

    /// Shakes hands with a host at a port; also says whether it chose HTTP/2.
    #[cfg(feature = "tls")]
    async fn shake_hands(
        &self,
        io: Box<dyn Io>,
        with: End<'_>,
        (host, port): (Host<&str>, u16),
        peer: &mut Peer,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<(Box<dyn Io>, bool), Error> {
        let _turn = self.ledger.handshake(|| cx.waits_for(ErrorKind::LocalResource)).await;
        cx.phase(Phase::Tls);
        let attempted = format!("shake hands over TLS with {} at {}", host, peer.addr);
        let (config, proxy) = match with {
            End::Origin(proxy) => (&self.origin_tls, proxy),
            End::Proxy(proxy) => (&self.tls, Some(proxy)),
        };
        let scope = crate::tls::Scope { port, proxy: proxy.map(|proxy| &**proxy.identity()) };
        let shaking = config.connect(&host, scope, io);
        let secured = cx.timeout(limits.deadlines.tls, ErrorKind::TimeoutTls, &attempted, shaking).await??;
        peer.certificate_expiry = secured.certificate_expiry();
        let is_http2 = secured.is_http2();
        Ok((Box::new(secured), is_http2))
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_async, reason = "as with the feature `tls`")]
    async fn shake_hands(
        &self,
        _io: Box<dyn Io>,
        _with: End<'_>,
        (host, _): (Host<&str>, u16),
        _peer: &mut Peer,
        _limits: &Limits,
        _cx: &FetchCx,
    ) -> Result<(Box<dyn Io>, bool), Error> {
        Err(Error::new(ErrorKind::UrlScheme, format!("speak TLS with {host} without the feature `tls`")))
    }

    #[allow(clippy::too_many_arguments, reason = "all that a connection depends on")]
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn dial<'a>(
        &'a self,
        host: Host<&'a str>,
        port: u16,
        sources: &'a [IpAddr],
        guarded: bool,
        idle: &'a Idle<'a>,
        limits: &'a Limits,
        cx: &'a FetchCx,
    ) -> impl Future<Output = Result<Dialed, Error>> + Send + 'a {
        async move {
            let is_fixed = self.fixed_address(&host, port).is_some();
            let mut addrs = match self.known_address(&host, port) {
                Some(addr) => vec![addr],
                None => Box::pin(self.addresses(host, port, limits, cx)).await?,
            };
            if guarded && !is_fixed {
                judge(&mut addrs)?;
            }
            let Some(first) = addrs.first().copied() else { return Err(no_address()) };
            let mut may_evict = true;
            let mut other_sources = sources.len().saturating_sub(1);
            loop {
                let socket = match self.ledger.try_book(first, sources, cx.now()) {
                    Some(socket) => socket,
                    None => match Box::pin(self.wait_for_room(first, sources, *idle, cx)).await {
                        Ok(socket) => socket,
                        Err((key, conn)) => return Ok(Dialed::Parked(key, conn)),
                    },
                };
                cx.phase(Phase::Connect);
                let attempted = format!("connect to {}", list(&addrs));
                let limit = limits.deadlines.connect;
                // Pinned here, so that it is not moved into the deadline.
                let racing = pin!(self.race(addrs.clone(), socket, sources, cx));
                match cx.timeout(limit, ErrorKind::TimeoutConnect, &attempted, racing).await? {
                    // The system has less than the ledger thought: what is parked makes room, once.
                    Err(e)
                        if e.kind() == ErrorKind::LocalDescriptors
                            && std::mem::take(&mut may_evict)
                            && self.ledger.evict(EVICT) > 0 => {}
                    // Another source address may have ports left: the ledger knows of this one now.
                    Err(e) if e.kind() == ErrorKind::LocalPorts && other_sources > 0 => {
                        other_sources -= 1;
                    }
                    Err(e) => return Err(e),
                    Ok((socket, tcp)) => return Ok(Dialed::New(socket, tcp)),
                }
            }
        }
    }

    /// Books a socket to `to`, for which there was no room: closes a parked connection that is in the way, and then waits without
    /// its permit, under no deadline but the total one. `Err`: a connection was parked meanwhile that does as well.
    async fn wait_for_room(
        &self,
        to: SocketAddr,
        sources: &[IpAddr],
        idle: Idle<'_>,
        cx: &FetchCx,
    ) -> Result<Socket, (Arc<Key>, Box<Conn>)> {
        let mut place = self.ledger.wait(to, sources);
        let mut waited = false;
        let found = loop {
            if let Some(parked) = idle.take(sources, cx) {
                break Err(parked);
            }
            let lacks_ports = self.ledger.lacks_ports(to, sources);
            cx.waits_for(if lacks_ports { ErrorKind::LocalPorts } else { ErrorKind::LocalDescriptors });
            if lacks_ports {
                if self.ledger.has_idle(to) {
                    self.ledger.evict_to(to);
                }
            } else {
                self.ledger.evict(1);
            }
            let turn = match place.turn().now_or_never() {
                Some(turn) => turn,
                None => {
                    if !std::mem::replace(&mut waited, true) {
                        cx.stands_in_line();
                    }
                    place.turn().await
                }
            };
            if let Turn::Granted(socket) = turn {
                break Ok(socket);
            }
        };
        if waited {
            cx.readmitted().await;
        }
        found
    }

    /// The addresses of an endpoint, in the order in which they are to be tried.
    pub(super) async fn addresses(
        &self,
        host: Host<&str>,
        port: u16,
        limits: &Limits,
        cx: &FetchCx,
    ) -> Result<Vec<SocketAddr>, Error> {
        if let Some(known) = self.known_address(&host, port) {
            return Ok(vec![known]);
        }
        let Host::Domain(domain) = host else { return Ok(Vec::new()) };
        let name = Name::new(domain)
            .ok_or_else(|| Error::new(ErrorKind::UrlInvalid, format!("look up {domain:?}, which is no host name")))?;
        let _turn = self.ledger.lookup(|| cx.waits_for(ErrorKind::LocalResource)).await;
        cx.phase(Phase::Dns);
        let attempted = format!("look up {name}");
        let limit = limits.deadlines.dns;
        let found = cx.timeout(limit, ErrorKind::TimeoutDns, &attempted, self.dns.resolve(&name)).await?;
        let found = found.map_err(|e| {
            let kind = match e {
                ResolveError::NoRoom { .. } => {
                    // What is parked makes room for the next try.
                    self.ledger.descriptors_ran_out(cx.now());
                    self.ledger.evict(EVICT);
                    ErrorKind::LocalDescriptors
                }
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

    /// That of an endpoint which need not be looked up.
    fn known_address(&self, host: &Host<&str>, port: u16) -> Option<SocketAddr> {
        let literal = || match host {
            Host::Ipv4(ip) => Some(SocketAddr::new((*ip).into(), port)),
            Host::Ipv6(ip) => Some(SocketAddr::new((*ip).into(), port)),
            Host::Domain(_) => None,
        };
        self.fixed_address(host, port).or_else(literal)
    }

    pub(super) fn fixed_address(&self, host: &Host<&str>, port: u16) -> Option<SocketAddr> {
        if self.fixed.is_empty() {
            return None;
        }
        self.fixed.get(&(host.to_string().into_boxed_str(), port)).copied()
    }
}

/// Leaves the public ones. They are what is connected to, so that no later answer of a name server changes the judgement.
fn judge(addrs: &mut Vec<SocketAddr>) -> Result<(), Error> {
    let found = list(addrs);
    addrs.retain(|addr| is_public(addr.ip()));
    if addrs.is_empty() {
        let attempted = format!("connect to {found}, which is private, where a public page led");
        return Err(Error::new(ErrorKind::GuardBlocked, attempted));
    }
    Ok(())
}

fn no_address() -> Error {
    Error::new(ErrorKind::ConnectFailed, "connect without an address")
}

fn literal(ip: IpAddr) -> Host<&'static str> {
    match ip {
        IpAddr::V4(ip) => Host::Ipv4(ip),
        IpAddr::V6(ip) => Host::Ipv6(ip),
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

impl Connector {
    /// Connects to whichever answers first. The next address is tried when one fails, or beside it after a while, where
    /// there is room for a second socket.
    fn race<'a>(
        &'a self,
        addrs: Vec<SocketAddr>,
        first: Socket,
        sources: &'a [IpAddr],
        cx: &'a FetchCx,
    ) -> impl Future<Output = Result<(Socket, TcpConn), Error>> + Send + 'a {
        let mut untried = addrs.into_iter();
        let mut spare = Some(first);
        let mut attempts: Vec<Attempt> = Vec::with_capacity(1);
        let mut delay: Option<PhaseTimer> = None;
        let mut failed = None;
        let mut next = true;
        // Not an async block, which would keep all this and references to it.
        std::future::poll_fn(move |task| {
            loop {
                let mut i = 0;
                while i < attempts.len() {
                    match attempts[i].connecting.as_mut().poll(task) {
                        Poll::Pending => i += 1,
                        Poll::Ready(Ok(conn)) => return Poll::Ready(Ok((attempts.swap_remove(i).socket, conn))),
                        Poll::Ready(Err(e)) => {
                            let Attempt { socket, .. } = attempts.swap_remove(i);
                            let addr = socket.to();
                            // Another address would need the same descriptor.
                            let short = is_shortage(&e);
                            let error = connect_error(e, addr, socket.source());
                            if short {
                                self.ledger.descriptors_ran_out(cx.now());
                                return Poll::Ready(Err(error));
                            }
                            if error.kind() == ErrorKind::LocalPorts {
                                self.ledger.ports_ran_out(addr, socket.source(), cx.now());
                            }
                            // That our ports are taken is said before what is wrong with other addresses.
                            if failed.as_ref().is_none_or(|e: &Error| e.kind() != ErrorKind::LocalPorts) {
                                failed = Some(error);
                            }
                            spare = Some(socket);
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
                        let socket = match spare.take() {
                            Some(mut socket) => {
                                (socket.to() == addr || socket.move_to(addr, sources)).then_some(socket)
                            }
                            None => self.ledger.try_book(addr, sources, cx.now()),
                        };
                        let Some(socket) = socket else {
                            if failed.is_none() && attempts.is_empty() {
                                let attempted = format!("connect to {addr}, to which all ports are in use");
                                failed = Some(Error::new(ErrorKind::LocalPorts, attempted));
                            }
                            next = true;
                            continue;
                        };
                        let mut options = self.tcp.clone();
                        options.local_address = socket.source();
                        let connecting = self.runtime.tcp().connect(addr, &options);
                        attempts.push(Attempt { connecting, socket });
                        if untried.len() > 0 {
                            delay = Some(cx.deadline(ATTEMPT_DELAY));
                        }
                    }
                    None if attempts.is_empty() => {
                        return Poll::Ready(Err(failed.take().unwrap_or_else(no_address)));
                    }
                    None => return Poll::Pending,
                }
            }
        })
    }
}

/// One address that is being connected to. The socket goes before its booking.
struct Attempt {
    connecting: BoxFuture<'static, io::Result<TcpConn>>,
    socket: Socket,
}

fn connect_error(error: io::Error, addr: SocketAddr, source: Option<IpAddr>) -> Error {
    use io::ErrorKind as Io;
    if let Some(foreign) = error.get_ref().and_then(|e| e.downcast_ref::<ForeignAddress>()) {
        let attempted = format!("connect to {addr} from {}, which is no address of this machine", foreign.0);
        return Error::new(ErrorKind::ConnectFailed, attempted).with_source(error);
    }
    let bound = source.is_some_and(|local| local.is_ipv4() == addr.is_ipv4());
    let kind = match error.kind() {
        _ if is_shortage(&error) => ErrorKind::LocalDescriptors,
        // All ports to this address are taken. Over IPv6 it is far more often that there is no IPv6 here at all.
        Io::AddrNotAvailable if addr.is_ipv4() || bound => ErrorKind::LocalPorts,
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
            let source = local.map(|local| local.parse().expect("literal"));
            let addr = addr.parse().expect("literal");
            connect_error(io::Error::from_raw_os_error(errno as i32), addr, source).kind()
        };
        let kind = |errno| told(errno, "192.0.2.1:80", None);
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            assert_eq!(kind(errno), ErrorKind::LocalDescriptors, "{errno}");
        }
        assert_eq!(kind(Errno::EADDRNOTAVAIL), ErrorKind::LocalPorts);
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
        assert_eq!(taken(Some("2001:db8::9")), ErrorKind::LocalPorts);
    }
}
