//! HTTP proxies: how one is named, and the CONNECT exchange as a state machine of its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use bytes::{Buf, Bytes};
use http::HeaderValue;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use url::{Host, Url};

use super::connect::endpoint;
use super::scratch::with_scratch;
use crate::rt::Io;
use crate::{Error, ErrorKind};

/// All heads of the answer to CONNECT together, interim ones too.
const MAX_HEAD: usize = 16 << 10;

/// A proxy that speaks HTTP, over TCP.
#[derive(Clone)]
pub(super) struct Proxy {
    shown: Arc<str>,
    identity: Arc<str>,
    host: Host<String>,
    port: u16,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port]`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            let shown = crate::request::without_userinfo(text);
            Error::new(ErrorKind::ConfigInvalid, format!("use the proxy {shown:?}: {why}"))
        };
        let url = Url::parse(text).map_err(|e| invalid("it is no URL").with_source(e))?;
        if url.scheme() != "http" {
            return Err(invalid("only http:// proxies are supported"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(invalid("it has no host"));
        };
        Ok(Self {
            shown: format!("http://{host}:{port}").into(),
            identity: url.as_str().into(),
            host: host.to_owned(),
            port,
            authorization: basic(&url),
        })
    }

    /// `http://host:port`: for records and messages.
    pub(super) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// What tells it from others, its credential included. Never shown.
    pub(super) fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    pub(super) fn host(&self) -> Host<&str> {
        match &self.host {
            Host::Domain(name) => Host::Domain(name),
            Host::Ipv4(ip) => Host::Ipv4(*ip),
            Host::Ipv6(ip) => Host::Ipv6(*ip),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The value of Proxy-Authorization.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The userinfo of a URL as Basic credentials (RFC 7617).
pub(super) fn basic(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair = percent_decode(url.username());
    pair.push(b':');
    pair.extend(percent_decode(url.password().unwrap_or_default()));
    let encoded = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let mut value = HeaderValue::from_str(&encoded).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    Some(value)
}

fn percent_decode(text: &str) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                i += 3;
            }
            (byte, ..) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    out
}

/// An error on the way to the proxy, told apart from one on the way to the target.
pub(super) fn unreachable(proxy: &Proxy, error: Error) -> Error {
    if error.is_local() {
        return error;
    }
    Error::new(ErrorKind::ProxyConnect, format!("reach the proxy {}", proxy.shown)).with_source(error)
}

/// Asks the proxy for a tunnel to the host of `url`.
pub(super) async fn open_tunnel(mut io: Box<dyn Io>, proxy: &Proxy, url: &Url) -> Result<Box<dyn Io>, Error> {
    let (host, port) = endpoint(url)?;
    let mut ask = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        ask.extend_from_slice(b"Proxy-Authorization: ");
        ask.extend_from_slice(authorization.as_bytes());
        ask.extend_from_slice(b"\r\n");
    }
    ask.extend_from_slice(b"\r\n");
    let broken =
        |e: io::Error| Error::new(ErrorKind::ProxyReply, format!("talk to the proxy {}", proxy.shown)).with_source(e);
    let mut unsent = &ask[..];
    let mut reply = ConnectReply::default();
    std::future::poll_fn(|task| {
        while !unsent.is_empty() {
            let n = ready!(Pin::new(&mut io).poll_write(task, unsent)).map_err(broken)?;
            if n == 0 {
                return Poll::Ready(Err(broken(io::ErrorKind::WriteZero.into())));
            }
            unsent = &unsent[n..];
        }
        ready!(Pin::new(&mut io).poll_flush(task)).map_err(broken)?;
        loop {
            let done = with_scratch(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut io).poll_read(task, buf.unfilled())).map_err(broken)?;
                Poll::Ready(match buf.filled() {
                    [] => Err(broken(io::ErrorKind::UnexpectedEof.into())),
                    bytes => reply.push(bytes).map_err(|e| e.into_error(proxy)),
                })
            });
            if let Some(early) = ready!(done)? {
                return Poll::Ready(Ok(early));
            }
        }
    })
    .await
    .map(|early| if early.is_empty() { io } else { Box::new(Early { early, io }) as Box<dyn Io> })
}

/// Reads the answer to CONNECT, however it is cut: any 2xx opens the tunnel, interim answers are skipped, lines may end
/// in LF alone. Bytes after the head belong to the tunnel.
#[derive(Debug, Default)]
struct ConnectReply {
    unread: Vec<u8>,
    /// Bytes of heads that were read before `unread`.
    skipped: usize,
    /// Bytes of `unread` in which no head ends.
    scanned: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum BadReply {
    AuthRequired,
    Refused(u16),
    TooLarge,
    NotHttp,
}

impl BadReply {
    fn into_error(self, proxy: &Proxy) -> Error {
        let (kind, what) = match self {
            Self::AuthRequired => (ErrorKind::ProxyAuth, "it asks for other credentials (407)".to_owned()),
            Self::Refused(status) => (ErrorKind::ProxyRefused, format!("it answered {status}")),
            Self::TooLarge => (ErrorKind::ProxyReply, format!("the head of its answer is over {MAX_HEAD} bytes")),
            Self::NotHttp => (ErrorKind::ProxyReply, "its answer is not HTTP/1".to_owned()),
        };
        Error::new(kind, format!("open a tunnel through {}: {what}", proxy.shown))
    }
}

impl ConnectReply {
    /// Takes bytes of the answer; gives the bytes after the head once the tunnel is open.
    fn push(&mut self, bytes: &[u8]) -> Result<Option<Bytes>, BadReply> {
        self.unread.extend_from_slice(bytes);
        loop {
            let start = b"HTTP/1.";
            let known = self.unread.len().min(start.len());
            if self.unread[..known] != start[..known] {
                return Err(BadReply::NotHttp);
            }
            let Some(end) = head_end(&self.unread, self.scanned) else {
                self.scanned = self.unread.len().saturating_sub(2);
                let over = self.skipped + self.unread.len() > MAX_HEAD;
                return if over { Err(BadReply::TooLarge) } else { Ok(None) };
            };
            if self.skipped + end > MAX_HEAD {
                return Err(BadReply::TooLarge);
            }
            match status(&self.unread[..end]).ok_or(BadReply::NotHttp)? {
                101 => return Err(BadReply::Refused(101)),
                100..=199 => {
                    self.unread.drain(..end);
                    self.skipped += end;
                    self.scanned = 0;
                }
                200..=299 => return Ok(Some(Bytes::from(self.unread.split_off(end)))),
                407 => return Err(BadReply::AuthRequired),
                other => return Err(BadReply::Refused(other)),
            }
        }
    }
}

/// Where the head ends, looking at line ends from `from` on.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).filter(|&i| bytes[i] == b'\n').find_map(|i| match bytes[i + 1..] {
        [b'\n', ..] => Some(i + 2),
        [b'\r', b'\n', ..] => Some(i + 3),
        _ => None,
    })
}

fn status(head: &[u8]) -> Option<u16> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = httparse::ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response(&mut response, head);
    matches!(parsed, Ok(httparse::Status::Complete(_))).then_some(response.code).flatten()
}

/// A stream of which some bytes were read already.
struct Early {
    early: Bytes,
    io: Box<dyn Io>,
}

impl Read for Early {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..n]);
        self.early.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl Write for Early {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The verdict on `reply` when it comes in pieces of this size.
    fn pushed(reply: &[u8], piece: usize) -> Result<Option<Bytes>, BadReply> {
        let mut state = ConnectReply::default();
        let mut pieces = reply.chunks(piece);
        while let Some(bytes) = pieces.next() {
            if let Some(early) = state.push(bytes)? {
                return Ok(Some([&early[..], &pieces.collect::<Vec<_>>().concat()].concat().into()));
            }
        }
        Ok(None)
    }

    fn verdict(reply: &[u8]) -> Result<Option<Bytes>, BadReply> {
        let whole = pushed(reply, reply.len().max(1));
        for piece in 1..reply.len().min(40) {
            assert_eq!(pushed(reply, piece), whole, "in pieces of {piece}");
        }
        whole
    }

    // F2
    #[test]
    fn good_replies_open_the_tunnel() {
        for (reply, early) in [
            (&b"HTTP/1.1 200 Connection established\r\n\r\n"[..], &b""[..]),
            (b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n", b""),
            (b"HTTP/1.1 204\r\n\r\n", b""),
            (b"HTTP/1.1 200 OK\nServer: bare LF\n\n", b""),
            (b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n", b""),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\x16\x03\x01early", b"\x16\x03\x01early"),
        ] {
            assert_eq!(verdict(reply), Ok(Some(Bytes::from_static(early))), "{}", reply.escape_ascii());
        }
    }

    // F2
    #[test]
    fn bad_replies_are_typed() {
        for (reply, expected) in [
            (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], BadReply::AuthRequired),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n<html>", BadReply::Refused(403)),
            (b"HTTP/1.1 502 Bad Gateway\n\n", BadReply::Refused(502)),
            (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", BadReply::Refused(302)),
            (b"HTTP/1.1 101 Switching\r\n\r\n", BadReply::Refused(101)),
            (b"SSH-2.0-OpenSSH\r\n", BadReply::NotHttp),
            (b"<html>hello</html>", BadReply::NotHttp),
            (b"HTTP/1.1 2000 OK\r\n\r\n", BadReply::NotHttp),
            (b"HTTP/1.1\r\n\r\n", BadReply::NotHttp),
            (b"HTTP/2 200\r\n\r\n", BadReply::NotHttp),
        ] {
            assert_eq!(verdict(reply), Err(expected), "{}", reply.escape_ascii());
        }
        assert_eq!(verdict(b"HTTP/1.1 200 OK\r\nA: b\r\n"), Ok(None));
    }

    // F2: at the cap, one over it, and over it by interim heads.
    #[test]
    fn heads_are_capped() {
        let head = |len: usize| {
            let frame = "HTTP/1.1 200 OK\r\nA: \r\n\r\n";
            frame.replace("A: ", &format!("A: {}", "x".repeat(len - frame.len()))).into_bytes()
        };
        for piece in [1, 1000, MAX_HEAD * 2] {
            assert_eq!(pushed(&head(MAX_HEAD), piece), Ok(Some(Bytes::new())));
            assert_eq!(pushed(&head(MAX_HEAD + 1), piece), Err(BadReply::TooLarge));
            assert_eq!(pushed(&b"HTTP/1.1 103 Early\r\n\r\n".repeat(1000), piece), Err(BadReply::TooLarge));
        }
    }

    #[test]
    fn a_proxy_is_read_and_its_password_not_shown() {
        for text in ["user:hunter2@host:3128", "http:/u:hunter2@host:99999/", "socks5:u:hunter2@host"] {
            let error = Proxy::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let proxy = Proxy::parse("http://me:p%40ss@proxy.test:3128").expect("valid");
        assert_eq!(&**proxy.shown(), "http://proxy.test:3128");
        assert_eq!((proxy.host(), proxy.port()), (Host::Domain("proxy.test"), 3128));
        assert_eq!(proxy.authorization().expect("userinfo"), "Basic bWU6cEBzcw==");
        assert!(!format!("{:?}", proxy.authorization()).contains("bWU6"));
        assert!(Proxy::parse("http://plain.test").expect("valid").authorization().is_none());
        for bad in ["socks5://u:secret@p.test:1080", "https://p.test", "nonsense", "http://"] {
            let error = Proxy::parse(bad).expect_err("not supported");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(!error.to_string().contains("secret"));
        }
    }

    struct Silent;

    impl Read for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl Write for Silent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    // F2
    #[test]
    fn early_bytes_are_read_first() {
        let mut io = Early { early: Bytes::from_static(b"early"), io: Box::new(Silent) };
        let mut read = |room: usize| {
            let mut bytes = vec![0; room];
            let mut buf = ReadBuf::new(&mut bytes);
            let task = &mut Context::from_waker(std::task::Waker::noop());
            let polled = Pin::new(&mut io).poll_read(task, buf.unfilled());
            polled.map(|result| result.map(|()| buf.filled().to_vec()).expect("no error"))
        };
        assert_eq!(read(3), Poll::Ready(b"ear".to_vec()));
        assert_eq!(read(9), Poll::Ready(b"ly".to_vec()));
        assert_eq!(read(9), Poll::Pending);
    }

    proptest! {
        // Invariant 12
        #[test]
        fn the_verdict_does_not_depend_on_the_cuts(tail in proptest::collection::vec(any::<u8>(), 0..60), piece in 1_usize..9) {
            let reply = [b"HTTP/1.1 ", &tail[..]].concat();
            prop_assert_eq!(pushed(&reply, piece), pushed(&reply, reply.len()));
        }
    }
}
