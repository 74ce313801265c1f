//! [`LoadServer`]: HTTP/1.1 with as little work per request as can be, on threads of its own.
//!
//! A thread is one loop over epoll. What a connection holds while it waits is a slot of a table: it reads into the buffer of
//! its thread, and answers from memory that all share.

mod connection;
mod event_loop;
mod gate;
mod identity;
mod options;
mod outgoing;
mod site;
mod slots;
#[cfg(test)]
mod tests;
mod timers;
mod transport;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};

use self::event_loop::EventLoop;
use self::gate::Gate;
use self::identity::Identity;
pub use self::options::{LoadOptions, LoadStats};
use self::site::Site;
use crate::process_cpu_time;
use crate::refusals::Refusals;

/// Connections that may wait to be accepted; the kernel may hold it to less.
const BACKLOG: i32 = 16_384;
/// A long body is written in pieces of this.
const PIECE: usize = 64 * 1024;
/// Bytes of an answer to CONNECT: a quarter of an hour, where one comes in a second.
const TUNNEL: usize = 1024;
const LINE: &[u8] = b"<p>The tide comes in, the gate opens, the tide goes out. <a href=\"/bytes/64\">More</a></p>\n";

/// A server to measure clients with, up until it is dropped.
///
/// | path | answer |
/// |---|---|
/// | `/bytes/<n>` | `n` bytes, after the default delay |
/// | `/delay/<ms>` | the default body after so many milliseconds |
/// | `/drip/<n>` | `n` bytes, one by one, the first at once |
/// | `CONNECT` anywhere | a head of 1,024 bytes, one by one, the first at once; then it is the host itself, without TLS |
/// | `/gate` | the default body, together with all others that wait there |
/// | `/release` | how many requests this has let through the gate; not counted as a request |
/// | `/stats` | the numbers of [`LoadStats`] in their order; not counted as a request |
/// | anything else | the page of that path, where a folder is served, or else the default body after the default delay |
///
/// A connection stays open, but where a request says `Connection: close`.
///
/// ```
/// use tidegate_benches::{LoadOptions, LoadServer};
///
/// let server = LoadServer::start(LoadOptions::default())?;
/// assert_eq!(server.url("/bytes/7"), format!("http://{}/bytes/7", server.addr()));
/// assert_eq!(server.stats().requests, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct LoadServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What all threads of a server use.
struct Shared {
    options: LoadOptions,
    /// Head and body in one piece, so that the usual answer is one write.
    usual: Bytes,
    usual_head: usize,
    piece: Bytes,
    /// The answer to CONNECT.
    tunnel: Bytes,
    site: Site,
    tls: Option<Identity>,
    gate: Gate,
    /// Where it ever refuses anything.
    refusals: Option<Mutex<Refusals>>,
    /// When the first request came.
    first: OnceLock<Instant>,
    stopped: AtomicBool,
    requests: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    peak: AtomicU64,
}

impl LoadServer {
    /// Starts the server on loopback; it answers as soon as this returns.
    ///
    /// # Errors
    /// Where the port is taken, or there are no descriptors or threads left, or the folder cannot be read.
    pub fn start(options: LoadOptions) -> io::Result<Self> {
        let body = options.body.clone().unwrap_or_else(|| filler(options.body_bytes));
        let mut usual = head(body.len() as u64);
        let usual_head = usual.len();
        usual.extend_from_slice(&body);
        let tls = options.tls.then(|| Identity::make(addresses(&options), options.tickets)).transpose()?;
        let shared = Arc::new(Shared {
            usual: usual.into(),
            usual_head,
            piece: filler(PIECE),
            tunnel: tunnel(),
            site: Site::read(options.site.as_deref())?,
            tls,
            gate: Gate::new(options.gate),
            refusals: Refusals::of(&options).map(Mutex::new),
            first: OnceLock::new(),
            stopped: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            options,
        });
        let port = shared.options.port;
        let mut server = Self { addr: (Ipv4Addr::LOCALHOST, port).into(), shared, threads: Vec::new() };
        for n in 0..server.shared.options.threads.max(1) {
            server.add_thread(n)?;
        }
        Ok(server)
    }

    fn add_thread(&mut self, n: usize) -> io::Result<()> {
        // The kernel then spreads connections over the threads' listeners. Not for one: a port that is taken is an error.
        let shared_port = self.shared.options.threads > 1;
        let mut listeners = Vec::new();
        for address in addresses(&self.shared.options) {
            let listener = listen((address, self.addr.port()).into(), shared_port)?;
            if self.addr.port() == 0 {
                self.addr = listener.local_addr()?;
            }
            listeners.push(listener);
        }
        let event_loop = EventLoop::new(listeners, Arc::clone(&self.shared))?;
        self.threads.push(std::thread::Builder::new().name(format!("load-{n}")).spawn(move || event_loop.run())?);
        Ok(())
    }

    /// Where it listens, first of all.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.addr)
    }

    /// Its certificate as PEM, where it speaks TLS.
    pub fn certificate(&self) -> Option<&str> {
        self.shared.tls.as_ref().map(|identity| identity.pem.as_str())
    }

    /// Answers all requests that wait at the gate; gives how many there were.
    pub fn release(&self) -> usize {
        self.shared.gate.open()
    }

    /// What it has counted until now.
    pub fn stats(&self) -> LoadStats {
        self.shared.stats()
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.gate.wake_all();
        for thread in self.threads.drain(..) {
            // A panic of the server has been printed by its own thread.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for LoadServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Shared {
    /// What a request that comes now is refused with.
    #[expect(
        clippy::disallowed_methods,
        reason = "the server keeps its own time, and not that of the client's runtime"
    )]
    fn refuse(&self) -> Option<String> {
        let refusals = self.refusals.as_ref()?;
        let now = Instant::now();
        let passed = now.saturating_duration_since(*self.first.get_or_init(|| now));
        refusals.lock().unwrap_or_else(PoisonError::into_inner).refuse(passed)
    }

    fn stats(&self) -> LoadStats {
        LoadStats {
            requests: self.requests.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            at_gate: self.gate.waiting(),
            cpu: process_cpu_time(),
        }
    }
}

fn addresses(options: &LoadOptions) -> impl Iterator<Item = IpAddr> + use<> {
    (1..=options.addresses.clamp(1, 254)).map(|n| Ipv4Addr::new(127, 0, 0, n).into())
}

fn listen(addr: SocketAddr, shared_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared_port)?;
    #[cfg(not(unix))]
    let _ = shared_port;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn filler(length: usize) -> Bytes {
    LINE.iter().copied().cycle().take(length).collect()
}

/// A head of [`TUNNEL`] bytes that opens a tunnel.
fn tunnel() -> Bytes {
    let (start, end) = ("HTTP/1.1 200 OK\r\nVia: 1.1 ", "\r\n\r\n");
    format!("{start}{}{end}", "a".repeat(TUNNEL - start.len() - end.len())).into()
}

fn head(length: u64) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}
