//! What cases share: a task whose result comes back, and a connection read and written by futures.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use futures::channel::oneshot;
use hyper::rt::{Read, ReadBuf, Write};

use super::{Harness, Script, Served, Step};
use crate::rt::{Runtime, TcpConn, TcpOptions};

/// Runs `task` as a task of the runtime, and gives what comes of it; its panic goes on here.
pub(super) fn on<T: Send + 'static>(harness: &impl Harness, task: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    harness.runtime().spawn(async move { drop(sender.send(AssertUnwindSafe(task).catch_unwind().await)) });
    match harness.block_on(receiver) {
        Ok(Ok(output)) => output,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => panic!("the task was dropped before its end"),
    }
}

/// One poll, with a waker that tells nobody.
pub(super) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A server that sends back what comes on one connection.
pub(super) fn echo<H: Harness>(harness: &Arc<H>) -> Served {
    harness.serve(Script::new([Step::Echo]))
}

pub(super) async fn connect(runtime: &Runtime, addr: SocketAddr) -> TcpConn {
    runtime.tcp().connect(addr, &TcpOptions::default()).await.expect("connects")
}

pub(super) fn poll_read(conn: &mut TcpConn, cx: &mut Context<'_>, raw: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(raw);
    let polled = Pin::new(&mut conn.io).poll_read(cx, buf.unfilled());
    polled.map_ok(|()| buf.filled().len())
}

/// One read; empty at the end.
pub(super) async fn try_read(conn: &mut TcpConn, most: usize) -> io::Result<Vec<u8>> {
    let mut raw = vec![0; most];
    let read = poll_fn(|cx| poll_read(conn, cx, &mut raw)).await?;
    raw.truncate(read);
    Ok(raw)
}

pub(super) async fn read(conn: &mut TcpConn, most: usize) -> Vec<u8> {
    try_read(conn, most).await.expect("reads")
}

pub(super) async fn read_exact(conn: &mut TcpConn, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        let more = read(conn, len - all.len()).await;
        assert!(!more.is_empty(), "ended after {} of {len}", all.len());
        all.extend(more);
    }
    all
}

pub(super) async fn write_all(conn: &mut TcpConn, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut conn.io).poll_write(cx, bytes)).await.expect("writes");
        assert!(written > 0, "no byte was taken, and no error given");
        bytes = &bytes[written..];
    }
}
