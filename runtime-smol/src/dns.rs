//! DNS by hickory-resolver, on async-io's sockets and timers.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_executor::Executor;
use async_io::{Async, Timer};
use async_trait::async_trait;
use futures::future::{Either, select};
use futures::io::{AsyncRead, AsyncWrite};
use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use hickory_resolver::proto::rr::Name as DnsName;
use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError, TcpOptions};

pub(crate) struct Dns {
    provider: Noting<Provider>,
    resolver: Slot<Provider>,
}

impl Dns {
    pub(crate) fn new(executor: Weak<Executor<'static>>) -> Self {
        Self { provider: Noting::new(Provider(executor)), resolver: Arc::default() }
    }
}

impl Resolve for Dns {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let (provider, resolver, name) = (self.provider.clone(), Arc::clone(&self.resolver), name.clone());
        Box::pin(async move { lookup(made(&resolver, provider.clone(), &name)?, provider, name).await })
    }
}

/// The resolver, made with the first lookup because that reads files.
type Slot<P> = Arc<Mutex<Option<Resolver<Noting<P>>>>>;

fn made<P: RuntimeProvider>(
    slot: &Slot<P>,
    provider: Noting<P>,
    name: &Name,
) -> Result<Resolver<Noting<P>>, ResolveError> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(resolver) = &*slot {
        return Ok(resolver.clone());
    }
    let made = Resolver::builder(provider).and_then(|mut builder| {
        configure(builder.options_mut());
        builder.build()
    });
    // Not kept where it failed: /etc/resolv.conf may be there next time.
    let made = made.map_err(|error| match error {
        NetError::Io(error) => ResolveError::from_io(name, &error),
        error => failed(name, format!("the system's DNS configuration: {error}")),
    })?;
    Ok(slot.insert(made).clone())
}

fn failed(name: &Name, message: String) -> ResolveError {
    ResolveError::Failed { name: name.clone(), message: message.into() }
}

async fn lookup<P: RuntimeProvider>(
    resolver: Resolver<Noting<P>>,
    provider: Noting<P>,
    name: Name,
) -> Result<Addrs, ResolveError> {
    let refused = provider.refused.load(Ordering::Relaxed);
    // The dot makes it absolute: the search list is not for URLs.
    let absolute = DnsName::from_ascii(format!("{name}.")).map_err(|error| failed(&name, error.to_string()))?;
    match resolver.lookup_ip(absolute).await {
        Ok(found) => {
            let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
            let addrs: Vec<_> = found.iter().collect();
            if addrs.is_empty() {
                return Err(ResolveError::NotFound(name));
            }
            Ok(Addrs::new(addrs, ttl.map(|seconds| Duration::from_secs(seconds.into()))))
        }
        Err(error) if error.is_no_records_found() => Err(ResolveError::NotFound(name)),
        Err(NetError::Timeout) => Err(ResolveError::TimedOut(name)),
        Err(NetError::Io(error)) => Err(ResolveError::from_io(&name, &error)),
        Err(error) => Err(match provider.refused_since(refused).filter(|_| matches!(error, NetError::NoConnections)) {
            Some(refused) => ResolveError::from_io(&name, &refused),
            None => failed(&name, error.to_string()),
        }),
    }
}

/// Keeps what the system said when no socket could be opened: hickory forgets it where all of its connections fail.
#[derive(Clone)]
struct Noting<P> {
    provider: P,
    /// How often that was, and the system's number for the last of them.
    refused: Arc<AtomicU64>,
}

impl<P> Noting<P> {
    fn new(provider: P) -> Self {
        Self { provider, refused: Arc::default() }
    }

    /// What was said since it was `before`.
    fn refused_since(&self, before: u64) -> Option<io::Error> {
        let now = self.refused.load(Ordering::Relaxed);
        (now != before).then(|| io::Error::from_raw_os_error((now & u64::from(u32::MAX)) as i32))
    }

    fn note<T: 'static>(&self, opening: Opening<T>) -> Opening<T> {
        let refused = Arc::clone(&self.refused);
        Box::pin(async move {
            let opened = opening.await;
            if let Some(number) = opened.as_ref().err().and_then(io::Error::raw_os_error) {
                let count = (refused.load(Ordering::Relaxed) >> 32) + 1;
                refused.store(count << 32 | u64::from(number.unsigned_abs()), Ordering::Relaxed);
            }
            opened
        })
    }
}

type Opening<T> = BoxFuture<'static, io::Result<T>>;

impl<P: RuntimeProvider> RuntimeProvider for Noting<P> {
    type Handle = P::Handle;
    type Timer = P::Timer;
    type Udp = P::Udp;
    type Tcp = P::Tcp;

    fn create_handle(&self) -> P::Handle {
        self.provider.create_handle()
    }

    fn connect_tcp(&self, server: SocketAddr, bind: Option<SocketAddr>, timeout: Option<Duration>) -> Opening<P::Tcp> {
        self.note(self.provider.connect_tcp(server, bind, timeout))
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<P::Udp> {
        self.note(self.provider.bind_udp(local, server))
    }
}

fn configure(options: &mut ResolverOpts) {
    // Core caches, for all runtimes alike.
    options.cache_size = 0;
    // One server at a time: asking two doubles the load on both.
    options.num_concurrent_reqs = 1;
    // One retry; core has a deadline and retries of its own.
    options.attempts = 1;
    // Lookups on one TCP connection, above which hickory calls itself busy. Core bounds the lookups.
    options.max_active_requests = 1024;
    // Many nodes have no IPv6, and the order is kept.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
}

/// What hickory asks of a runtime. Its tasks are spawned on the executor, which they do not keep.
#[derive(Clone)]
struct Provider(Weak<Executor<'static>>);

impl Spawn for Provider {
    fn spawn_bg(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

impl RuntimeProvider for Provider {
    type Handle = Self;
    type Timer = SmolTime;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        self.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'static, io::Result<Tcp>> {
        let mut options = TcpOptions::default();
        options.local_address = bind.map(|addr| addr.ip());
        Box::pin(async move {
            let connect = async move { crate::net::connect(server, &options).await };
            SmolTime::timeout(timeout.unwrap_or(CONNECT_TIMEOUT), connect).await?.map(Tcp)
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> BoxFuture<'static, io::Result<Udp>> {
        Box::pin(async move { Async::<UdpSocket>::bind(local).map(Udp) })
    }
}

/// As hickory's own, where it gives none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

struct SmolTime;

#[async_trait]
impl Time for SmolTime {
    async fn delay_for(duration: Duration) {
        Timer::after(duration).await;
    }

    async fn timeout<F: 'static + Future + Send>(duration: Duration, future: F) -> io::Result<F::Output> {
        match select(pin!(future), Timer::after(duration)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

struct Udp(Async<UdpSocket>);

impl DnsUdpSocket for Udp {
    type Time = SmolTime;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            match self.0.get_ref().recv_from(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_readable(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        loop {
            match self.0.get_ref().send_to(buf, target) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_writable(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }
}

struct Tcp(Async<TcpStream>);

impl DnsTcpStream for Tcp {
    type Time = SmolTime;
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[cfg(test)]
#[path = "../../runtime-tokio/tests/common/name_server.rs"]
mod name_server;

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Provider {
        let executor = Arc::new(Executor::new());
        let provider = Provider(Arc::downgrade(&executor));
        std::thread::spawn(move || async_io::block_on(executor.run(std::future::pending::<()>())));
        provider
    }

    fn runtime(config: ResolverConfig, timeout: Duration) -> Runtime {
        let executor = Arc::new(Executor::new());
        let dns = Dns::new(Arc::downgrade(&executor));
        let mut builder = Resolver::builder_with_config(config, dns.provider.clone());
        configure(builder.options_mut());
        builder.options_mut().timeout = timeout;
        *dns.resolver.lock().expect("no panic") = Some(builder.build().expect("a resolver"));
        let runtime = crate::from_executor(&executor, std::num::NonZeroUsize::MIN).expect("a descriptor");
        std::thread::spawn(move || async_io::block_on(executor.run(std::future::pending::<()>())));
        runtime.with_resolve(dns)
    }

    super::name_server::tests!();
}
