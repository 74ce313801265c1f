//! The thread that serves the site: hyper for what is well formed, the bare socket for what is not.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use url::Url;

use super::routes::{Answer, End, Knobs, Reply, Req, State, respond};
use super::site::Site;
use super::{DemoOptions, DemoStats, ExpectedProduct};

/// Connections that may wait to be accepted; the kernel may hold it to less.
const BACKLOG: u32 = 8192;
/// The largest request body that is read; all that the site is sent is a few hundred bytes.
const LARGEST_BODY: usize = 64 * 1024;

/// The demo site, up until it is dropped.
///
/// ```
/// use tidegate_examples::demo::{DemoOptions, DemoSite, PathClass};
///
/// let site = DemoSite::start(DemoOptions::default())?;
/// assert!(site.url().as_str().starts_with("http://127.0.0.1:"));
/// assert_eq!(site.stats().requests(PathClass::Home), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct DemoSite {
    addr: SocketAddr,
    url: Url,
    shared: Arc<Shared>,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    site: Site,
    knobs: Knobs,
    state: Mutex<State>,
    started: Instant,
}

impl DemoSite {
    /// Starts the site on a loopback port of its own; it answers as soon as this returns.
    ///
    /// # Errors
    /// Where the port is taken, or there are no descriptors or threads left.
    pub fn start(options: DemoOptions) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind((Ipv4Addr::LOCALHOST, options.port).into())?;
            socket.listen(BACKLOG)
        })?;
        let addr = listener.local_addr()?;
        let origin = format!("http://{addr}");
        let url = Url::parse(&origin).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            site: Site::new(&options, origin),
            knobs: Knobs {
                limited_per_second: options.limited_per_second,
                limited_grace: options.limited_grace,
                starts_log: options.starts_log,
            },
            state: Mutex::new(State::default()),
            started: now(),
        });
        let (stop, stopped) = oneshot::channel();
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("demo-site".to_owned())
            .spawn(move || serve(runtime, listener, for_thread, stopped))?;
        Ok(Self { addr, url, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// The home page, `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> Url {
        self.url.clone()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has seen until now.
    pub fn stats(&self) -> DemoStats {
        self.shared.state().stats.clone()
    }

    /// All products as they really are, in the order of their paths.
    pub fn catalogue(&self) -> Vec<ExpectedProduct> {
        self.shared.site.catalogue()
    }

    /// The first `n` monitored URLs, at most [`DemoOptions::monitors`].
    pub fn monitor_urls(&self, n: u32) -> Vec<String> {
        (0..n.min(self.shared.site.monitors)).map(|n| format!("{}monitor/{n}", self.url)).collect()
    }

    /// Whether `/monitor/<n>` is down whatever the method and however often one looks.
    pub fn monitor_is_down(&self, n: u32) -> bool {
        Site::monitor_is_down(n)
    }
}

impl Drop for DemoSite {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the site has been printed by its own thread.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for DemoSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DemoSite").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "the site is a peer of the crawl, with a clock of its own")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the site runs on its own Tokio runtime, not on the crawl's")]
fn sleep(time: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(time)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(runtime: Runtime, listener: TcpListener, shared: Arc<Shared>, stopped: oneshot::Receiver<Infallible>) {
    runtime.spawn(accept(listener, shared, runtime.handle().clone()));
    // Ends when the sender is dropped; the runtime then drops all connections with it.
    let _ = runtime.block_on(stopped);
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, handle: tokio::runtime::Handle) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                handle.spawn(connection(stream, Arc::clone(&shared)));
            }
            // Out of descriptors, most likely: some will be given back.
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state().stats.closed();
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    shared.state().stats.opened();
    let _open = Open(&shared);
    // Without it a small answer waits for the client's acknowledgement; the socket works all the same.
    let _ = stream.set_nodelay(true);
    let raw = Mutex::new(None);
    let service = service_fn(|request| answer(request, &shared, &raw));
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // The client's own mistakes end here too; they are not ours to report.
    let _ = (&mut http).await;
    let mut stream = http.into_parts().io.into_inner();
    if let Some((bytes, end)) = raw.into_inner().unwrap_or_else(PoisonError::into_inner) {
        send_raw(&mut stream, &bytes, end).await;
    }
}

/// Writes what no HTTP library would; a peer that is gone is not worth a word.
async fn send_raw(stream: &mut TcpStream, bytes: &[u8], end: End) {
    let _ = stream.write_all(bytes).await;
    match end {
        End::Fin => {
            let _ = stream.shutdown().await;
        }
        End::Reset => {
            let _ = stream.set_zero_linger();
        }
    }
}

/// The error that makes hyper let go of the connection, so that raw bytes can follow.
#[derive(Debug)]
struct HandOver;

impl fmt::Display for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is written by hand")
    }
}

impl std::error::Error for HandOver {}

async fn answer(
    request: http::Request<Incoming>,
    shared: &Shared,
    raw: &Mutex<Option<(Vec<u8>, End)>>,
) -> Result<http::Response<Full<Bytes>>, HandOver> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return Ok(response(Reply::text(413, "Too large\n")));
    };
    let body = body.to_bytes();
    let text = |name: HeaderName| text_of(&head.headers, name);
    let req = Req {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or(""),
        cookie: text(COOKIE),
        gzip: text(ACCEPT_ENCODING).contains("gzip"),
        body: &body,
    };
    let since = now().saturating_duration_since(shared.started);
    let answer = respond(&shared.site, shared.knobs, &mut shared.state(), &req, since);
    match answer {
        Answer::Reply(reply) => {
            if !reply.delay.is_zero() {
                sleep(reply.delay).await;
            }
            Ok(response(reply))
        }
        Answer::Raw(bytes, end) => {
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = Some((bytes, end));
            Err(HandOver)
        }
    }
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn response(reply: Reply) -> http::Response<Full<Bytes>> {
    let Reply { status, headers, body, delay: _ } = reply;
    let mut response = http::Response::new(Full::new(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpStream;

    use super::super::PathClass;
    use super::*;

    struct Client(BufReader<TcpStream>);

    impl Client {
        fn connect(site: &DemoSite) -> Self {
            Self(BufReader::new(TcpStream::connect(site.addr()).expect("the site listens")))
        }

        fn send(&mut self, method: &str, path: &str) {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: demo.test\r\n\r\n");
            self.0.get_mut().write_all(request.as_bytes()).expect("the site reads");
        }

        /// The status line, and the Content-Length.
        fn head(&mut self) -> (String, usize) {
            let (mut status, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                self.0.read_line(&mut line).expect("a line");
                match line.trim_end() {
                    "" => return (status, length),
                    text if status.is_empty() => status = text.to_owned(),
                    text => {
                        if let Some(value) = text.strip_prefix("content-length: ") {
                            length = value.parse().expect("a number");
                        }
                    }
                }
            }
        }

        fn get(&mut self, path: &str) -> (String, Vec<u8>) {
            self.send("GET", path);
            let (status, length) = self.head();
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).expect("the whole body");
            (status, body)
        }

        fn rest(mut self) -> io::Result<Vec<u8>> {
            let mut out = Vec::new();
            self.0.read_to_end(&mut out).map(|_| out)
        }
    }

    #[test]
    fn one_connection_serves_many_requests() {
        let site = DemoSite::start(DemoOptions { starts_log: 2, ..Default::default() }).expect("loopback");
        let mut client = Client::connect(&site);
        for path in ["/", "/articles/", "/robots.txt"] {
            assert_eq!(client.get(path).0, "HTTP/1.1 200 OK", "{path}");
        }
        client.send("HEAD", "/monitor/0");
        let (status, length) = client.head();
        assert_eq!((status.as_str(), length), ("HTTP/1.1 200 OK", 5));
        assert_eq!(client.get("/private/keys").0, "HTTP/1.1 200 OK");
        let stats = site.stats();
        assert_eq!((stats.connections, stats.connections_open, stats.connections_peak), (1, 1, 1));
        assert_eq!((stats.total(), stats.requests(PathClass::Private)), (5, 1));
        assert_eq!(stats.starts.len(), 2);
    }

    // A2, A3, A4, A5: the broken corner does what it says, also on a connection that was in use.
    #[test]
    fn broken_answers_reach_the_wire() {
        let site = DemoSite::start(DemoOptions::default()).expect("loopback");
        let broken = |path: &str| {
            let mut client = Client::connect(&site);
            client.get("/");
            client.send("GET", path);
            client.rest()
        };
        assert_eq!(broken("/broken/empty").expect("a FIN"), b"");
        assert_eq!(broken("/broken/reset").expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(broken("/broken/reset-body").expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
        assert!(broken("/broken/status-line").expect("a FIN").starts_with(b"HTTP/1.1 twohundred"));
        assert!(broken("/broken/chunk").expect("a FIN").ends_with(b"nothex\r\n"));
        let short = String::from_utf8(broken("/broken/length").expect("a FIN")).expect("ASCII");
        let (head, body) = short.split_once("\r\n\r\n").expect("a head");
        let length: usize = head.split("Content-Length: ").nth(1).and_then(|n| n.parse().ok()).expect("a length");
        assert!(body.len() < length);
    }

    #[test]
    fn a_thousand_connections_are_accepted_at_once() {
        let site = DemoSite::start(DemoOptions::default()).expect("loopback");
        let mut clients: Vec<_> = (0..1000).map(|_| Client::connect(&site)).collect();
        for client in &mut clients {
            client.send("GET", "/monitor/1");
        }
        for client in &mut clients {
            assert_eq!(client.head().0, "HTTP/1.1 200 OK");
        }
        assert_eq!(site.stats().connections_peak, 1000);
    }

    #[test]
    fn drop_stops_it_and_closes_its_connections() {
        let site = DemoSite::start(DemoOptions::default()).expect("loopback");
        let mut client = Client::connect(&site);
        client.get("/");
        let addr = site.addr();
        drop(site);
        assert_eq!(client.rest().expect("a FIN"), b"");
        assert!(TcpStream::connect(addr).is_err());
    }
}
