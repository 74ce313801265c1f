//! TLS over this runtime's connections.

use std::sync::Arc;
use std::time::Duration;

use super::certificate::Certified;
use super::http::{HELLO, get};
use super::proxies::played;
use super::support::on;
use super::{Harness, Script, Step};
use crate::http::HttpFetcher;
use crate::tls::Config;
use crate::{Error, ErrorKind, Fetcher, Limits, Response};

/// Fetches once as `name` from a server that plays `steps` over TLS.
fn fetch<H: Harness>(harness: &Arc<H>, name: &'static str, steps: impl Into<Vec<Step>>) -> Result<Response, Error> {
    let server = Certified::new();
    let config = Config::builder().add_root_pem(server.root_pem()).build().expect("a certificate");
    let mut script = vec![Step::Secure(server)];
    script.extend(steps.into());
    let (runtime, addr) = (harness.runtime(), harness.serve(Script::new(script)).addr);
    on(&**harness, async move {
        let builder = HttpFetcher::builder(&runtime).tls(config).resolve(name, addr.port(), addr);
        let fetcher = builder.build().expect("valid");
        get(&runtime, &fetcher, format!("https://{name}:{}/", addr.port()), Limits::listed()).await
    })
}

/// A server with a certificate for its name, from a root that is trusted, answers.
pub fn a_trusted_server_answers<H: Harness>(harness: &Arc<H>) {
    let response = fetch(harness, Certified::NAME, [Step::ReadHead, Step::write(HELLO), Step::Shutdown]);
    assert_eq!(&response.expect("an answer").body[..], b"hello");
}

/// The same where each byte of the server comes by itself; 100 KB go and come in records.
// D2
pub fn many_records<H: Harness>(harness: &Arc<H>) {
    const LEN: usize = 100_000;
    let body: Vec<u8> = (0..LEN).map(|n| (n % 251) as u8).collect();
    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").into_bytes();
    reply.extend_from_slice(&body);
    let response = fetch(harness, Certified::NAME, [Step::ReadHead, Step::write(reply), Step::Shutdown]);
    assert!(response.expect("an answer").body == body);
    let response = fetch(harness, Certified::NAME, [Step::ReadHead, Step::drip(HELLO), Step::Shutdown]);
    assert_eq!(&response.expect("an answer").body[..], b"hello");
}

/// A certificate for another name is refused.
// D1
pub fn another_name_is_refused<H: Harness>(harness: &Arc<H>) {
    let result = fetch(harness, "another.test", [Step::ReadHead, Step::write(HELLO)]);
    assert_eq!(result.expect_err("another name").kind(), ErrorKind::TlsCertificate);
}

/// An end without `close_notify` is not the end of a body; one with it is.
// D5
pub fn truncated<H: Harness>(harness: &Arc<H>) {
    let reply = || [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n\r\nhello")];
    let with = |last| [&reply()[..], &[last]].concat();
    let response = fetch(harness, Certified::NAME, with(Step::Shutdown));
    assert_eq!(&response.expect("an answer").body[..], b"hello");
    let result = fetch(harness, Certified::NAME, with(Step::Close));
    assert_eq!(result.expect_err("cut off").kind(), ErrorKind::BodyIncomplete);
}

/// Fetches once from a server that plays `steps` without TLS, or with a part of it.
fn raw<H: Harness>(harness: &Arc<H>, steps: impl Into<Vec<Step>>, limits: Limits) -> Result<Response, ErrorKind> {
    let (runtime, served) = (harness.runtime(), harness.serve(Script::new(steps)));
    on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let ledger = fetcher.ledger().expect("it keeps one").clone();
        let result = get(&runtime, &fetcher, format!("https://{}/", served.addr), limits).await;
        served.outcome().await;
        let usage = ledger.usage();
        assert_eq!((usage.sockets, usage.handshakes), (0, 0), "something is still booked");
        result.map_err(|error| error.kind())
    })
}

/// The peer speaks something else, or says that it cannot go on.
// D3, D4
pub fn what_is_no_handshake<H: Harness>(harness: &Arc<H>) {
    for (reply, kind) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], ErrorKind::TlsNotTls),
        (b"SSH-2.0-OpenSSH_9.9\r\n", ErrorKind::TlsNotTls),
        (b"\x15\x03\x03\x00\x02\x02\x28", ErrorKind::TlsHandshake),
        (b"\x15\x03\x01\x00\x02\x02\x46", ErrorKind::TlsHandshake),
    ] {
        for step in [Step::write(reply), Step::drip(reply)] {
            let result = raw(harness, [Step::Read(5), step, Step::ReadToEnd], Limits::listed());
            assert_eq!(result.map(|r| r.body), Err(kind), "{}", reply.escape_ascii());
        }
    }
    let closed = raw(harness, [Step::Read(5), Step::Reset], Limits::listed());
    assert_eq!(closed.map(|r| r.body), Err(ErrorKind::ConnectReset));
}

/// Records that mean nothing, without end.
// D2, D8
pub fn a_storm_of_records<H: Harness>(harness: &Arc<H>) {
    // Changes of a cipher that is none yet, empty fragments of a handshake, and warnings.
    for record in [&b"\x14\x03\x03\x00\x01\x01"[..], b"\x16\x03\x03\x00\x00", b"\x15\x03\x03\x00\x02\x01\x5a"] {
        // In a simulated world one without an end would go on in no time.
        let steps = [Step::Read(5), Step::write(record.repeat(100_000)), Step::ReadToEnd];
        let result = raw(harness, steps, Limits::listed());
        assert_eq!(result.map(|r| r.body), Err(ErrorKind::TlsHandshake), "{}", record.escape_ascii());
    }
}

/// The `tls` deadline: the server takes the hello and says nothing.
// D2
pub fn deadline_of_tls<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadToEnd]));
    let addr = served.addr;
    let result = on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let mut limits = Limits::listed();
        limits.deadlines.tls = Duration::from_millis(30);
        get(&runtime, &fetcher, format!("https://{addr}/"), limits).await
    });
    assert_eq!(result.expect_err("no handshake").kind(), ErrorKind::TimeoutTls);
    harness.block_on(served.outcome());
}

/// Answers to CONNECT that open no tunnel.
// F2
pub fn refused_tunnels<H: Harness>(harness: &Arc<H>) {
    const SECRET: &str = "https://origin.test/x";
    for (reply, kind) in [
        ("HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n", ErrorKind::ProxyAuth),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", ErrorKind::ProxyRefused),
        ("HTTP/1.1 502 Bad Gateway\n\n", ErrorKind::ProxyRefused),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n", ErrorKind::ProxyRefused),
        ("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n<html>log in first</", ErrorKind::TlsNotTls),
        ("hello there\r\n", ErrorKind::ProxyReply),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", ErrorKind::ProxyReply),
        ("", ErrorKind::ProxyReply),
    ] {
        for drips in [false, true] {
            let step = if drips { Step::drip(reply) } else { Step::write(reply) };
            let result = played(harness, "http", SECRET, Limits::listed(), [Step::ReadHead, step]);
            assert_eq!(result.map(|r| r.body), Err(kind), "{reply:?}");
        }
    }
    let endless =
        [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n"), Step::write("A: b\r\n".repeat(10_000)), Step::ReadToEnd];
    let result = played(harness, "http", SECRET, Limits::listed(), endless);
    assert_eq!(result.map(|r| r.body), Err(ErrorKind::ProxyReply));
    let mut limits = Limits::listed();
    limits.deadlines.proxy = Duration::from_millis(30);
    let stalled = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n"), Step::ReadToEnd];
    let result = played(harness, "http", SECRET, limits, stalled);
    assert_eq!(result.map(|r| r.body), Err(ErrorKind::TimeoutProxy));
}
