//! Every reply of the corpus over real sockets, and clients that give up: afterwards the process has as many descriptors as before.
//! One test, as others of a process would open some meanwhile.
#![cfg(all(feature = "http", target_os = "linux"))]

mod common;
#[allow(dead_code, reason = "the verdicts are for the comparison")]
#[path = "http_differential/reply.rs"]
mod reply;

use std::sync::Arc;
use std::time::Duration;

use common::{Server, limits, run, until};
use reply::Reply;
use tidegate::http::HttpFetcher;
use tidegate::{FetchCx, Fetcher, Request};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("there is one").count()
}

// A2, A3, A4, A5, A6, A10, A11, A14, A16, A18, A19, H10
#[test]
fn no_reply_leaves_a_descriptor() {
    let replies = Arc::new(Reply::all());
    let served = Arc::clone(&replies);
    let server = Server::start(move |peer| {
        while let Some(head) = peer.request()? {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let Ok(number) = path[1..].parse::<usize>() else {
                // Begins, and never ends.
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")?;
                break;
            };
            peer.send(&served[number % served.len()].bytes())?;
            if number >= served.len() {
                peer.reset_on_close()?;
                return Ok(());
            }
            peer.stream.shutdown(std::net::Shutdown::Write)?;
        }
        peer.wait_for_close();
        Ok(())
    });
    run(async |rt| {
        let mut limits = limits();
        limits.deadlines.idle = Duration::from_millis(1);
        let round = async |fetcher: &HttpFetcher| {
            for number in 0..2 * replies.len() {
                let method = replies[number % replies.len()].method();
                let request = Request::new(method, server.url(&format!("/{number}")));
                let _ = fetcher.fetch(&request, &FetchCx::detached(&rt)).await;
            }
            let cx = FetchCx::detached(&rt).with_limits(limits.clone());
            for _ in 0..10 {
                assert!(fetcher.fetch(&Request::get(server.url("/endless")), &cx).await.is_err());
            }
        };
        // What the runtime opens once is there after the first round.
        let mut before = None;
        for _ in 0..2 {
            let fetcher = HttpFetcher::builder(&rt).build().expect("valid");
            let ledger = fetcher.ledger().expect("it keeps one").clone();
            round(&fetcher).await;
            assert_eq!(ledger.usage().sockets as usize, fetcher.idle_connections());
            drop(fetcher);
            assert_eq!(ledger.usage().sockets, 0);
            until(|| server.closed() == server.accepted()).await;
            let now = descriptors();
            assert_eq!(*before.get_or_insert(now), now);
        }
    });
}
