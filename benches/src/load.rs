//! [`LoadServer`]: HTTP/1.1 with as little work per request as can be, on threads of its own.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::refusals::Refusals;
use crate::request::{Scan, scan};
use crate::stream::{Identity, Stream};

/// Connections that may wait to be accepted; the kernel may hold it to less.
const BACKLOG: u32 = 16_384;
/// A long body is written in pieces of this.
const PIECE: usize = 64 * 1024;
const LINE: &[u8] = b"<p>The tide comes in, the gate opens, the tide goes out. <a href=\"/bytes/64\">More</a></p>\n";

/// What a [`LoadServer`] answers by default; the path of a request can ask for something else.
///
/// ```
/// use tidegate_benches::LoadOptions;
///
/// let mut options = LoadOptions::default();
/// options.body_bytes = 142 * 1024;
/// assert_eq!(options.threads, 1);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Port to listen on; 0, the default, takes a free one.
    pub port: u16,
    /// Length of the body, 1,024 by default: lines of HTML.
    pub body_bytes: usize,
    /// A body to use instead of made-up lines.
    pub body: Option<Bytes>,
    /// How long each answer is held back; not at all by default.
    pub delay: Duration,
    /// Requests that are held back at a time; further ones stand in line. 0, the default: all of them.
    pub slots: usize,
    /// Part of itself by which an answer is held back longer for each further `slots` requests that are open. 0, the
    /// default: none.
    pub slowdown: f64,
    /// Requests a second that are answered, by a bucket that holds a second's worth; further ones get a 429. 0, the default:
    /// all.
    pub per_second: u32,
    /// From when until when it answers 503 to all, from its first request on; never by default.
    pub down: Range<Duration>,
    /// Seconds in the `Retry-After` of what it refuses; none by default.
    pub retry_after: Option<u32>,
    /// Requests to `/gate` that are answered together, as soon as so many have come; 0, the default, waits for
    /// [`LoadServer::release`].
    pub gate: usize,
    /// Threads that serve; 1 by default.
    pub threads: usize,
    /// Connections a thread holds; further ones wait in the backlog. 50,000 by default.
    pub max_connections: usize,
    /// Whether it speaks TLS, with a certificate of its own making; off by default. Nothing is resumed.
    pub tls: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            port: 0,
            body_bytes: 1024,
            body: None,
            delay: Duration::ZERO,
            slots: 0,
            slowdown: 0.0,
            per_second: 0,
            down: Duration::ZERO..Duration::ZERO,
            retry_after: None,
            gate: 0,
            threads: 1,
            max_connections: 50_000,
            tls: false,
        }
    }
}

/// What a [`LoadServer`] has counted.
///
/// ```
/// assert_eq!(tidegate_benches::LoadStats::default().requests, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadStats {
    /// Requests read.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// The most connections that were open at once.
    pub peak: u64,
    /// Requests that wait at the gate now.
    pub at_gate: usize,
}

impl LoadStats {
    /// Reads what `/stats` gives, and takes off the request and the connection that asked.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            requests: next()?,
            connections: next()?.checked_sub(1)?,
            open: next()?.checked_sub(1)?,
            peak: next()?.checked_sub(1)?,
            at_gate: usize::try_from(next()?).ok()?,
        })
    }
}

/// A server to measure clients with, up until it is dropped.
///
/// | path | answer |
/// |---|---|
/// | `/bytes/<n>` | `n` bytes, after the default delay |
/// | `/delay/<ms>` | the default body after so many milliseconds |
/// | `/gate` | the default body, together with all others that wait there |
/// | `/stats` | the numbers of [`LoadStats`] in their order; not counted as a request |
/// | anything else | the default body after the default delay |
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
    threads: Vec<Thread>,
}

struct Thread {
    /// Dropped to stop the thread.
    stop: oneshot::Sender<Infallible>,
    handle: JoinHandle<()>,
}

struct Shared {
    /// Head and body in one piece, so that the usual answer is one write.
    usual: Bytes,
    usual_head: usize,
    delay: Duration,
    slots: Option<Slots>,
    refusals: Mutex<Refusals>,
    /// When the first request came.
    first: OnceLock<Instant>,
    piece: Bytes,
    tls: Option<Identity>,
    gate: Gate,
    requests: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    peak: AtomicU64,
}

/// What a server is made of that gets slower the more is asked of it.
struct Slots {
    count: usize,
    slowdown: f64,
    free: Semaphore,
    open: AtomicU64,
}

#[derive(Default)]
struct Gate {
    size: usize,
    /// Also held while the gate is opened, so that who is counted and who is woken are the same.
    waiting: Mutex<usize>,
    opened: Notify,
}

impl LoadServer {
    /// Starts the server on a loopback port; it answers as soon as this returns.
    ///
    /// # Errors
    /// Where the port is taken, or there are no descriptors or threads left.
    pub fn start(options: LoadOptions) -> io::Result<Self> {
        let LoadOptions {
            port,
            body_bytes,
            body,
            delay,
            slots,
            slowdown,
            per_second,
            down,
            retry_after,
            gate,
            threads,
            max_connections,
            tls,
        } = options;
        let body = body.unwrap_or_else(|| filler(body_bytes));
        let mut usual = head(body.len() as u64);
        let usual_head = usual.len();
        usual.extend_from_slice(&body);
        let shared = Arc::new(Shared {
            usual: usual.into(),
            usual_head,
            delay,
            slots: (slots > 0).then(|| Slots::new(slots, slowdown)),
            refusals: Mutex::new(Refusals::new(per_second, down, retry_after)),
            first: OnceLock::new(),
            piece: filler(PIECE),
            tls: tls.then(Identity::make).transpose()?,
            gate: Gate { size: gate, ..Gate::default() },
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        });
        let mut server = Self { addr: (Ipv4Addr::LOCALHOST, port).into(), shared, threads: Vec::new() };
        let threads = threads.max(1);
        for n in 0..threads {
            server.add_thread(n, threads > 1, max_connections)?;
        }
        Ok(server)
    }

    fn add_thread(&mut self, n: usize, shared_port: bool, max_connections: usize) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let addr = self.addr;
        let listener = runtime.block_on(async move {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            // The kernel then spreads connections over the threads' listeners. Not for one: a port that is taken is
            // an error.
            socket.set_reuseport(shared_port)?;
            socket.bind(addr)?;
            socket.listen(BACKLOG)
        })?;
        self.addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let handle = std::thread::Builder::new()
            .name(format!("load-{n}"))
            .spawn(move || serve(runtime, listener, shared, max_connections, stopped))?;
        self.threads.push(Thread { stop, handle });
        Ok(())
    }

    /// Where it listens.
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
        let gate = &self.shared.gate;
        gate.open(&mut gate.waiting())
    }

    /// What it has counted until now.
    pub fn stats(&self) -> LoadStats {
        self.shared.stats()
    }
}

impl Drop for LoadServer {
    fn drop(&mut self) {
        for Thread { stop, handle } in self.threads.drain(..) {
            drop(stop);
            // A panic of the server has been printed by its own thread.
            let _ = handle.join();
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
        let now = Instant::now();
        let passed = now.saturating_duration_since(*self.first.get_or_init(|| now));
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).refuse(passed)
    }

    fn stats(&self) -> LoadStats {
        LoadStats {
            requests: self.requests.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            at_gate: *self.gate.waiting(),
        }
    }
}

impl Slots {
    fn new(count: usize, slowdown: f64) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        Self { count, slowdown, free: Semaphore::new(count), open: AtomicU64::new(0) }
    }

    async fn hold_back(&self, time: Duration) {
        self.open.fetch_add(1, Ordering::Relaxed);
        // It is never closed.
        let slot = self.free.acquire().await;
        let count = self.count as f64;
        let beyond = (self.open.load(Ordering::Relaxed) as f64 - count).max(0.0) / count;
        sleep(time.mul_f64(1.0 + self.slowdown * beyond)).await;
        self.open.fetch_sub(1, Ordering::Relaxed);
        drop(slot);
    }
}

impl Gate {
    async fn pass(&self) {
        let mut opened = pin!(self.opened.notified());
        {
            let mut waiting = self.waiting();
            opened.as_mut().enable();
            *waiting += 1;
            if *waiting == self.size {
                self.open(&mut waiting);
            }
        }
        opened.await;
    }

    fn open(&self, waiting: &mut usize) -> usize {
        self.opened.notify_waiters();
        std::mem::take(waiting)
    }

    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn filler(length: usize) -> Bytes {
    LINE.iter().copied().cycle().take(length).collect()
}

fn head(length: u64) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

#[expect(clippy::disallowed_methods, reason = "the server runs on its own Tokio runtime, not on the client's")]
async fn sleep(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

fn serve(
    runtime: Runtime,
    listener: TcpListener,
    shared: Arc<Shared>,
    max_connections: usize,
    stopped: oneshot::Receiver<Infallible>,
) {
    runtime.spawn(accept(listener, shared, max_connections, runtime.handle().clone()));
    // Ends when the sender is dropped; the runtime then drops all connections with it.
    let _ = runtime.block_on(stopped);
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, max: usize, handle: tokio::runtime::Handle) {
    let room = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                handle.spawn(async move {
                    let _open = Open::new(&shared);
                    // A client that goes away is the usual end of a connection.
                    let _ = accepted(stream, &shared).await;
                    drop(permit);
                });
            }
            // Out of descriptors, most likely: some will be given back.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
        shared.peak.fetch_max(open, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a target asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Usual { delay: Duration },
    Bytes(u64),
    Gate,
    Stats,
}

fn wanted(target: &str, delay: Duration) -> Wanted {
    if let Some(n) = target.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
        Wanted::Bytes(n)
    } else if let Some(ms) = target.strip_prefix("/delay/").and_then(|ms| ms.parse::<u32>().ok()) {
        Wanted::Usual { delay: Duration::from_millis(ms.into()) }
    } else if target.starts_with("/gate") {
        Wanted::Gate
    } else if target == "/stats" {
        Wanted::Stats
    } else {
        Wanted::Usual { delay }
    }
}

async fn accepted(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match &shared.tls {
        Some(identity) => connection(identity.acceptor.accept(stream).await?, shared).await,
        None => connection(stream, shared).await,
    }
}

async fn connection(mut stream: impl Stream, shared: &Shared) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let (length, head_only, wanted) = match scan(&bytes) {
            Scan::Request { length, head_only, target } => (length, head_only, wanted(target, shared.delay)),
            Scan::Bad => return Ok(()),
            Scan::Partial => {
                if stream.read(&mut bytes).await? == 0 {
                    return Ok(());
                }
                continue;
            }
        };
        bytes.drain(..length);
        if wanted != Wanted::Stats {
            shared.requests.fetch_add(1, Ordering::Relaxed);
            if let Some(refusal) = shared.refuse() {
                stream.write(refusal.as_bytes(), 0, &[]).await?;
                continue;
            }
        }
        match wanted {
            Wanted::Stats => {
                let LoadStats { requests, connections, open, peak, at_gate } = shared.stats();
                let text = format!("{requests} {connections} {open} {peak} {at_gate}");
                let mut answer = head(text.len() as u64);
                answer.extend_from_slice(text.as_bytes());
                stream.write(&answer, 0, &[]).await?;
                continue;
            }
            Wanted::Bytes(length) => {
                sleep(shared.delay).await;
                let body = if head_only { 0 } else { length };
                stream.write(&head(length), body, &shared.piece).await?;
                continue;
            }
            Wanted::Usual { delay } => match &shared.slots {
                Some(slots) => slots.hold_back(delay).await,
                None => sleep(delay).await,
            },
            Wanted::Gate => shared.gate.pass().await,
        }
        let answer = if head_only { &shared.usual[..shared.usual_head] } else { &shared.usual[..] };
        stream.write(answer, 0, &[]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpStream;

    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    use super::*;

    struct Client(BufReader<TcpStream>);

    impl Client {
        fn connect(server: &LoadServer) -> Self {
            Self(BufReader::new(TcpStream::connect(server.addr()).expect("the server listens")))
        }

        fn send(&mut self, text: &str) {
            self.0.get_mut().write_all(text.as_bytes()).expect("the server reads");
        }

        fn ask(&mut self, path: &str) {
            self.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }

        fn length(&mut self) -> usize {
            let mut length = None;
            loop {
                let mut line = String::new();
                self.0.read_line(&mut line).expect("a line");
                match line.trim_end() {
                    "" => return length.expect("a length"),
                    text => length = text.strip_prefix("Content-Length: ").map_or(length, |n| n.parse().ok()),
                }
            }
        }

        fn body(&mut self) -> Vec<u8> {
            let mut body = vec![0; self.length()];
            self.0.read_exact(&mut body).expect("the whole body");
            body
        }
    }

    fn start(change: impl FnOnce(&mut LoadOptions)) -> LoadServer {
        let mut options = LoadOptions::default();
        change(&mut options);
        LoadServer::start(options).expect("loopback")
    }

    fn wait_at_gate(server: &LoadServer, count: usize) {
        while server.stats().at_gate != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn paths_choose_length_and_delay() {
        let server = start(|o| (o.body_bytes, o.delay) = (100, Duration::from_millis(1)));
        let mut client = Client::connect(&server);
        for (path, length) in [("/", 100), ("/bytes/0", 0), ("/bytes/300000", 300_000), ("/delay/2", 100)] {
            client.ask(path);
            let body = client.body();
            assert_eq!(body.len(), length, "{path}");
            assert!(LINE.starts_with(&body[..length.min(LINE.len())]));
        }
        let stats = server.stats();
        assert_eq!((stats.requests, stats.connections, stats.open), (4, 1, 1));
    }

    #[test]
    fn what_was_counted_is_asked_for_over_a_connection_that_does_not_count() {
        let server = start(|_| {});
        let mut client = Client::connect(&server);
        client.ask("/");
        client.body();
        let mut asking = Client::connect(&server);
        asking.ask("/stats");
        let body = asking.body();
        let stats = LoadStats::parse(std::str::from_utf8(&body).expect("text")).expect("numbers");
        assert_eq!(stats, LoadStats { requests: 1, connections: 1, open: 1, peak: 1, at_gate: 0 });
        assert_eq!(LoadStats::parse("1 2 3"), None);
    }

    #[test]
    fn it_speaks_tls_with_the_certificate_that_it_gives() {
        let server = start(|o| (o.tls, o.body_bytes) = (true, 100_000));
        let mut roots = RootCertStore::empty();
        let pem = server.certificate().expect("it speaks TLS");
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a certificate");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let tls = ClientConnection::new(Arc::new(config), name).expect("a name");
        let mut stream = StreamOwned::new(tls, TcpStream::connect(server.addr()).expect("the server listens"));
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the server reads");
        let mut answer = vec![0; head(100_000).len() + 100_000];
        stream.read_exact(&mut answer).expect("head and body");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        assert!(server.url("/").starts_with("https://"));
    }

    #[test]
    fn pieces_bodies_heads_and_pipelines_are_understood() {
        let server = start(|o| o.body = Some(Bytes::from_static(b"own")));
        let mut client = Client::connect(&server);
        for byte in "GET / HTTP/1.1\r\n\r\n".chars() {
            client.send(&byte.to_string());
        }
        assert_eq!(client.body(), b"own");
        client
            .send("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabHEAD / HTTP/1.1\r\n\r\nGET /bytes/1 HTTP/1.1\r\n\r\n");
        assert_eq!(client.body(), b"own");
        assert_eq!(client.length(), 3);
        assert_eq!(client.body(), b"<");
        client.send("nonsense\r\n\r\n");
        assert_eq!(client.0.read(&mut [0; 8]).expect("a FIN"), 0);
    }

    #[test]
    fn the_gate_opens_when_all_have_come() {
        let server = start(|o| o.gate = 50);
        let mut clients: Vec<_> = (0..50).map(|_| Client::connect(&server)).collect();
        for client in &mut clients[1..] {
            client.ask("/gate");
        }
        wait_at_gate(&server, 49);
        clients[1].0.get_ref().set_nonblocking(true).expect("a socket");
        assert_eq!(clients[1].0.fill_buf().expect_err("no answer yet").kind(), io::ErrorKind::WouldBlock);
        clients[1].0.get_ref().set_nonblocking(false).expect("a socket");
        clients[0].ask("/gate");
        assert!(clients.iter_mut().all(|client| client.body().len() == 1024));
        assert_eq!(server.stats().at_gate, 0);
    }

    #[test]
    fn the_gate_is_opened_by_hand_again_and_again() {
        let server = start(|_| {});
        let mut client = Client::connect(&server);
        for _ in 0..3 {
            client.ask("/gate");
            wait_at_gate(&server, 1);
            assert_eq!(server.release(), 1);
            assert_eq!(client.body().len(), 1024);
        }
        assert_eq!(server.release(), 0);
    }

    #[test]
    fn two_threads_share_the_port_and_drop_stops_both() {
        let server = start(|o| o.threads = 2);
        let mut clients: Vec<_> = (0..64).map(|_| Client::connect(&server)).collect();
        for client in &mut clients {
            client.ask("/");
            assert_eq!(client.body().len(), 1024);
        }
        assert_eq!(server.stats().peak, 64);
        drop(server);
        assert!(clients.iter_mut().all(|client| matches!(client.0.read(&mut [0; 8]), Ok(0) | Err(_))));
    }

    #[test]
    fn connections_above_the_limit_wait_for_a_place() {
        let server = start(|o| o.max_connections = 1);
        let mut first = Client::connect(&server);
        first.ask("/");
        first.body();
        let mut second = Client::connect(&server);
        second.ask("/");
        assert_eq!(server.stats().connections, 1);
        drop(first);
        assert_eq!(second.body().len(), 1024);
    }
}
