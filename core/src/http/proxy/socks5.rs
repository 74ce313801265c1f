//! SOCKS5: RFC 1928, and RFC 1929 for user and password.

use bytes::Bytes;
use url::Host;

use super::handshake::{Handshake, Step};
use super::{Credential, MAX_FIELD, Proxy, broken};
use crate::{Error, ErrorKind};

const VERSION: u8 = 5;
const WITHOUT: u8 = 0;
const PASSWORD: u8 = 2;
/// The version of the exchange of RFC 1929.
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Asks for a tunnel.
pub(super) struct Socks5 {
    credential: Option<Credential>,
    request: Vec<u8>,
    expects: Expects,
    unread: Vec<u8>,
}

/// What the proxy says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Method,
    Verdict,
    Reply,
}

impl Socks5 {
    pub(super) fn new(proxy: &Proxy, host: &Host<&str>, port: u16) -> Result<Self, Error> {
        let mut request = vec![VERSION, CONNECT, 0];
        match host {
            Host::Ipv4(ip) => {
                request.push(IPV4);
                request.extend_from_slice(&ip.octets());
            }
            Host::Ipv6(ip) => {
                request.push(IPV6);
                request.extend_from_slice(&ip.octets());
            }
            Host::Domain(name) => {
                let length = field_length(name.as_bytes(), proxy)?;
                request.extend_from_slice(&[NAME, length]);
                request.extend_from_slice(name.as_bytes());
            }
        }
        request.extend_from_slice(&port.to_be_bytes());
        Ok(Self { credential: proxy.credential.clone(), request, expects: Expects::Method, unread: Vec::new() })
    }

    /// One step with the bytes that are there; `None` where it lacks some.
    fn step(&mut self, proxy: &Proxy) -> Result<Option<Step>, Error> {
        let bad = |what: String| broken(ErrorKind::ProxyReply, proxy, &what);
        let version = if self.expects == Expects::Verdict { PASSWORD_VERSION } else { VERSION };
        let [first, rest @ ..] = &self.unread[..] else { return Ok(None) };
        if *first != version {
            return Err(bad(format!("it answered with version {first} where {version} is due")));
        }
        let [said, rest @ ..] = rest else { return Ok(None) };
        match self.expects {
            Expects::Method => {
                let step = match (*said, &self.credential) {
                    (WITHOUT, _) => self.ask(),
                    (PASSWORD, Some(credential)) => {
                        let mut proof = vec![PASSWORD_VERSION];
                        for field in [&credential.user, &credential.password] {
                            proof.push(field_length(field, proxy)?);
                            proof.extend_from_slice(field);
                        }
                        self.expects = Expects::Verdict;
                        Step::Send(proof)
                    }
                    (0xff, None) => return Err(broken(ErrorKind::ProxyAuth, proxy, "it asks for credentials")),
                    (0xff, Some(_)) => {
                        return Err(broken(ErrorKind::ProxyAuth, proxy, "it asks for other than user and password"));
                    }
                    (other, _) => return Err(bad(format!("it chose the method {other}, which was not offered"))),
                };
                self.unread.drain(..2);
                Ok(Some(step))
            }
            Expects::Verdict if *said == 0 => {
                self.unread.drain(..2);
                Ok(Some(self.ask()))
            }
            Expects::Verdict => Err(broken(ErrorKind::ProxyAuth, proxy, "it asks for other credentials")),
            Expects::Reply if *said == 0 => {
                let [_reserved, kind, address @ ..] = rest else { return Ok(None) };
                let length = match (*kind, address) {
                    (IPV4, _) => 4,
                    (IPV6, _) => 16,
                    (NAME, [length, ..]) => 1 + usize::from(*length),
                    (NAME, []) => return Ok(None),
                    (other, _) => return Err(bad(format!("it answered with an address of the type {other}"))),
                };
                let end = 4 + length + 2;
                if self.unread.len() < end {
                    return Ok(None);
                }
                Ok(Some(Step::Open(Bytes::from(self.unread.split_off(end)))))
            }
            // What follows is the address of nothing, and is not waited for.
            Expects::Reply => Err(broken(ErrorKind::ProxyRefused, proxy, &refusal(*said))),
        }
    }

    fn ask(&mut self) -> Step {
        self.expects = Expects::Reply;
        Step::Send(std::mem::take(&mut self.request))
    }
}

impl Handshake for Socks5 {
    fn begin(&mut self) -> Vec<u8> {
        match self.credential {
            Some(_) => vec![VERSION, 2, WITHOUT, PASSWORD],
            None => vec![VERSION, 1, WITHOUT],
        }
    }

    fn push(&mut self, bytes: &[u8], proxy: &Proxy) -> Result<Step, Error> {
        self.unread.extend_from_slice(bytes);
        Ok(self.step(proxy)?.unwrap_or(Step::Read))
    }
}

fn field_length(field: &[u8], proxy: &Proxy) -> Result<u8, Error> {
    u8::try_from(field.len())
        .map_err(|_| broken(ErrorKind::UrlInvalid, proxy, &format!("a name is longer than {MAX_FIELD} bytes")))
}

/// RFC 1928, 6.
fn refusal(code: u8) -> String {
    let why = match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "a reason that is not in the standard",
    };
    format!("it says: {why} ({code})")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is sent, and how it ends, where the proxy says `reply` in pieces of this size.
    fn talk(
        proxy: &str,
        host: Host<&str>,
        reply: &[u8],
        piece: usize,
    ) -> (Vec<Vec<u8>>, Result<Option<Bytes>, String>) {
        let proxy = Proxy::parse(proxy).expect("valid");
        let mut socks = Socks5::new(&proxy, &host, 443).expect("short");
        let mut sent = vec![socks.begin()];
        let mut pieces = reply.chunks(piece);
        while let Some(bytes) = pieces.next() {
            let mut bytes = bytes;
            loop {
                match socks.push(bytes, &proxy) {
                    Ok(Step::Read) => break,
                    Ok(Step::Send(more)) => sent.push(more),
                    Ok(Step::Open(early)) => {
                        let rest = pieces.collect::<Vec<_>>().concat();
                        return (sent, Ok(Some([&early[..], &rest].concat().into())));
                    }
                    Err(e) => return (sent, Err(e.to_string())),
                }
                bytes = &[];
            }
        }
        (sent, Ok(None))
    }

    fn verdict(proxy: &str, reply: &[u8]) -> Result<Option<Bytes>, String> {
        let whole = talk(proxy, Host::Domain("origin.test"), reply, reply.len().max(1));
        for piece in 1..reply.len() {
            assert_eq!(talk(proxy, Host::Domain("origin.test"), reply, piece), whole, "in pieces of {piece}");
        }
        whole.1
    }

    // F4
    #[test]
    fn a_tunnel_opens_however_the_replies_are_cut() {
        let (open, secret) = ("socks5h://p.test", "socks5h://me:pw@p.test");
        for (proxy, reply, early) in [
            (open, &b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"[..], &b""[..]),
            (secret, b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38", b""),
            (secret, b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38early", b"early"),
            (open, b"\x05\x00\x05\x00\x00\x03\x00\x00\x00", b""),
            (open, b"\x05\x00\x05\x00\x00\x03\x03abc\x00\x00x", b"x"),
            (open, b"\x05\x00\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b""),
        ] {
            assert_eq!(verdict(proxy, reply), Ok(Some(Bytes::from_static(early))), "{}", reply.escape_ascii());
        }
        // Atyp 3 of 255 bytes.
        let long = [b"\x05\x00\x05\x00\x00\x03\xff", &[b'a'; 257][..]].concat();
        assert_eq!(verdict(open, &long), Ok(Some(Bytes::new())));
        assert_eq!(verdict(open, &long[..long.len() - 1]), Ok(None));
    }

    #[test]
    fn it_asks_as_the_standard_says() {
        let reply = b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38";
        let (sent, _) = talk("socks5h://me:p%40w@p.test", Host::Domain("a.test"), reply, 1);
        assert_eq!(sent, [&b"\x05\x02\x00\x02"[..], b"\x01\x02me\x03p@w", b"\x05\x01\x00\x03\x06a.test\x01\xbb"]);
        let open = b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38";
        let (sent, _) = talk("socks5://p.test", Host::Ipv4([192, 0, 2, 1].into()), open, 99);
        assert_eq!(sent, [&b"\x05\x01\x00"[..], b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"]);
        let (sent, _) = talk("socks5://p.test", Host::Ipv6([1, 0, 0, 0, 0, 0, 0, 2].into()), open, 99);
        assert_eq!(sent[1], b"\x05\x01\x00\x04\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x01\xbb");
    }

    // F4
    #[test]
    fn each_way_to_fail_is_typed() {
        let (open, secret) = ("socks5h://p.test", "socks5h://me:pw@p.test");
        for (proxy, reply, expected) in [
            (open, &b"\x04\x00"[..], "proxy.bad_reply"),
            (open, b"HTTP/1.1 400", "proxy.bad_reply"),
            (open, b"\x05\xff", "proxy.auth_required"),
            (secret, b"\x05\xff", "proxy.auth_required"),
            (open, b"\x05\x02", "proxy.bad_reply"),
            (open, b"\x05\x01", "proxy.bad_reply"),
            (secret, b"\x05\x02\x01\x01", "proxy.auth_required"),
            (secret, b"\x05\x02\x05\x00", "proxy.bad_reply"),
            (open, b"\x05\x00\x01\x00", "proxy.bad_reply"),
            (open, b"\x05\x00\x05\x00\x00\x02", "proxy.bad_reply"),
        ] {
            let failed = verdict(proxy, reply).expect_err("no tunnel");
            assert!(failed.starts_with(expected) && !failed.contains("pw"), "{failed} for {}", reply.escape_ascii());
        }
        for code in 1..=u8::MAX {
            let failed = verdict(open, &[5, 0, 5, code]).expect_err("refused");
            assert!(failed.starts_with("proxy.refused") && failed.contains(&format!("({code})")), "{failed}");
        }
    }

    #[test]
    fn a_name_that_no_field_holds_is_refused() {
        let proxy = Proxy::parse("socks5h://p.test").expect("valid");
        let name = "a".repeat(256);
        assert!(Socks5::new(&proxy, &Host::Domain(&name[1..]), 80).is_ok());
        let error = Socks5::new(&proxy, &Host::Domain(&name), 80).err().expect("too long");
        assert_eq!(error.kind(), ErrorKind::UrlInvalid);
    }

    proptest! {
        // Invariant 12
        #[test]
        fn the_verdict_does_not_depend_on_the_cuts(
            reply in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(2), Just(3), Just(5), any::<u8>()], 0..40),
            piece in 1_usize..9,
        ) {
            let proxy = "socks5h://me:pw@p.test";
            let host = Host::Domain("a.test");
            prop_assert_eq!(talk(proxy, host.clone(), &reply, piece), talk(proxy, host, &reply, reply.len().max(1)));
        }
    }
}
