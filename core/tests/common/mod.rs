//! What the tests of the fetcher share: a small runtime over Tokio's reactor, and a server that sends raw bytes.

#![allow(dead_code, reason = "each test file uses its part")]

#[cfg(feature = "tls")]
pub(crate) mod tls;

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use hyper::rt::ReadBufCursor;
use tidegate::rt::{self, BoxFuture, Runtime, SystemResolver, TcpConn, TcpOptions};
use tidegate::{Error, FetchCx, Fetcher, Limits, Request, Response};

struct TestTimer;

struct TestSleep(Pin<Box<tokio::time::Sleep>>);

impl rt::Timer for TestTimer {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(TestSleep(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}

impl Future for TestSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl rt::Sleep for TestSleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.0.as_mut().reset(deadline.into());
    }
}

struct TestSpawn;

impl rt::Spawn for TestSpawn {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(tokio::runtime::Handle::current().spawn(task));
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }

    fn parallelism(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

pub(crate) struct TestTcp;

impl rt::TcpConnect for TestTcp {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        Box::pin(connected(rt::start_connect(addr, options)))
    }
}

/// Waits until a connection that was started is made.
pub(crate) async fn connected(started: io::Result<TcpStream>) -> io::Result<TcpConn> {
    let stream = tokio::net::TcpStream::from_std(started?)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    Ok(TcpConn::new(TestIo(stream), local, peer))
}

struct TestIo(tokio::net::TcpStream);

impl hyper::rt::Read for TestIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let mut bytes = [0; 4096];
            let room = buf.remaining().min(bytes.len());
            match self.0.try_read(&mut bytes[..room]) {
                Ok(n) => {
                    buf.put_slice(&bytes[..n]);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl hyper::rt::Write for TestIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Write))
    }
}

const _: fn() = || {
    fn is_io<T: rt::Io>() {}
    is_io::<TestIo>();
};

/// Runs a test on a runtime of its own.
pub(crate) fn run<F: Future>(test: impl FnOnce(Runtime) -> F) -> F::Output {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    executor.block_on(test(runtime()))
}

/// The runtime, which works where Tokio's is entered.
pub(crate) fn runtime() -> Runtime {
    Runtime::new("test", TestTimer, TestSpawn, TestTcp, SystemResolver::new())
}

/// Limits whose deadlines are long enough never to decide a test by accident.
pub(crate) fn limits() -> Limits {
    Limits::discovered()
}

/// Fetches one URL with a context of its own.
pub(crate) async fn fetch(runtime: &Runtime, fetcher: &impl Fetcher, request: Request) -> Result<Response, Error> {
    fetcher.fetch(&request, &FetchCx::detached(runtime).with_limits(limits())).await
}

/// Waits for what another thread does.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Makes the reactor hear of everything that has happened until now: the event of a later exchange comes after it.
pub(crate) async fn catch_up(runtime: &Runtime) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    runtime.tcp().connect(addr, &TcpOptions::default()).await.expect("loopback");
}

/// A server that answers each connection by a function of the test.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// One accepted connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// Counts the connections of the server from 0.
    pub(crate) number: usize,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Runs `serve` for each connection on a thread of its own. The connection closes when it returns.
    pub(crate) fn start(serve: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (accepted, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let serve = Arc::new(serve);
        let (count, ended, log) = (Arc::clone(&accepted), Arc::clone(&closed), Arc::clone(&heads));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).expect("a socket");
                let mut peer = Peer { stream, number, heads: Arc::clone(&log) };
                let (serve, ended) = (Arc::clone(&serve), Arc::clone(&ended));
                thread::spawn(move || {
                    // The client closing first is an error here and no news.
                    let _ = serve(&mut peer);
                    drop(peer);
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, accepted, closed, heads }
    }

    /// Answers every request of every connection with these bytes.
    pub(crate) fn replying(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::start(move |peer| {
            while peer.request()?.is_some() {
                peer.send(&reply)?;
            }
            Ok(())
        })
    }

    /// Answers the first request of every connection with these bytes and closes it.
    pub(crate) fn replying_once(reply: impl Into<Vec<u8>>) -> Self {
        let reply = reply.into();
        Self::start(move |peer| {
            peer.request()?;
            peer.send(&reply)
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections that this end has closed so far.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    /// Heads of the requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic while locked").clone()
    }
}

impl Peer {
    /// Reads the head of a request, and the body that its Content-Length announces; `None` at the end.
    pub(crate) fn request(&mut self) -> io::Result<Option<String>> {
        let head = read_head(&mut self.stream)?;
        if let Some(head) = &head {
            self.heads.lock().expect("no panic while locked").push(head.clone());
        }
        Ok(head)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits until the client closes.
    pub(crate) fn wait_for_close(&mut self) {
        let _ = io::copy(&mut self.stream, &mut io::sink());
    }

    /// Makes the close a reset: the next one, with unread bytes or not.
    pub(crate) fn reset_on_close(&mut self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}

/// Reads a head byte by byte, and the body that its Content-Length announces; `None` at the end.
pub(crate) fn read_head(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().to_owned()))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(head))
}
