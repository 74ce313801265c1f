//! Names to addresses.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;

use super::net::is_shortage;
use super::{BoxFuture, Offload, ThreadPool};

/// A host name as it is looked up: lower case, ASCII (punycode), no trailing dot, at most 253 bytes in labels of 63.
///
/// ```
/// use tidegate::rt::Name;
/// assert_eq!(Name::new("Example.ORG.").expect("valid").as_str(), "example.org");
/// assert!(Name::new("a..b").is_none());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The name, or `None` where it cannot be one.
    pub fn new(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_graphic());
        (host.len() <= 253 && host.split('.').all(label)).then(|| Self(host.to_ascii_lowercase().into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The addresses of a name and for how long they hold.
///
/// ```
/// let addrs = tidegate::rt::Addrs::new(vec!["192.0.2.1".parse()?], None);
/// assert_eq!(addrs.addrs.len(), 1);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Addrs {
    /// At least one address, in the resolver's order.
    pub addrs: Vec<IpAddr>,
    /// The time to live, where the resolver knows it.
    pub ttl: Option<Duration>,
}

impl Addrs {
    /// These addresses.
    pub fn new(addrs: Vec<IpAddr>, ttl: Option<Duration>) -> Self {
        Self { addrs, ttl }
    }
}

/// Why a name has no addresses.
///
/// ```
/// use tidegate::rt::{Name, ResolveError};
/// let name = Name::new("a.test").expect("valid");
/// let refused = std::io::ErrorKind::ConnectionRefused.into();
/// assert!(matches!(ResolveError::from_io(&name, &refused), ResolveError::Failed { .. }));
/// # #[cfg(target_os = "linux")] {
/// let no_descriptor = std::io::Error::from_raw_os_error(24);
/// assert!(matches!(ResolveError::from_io(&name, &no_descriptor), ResolveError::NoRoom { .. }));
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name does not exist, or has no address.
    #[error("no such name: {0}")]
    NotFound(Name),
    /// The name servers failed, refused or could not be reached.
    #[error("the lookup of {name} failed: {message}")]
    Failed {
        /// The name.
        name: Name,
        /// What the resolver said.
        message: Arc<str>,
    },
    /// This machine had no descriptor, or no memory, for a socket to ask with: nobody was asked, and the crawl tries again
    /// when there is room.
    #[error("there was no room to look up {name}: {message}")]
    NoRoom {
        /// The name.
        name: Name,
        /// What the system said.
        message: Arc<str>,
    },
    /// No answer in the resolver's own time.
    #[error("no answer for {0}")]
    TimedOut(Name),
}

impl ResolveError {
    /// What an error of the system means for the lookup of `name`: this machine has no room, it took too long, or it failed.
    pub fn from_io(name: &Name, error: &io::Error) -> Self {
        let name = name.clone();
        match error.kind() {
            _ if is_shortage(error) => Self::NoRoom { name, message: error.to_string().into() },
            io::ErrorKind::TimedOut => Self::TimedOut(name),
            _ => Self::Failed { name, message: error.to_string().into() },
        }
    }
}

/// Finds the addresses of a name.
///
/// # Contract
/// Never shares threads with [`Offload`]: four dead names must not stop parsing. Not cached; [`CachedResolver`](super::CachedResolver) does that.
///
/// # Cancel safety
/// Dropping the future forgets the answer.
///
/// ```
/// use std::sync::Arc;
///
/// use tidegate::rt::{Addrs, BoxFuture, Name, Resolve, ResolveError, Runtime};
///
/// /// Knows one name by itself, and asks for the others.
/// struct Pinned(Name, Addrs, Arc<dyn Resolve>);
///
/// impl Resolve for Pinned {
///     fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
///         if *name == self.0 {
///             let known = self.1.clone();
///             return Box::pin(async move { Ok(known) });
///         }
///         self.2.resolve(name)
///     }
/// }
///
/// fn pinned(runtime: Runtime, name: Name, addrs: Addrs) -> Runtime {
///     let asks = Arc::clone(runtime.resolver());
///     runtime.with_resolve(Pinned(name, addrs, asks))
/// }
/// ```
pub trait Resolve: Send + Sync + 'static {
    /// Finds the addresses of `name`, which is never an address itself.
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>>;
}

/// The system's `getaddrinfo` on four threads of its own: for builds without an asynchronous resolver.
///
/// It gives no TTL, and a lookup cannot be cancelled: four dead names hold up all others until the system gives up.
#[derive(Debug)]
pub struct SystemResolver {
    threads: Arc<ThreadPool>,
}

impl SystemResolver {
    /// Lookups waiting or running above which more fail at once.
    pub const QUEUE: usize = 1024;

    /// A resolver whose threads start with the first lookup.
    pub fn new() -> Self {
        let threads = std::num::NonZeroUsize::MIN.saturating_add(3);
        Self { threads: Arc::new(ThreadPool::new(threads).with_queue(Self::QUEUE)) }
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &Name) -> BoxFuture<'static, Result<Addrs, ResolveError>> {
        let (sender, receiver) = oneshot::channel();
        let looked_up = name.clone();
        let job = Box::new(move || {
            let _ = sender.send(lookup(&looked_up));
        });
        let submitted = self.threads.submit(job).is_ok();
        let name = name.clone();
        Box::pin(async move {
            let failed = |message: &str| ResolveError::Failed { name: name.clone(), message: message.into() };
            if !submitted {
                return Err(failed("too many lookups are waiting"));
            }
            receiver.await.map_err(|_| failed("the lookup thread ended"))?
        })
    }
}

fn lookup(name: &Name) -> Result<Addrs, ResolveError> {
    use std::net::ToSocketAddrs;
    match (name.as_str(), 0).to_socket_addrs() {
        Ok(found) => {
            let mut addrs: Vec<_> = found.map(|a| a.ip()).collect();
            addrs.dedup();
            if addrs.is_empty() { Err(ResolveError::NotFound(name.clone())) } else { Ok(Addrs::new(addrs, None)) }
        }
        // std gives no code for "no such name", only its text.
        Err(e) if e.to_string().contains("not known") => Err(ResolveError::NotFound(name.clone())),
        Err(e) => Err(ResolveError::from_io(name, &e)),
    }
}
