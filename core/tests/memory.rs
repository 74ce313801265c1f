//! What a fetch that waits for its answer holds on the heap, in a crawl: all that is not the socket itself. Bytes are counted,
//! not measured.
#![cfg(all(feature = "http", feature = "sim"))]

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tidegate::http::HttpFetcher;
use tidegate::rt::{BoxFuture, TcpConn, TcpConnect, TcpOptions};
use tidegate::sim::Sim;
use tidegate::{Crawl, Output, Page, ParseError, Profile};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// A peer that takes everything and says nothing.
struct Silent(Arc<AtomicU64>);

impl Read for Silent {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl Write for Silent {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct SilentTcp(Arc<AtomicU64>);

impl TcpConnect for SilentTcp {
    fn connect(&self, addr: SocketAddr, _: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        let conn = TcpConn::new(Silent(Arc::clone(&self.0)), SocketAddr::from(([10, 0, 0, 1], 1)), addr);
        Box::pin(async { Ok(conn) })
    }
}

fn nothing(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> {
    Ok(())
}

/// Bytes on the heap while so many URLs of one host wait for the first byte.
fn waiting(urls: u32) -> usize {
    let _profiler = dhat::Profiler::builder().testing().build();
    let sim = Sim::new(1);
    let sent = Arc::new(AtomicU64::new(0));
    let runtime = sim.runtime().with_tcp(SilentTcp(Arc::clone(&sent)));
    let fetcher = HttpFetcher::builder(&runtime).user_agent("memory/1.0").build().expect("valid");
    let in_flight = NonZeroU32::new(urls).expect("some");
    let crawl = Crawl::builder(runtime)
        .profile(Profile::own())
        .max_in_flight(in_flight)
        .max_in_flight_per_host(None)
        .adaptive(false)
        .seeds((0..urls).map(|n| format!("http://10.0.0.2/page/{n}")))
        .fetcher(fetcher)
        .parse_with(nothing)
        .random_seed(1)
        .start()
        .expect("valid");
    sim.run_for(Duration::from_secs(20));
    let snapshot = crawl.handle().snapshot();
    assert_eq!(sent.load(Ordering::Relaxed), u64::from(urls), "{snapshot:?}");
    dhat::HeapStats::get().curr_bytes
}

#[test]
fn a_waiting_fetch_holds_little() {
    let (few, many) = (waiting(1_000), waiting(5_000));
    let each = (many - few) / 4_000;
    assert!(each <= 4_608, "{each} bytes a waiting fetch");
}
