//! SOCKS4a: a tunnel to a name, which the proxy resolves. There is no standard; "SOCKS 4A: A Simple Extension to SOCKS 4 Protocol" by
//! Ying-Da Lee is what all go by.

use bytes::Bytes;
use url::Host;

use super::handshake::{Handshake, Step};
use super::{MAX_FIELD, Proxy, broken};
use crate::{Error, ErrorKind};

const VERSION: u8 = 4;
const CONNECT: u8 = 1;
/// An address that is none, after which the name comes.
const NAMED: [u8; 4] = [0, 0, 0, 1];
const GRANTED: u8 = 90;
const REPLY: usize = 8;

/// Asks for a tunnel.
pub(super) struct Socks4 {
    request: Vec<u8>,
    unread: Vec<u8>,
}

impl Socks4 {
    pub(super) fn new(proxy: &Proxy, host: &Host<&str>, port: u16) -> Result<Self, Error> {
        let (address, name) = match host {
            Host::Ipv4(ip) => (ip.octets(), None),
            Host::Domain(name) if name.len() <= MAX_FIELD => (NAMED, Some(*name)),
            Host::Domain(_) => {
                return Err(broken(ErrorKind::UrlInvalid, proxy, &format!("a name is longer than {MAX_FIELD} bytes")));
            }
            Host::Ipv6(_) => return Err(broken(ErrorKind::UrlInvalid, proxy, "socks4a has no IPv6 addresses")),
        };
        let mut request = vec![VERSION, CONNECT];
        request.extend_from_slice(&port.to_be_bytes());
        request.extend_from_slice(&address);
        request.extend_from_slice(proxy.credential.as_ref().map_or(&[], |credential| &credential.user));
        request.push(0);
        if let Some(name) = name {
            request.extend_from_slice(name.as_bytes());
            request.push(0);
        }
        Ok(Self { request, unread: Vec::new() })
    }
}

impl Handshake for Socks4 {
    fn begin(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.request)
    }

    fn push(&mut self, bytes: &[u8], proxy: &Proxy) -> Result<Step, Error> {
        self.unread.extend_from_slice(bytes);
        match self.unread[..] {
            [] | [0] => Ok(Step::Read),
            [0, GRANTED, ..] if self.unread.len() < REPLY => Ok(Step::Read),
            [0, GRANTED, ..] => Ok(Step::Open(Bytes::from(self.unread.split_off(REPLY)))),
            [0, code @ (92 | 93), ..] => {
                Err(broken(ErrorKind::ProxyAuth, proxy, &format!("it does not know who we are ({code})")))
            }
            [0, code, ..] => Err(broken(ErrorKind::ProxyRefused, proxy, &format!("it answered {code}"))),
            [other, ..] => {
                Err(broken(ErrorKind::ProxyReply, proxy, &format!("it answered with version {other} where 0 is due")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(reply: &[u8], piece: usize) -> Result<Option<Bytes>, ErrorKind> {
        let proxy = Proxy::parse("socks4a://me@p.test").expect("valid");
        let mut socks = Socks4::new(&proxy, &Host::Domain("a.test"), 80).expect("short");
        let mut pieces = reply.chunks(piece);
        while let Some(bytes) = pieces.next() {
            if let Step::Open(early) = socks.push(bytes, &proxy).map_err(|e| e.kind())? {
                return Ok(Some([&early[..], &pieces.collect::<Vec<_>>().concat()].concat().into()));
            }
        }
        Ok(None)
    }

    #[test]
    fn it_asks_for_a_name_or_an_address() {
        let proxy = Proxy::parse("socks4a://me@p.test").expect("valid");
        let asked = |host| Socks4::new(&proxy, &host, 80).map(|mut socks| socks.begin()).map_err(|e| e.kind());
        assert_eq!(asked(Host::Domain("a.test")), Ok(b"\x04\x01\x00\x50\0\0\0\x01me\0a.test\0".to_vec()));
        assert_eq!(asked(Host::Ipv4([192, 0, 2, 1].into())), Ok(b"\x04\x01\x00\x50\xc0\0\x02\x01me\0".to_vec()));
        assert_eq!(asked(Host::Ipv6(std::net::Ipv6Addr::LOCALHOST)), Err(ErrorKind::UrlInvalid));
        assert_eq!(asked(Host::Domain(&"a".repeat(256))), Err(ErrorKind::UrlInvalid));
    }

    // F4
    #[test]
    fn each_reply_has_one_verdict_however_it_is_cut() {
        for (reply, expected) in [
            (&b"\0\x5a\0\0\0\0\0\0"[..], Ok(Some(Bytes::new()))),
            (b"\0\x5a\0\0\0\0\0\0early", Ok(Some(Bytes::from_static(b"early")))),
            (b"\0\x5a\0\0\0\0\0", Ok(None)),
            (b"\0\x5b\0\0\0\0\0\0", Err(ErrorKind::ProxyRefused)),
            (b"\0\x5c\0\0\0\0\0\0", Err(ErrorKind::ProxyAuth)),
            (b"\0\x5d", Err(ErrorKind::ProxyAuth)),
            (b"\0\xff", Err(ErrorKind::ProxyRefused)),
            (b"\x04\x5a\0\0\0\0\0\0", Err(ErrorKind::ProxyReply)),
            (b"HTTP/1.1 400 Bad", Err(ErrorKind::ProxyReply)),
        ] {
            for piece in 1..=reply.len() {
                assert_eq!(talk(reply, piece), expected, "{} in pieces of {piece}", reply.escape_ascii());
            }
        }
    }
}
