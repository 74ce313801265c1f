//! Proxies that are dead, refuse, or lie: what goes wrong there is told apart from what goes wrong at the target.

use std::sync::Arc;
use std::time::Duration;

use super::http::{HELLO, get};
use super::support::on;
use super::trial::well;
use super::{Harness, Script, Step};
use crate::http::HttpFetcher;
use crate::rt::Runtime;
use crate::{Error, ErrorKind, Fetcher, Limits, Response};

const PLAIN: &str = "http://origin.test:8080/x";

/// Fetches `url` through one proxy; what it booked is given back.
async fn through(runtime: &Runtime, proxy: &str, url: &str, limits: Limits) -> Result<Response, Error> {
    let fetcher = HttpFetcher::builder(runtime).proxy(proxy).build().expect("a valid proxy");
    let ledger = fetcher.ledger().expect("it keeps one").clone();
    let result = get(runtime, &fetcher, url.into(), limits).await;
    drop(fetcher);
    assert_eq!(ledger.usage().sockets, 0, "something is still booked");
    result
}

/// As [`through`] a proxy that plays `steps`, with the password `s3cret`, which no error tells.
pub(super) fn played<H: Harness>(
    harness: &Arc<H>,
    scheme: &'static str,
    url: &'static str,
    limits: Limits,
    steps: impl Into<Vec<Step>>,
) -> Result<Response, ErrorKind> {
    let (runtime, served) = (harness.runtime(), harness.serve(Script::new(steps)));
    on(&**harness, async move {
        let result = through(&runtime, &format!("{scheme}://me:s3cret@{}", served.addr), url, limits).await;
        served.outcome().await;
        result.map_err(|error| {
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
            assert!(error.url().is_some_and(|told| told == url), "{error:?}");
            error.kind()
        })
    })
}

/// Nobody listens, or the proxy hangs up at once.
// F1
pub fn dead<H: Harness>(harness: &Arc<H>) {
    let (runtime, addr) = (harness.runtime(), harness.unused_addr());
    let result =
        on(&**harness, async move { through(&runtime, &format!("http://{addr}"), PLAIN, Limits::listed()).await });
    assert_eq!(result.expect_err("nobody listens").kind(), ErrorKind::ProxyConnect);
    for (steps, kind) in
        [(vec![Step::Read(3), Step::Reset], ErrorKind::ProxyReply), (vec![Step::Read(3)], ErrorKind::ProxyReply)]
    {
        assert_eq!(played(harness, "socks5h", PLAIN, Limits::listed(), steps).map(|r| r.body), Err(kind));
    }
}

/// One of two proxies dies: the other is asked in its place, and nothing is lost.
// F1, F9
pub fn another_takes_over<H: Harness>(harness: &Arc<H>) {
    let (runtime, dead) = (harness.runtime(), harness.unused_addr());
    let served = harness.serve(Script::new([Step::Repeat(vec![Step::ReadHead, Step::write(HELLO)])]));
    on(&**harness, async move {
        let alive = format!("http://{}", served.addr);
        let builder = HttpFetcher::builder(&runtime).proxy(&format!("http://{dead}")).proxy(&alive);
        let fetcher = builder.build().expect("valid");
        for _ in 0..4 {
            let response = get(&runtime, &fetcher, PLAIN.into(), Limits::listed()).await.expect("an answer");
            assert_eq!(response.proxy.as_deref(), Some(alive.as_str()));
        }
        // Where none works the error says so, and the first that does is used again.
        let fetcher = HttpFetcher::builder(&runtime).proxy(&format!("http://{dead}")).build().expect("valid");
        for _ in 0..3 {
            let error = get(&runtime, &fetcher, PLAIN.into(), Limits::listed()).await.expect_err("it is dead");
            assert_eq!(error.kind(), ErrorKind::ProxyConnect);
        }
    });
}

/// A proxy that answers by itself cannot be told from the target: the response says which proxy it was.
// F3, F6
pub fn an_answer_of_its_own<H: Harness>(harness: &Arc<H>) {
    let (runtime, served) = (harness.runtime(), harness.serve(Script::new(well())));
    let outcome = on(&**harness, async move {
        let proxy = format!("http://me:s3cret@{}", served.addr);
        let response = through(&runtime, &proxy, PLAIN, Limits::listed()).await.expect("an answer");
        assert_eq!(response.proxy.as_deref(), Some(format!("http://{}", served.addr).as_str()));
        assert_eq!(response.remote, Some(served.addr));
        assert_eq!(response.head.url.as_str(), PLAIN);
        served.outcome().await
    });
    let head = String::from_utf8_lossy(&outcome.received).into_owned();
    assert!(head.starts_with(&format!("GET {PLAIN} HTTP/1.1\r\n")), "{head}");
    assert!(head.contains("proxy-authorization: Basic bWU6czNjcmV0\r\n"), "{head}");
}

/// A proxy that garbles what it passes on is judged as a server that does.
// F8
pub fn garbled_answers<H: Harness>(harness: &Arc<H>) {
    for (reply, kind) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", ErrorKind::HttpFraming),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", ErrorKind::BodyIncomplete),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello", ErrorKind::HttpProtocol),
        ("", ErrorKind::HttpEmptyReply),
        ("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", ErrorKind::ProxyAuth),
    ] {
        let steps = [Step::ReadHead, Step::write(reply)];
        let result = played(harness, "http", PLAIN, Limits::listed(), steps);
        assert_eq!(result.map(|r| r.body), Err(kind), "{reply:?}");
    }
    let steps = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\ntext that is no gzip")];
    let response = played(harness, "http", PLAIN, Limits::listed(), steps).expect("it came over the wire");
    let decoded = response.decoded(&Limits::listed());
    assert_eq!(decoded.map_err(|e| e.kind()), Err(ErrorKind::BodyEncoding));
}

/// What comes before each part of a reply, and that part.
type Part = (usize, &'static [u8]);

fn steps(parts: &[Part], drips: bool) -> Vec<Step> {
    let step = |reply| if drips { Step::drip(reply) } else { Step::write(reply) };
    parts.iter().flat_map(|(read, reply)| [Step::Read(*read), step(*reply)]).collect()
}

/// The states of a SOCKS5 handshake up to the request, with user and password.
const GREETED: Part = (4, b"\x05\x02");
const LET_IN: Part = (11, b"\x01\x00");
const ASKED: usize = 18;

/// Everything that a SOCKS5 proxy can say wrongly, whole and byte by byte, and in each state a hang-up and a stall.
// F4
pub fn socks5<H: Harness>(harness: &Arc<H>) {
    let mut faults: Vec<(Vec<Part>, ErrorKind)> = vec![
        (vec![(4, b"\x04\x00")], ErrorKind::ProxyReply),
        (vec![(4, b"HTTP/1.1 400 Bad Request\r\n\r\n")], ErrorKind::ProxyReply),
        (vec![(4, b"\x05\xff")], ErrorKind::ProxyAuth),
        (vec![(4, b"\x05\x01")], ErrorKind::ProxyReply),
        (vec![GREETED, (11, b"\x01\x01")], ErrorKind::ProxyAuth),
        (vec![GREETED, (11, b"\x05\x00")], ErrorKind::ProxyReply),
        (vec![GREETED, LET_IN, (ASKED, b"\x05\x00\x00\x09\x00\x00")], ErrorKind::ProxyReply),
        (vec![GREETED, LET_IN, (ASKED, b"\x04\x00")], ErrorKind::ProxyReply),
    ];
    let refusals: [&[u8]; 10] = [
        b"\x05\x01",
        b"\x05\x02",
        b"\x05\x03",
        b"\x05\x04",
        b"\x05\x05",
        b"\x05\x06",
        b"\x05\x07",
        b"\x05\x08",
        b"\x05\x09",
        b"\x05\xff",
    ];
    faults.extend(refusals.map(|reply| (vec![GREETED, LET_IN, (ASKED, reply)], ErrorKind::ProxyRefused)));
    for (parts, kind) in faults {
        for drips in [false, true] {
            let result = played(harness, "socks5h", PLAIN, Limits::listed(), steps(&parts, drips));
            assert_eq!(result.map(|r| r.body), Err(kind), "{parts:?}");
        }
    }
    let cut: [Vec<Part>; 5] = [
        vec![(4, b"")],
        vec![(4, b"\x05")],
        vec![GREETED, (11, b"\x01")],
        vec![GREETED, LET_IN, (ASKED, b"")],
        vec![GREETED, LET_IN, (ASKED, b"\x05\x00\x00\x03\xffshort")],
    ];
    for parts in cut {
        let hung_up = played(harness, "socks5h", PLAIN, Limits::listed(), steps(&parts, false));
        assert_eq!(hung_up.map(|r| r.body), Err(ErrorKind::ProxyReply), "{parts:?}");
        let mut limits = Limits::listed();
        limits.deadlines.proxy = Duration::from_millis(30);
        let mut stalling = steps(&parts, false);
        stalling.push(Step::ReadToEnd);
        let stalled = played(harness, "socks5h", PLAIN, limits, stalling);
        assert_eq!(stalled.map(|r| r.body), Err(ErrorKind::TimeoutProxy), "{parts:?}");
    }
}

/// A handshake that comes byte by byte, with the longest address that there is, opens a tunnel all the same.
// F4
pub fn a_slow_socks5_handshake<H: Harness>(harness: &Arc<H>) {
    let granted = [&b"\x05\x00\x00\x03\xff"[..], &[b'a'; 255], b"\x1f\x90", HELLO.as_bytes()].concat();
    let mut steps = steps(&[GREETED, LET_IN], true);
    steps.extend([Step::Read(ASKED), Step::drip(granted), Step::ReadHead, Step::ReadToEnd]);
    let response = played(harness, "socks5h", PLAIN, Limits::listed(), steps).expect("an answer");
    assert_eq!(&response.body[..], b"hello");
}

/// A proxy that says all its lines at once, before it is asked: the verdict does not depend on how they are cut.
// F4
pub fn an_eager_socks5_handshake<H: Harness>(harness: &Arc<H>) {
    let all = b"\x05\x02\x01\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
    let asked = Step::Read(LET_IN.0 + ASKED);
    let steps =
        [Step::Read(GREETED.0), Step::write(&all[..]), asked, Step::ReadHead, Step::write(HELLO), Step::ReadToEnd];
    let response = played(harness, "socks5h", PLAIN, Limits::listed(), steps).expect("an answer");
    assert_eq!(&response.body[..], b"hello");
}

/// SOCKS4a refusals, and answers in another protocol.
// F4
pub fn socks4a<H: Harness>(harness: &Arc<H>) {
    const ASKED: usize = 23;
    for (reply, kind) in [
        (&b"\0\x5b\0\0\0\0\0\0"[..], ErrorKind::ProxyRefused),
        (b"\0\x5d\0\0\0\0\0\0", ErrorKind::ProxyAuth),
        (b"\x05\x00", ErrorKind::ProxyReply),
        (b"\0\x5a\0\0", ErrorKind::ProxyReply),
        (b"", ErrorKind::ProxyReply),
    ] {
        for drips in [false, true] {
            let (runtime, served) = (harness.runtime(), harness.serve(Script::new(steps(&[(ASKED, reply)], drips))));
            let result = on(&**harness, async move {
                let proxy = format!("socks4a://me@{}", served.addr);
                through(&runtime, &proxy, PLAIN, Limits::listed()).await
            });
            assert_eq!(result.map(|r| r.body).map_err(|e| e.kind()), Err(kind), "{}", reply.escape_ascii());
        }
    }
}
