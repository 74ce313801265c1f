//! DNS by hickory-resolver, always on the runtime that the adapter holds, whoever asks.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use hickory_resolver::proto::rr::Name as DnsName;
use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub(crate) struct Dns {
    handle: Handle,
    provider: Noting<TokioRuntimeProvider>,
    resolver: Slot<TokioRuntimeProvider>,
}

impl Dns {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, provider: Noting::new(TokioRuntimeProvider::default()), resolver: Arc::default() }
    }
}

impl Resolve for Dns {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let (handle, provider) = (self.handle.clone(), self.provider.clone());
        let (resolver, name) = (Arc::clone(&self.resolver), name.clone());
        Box::pin(async move {
            let asked = name.clone();
            // hickory takes its sockets, timers and tasks from the runtime that polls it. Dropping the set ends the task.
            let mut task = JoinSet::new();
            task.spawn_on(
                async move { lookup(made(&resolver, provider.clone(), &asked)?, provider, asked).await },
                &handle,
            );
            match task.join_next().await {
                Some(Ok(answer)) => answer,
                _ => Err(ResolveError::Failed { name, message: "the runtime has ended".into() }),
            }
        })
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

#[cfg(test)]
#[path = "../tests/common/name_server.rs"]
mod name_server;

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> TokioRuntimeProvider {
        TokioRuntimeProvider::default()
    }

    fn runtime(config: ResolverConfig, timeout: Duration) -> Runtime {
        let runtime = crate::dedicated().expect("a thread");
        let dns = Dns::new(handle_of(&runtime));
        let mut builder = Resolver::builder_with_config(config, dns.provider.clone());
        configure(builder.options_mut());
        builder.options_mut().timeout = timeout;
        *dns.resolver.lock().expect("no panic") = Some(builder.build().expect("a resolver"));
        runtime.with_resolve(dns)
    }

    fn handle_of(runtime: &Runtime) -> Handle {
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move { sender.send(Handle::current()).expect("receiver lives") });
        receiver.recv().expect("the task runs")
    }

    super::name_server::tests!();
}
