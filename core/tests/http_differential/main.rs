//! The replies of `testdata/replies/http1.toml`, as tidegate, hyper and curl read them. Whatever way a reply is cut into reads, the
//! verdict is the same (invariant 12); where they differ, the file says why (invariant 17).
#![cfg(feature = "http")]

#[cfg(unix)]
mod curl;
mod reply;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::rt::ReadBufCursor;
use tidegate::http::HttpFetcher;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions};
use tidegate::sim::Sim;
use tidegate::{ErrorKind, FetchCx, Fetcher, Request};

use self::reply::Reply;

/// What a server sends, a piece a read; it closes when it is told to.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Sent>>);

#[derive(Default)]
struct Sent {
    pieces: VecDeque<Vec<u8>>,
    /// It was asked: before that it says nothing.
    was_asked: bool,
    closes: bool,
}

impl Wire {
    fn send(&self, pieces: Vec<Vec<u8>>) {
        let mut sent = self.0.lock().expect("not poisoned");
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        *sent = Sent { pieces, was_asked: false, closes: false };
    }

    fn close(&self) {
        self.0.lock().expect("not poisoned").closes = true;
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut sent = self.0.lock().expect("not poisoned");
        if !sent.was_asked {
            return Poll::Pending;
        }
        let Some(mut piece) = sent.pieces.pop_front() else {
            return if sent.closes { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            sent.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().expect("not poisoned").was_asked = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TcpConnect for Wire {
    fn connect(&self, addr: SocketAddr, _: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let conn = TcpConn::new(self.clone(), addr, addr);
        Box::pin(async move { Ok(conn) })
    }
}

/// Polls so often, then lets the server close, and polls on to the end.
fn finish<T>(wire: &Wire, polls: usize, mut work: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let task = &mut Context::from_waker(Waker::noop());
    for round in 0..2 * polls {
        if let Poll::Ready(done) = work(task) {
            return done;
        }
        if round == polls {
            wire.close();
        }
    }
    panic!("nothing goes on, though the server has closed")
}

const KEPT: &str = ", kept";

fn told(status: u16, body: &[u8], kept: bool) -> String {
    format!("{status} {}{}", body.escape_ascii(), if kept { KEPT } else { "" })
}

/// A fetcher over such a wire.
struct Ours {
    wire: Wire,
    sim: Sim,
    fetcher: HttpFetcher,
    port: u16,
}

impl Ours {
    fn new() -> Self {
        let (wire, sim) = (Wire::default(), Sim::new(1));
        let runtime = sim.runtime().with_tcp(wire.clone());
        // What is parked is never asked again: each reply has a port of its own.
        let fetcher = HttpFetcher::builder(&runtime).build().expect("defaults are valid");
        Self { wire, sim, fetcher, port: 0 }
    }

    fn verdict(&mut self, method: &Method, pieces: Vec<Vec<u8>>) -> String {
        self.wire.send(pieces);
        self.port = self.port.wrapping_add(1).max(1);
        let request =
            Request::new(method.clone(), format!("http://{}:{}/", IpAddr::from(Ipv4Addr::LOCALHOST), self.port));
        let cx = FetchCx::detached(&self.sim.runtime());
        let before = self.fetcher.idle_connections();
        let mut fetch = self.fetcher.fetch(&request, &cx);
        match finish(&self.wire, 9, |task| fetch.as_mut().poll(task)) {
            Ok(response) => {
                let kept = self.fetcher.idle_connections() > before;
                told(response.head.status.as_u16(), &response.body, kept)
            }
            Err(error) => error.kind().code().to_owned(),
        }
    }
}

/// More than any reply has frames: hyper gives one a poll.
const FRAMES: usize = 1000;

/// What hyper makes of it, in the same words.
fn verdict_of_hyper(method: &Method, pieces: Vec<Vec<u8>>) -> String {
    let wire = Wire::default();
    let is_empty = pieces.iter().all(Vec::is_empty);
    wire.send(pieces);
    let shaking = http1::Builder::new().max_headers(256).max_buf_size(64 << 10).handshake(wire.clone());
    let mut shaking = std::pin::pin!(shaking);
    let (mut sender, driver) = finish(&wire, FRAMES, |task| shaking.as_mut().poll(task)).expect("no I/O yet");
    let mut driver = Some(driver);
    // Dropped when it has ended, so that who waits for an answer is told.
    let mut drive = |task: &mut Context<'_>| drop(driver.take_if(|driver| Pin::new(driver).poll(task).is_ready()));
    let request = http::Request::builder().method(method).uri("/").header("host", "a.test").body(Empty::<Bytes>::new());
    let mut answer = Box::pin(async {
        let response = sender.send_request(request.expect("valid")).await?;
        let status = response.status().as_u16();
        if status == 101 {
            return Ok((status, Bytes::new()));
        }
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    });
    let answered = finish(&wire, FRAMES, |task| {
        drive(task);
        answer.as_mut().poll(task)
    });
    drop(answer);
    match answered {
        Ok((101, _)) => ErrorKind::HttpProtocol.code().to_owned(),
        Ok((status, body)) => {
            let task = &mut Context::from_waker(Waker::noop());
            drive(task);
            let kept = driver.is_some() && sender.is_ready();
            told(status, &body, kept)
        }
        Err(error) if error.is_incomplete_message() && is_empty => ErrorKind::HttpEmptyReply.code().to_owned(),
        Err(error) => kind_of(&error).code().to_owned(),
    }
}

fn kind_of(error: &hyper::Error) -> ErrorKind {
    let text = error.to_string();
    // hyper has no question for these but its words.
    let is = |word: &str| text.contains(word);
    if error.is_parse() {
        match () {
            () if is("too large") => ErrorKind::HttpHeadTooLarge,
            () if is("content-length") || is("transfer-encoding") => ErrorKind::HttpFraming,
            () if is("header") => ErrorKind::HttpHeader,
            () => ErrorKind::HttpStatusLine,
        }
    } else if error.is_incomplete_message() {
        ErrorKind::BodyIncomplete
    } else {
        let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::UnexpectedEof) => ErrorKind::BodyIncomplete,
            _ => ErrorKind::HttpProtocol,
        }
    }
}

/// The ways in which a reply is cut: whole, in two at each byte, and a byte at a time.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<Vec<u8>>> + '_ {
    let halves = (1..bytes.len()).step_by(bytes.len().div_ceil(300).max(1));
    let in_two = halves.map(|at| vec![bytes[..at].to_vec(), bytes[at..].to_vec()]);
    let dripped = bytes.chunks(1).map(<[u8]>::to_vec).collect();
    std::iter::once(vec![bytes.to_vec()]).chain(in_two).chain([dripped])
}

#[test]
fn the_corpus_says_why_where_clients_differ() {
    let all = Reply::all();
    assert!(all.len() >= 120, "{}", all.len());
    all.iter().for_each(Reply::check);
}

// A2, A4, A5, A6, A7, A11, A12, A13, A14, A15, A16, A18, A19, A20
#[test]
fn every_reply_has_its_verdict_however_it_is_cut() {
    let mut ours = Ours::new();
    let mut wrong = Vec::new();
    for reply in Reply::all() {
        let bytes = reply.bytes();
        for pieces in cuts(&bytes) {
            let lengths: Vec<_> = pieces.iter().take(3).map(Vec::len).collect();
            let verdict = ours.verdict(&reply.method(), pieces);
            if verdict != reply.ours() {
                wrong.push(format!("{}, cut as {lengths:?}: {verdict}, not {}", reply.name, reply.ours()));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hyper_reads_it_as_the_corpus_says() {
    let mut wrong = Vec::new();
    for reply in Reply::all() {
        let expected = reply.hypers();
        let verdict = verdict_of_hyper(&reply.method(), vec![reply.bytes()]);
        if verdict != expected {
            wrong.push(format!("{}: {verdict}, not {expected}", reply.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[cfg(unix)]
#[test]
fn curl_reads_it_as_the_corpus_says() {
    let curl = curl::Curl::new();
    let mut wrong = Vec::new();
    for reply in Reply::all() {
        let whole = reply.curls();
        for pieces in cuts(&reply.bytes()) {
            let expected = if pieces.len() == 1 { &whole } else { whole.trim_end_matches(KEPT) };
            let lengths: Vec<_> = pieces.iter().take(3).map(Vec::len).collect();
            let verdict = curl.verdict(&reply.method(), pieces);
            if verdict != expected {
                wrong.push(format!("{}, cut as {lengths:?}: {verdict}, not {expected}", reply.name));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
