//! Which connections are used again, and which never are.
#![cfg(feature = "http")]

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Server, TestTcp, catch_up, fetch, limits, run, until};
use futures::future::Either;
use tidegate::http::HttpFetcher;
use tidegate::rt::{BoxFuture, Runtime, TcpConn, TcpConnect, TcpOptions};
use tidegate::{ErrorKind, FetchCx, Fetcher, Overrides, Request};

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn fetcher(runtime: &Runtime) -> HttpFetcher {
    HttpFetcher::builder(runtime).build().expect("defaults are valid")
}

async fn get(runtime: &Runtime, fetcher: &HttpFetcher, server: &Server) -> Result<Vec<u8>, ErrorKind> {
    let response = fetch(runtime, fetcher, Request::get(server.url("/"))).await;
    response.map(|r| r.body.to_vec()).map_err(|e| e.kind())
}

#[test]
fn a_connection_is_used_again() {
    for reply in [HELLO, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let server = Server::replying(reply);
        run(async |rt| {
            let fetcher = fetcher(&rt);
            for _ in 0..5 {
                assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b"hello"[..]));
                assert_eq!(fetcher.idle_connections(), 1);
            }
        });
        assert_eq!((server.accepted(), server.heads().len()), (1, 5));
    }
}

#[test]
fn bodiless_answers_leave_the_connection_good() {
    // A19: 204 and 304 have no body whatever the fields say, and HEAD has none.
    for reply in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"] {
        let server = Server::replying(reply);
        run(async |rt| {
            let fetcher = fetcher(&rt);
            for _ in 0..2 {
                assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b""[..]));
            }
        });
        assert_eq!(server.accepted(), 1);
    }
    let server = Server::replying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for _ in 0..2 {
            fetch(&rt, &fetcher, Request::head(server.url("/"))).await.expect("an answer");
        }
    });
    assert_eq!(server.accepted(), 1);
}

// A19
#[test]
fn a_body_where_none_may_be_ends_the_connection() {
    for (reply, head) in [("HTTP/1.1 204 No Content\r\n\r\nbody", false), (HELLO, true)] {
        let server = Server::replying(reply);
        run(async |rt| {
            let fetcher = fetcher(&rt);
            let request = if head { Request::head(server.url("/")) } else { Request::get(server.url("/")) };
            for n in 1..=3 {
                let response = fetch(&rt, &fetcher, request.clone()).await.expect("an answer");
                assert!(response.body.is_empty());
                assert_eq!(server.accepted(), n);
            }
        });
    }
}

// A16
#[test]
fn bytes_after_an_answer_are_nobodys() {
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let server = Server::replying(format!("{HELLO}{smuggled}"));
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for n in 1..=3 {
            assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b"hello"[..]));
            assert_eq!(server.accepted(), n);
        }
    });
}

// A17
#[test]
fn an_unsolicited_answer_is_seen_at_checkout() {
    let sent = Arc::new(AtomicBool::new(false));
    let release = Arc::new(AtomicBool::new(false));
    let (told, go) = (Arc::clone(&sent), Arc::clone(&release));
    let server = Server::start(move |peer| {
        peer.request()?;
        peer.send(HELLO.as_bytes())?;
        while !go.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        if peer.number == 0 {
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")?;
            told.store(true, Ordering::SeqCst);
        }
        peer.wait_for_close();
        Ok(())
    });
    run(async |rt| {
        let fetcher = fetcher(&rt);
        assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b"hello"[..]));
        assert_eq!(fetcher.idle_connections(), 1);
        release.store(true, Ordering::SeqCst);
        until(|| sent.load(Ordering::SeqCst)).await;
        catch_up(&rt).await;
        assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b"hello"[..]));
        assert_eq!(server.accepted(), 2);
    });
}

/// A server whose first connection answers once and then, asked again, closes without a word.
fn closes_when_asked_again() -> Server {
    Server::start(|peer| {
        peer.request()?;
        peer.send(HELLO.as_bytes())?;
        if peer.number == 0 {
            peer.request()?;
            return Ok(());
        }
        while peer.request()?.is_some() {
            peer.send(HELLO.as_bytes())?;
        }
        Ok(())
    })
}

#[test]
fn a_stale_connection_is_replaced_for_free() {
    let server = closes_when_asked_again();
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for _ in 0..3 {
            assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b"hello"[..]));
        }
    });
    assert_eq!((server.accepted(), server.heads().len()), (2, 4));
}

#[test]
fn a_request_that_may_have_been_acted_on_is_not_repeated() {
    let server = closes_when_asked_again();
    run(async |rt| {
        let fetcher = fetcher(&rt);
        assert!(get(&rt, &fetcher, &server).await.is_ok());
        let error = fetch(&rt, &fetcher, Request::post(server.url("/"), "x")).await.expect_err("it was sent");
        assert_eq!(error.kind(), ErrorKind::HttpEmptyReply);
    });
    assert_eq!((server.accepted(), server.heads().len()), (1, 2));
}

#[test]
fn a_fresh_connection_is_not_replaced() {
    let server = Server::replying_once("");
    run(async |rt| {
        assert_eq!(get(&rt, &fetcher(&rt), &server).await, Err(ErrorKind::HttpEmptyReply));
    });
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_connection_that_was_closed_while_idle_is_not_used() {
    let server = Server::replying_once(HELLO);
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for n in 1..=4 {
            // POST: a connection that is known to be closed is no reason to fail, whatever the method.
            let response = fetch(&rt, &fetcher, Request::post(server.url("/"), "x")).await.expect("an answer");
            assert_eq!(&response.body[..], b"hello");
            assert_eq!(server.accepted(), n);
            until(|| server.closed() == n).await;
            catch_up(&rt).await;
        }
    });
}

#[test]
fn no_answer_is_shared_across_settings() {
    let server = Server::replying(HELLO);
    run(async |rt| {
        let v4 = |n: u8| std::net::IpAddr::from([127, 0, 0, n]);
        let fetcher = HttpFetcher::builder(&rt).local_addresses(vec![v4(1), v4(2)]).build().expect("valid");
        for _ in 0..4 {
            assert!(get(&rt, &fetcher, &server).await.is_ok());
        }
        assert_eq!((fetcher.idle_connections(), server.accepted()), (2, 2));
    });
}

#[test]
fn the_pool_can_be_switched_off() {
    let server = Server::replying(HELLO);
    run(async |rt| {
        let fetcher = HttpFetcher::builder(&rt).pool_max_idle_per_host(0).build().expect("valid");
        for _ in 0..3 {
            assert!(get(&rt, &fetcher, &server).await.is_ok());
        }
        assert_eq!((fetcher.idle_connections(), server.accepted()), (0, 3));
    });
}

/// Has no descriptor for the next dials.
#[derive(Clone, Default)]
struct Short(Arc<AtomicUsize>);

impl TcpConnect for Short {
    fn connect(&self, addr: SocketAddr, options: &TcpOptions) -> BoxFuture<'static, io::Result<TcpConn>> {
        if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Box::pin(async { Err(io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32)) });
        }
        TestTcp.connect(addr, options)
    }
}

// H1
#[test]
fn parked_connections_give_their_descriptors() {
    let (first, second) = (Server::replying(HELLO), Server::replying(HELLO));
    run(async |rt| {
        let short = Short::default();
        let rt = rt.with_tcp(short.clone());
        let fetcher = HttpFetcher::builder(&rt).pool_max_idle(4).build().expect("valid");
        assert!(get(&rt, &fetcher, &first).await.is_ok());
        short.0.store(1, Ordering::SeqCst);
        assert_eq!(get(&rt, &fetcher, &second).await.as_deref(), Ok(&b"hello"[..]));
        assert_eq!(fetcher.idle_connections(), 1, "that of the second server");
        until(|| first.closed() == 1).await;
        // The ledger has learnt how many there are, and closes what is parked before it dials; then nothing is left to close.
        short.0.store(3, Ordering::SeqCst);
        for left in [2, 1] {
            assert_eq!(get(&rt, &fetcher, &first).await, Err(ErrorKind::LocalDescriptors));
            assert_eq!((short.0.load(Ordering::SeqCst), fetcher.idle_connections()), (left, 0));
        }
    });
}

// H10
#[test]
fn a_fetch_that_is_dropped_leaves_no_connection() {
    let sent = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&sent);
    let server = Server::start(move |peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        tell.store(true, Ordering::SeqCst);
        peer.wait_for_close();
        Ok(())
    });
    run(async |rt| {
        let fetcher = fetcher(&rt);
        let cx = FetchCx::detached(&rt).with_limits(limits());
        let request = Request::get(server.url("/"));
        let half_sent = std::pin::pin!(async {
            until(|| sent.load(Ordering::SeqCst)).await;
            catch_up(&rt).await;
        });
        match futures::future::select(fetcher.fetch(&request, &cx), half_sent).await {
            Either::Left(_) => panic!("the body never ends"),
            Either::Right(((), fetch)) => drop(fetch),
        }
        assert_eq!(fetcher.idle_connections(), 0);
        until(|| server.closed() == 1).await;
    });
}

// H10: dropped after every number of polls.
#[test]
fn a_fetch_can_be_dropped_anywhere() {
    let server = Server::start(|peer| {
        while peer.request()?.is_some() {
            for byte in HELLO.as_bytes().chunks(10) {
                peer.send(byte)?;
                std::thread::yield_now();
            }
        }
        Ok(())
    });
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for polls in 0..40 {
            let cx = FetchCx::detached(&rt).with_limits(limits());
            let request = Request::get(server.url("/"));
            let mut left = polls;
            let mut fetch = fetcher.fetch(&request, &cx);
            let dropped = std::future::poll_fn(|task| {
                if left == 0 {
                    return std::task::Poll::Ready(None);
                }
                left -= 1;
                fetch.as_mut().poll(task).map(Some)
            })
            .await;
            drop(fetch);
            if let Some(response) = dropped {
                assert_eq!(&response.expect("an answer").body[..], b"hello");
            }
            assert_eq!(get(&rt, &fetcher, &server).await.as_deref(), Ok(&b"hello"[..]), "after {polls} polls");
        }
    });
}

#[test]
fn a_body_can_go_to_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let names = || {
        let entries = std::fs::read_dir(directory.path()).expect("exists");
        entries.map(|e| e.expect("readable").file_name().into_string().expect("ASCII")).collect::<Vec<_>>()
    };
    let body = "0123456789".repeat(50_000);
    let server = Server::replying(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    run(async |rt| {
        let fetcher = fetcher(&rt);
        let request = Request::get(server.url("/")).save_to(directory.path().join("page"));
        for _ in 0..2 {
            let response = fetch(&rt, &fetcher, request.clone()).await.expect("an answer");
            assert!(response.body.is_empty() && response.decoder.is_none());
            assert_eq!(response.bytes_wire, body.len() as u64);
            assert_eq!(std::fs::read_to_string(directory.path().join("page")).expect("written"), body);
        }
        assert_eq!((names(), server.accepted()), (vec!["page".to_owned()], 1));
        assert!(server.heads()[0].contains("accept-encoding: identity\r\n"));

        let cut = Server::replying_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        let request = Request::get(cut.url("/")).save_to(directory.path().join("other"));
        let error = fetch(&rt, &fetcher, request).await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::BodyIncomplete);
        until(|| names() == ["page"]).await;
    });
}

#[test]
fn overrides_hold_without_a_crawl() {
    let server = Server::replying(HELLO);
    run(async |rt| {
        let mut overrides = Overrides::default();
        overrides.max_body = Some(4);
        let request = Request::get(server.url("/")).with_overrides(overrides);
        let error = fetch(&rt, &fetcher(&rt), request).await.expect_err("five bytes");
        assert_eq!(error.kind(), ErrorKind::BodyTooLarge);
    });
}

// F5
#[test]
fn two_credentials_do_not_share_a_connection() {
    let proxy = Server::replying(HELLO);
    run(async |rt| {
        let fetcher = fetcher(&rt);
        for (user, accepted) in [("a", 1), ("b", 2), ("a", 2)] {
            let mut overrides = Overrides::default();
            overrides.proxy = Some(format!("http://{user}:pw@{}", proxy.addr).into());
            let request = Request::get("http://origin.test/x").with_overrides(overrides);
            let response = fetch(&rt, &fetcher, request).await.expect("an answer");
            assert_eq!(response.proxy.as_deref(), Some(format!("http://{}", proxy.addr).as_str()));
            assert_eq!(proxy.accepted(), accepted);
        }
    });
}

// A12, A13: whatever the verdict on the framing, the next answer is not read from the same connection.
#[test]
fn doubtful_framing_ends_the_connection() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for (fields, body, expected) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", chunked, Ok(&b"hello"[..])),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", chunked, Ok(b"hello")),
        ("Transfer-Encoding: xchunked", "hello", Ok(b"hello")),
        ("Transfer-Encoding: chunked, identity", "hello", Ok(b"hello")),
    ] {
        let reply = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}");
        // Where the framing says when the body ends, the server leaves it to us to close.
        let server = if body == chunked { Server::replying(reply) } else { Server::replying_once(reply) };
        run(async |rt| {
            let fetcher = fetcher(&rt);
            for n in 1..=2 {
                let result = get(&rt, &fetcher, &server).await;
                assert_eq!(result.as_deref(), expected.as_deref(), "{fields}");
                assert_eq!(server.accepted(), n, "{fields}");
            }
        });
    }
}
