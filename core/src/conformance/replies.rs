//! Replies of HTTP/1.1 servers that are broken or mean harm. Each ends as the book's catalogue of faults says, leaves nothing
//! behind, and the next request to the same server succeeds.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};

use super::http::{HELLO, get};
use super::support::on;
use super::trial::{Trial, all_fail, body, verdict, well};
use super::{Harness, Script, Signal, Step};
use crate::http::HttpFetcher;
use crate::{ErrorKind, FetchCx, Fetcher, Limits, Request};

/// A deadline that is over soon, while bytes come much more often.
const SOON: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(1);

/// Far more than may be taken of anything here, after which the server would wait. Not without an end: in a simulated world it would
/// go on in no time.
fn flood(unit: &str) -> Step {
    Step::write(unit.repeat((1 << 20) / unit.len()))
}

/// The connection ends where no answer does.
// A2, A3, A4
pub fn broken_off<H: Harness>(harness: &Arc<H>) {
    assert_eq!(body(harness, ""), Err(ErrorKind::HttpEmptyReply));
    all_fail(
        harness,
        ErrorKind::BodyIncomplete,
        [
            &b"HTTP/1.1 200 OK\r\nContent-Le"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        ],
    );
    for reply in
        ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200 OK\r\n\r\nhalf"]
    {
        let steps = [Step::ReadHead, Step::write(reply), Step::Reset];
        let result = Trial::default().run(harness, steps);
        assert_eq!(result.map(|r| r.body), Err(ErrorKind::ConnectReset), "reset after {reply:?}");
    }
}

/// What comes is no HTTP/1.
// A5
pub fn no_status_line<H: Harness>(harness: &Arc<H>) {
    all_fail(
        harness,
        ErrorKind::HttpStatusLine,
        [
            &b"garbage\r\n\r\n"[..],
            b"<html>HTTP/0.9\r\n\r\n",
            b"HTTP/3.0 200 OK\r\n\r\n",
            b"HTTP/1.2 200 OK\r\n\r\n",
            b"HTTP/1.1 -12\r\n\r\n",
            b"HTTP/1.1 20\r\n\r\n",
            b"HTTP/1.1 1000 x\r\n\r\n",
            b"HTTP/1.1 1234567 x\r\n\r\n",
        ],
    );
}

/// Heads that are too large, have too many fields, or never end; at the limit and one over it.
// A6, A7
pub fn large_heads<H: Harness>(harness: &Arc<H>) {
    let head = |bytes: usize| {
        let frame = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: \r\n\r\n";
        frame.replace("A: ", &format!("A: {}", "x".repeat(bytes - frame.len())))
    };
    let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: 1\r\n".repeat(n - 1));
    let most = Limits::listed();
    for (reply, fits) in [
        (head(most.head_bytes), true),
        (head(most.head_bytes + 1), false),
        (fields(most.headers), true),
        (fields(most.headers + 1), false),
    ] {
        let expected = if fits { Ok(Vec::new()) } else { Err(ErrorKind::HttpHeadTooLarge) };
        assert_eq!(body(harness, reply), expected);
    }
    for unit in ["x", "A: b\r\n"] {
        let steps = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\nA: "), flood(unit), Step::ReadToEnd];
        assert_eq!(Trial::default().run(harness, steps).map(|r| r.body), Err(ErrorKind::HttpHeadTooLarge));
    }
}

/// Interim answers without end, and a switch of protocols that nobody asked for.
// A18
pub fn interim_answers<H: Harness>(harness: &Arc<H>) {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let most = usize::from(Limits::INTERIM);
    assert_eq!(body(harness, early.repeat(most) + HELLO).as_deref(), Ok(&b"hello"[..]));
    assert_eq!(body(harness, early.repeat(most + 1) + HELLO), Err(ErrorKind::HttpHeadTooLarge));
    let storm = [Step::ReadHead, flood(early), Step::ReadToEnd];
    assert_eq!(Trial::default().run(harness, storm).map(|r| r.body), Err(ErrorKind::HttpHeadTooLarge));
    all_fail(harness, ErrorKind::HttpProtocol, [&b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"[..]]);
}

/// Lengths that are none, or contradict one another.
// A11, A12, A13
pub fn lengths_that_lie<H: Harness>(harness: &Arc<H>) {
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nhello").into_bytes();
    let bad = [
        "Content-Length: 99999999999999999999999",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 5,6",
        "Content-Length:",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked, chunked",
    ];
    let replies = bad.map(with);
    all_fail(harness, ErrorKind::HttpFraming, replies.iter().map(Vec::as_slice));
    // A coding that says nothing of the end: it is that of the connection.
    assert_eq!(body(harness, with("Transfer-Encoding: xchunked")).as_deref(), Ok(&b"hello"[..]));
    // Nothing is allocated for a promise.
    assert_eq!(body(harness, with("Content-Length: 9223372036854775807")), Err(ErrorKind::BodyTooLarge));
    assert_eq!(body(harness, with("Content-Length: 5\r\nContent-Length: 5")).as_deref(), Ok(&b"hello"[..]));
}

/// Chunks that are none.
// A14
pub fn bad_chunks<H: Harness>(harness: &Arc<H>) {
    let replies = [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\nx",
        "5\r\nhelloX\r\n0\r\n\r\n",
    ]
    .map(|chunks| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes());
    all_fail(harness, ErrorKind::HttpProtocol, replies.iter().map(Vec::as_slice));
    let endless = |unit: &str| {
        let head = Step::write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut limits = Limits::listed();
        limits.body_wire = 100_000;
        let steps = [Step::ReadHead, head, flood(unit), Step::ReadToEnd];
        Trial { limits, ..Trial::default() }.run(harness, steps).map(|r| r.body)
    };
    assert_eq!(endless("1\r\nx\r\n"), Err(ErrorKind::BodyTooLarge));
    assert_eq!(endless(&format!("1;{}\r\nx\r\n", "e".repeat(1000))), Err(ErrorKind::HttpProtocol));
}

/// Trailers are read to their end, which must come soon, and change nothing.
// A15
pub fn trailers<H: Harness>(harness: &Arc<H>) {
    let reply = |trailer: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailer}\r\n")
    };
    let smuggling = verdict(harness, reply("Content-Length: 1\r\nSet-Cookie: a=b\r\nLocation: /\r\n")).expect("a body");
    assert_eq!(&smuggling.body[..], b"hello");
    for name in ["content-length", "set-cookie", "location"] {
        assert!(!smuggling.head.headers.contains_key(name), "{name}");
    }
    assert_eq!(body(harness, reply(&"A: b\r\n".repeat(10_000))), Err(ErrorKind::HttpProtocol));
}

/// Bytes that no field should have.
// A20
pub fn odd_fields<H: Harness>(harness: &Arc<H>) {
    let kept = b"HTTP/1.1 200 OK\r\nX: \x80\xff\r\nConnection: \xfe\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(body(harness, &kept[..]).as_deref(), Ok(&b"ok"[..]));
    let replies = ["A\r\n", "A : b\r\n", "A: b\r\n c\r\n", "A: \0\r\n", "A: b\rc\r\n"]
        .map(|field| format!("HTTP/1.1 200 OK\r\n{field}\r\n").into_bytes());
    all_fail(harness, ErrorKind::HttpHeader, replies.iter().map(Vec::as_slice));
}

/// A body without end is read up to its cap, and no further.
// A10
pub fn endless_body<H: Harness>(harness: &Arc<H>) {
    let mut limits = Limits::listed();
    limits.body_wire = 100_000;
    let steps = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n\r\n"), flood("x"), Step::ReadToEnd];
    let result = Trial { limits, ..Trial::default() }.run(harness, steps);
    assert_eq!(result.map(|r| r.body), Err(ErrorKind::BodyTooLarge));
}

/// What follows an answer, or is a body where none may be, is never taken for the next answer.
// A16, A19
pub fn bytes_after_an_answer<H: Harness>(harness: &Arc<H>) {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let get = |url| Request::get(url);
    let head = |url| Request::head(url);
    for (reply, ask, expected) in [
        (HELLO, get as fn(String) -> Request, &b"hello"[..]),
        ("HTTP/1.1 204 No Content\r\n\r\n", get, b""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", get, b""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n", head, b""),
    ] {
        let steps = [Step::ReadHead, Step::write(format!("{reply}{evil}")), Step::ReadToEnd];
        let result = Trial { ask, ..Trial::default() }.run(harness, steps);
        assert_eq!(result.expect("an answer").body, expected, "{reply}");
    }
}

/// An answer that comes over a parked connection, to nobody's request.
// A17
pub fn an_unsolicited_answer<H: Harness>(harness: &Arc<H>) {
    let (runtime, go_on, sent) = (harness.runtime(), Signal::new(), Signal::new());
    let evil = Step::write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    let steps = [
        Step::ReadHead,
        Step::write(HELLO),
        Step::Wait(go_on.clone()),
        evil,
        Step::Raise(sent.clone()),
        Step::ReadToEnd,
    ];
    let served = harness.serve(Script::new(steps).and(well()));
    let others = harness.serve(Script::new([Step::Repeat(vec![Step::ReadHead, Step::write(HELLO)])]));
    on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let fetch = async |addr| {
            let response = get(&runtime, &fetcher, format!("http://{addr}/"), Limits::listed()).await;
            assert_eq!(&response.expect("an answer").body[..], b"hello");
        };
        fetch(served.addr).await;
        go_on.raise();
        sent.wait().await;
        // What the reactor has not told yet it tells before these are over.
        fetch(others.addr).await;
        fetch(others.addr).await;
        fetch(served.addr).await;
        assert_eq!(served.outcome().await.connection, 0);
    });
}

/// An answer before the whole request was read.
// A21
pub fn an_early_answer<H: Harness>(harness: &Arc<H>) {
    let early = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let steps = [Step::Read(1), Step::write(early), Step::ReadToEnd];
    let ask = |url| Request::post(url, vec![b'x'; 4 << 20]);
    let response = Trial { ask, ..Trial::default() }.run(harness, steps).expect("an answer");
    assert_eq!((response.head.status.as_u16(), &response.body[..]), (413, &b"no"[..]));
}

/// An answer ends where its framing says, whoever closes.
// A22
pub fn an_end_without_a_close<H: Harness>(harness: &Arc<H>) {
    let reply = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    for last in [Step::ReadToEnd, Step::Close] {
        let response = Trial::default().run(harness, [Step::ReadHead, Step::write(reply), last]);
        assert_eq!(&response.expect("an answer").body[..], b"hello");
    }
}

/// Heads and bodies that come byte by byte for ever: each byte extends no deadline of the whole.
// A8, A9
pub fn endless_drips<H: Harness>(harness: &Arc<H>) {
    for (start, drop, kind) in [
        ("HTTP/1.1 200 OK\r\nA: ", "x", ErrorKind::TimeoutHead),
        ("HTTP/1.1 200 OK\r\n\r\n", "x", ErrorKind::TimeoutTotal),
    ] {
        let (runtime, tick) = (harness.runtime(), Signal::new());
        let drips = Step::Repeat(vec![Step::Wait(tick.clone()), Step::write(drop)]);
        let served = harness.serve(Script::new([Step::ReadHead, Step::write(start), drips]));
        let result = on(&**harness, async move {
            let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
            let mut limits = Limits::listed();
            (limits.deadlines.head, limits.deadlines.total) = (SOON, 2 * SOON);
            let fetching = Box::pin(get(&runtime, &fetcher, format!("http://{}/", served.addr), limits));
            let ticking = Box::pin(async {
                loop {
                    runtime.sleep_until(runtime.now() + TICK).await;
                    tick.raise();
                }
            });
            let Either::Left((result, _)) = select(fetching, ticking).await;
            assert_eq!(fetcher.idle_connections(), 0);
            // So that the server notices the end.
            tick.raise();
            tick.raise();
            result
        });
        assert_eq!(result.expect_err("no end comes").kind(), kind);
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

fn encoded(status: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Encoding: {encoding}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Bodies that are larger decoded than they may be, whatever the status.
// B1, B5
pub fn bombs<H: Harness>(harness: &Arc<H>) {
    let limits = Limits::discovered();
    let zeros = vec![0; 9 << 20];
    let mut frame = Vec::new();
    zstd::stream::copy_encode(&zeros[..], &mut frame, 1).expect("memory");
    for (encoding, bomb) in [("gzip", gzip(&zeros)), ("zstd", frame)] {
        for status in ["200 OK", "401 Unauthorized", "500 Broken", "302 Found"] {
            let response = verdict(harness, encoded(status, encoding, &bomb)).expect("it came over the wire");
            assert_eq!(response.decoded(&limits).map_err(|e| e.kind()), Err(ErrorKind::BodyTooLarge), "{status}");
        }
    }
}

/// A bomb on a redirect that is followed is never decoded.
// B5
pub fn a_bomb_on_a_redirect<H: Harness>(harness: &Arc<H>) {
    let bomb = gzip(&vec![0; 9 << 20]);
    let moved = encoded("302 Found\r\nLocation: /there", "gzip", &bomb);
    let steps = [Step::ReadHead, Step::write(moved), Step::ReadHead, Step::write(HELLO)];
    let response = Trial::default().run(harness, steps).expect("an answer");
    assert_eq!((response.head.url.path(), &response.body[..]), ("/there", &b"hello"[..]));
}

/// Encodings that are too many, cut off, damaged, unknown, or of no body.
// B2, B3, B4
pub fn encodings<H: Harness>(harness: &Arc<H>) {
    let limits = Limits::discovered();
    let good = gzip(b"hello");
    let mut damaged = good.clone();
    damaged[good.len() - 5] ^= 1;
    let lines = "gzip\r\nContent-Encoding: gzip".to_owned() + &"\r\nContent-Encoding: gzip".repeat(100);
    for (encoding, body, expected) in [
        ("gzip", &good[..], Ok(&b"hello"[..])),
        ("X-GZip", &good, Ok(b"hello")),
        ("identity", b"hello", Ok(b"hello")),
        ("gzip", &[&good[..], b"\0garbage"].concat(), Ok(b"hello")),
        ("gzip", b"", Ok(b"")),
        ("gzip", &good[..good.len() - 1], Err(ErrorKind::BodyIncomplete)),
        ("gzip", &damaged, Err(ErrorKind::BodyEncoding)),
        ("gzip", b"text that is no gzip", Err(ErrorKind::BodyEncoding)),
        ("sdch", b"hello", Err(ErrorKind::BodyEncoding)),
        ("gzip, gzip, gzip, gzip, gzip, gzip", b"hello", Err(ErrorKind::BodyEncoding)),
        (&lines, b"hello", Err(ErrorKind::BodyEncoding)),
    ] {
        let response = verdict(harness, encoded("200 OK", encoding, body)).expect("it came over the wire");
        let decoded = response.decoded(&limits);
        assert_eq!(decoded.as_deref().map_err(|e| e.kind()), expected, "{encoding}");
    }
    let bodiless = verdict(harness, "HTTP/1.1 304 Not Modified\r\nContent-Encoding: gzip\r\n\r\n").expect("an answer");
    assert!(bodiless.decoder.is_none());
}

/// A fetch that is dropped after any number of polls leaves nothing, and the next one succeeds.
// H10
pub fn dropped_after_any_poll<H: Harness>(harness: &Arc<H>) {
    const POLLS: usize = 24;
    let once = || [Step::ReadHead, Step::drip(HELLO), Step::ReadToEnd];
    let mut script = Script::new(once());
    for _ in 0..2 * POLLS {
        script = script.and(once());
    }
    let (runtime, served) = (harness.runtime(), harness.serve(script));
    on(&**harness, async move {
        for polls in 0..POLLS {
            let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
            let ledger = fetcher.ledger().expect("it keeps one").clone();
            let (request, cx) = (Request::get(format!("http://{}/", served.addr)), FetchCx::detached(&runtime));
            let (mut fetch, mut left) = (fetcher.fetch(&request, &cx), polls);
            std::future::poll_fn(|task| {
                if left == 0 {
                    return std::task::Poll::Ready(());
                }
                left -= 1;
                fetch.as_mut().poll(task).map(drop)
            })
            .await;
            drop(fetch);
            assert_eq!(ledger.usage().sockets as usize, fetcher.idle_connections(), "after {polls} polls");
            drop(fetcher);
            assert_eq!(ledger.usage().sockets, 0, "after {polls} polls");
        }
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let response = get(&runtime, &fetcher, format!("http://{}/", served.addr), Limits::listed()).await;
        assert_eq!(&response.expect("an answer").body[..], b"hello");
    });
}
