//! What opens a tunnel through a proxy that speaks HTTP: CONNECT (RFC 9110, 9.3.6).

use bytes::Bytes;
use url::Host;

use super::handshake::{Handshake, Step};
use super::{Proxy, broken};
use crate::{Error, ErrorKind};

/// All heads of the answer to CONNECT together, interim ones too.
const MAX_HEAD: usize = 16 << 10;

/// Asks for a tunnel, and reads the answer.
pub(super) struct Connect {
    ask: Vec<u8>,
    reply: ConnectReply,
}

impl Connect {
    pub(super) fn new(proxy: &Proxy, host: &Host<&str>, port: u16) -> Self {
        let mut ask = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
        if let Some(authorization) = proxy.authorization() {
            ask.extend_from_slice(b"Proxy-Authorization: ");
            ask.extend_from_slice(authorization.as_bytes());
            ask.extend_from_slice(b"\r\n");
        }
        ask.extend_from_slice(b"\r\n");
        Self { ask, reply: ConnectReply::default() }
    }
}

impl Handshake for Connect {
    fn begin(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ask)
    }

    fn push(&mut self, bytes: &[u8], proxy: &Proxy) -> Result<Step, Error> {
        let opened = self.reply.push(bytes).map_err(|e| e.into_error(proxy))?;
        Ok(opened.map_or(Step::Read, Step::Open))
    }
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
            Self::AuthRequired => (ErrorKind::ProxyAuth, "it asks for other credentials".to_owned()),
            Self::Refused(status) => (ErrorKind::ProxyRefused, format!("it answered {status}")),
            Self::TooLarge => (ErrorKind::ProxyReply, format!("the head of its answer is over {MAX_HEAD} bytes")),
            Self::NotHttp => (ErrorKind::ProxyReply, "its answer is not HTTP/1".to_owned()),
        };
        broken(kind, proxy, &what)
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
                // The one that tinyproxy says; there is nobody else whom it could be about.
                401 | 407 => return Err(BadReply::AuthRequired),
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
            (b"HTTP/1.0 401 Unauthorized\r\n\r\n", BadReply::AuthRequired),
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

    proptest! {
        // Invariant 12
        #[test]
        fn the_verdict_does_not_depend_on_the_cuts(tail in proptest::collection::vec(any::<u8>(), 0..60), piece in 1_usize..9) {
            let reply = [b"HTTP/1.1 ", &tail[..]].concat();
            prop_assert_eq!(pushed(&reply, piece), pushed(&reply, reply.len()));
        }
    }
}
