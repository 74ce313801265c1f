//! What holds of every handshake, whatever the proxy says: for a fuzzer.

use bytes::Bytes;
use url::Host;

use super::handshake::{Handshake, Step};
use super::http_connect::Connect;
use super::socks4::Socks4;
use super::socks5::Socks5;
use super::{Proxy, Scheme};
use crate::{Error, ErrorKind};

/// What came of a handshake: what was sent, and what came through the tunnel, or that more was wanted, or why there is none.
type Verdict = (Vec<u8>, Result<Option<Vec<u8>>, ErrorKind>);

fn talk(mut handshake: impl Handshake, proxy: &Proxy, said: &[u8], piece: usize) -> Verdict {
    let mut sent = handshake.begin();
    let mut pieces = said.chunks(piece);
    let mut next: &[u8] = &[];
    loop {
        match handshake.push(next, proxy) {
            Ok(Step::Open(early)) => {
                let rest = pieces.collect::<Vec<_>>().concat();
                return (sent, Ok(Some([&early[..], &rest].concat())));
            }
            // What it has of the next message already.
            Ok(Step::Send(bytes)) => {
                sent.extend_from_slice(&bytes);
                next = &[];
            }
            Ok(Step::Read) => match pieces.next() {
                Some(bytes) => next = bytes,
                None => return (sent, Ok(None)),
            },
            Err(error) => return (sent, Err(told(&error))),
        }
    }
}

/// The kind, where no password is told.
fn told(error: &Error) -> ErrorKind {
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    error.kind()
}

fn verdict(proxy: &Proxy, said: &[u8], piece: usize) -> Verdict {
    let host = Host::Domain("origin.test");
    match proxy.scheme {
        Scheme::Http | Scheme::Https => talk(Connect::new(proxy, &host, 443), proxy, said, piece),
        Scheme::Socks4a => talk(Socks4::new(proxy, &host, 443).expect("a short name"), proxy, said, piece),
        Scheme::Socks5 | Scheme::Socks5h => {
            talk(Socks5::new(proxy, &host, 443).expect("a short name"), proxy, said, piece)
        }
    }
}

/// Whatever a proxy says, and however that is cut, there is one verdict; and what came behind the handshake is not lost. The first
/// byte says what the proxy speaks, the second how its words are cut; the rest it says.
///
/// # Panics
/// Where that does not hold.
pub fn handshakes(input: &[u8]) {
    let &[how, piece, ref said @ ..] = input else { return };
    let proxies = [
        "http://me:s3cret@p.test",
        "http://p.test",
        "socks5h://me:s3cret@p.test",
        "socks5h://p.test",
        "socks4a://me@p.test",
    ];
    let proxy = Proxy::parse(proxies[usize::from(how) % proxies.len()]).expect("a proxy");
    let whole = verdict(&proxy, said, said.len().max(1));
    for piece in [1, usize::from(piece).max(1)] {
        assert_eq!(verdict(&proxy, said, piece), whole, "in pieces of {piece}");
    }
    if let (sent, Ok(Some(early))) = whole {
        let longer = Bytes::from([said, b"more"].concat());
        assert_eq!(verdict(&proxy, &longer, 3), (sent, Ok(Some([&early[..], b"more"].concat()))));
    }
}
