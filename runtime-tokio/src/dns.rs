//! DNS by hickory-resolver, always on the runtime that the adapter holds, whoever asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name as DnsName;
use hickory_resolver::{ConnectionProvider, Resolver};
use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub(crate) struct Dns {
    handle: Handle,
    resolver: Slot<TokioRuntimeProvider>,
}

impl Dns {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, resolver: Arc::default() }
    }
}

impl Resolve for Dns {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let (handle, resolver, name) = (self.handle.clone(), Arc::clone(&self.resolver), name.clone());
        Box::pin(async move {
            let asked = name.clone();
            // hickory takes its sockets, timers and tasks from the runtime that polls it. Dropping the set ends the task.
            let mut task = JoinSet::new();
            task.spawn_on(
                async move { lookup(made(&resolver, TokioRuntimeProvider::default(), &asked)?, asked).await },
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
type Slot<P> = Arc<Mutex<Option<Resolver<P>>>>;

fn made<P: ConnectionProvider>(slot: &Slot<P>, provider: P, name: &Name) -> Result<Resolver<P>, ResolveError> {
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

async fn lookup<P: ConnectionProvider>(resolver: Resolver<P>, name: Name) -> Result<Addrs, ResolveError> {
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
        Err(error) => Err(failed(&name, error.to_string())),
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
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
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
