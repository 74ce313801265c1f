//! What servers send, well and badly: each reply ends in the answer or in the typed error that the catalogue asks for.
#![cfg(feature = "http")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{Server, catch_up, fetch, limits, run, until};
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{Error, ErrorKind, FetchCx, Fetcher, Limits, Request, Response};

fn fetcher(runtime: &Runtime) -> HttpFetcher {
    HttpFetcher::builder(runtime).build().expect("defaults are valid")
}

/// The verdict on one reply, after which the server closes.
fn verdict(reply: impl Into<Vec<u8>>) -> Result<Response, ErrorKind> {
    let server = Server::replying_once(reply);
    run(async |runtime| fetch(&runtime, &fetcher(&runtime), Request::get(server.url("/"))).await).map_err(|e| e.kind())
}

fn body(reply: impl Into<Vec<u8>>) -> Result<Vec<u8>, ErrorKind> {
    verdict(reply).map(|response| response.body.to_vec())
}

async fn fetch_within(runtime: &Runtime, url: String, limits: Limits) -> Result<Response, Error> {
    fetcher(runtime).fetch(&Request::get(url), &FetchCx::detached(runtime).with_limits(limits)).await
}

#[test]
fn plain_answers() {
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), Ok(b"hello".to_vec()));
    assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nuntil the end"), Ok(b"until the end".to_vec()));
    assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nold"), Ok(b"old".to_vec()));
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: x\r\n\r\n";
    assert_eq!(body(chunked), Ok(b"hello world".to_vec()));
    let response =
        verdict("HTTP/1.1 404 Not Found\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n").expect("an answer");
    assert_eq!(response.head.status, 404);
    assert_eq!(response.head.headers.get_all("x-a").iter().count(), 2);
    assert!(response.remote.is_some() && response.decoder.is_none());
}

#[test]
fn deadlines_can_be_never() {
    let mut limits = limits();
    let deadlines = &mut limits.deadlines;
    for deadline in [
        &mut deadlines.dns,
        &mut deadlines.connect,
        &mut deadlines.first_byte,
        &mut deadlines.head,
        &mut deadlines.idle,
        &mut deadlines.total,
    ] {
        *deadline = Duration::MAX;
    }
    // Each piece is waited for, so that each deadline is set and set again.
    let pieces = ["HTTP/1.1 200 OK\r\n", "Content-Length: 5\r\n\r\nhe", "l", "lo"];
    let sent = Arc::new(AtomicUsize::new(0));
    let (go, wait) = mpsc::channel();
    let (tell, wait) = (Arc::clone(&sent), Mutex::new(wait));
    let server = Server::start(move |peer| {
        peer.request()?;
        let wait = wait.lock().expect("one connection");
        for piece in pieces {
            peer.send(piece.as_bytes())?;
            tell.fetch_add(1, Ordering::SeqCst);
            wait.recv().expect("the test goes on");
        }
        Ok(())
    });
    let response = run(async |rt| {
        let paced = async {
            for n in 1..=pieces.len() {
                until(|| sent.load(Ordering::SeqCst) == n).await;
                catch_up(&rt).await;
                go.send(()).expect("the server waits");
            }
        };
        futures::join!(fetch_within(&rt, server.url("/"), limits), paced).0.expect("an answer")
    });
    assert_eq!(&response.body[..], b"hello");
}

#[test]
fn one_byte_at_a_time_changes_nothing() {
    for reply in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
    ] {
        let server = Server::start(move |peer| {
            peer.request()?;
            for byte in reply {
                peer.send(&[*byte])?;
                thread::yield_now();
            }
            Ok(())
        });
        let response = run(async |rt| fetch(&rt, &fetcher(&rt), Request::get(server.url("/"))).await);
        assert_eq!(&response.expect("an answer").body[..], b"hello");
    }
}

// A1
#[test]
fn no_answer_is_a_first_byte_timeout() {
    let server = Server::start(|peer| {
        peer.request()?;
        peer.wait_for_close();
        Ok(())
    });
    let mut limits = limits();
    limits.deadlines.first_byte = Duration::from_millis(30);
    let error = run(async |rt| fetch_within(&rt, server.url("/"), limits).await).expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::TimeoutFirstByte);
    assert_eq!(error.url(), Some(server.url("/").as_str()));
}

// A2
#[test]
fn nothing_before_the_end_is_an_empty_reply() {
    assert_eq!(body(""), Err(ErrorKind::HttpEmptyReply));
}

// A3
#[test]
fn resets_are_told() {
    for reply in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let server = Server::start(move |peer| {
            peer.request()?;
            peer.send(reply.as_bytes())?;
            peer.reset_on_close()
        });
        let error = run(async |rt| fetch(&rt, &fetcher(&rt), Request::get(server.url("/"))).await);
        assert_eq!(error.expect_err("a reset").kind(), ErrorKind::ConnectReset, "after {reply:?}");
    }
}

// A4
#[test]
fn a_cut_answer_is_never_complete() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ] {
        assert_eq!(body(reply), Err(ErrorKind::BodyIncomplete), "{reply:?}");
    }
}

// A5
#[test]
fn no_status_line_no_answer() {
    for line in [
        "garbage",
        "<html>hello",
        "HTTP/3.0 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/1.1 -12",
        "HTTP/1.1 20",
        "HTTP/1.1 1000 x",
        "HTTP/1.1 1234567 x",
    ] {
        assert_eq!(body(format!("{line}\r\n\r\n")), Err(ErrorKind::HttpStatusLine), "{line}");
    }
}

// A6, A7
#[test]
fn heads_are_bounded() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(200_000));
    assert_eq!(body(long), Err(ErrorKind::HttpHeadTooLarge));
    let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: 1\r\n".repeat(n - 1));
    assert_eq!(body(fields(256)), Ok(Vec::new()));
    assert_eq!(body(fields(257)), Err(ErrorKind::HttpHeadTooLarge));
}

// A8
#[test]
fn a_dripping_head_is_a_head_timeout() {
    let server = Server::start(|peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\n")?;
        while peer.send(b"A: b\r\n").is_ok() {
            thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    });
    let mut limits = limits();
    limits.headers = 100_000;
    limits.deadlines.head = Duration::from_millis(60);
    let error = run(async |rt| fetch_within(&rt, server.url("/"), limits).await).expect_err("no end of the head");
    assert_eq!(error.kind(), ErrorKind::TimeoutHead);
}

// A9
#[test]
fn a_dripping_body_is_a_total_timeout() {
    let server = Server::start(|peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")?;
        while peer.send(b"x").is_ok() {
            thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    });
    let mut limits = limits();
    limits.deadlines.total = Duration::from_millis(60);
    let error = run(async |rt| fetch_within(&rt, server.url("/"), limits).await).expect_err("no end of the body");
    assert_eq!(error.kind(), ErrorKind::TimeoutTotal);
}

#[test]
fn a_silent_body_is_an_idle_timeout() {
    let server = Server::start(|peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")?;
        peer.wait_for_close();
        Ok(())
    });
    let mut limits = limits();
    limits.deadlines.idle = Duration::from_millis(30);
    let error = run(async |rt| fetch_within(&rt, server.url("/"), limits).await).expect_err("no end of the body");
    assert_eq!(error.kind(), ErrorKind::TimeoutIdle);
}

// A10
#[test]
fn an_endless_body_stops_at_the_cap() {
    let server = Server::start(|peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")?;
        while peer.send(&[b'x'; 4096]).is_ok() {}
        Ok(())
    });
    run(async |rt| {
        let fetcher = fetcher(&rt);
        let mut limits = limits();
        limits.body_wire = 100_000;
        let cx = FetchCx::detached(&rt).with_limits(limits);
        let error = fetcher.fetch(&Request::get(server.url("/")), &cx).await.expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::BodyTooLarge);
        assert_eq!(fetcher.idle_connections(), 0);
    });
}

#[test]
fn the_body_cap_is_inclusive() {
    let mut limits = limits();
    limits.body_wire = 10;
    for (length, fits) in [(9, true), (10, true), (11, false)] {
        let text = "x".repeat(length);
        for reply in [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"),
            format!("HTTP/1.1 200 OK\r\n\r\n{text}"),
        ] {
            let server = Server::replying_once(reply);
            let result = run(async |rt| fetch_within(&rt, server.url("/"), limits.clone()).await);
            assert_eq!(result.map(|r| r.bytes_wire).map_err(|e| e.kind()).ok(), fits.then_some(length as u64));
        }
    }
}

// A11
#[test]
fn content_length_is_a_claim() {
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nhello");
    assert_eq!(body(with("Content-Length: 9223372036854775807")), Err(ErrorKind::BodyTooLarge));
    for bad in [
        "Content-Length: 99999999999999999999999",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 5,6",
        "Content-Length: ",
        "Content-Length: 5\r\nContent-Length: 6",
    ] {
        assert_eq!(body(with(bad)), Err(ErrorKind::HttpFraming), "{bad:?}");
    }
    assert_eq!(body(with("Content-Length: 5\r\nContent-Length: 5")), Ok(b"hello".to_vec()));
}

// A14
#[test]
fn bad_chunks_are_refused() {
    for chunk in
        ["zz\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "11111111111111111\r\nx", "5\r\nhelloX\r\n0\r\n\r\n"]
    {
        let result = body(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
        assert_eq!(result, Err(ErrorKind::HttpProtocol), "{chunk:?}");
    }
}

// A18
#[test]
fn interim_answers() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    assert_eq!(body(format!("{early}{early}HTTP/1.1 200 OK\r\n\r\nhello")), Ok(b"hello".to_vec()));
    assert_eq!(body(early.repeat(100_000)), Err(ErrorKind::HttpHeadTooLarge));
    assert_eq!(body("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), Err(ErrorKind::HttpProtocol));
}

// A20
#[test]
fn odd_header_bytes_do_not_panic() {
    let bytes = b"HTTP/1.1 200 OK\r\nX: \x80\xff\r\nConnection: \xfe\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(body(&bytes[..]), Ok(b"ok".to_vec()));
    for bad in ["A\r\n", "A : b\r\n", "A: b\r\n c\r\n", "A: \0\r\n", "A: b\rc\r\n"] {
        assert_eq!(body(format!("HTTP/1.1 200 OK\r\n{bad}\r\n")), Err(ErrorKind::HttpHeader), "{bad:?}");
    }
}

// A21
#[test]
fn an_early_answer_to_a_long_body_is_delivered() {
    let server = Server::start(|peer| {
        let mut byte = [0; 1];
        std::io::Read::read_exact(&mut peer.stream, &mut byte)?;
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")?;
        peer.wait_for_close();
        Ok(())
    });
    let request = Request::post(server.url("/"), vec![b'x'; 8 << 20]);
    let response = run(async |rt| fetch(&rt, &fetcher(&rt), request).await).expect("an answer");
    assert_eq!((response.head.status.as_u16(), &response.body[..]), (413, &b"no"[..]));
}

// A21: the rest of the request is sent while the answer is read.
#[test]
fn an_early_answer_that_waits_for_the_rest_of_the_request_gets_it() {
    const LENGTH: usize = 8 << 20;
    let server = Server::start(|peer| {
        let mut byte = [0; 1];
        std::io::Read::read_exact(&mut peer.stream, &mut byte)?;
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")?;
        let mut rest = Vec::new();
        let mut piece = vec![0; 1 << 16];
        while rest.len() <= LENGTH || !rest.ends_with(b"x!") {
            let read = std::io::Read::read(&mut peer.stream, &mut piece)?;
            rest.extend_from_slice(&piece[..read]);
        }
        peer.send(b"ok")?;
        peer.wait_for_close();
        Ok(())
    });
    run(async |rt| {
        let mut body = vec![b'x'; LENGTH];
        body.push(b'!');
        let fetcher = fetcher(&rt);
        let response = fetch(&rt, &fetcher, Request::post(server.url("/"), body)).await.expect("an answer");
        assert_eq!((&response.body[..], fetcher.idle_connections()), (&b"ok"[..], 1));
    });
}

// A22
#[test]
fn the_framing_decides_and_not_the_fin() {
    let server = Server::start(|peer| {
        peer.request()?;
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")?;
        // No FIN before the client's.
        peer.wait_for_close();
        Ok(())
    });
    run(async |rt| {
        let fetcher = fetcher(&rt);
        let response = fetch(&rt, &fetcher, Request::get(server.url("/"))).await.expect("an answer");
        assert_eq!(&response.body[..], b"hello");
        assert_eq!(fetcher.idle_connections(), 0);
    });
}

// A24
#[test]
fn a_peer_that_takes_nothing_is_a_write_timeout() {
    let server = Server::start(|_| {
        thread::park_timeout(Duration::from_secs(5));
        Ok(())
    });
    let mut limits = limits();
    limits.deadlines.idle = Duration::from_millis(60);
    run(async |rt| {
        let cx = FetchCx::detached(&rt).with_limits(limits);
        let request = Request::post(server.url("/"), vec![b'x'; 32 << 20]);
        let error = fetcher(&rt).fetch(&request, &cx).await.expect_err("nothing is read");
        assert_eq!(error.kind(), ErrorKind::TimeoutWrite);
    });
}

#[test]
fn encoded_bodies_carry_their_decoder() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"hello, hello, hello").expect("memory");
    let gzip = encoder.finish().expect("memory");
    let mut reply =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", gzip.len()).into_bytes();
    reply.extend_from_slice(&gzip);
    let response = verdict(reply.clone()).expect("an answer");
    assert_eq!(response.bytes_wire, gzip.len() as u64);
    assert_eq!(&response.decoded(&limits()).expect("valid")[..], b"hello, hello, hello");
    // Without decompression nothing is asked for and nothing is decoded.
    let server = Server::replying_once(reply);
    run(async |rt| {
        let fetcher = HttpFetcher::builder(&rt).decompress(false).build().expect("valid");
        let response = fetch(&rt, &fetcher, Request::get(server.url("/"))).await.expect("an answer");
        assert!(response.decoder.is_none());
        assert!(!server.heads()[0].contains("accept-encoding"));
    });
    // B4: a HEAD has no body to decode.
    let server = Server::replying_once("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 40\r\n\r\n");
    let head = run(async |rt| fetch(&rt, &fetcher(&rt), Request::head(server.url("/"))).await).expect("an answer");
    assert!(head.decoder.is_none() && head.body.is_empty());
}
