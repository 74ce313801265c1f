//! What the seams cost: a fetcher behind `dyn Fetcher` and a connection behind `dyn Io`, each beside the same code with its
//! types known. Neither touches the network, so the difference is the seam's alone; `runtimes` has what a whole request takes.
//!
//! Measured: 21 ns a fetch (the allocation of its future most of all) and 4 ns an exchange. A request over a kept connection on
//! loopback takes 13 us in `runtimes`, so both together are 0.2 % of it: below 2 %, from where on types would be worth it.

use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tidegate::rt::Io;
use tidegate::sim::Sim;
use tidegate::{Error, FetchCx, Fetcher, Head, Request, Response};

const TIMES: u32 = 1_000;
const HEAD: &[u8] = b"GET /page HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\n\r\n";
const ANSWER: &[u8] = &[b'x'; 1200];

/// Answers at once.
struct Ready(Head);

impl Ready {
    async fn answer(&self, _request: &Request, _cx: &FetchCx) -> Result<Response, Error> {
        Ok(Response::new(self.0.clone(), ""))
    }
}

#[async_trait]
impl Fetcher for Ready {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        self.answer(request, cx).await
    }
}

/// A connection whose other end takes all and has answered.
struct Answered;

impl Read for Answered {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(&ANSWER[..ANSWER.len().min(buf.remaining())]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Answered {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a request does to its connection: one write, one read.
fn exchange<I: Io + ?Sized>(io: &mut I, cx: &mut Context<'_>, into: &mut [u8]) -> usize {
    let Poll::Ready(Ok(sent)) = Pin::new(&mut *io).poll_write(cx, black_box(HEAD)) else {
        unreachable!("it takes all")
    };
    let mut buf = ReadBuf::new(into);
    let Poll::Ready(Ok(())) = Pin::new(io).poll_read(cx, buf.unfilled()) else { unreachable!("it has answered") };
    sent + black_box(buf.filled()).len()
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("seam");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(TIMES.into()));
    let sim = Sim::new(1);
    let cx = FetchCx::detached(&sim.runtime());
    let request = Request::get("http://a.test/");
    let ready = Arc::new(Ready(Head::new(request.target().expect("a URL"), http::StatusCode::OK)));
    let hidden: Arc<dyn Fetcher> = black_box(ready.clone());
    group.bench_function("fetch: dyn Fetcher", |b| {
        b.iter(|| {
            sim.block_on(async {
                for _ in 0..TIMES {
                    hidden.fetch(&request, &cx).await.expect("an answer");
                }
            })
        });
    });
    group.bench_function("fetch: known type", |b| {
        b.iter(|| {
            sim.block_on(async {
                for _ in 0..TIMES {
                    ready.answer(&request, &cx).await.expect("an answer");
                }
            })
        });
    });
    let mut task = Context::from_waker(std::task::Waker::noop());
    let mut into = [0; 2048];
    let mut hidden: Box<dyn Io> = black_box(Box::new(Answered));
    group.bench_function("exchange: dyn Io", |b| {
        b.iter(|| (0..TIMES).map(|_| exchange(black_box(hidden.as_mut()), &mut task, &mut into)).sum::<usize>());
    });
    let mut known = Box::new(Answered);
    group.bench_function("exchange: known type", |b| {
        b.iter(|| (0..TIMES).map(|_| exchange(black_box(known.as_mut()), &mut task, &mut into)).sum::<usize>());
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
