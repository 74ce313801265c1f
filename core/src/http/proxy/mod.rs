//! Proxies: how one is named, and the handshakes that open a tunnel through it, each a state machine without I/O.

#[cfg(fuzzing)]
mod fuzzing;
mod handshake;
mod http_connect;
mod socks4;
mod socks5;

use std::sync::Arc;

use base64::Engine as _;
use http::HeaderValue;
use url::{Host, Url};

#[cfg(fuzzing)]
pub use self::fuzzing::handshakes;
use self::http_connect::Connect;
use self::socks4::Socks4;
use self::socks5::Socks5;
use crate::rt::Io;
use crate::{Error, ErrorKind};

/// The port of a SOCKS proxy whose URL names none.
const SOCKS_PORT: u16 = 1080;

/// What one field of SOCKS holds at most: a name, a user, a password.
const MAX_FIELD: usize = 255;

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    /// HTTP over TLS.
    Https,
    Socks4a,
    /// We resolve the target.
    Socks5,
    /// The proxy does.
    Socks5h,
}

/// A proxy, over TCP.
#[derive(Clone)]
pub(super) struct Proxy {
    scheme: Scheme,
    shown: Arc<str>,
    identity: Arc<str>,
    host: Host<String>,
    port: u16,
    credential: Option<Credential>,
    authorization: Option<HeaderValue>,
}

#[derive(Clone)]
struct Credential {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl Proxy {
    /// Reads `scheme://[user:password@]host[:port]`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            let shown = crate::request::without_userinfo(text);
            Error::new(ErrorKind::ConfigInvalid, format!("use the proxy {shown:?}: {why}"))
        };
        let url = Url::parse(text).map_err(|e| invalid("it is no URL").with_source(e))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" if cfg!(feature = "tls") => Scheme::Https,
            "https" => return Err(invalid("https:// proxies need the feature `tls`")),
            "socks4a" => Scheme::Socks4a,
            "socks5" => Scheme::Socks5,
            "socks5h" => Scheme::Socks5h,
            _ => return Err(invalid("its scheme is none of http, https, socks4a, socks5 and socks5h")),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid("it has no host"))?;
        // Only that of http and https was read as one.
        let host = Host::parse(host).map_err(|e| invalid("its host is none").with_source(e))?;
        let port = url.port_or_known_default().unwrap_or(SOCKS_PORT);
        let credential = Credential::of(&url);
        let is_long = |credential: &Credential| credential.user.len().max(credential.password.len()) > MAX_FIELD;
        let is_socks = !matches!(scheme, Scheme::Http | Scheme::Https);
        if is_socks && credential.as_ref().is_some_and(is_long) {
            return Err(invalid("its user or password is longer than 255 bytes"));
        }
        if scheme == Scheme::Socks4a
            && credential.as_ref().is_some_and(|c| c.user.contains(&0) || !c.password.is_empty())
        {
            return Err(invalid("socks4a has no passwords, and no user with a NUL"));
        }
        Ok(Self {
            scheme,
            shown: format!("{}://{host}:{port}", url.scheme()).into(),
            identity: url.as_str().into(),
            host,
            port,
            authorization: credential.as_ref().filter(|_| !is_socks).map(Credential::basic),
            credential,
        })
    }

    /// Whether requests for plain HTTP are sent to it as they are, and not through a tunnel.
    pub(super) fn reads_requests(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https)
    }

    /// Whether no request, not even one for plain HTTP, is what is sent to it first.
    pub(super) fn is_spoken_to_first(&self) -> bool {
        self.scheme != Scheme::Http
    }

    /// Whether it is spoken to over TLS.
    pub(super) fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Whether it is told addresses, and no names.
    pub(super) fn wants_address(&self) -> bool {
        self.scheme == Scheme::Socks5
    }

    /// `scheme://host:port`: for records and messages.
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

impl Credential {
    /// The userinfo of a URL.
    fn of(url: &Url) -> Option<Self> {
        let has_one = !url.username().is_empty() || url.password().is_some();
        has_one.then(|| Self {
            user: percent_decode(url.username()),
            password: percent_decode(url.password().unwrap_or_default()),
        })
    }

    /// As `Authorization` has it (RFC 7617).
    fn basic(&self) -> HeaderValue {
        let pair = [&self.user[..], b":", &self.password].concat();
        let encoded = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let mut value = HeaderValue::from_str(&encoded).expect("base64 is visible ASCII");
        value.set_sensitive(true);
        value
    }
}

/// The userinfo of a URL as Basic credentials (RFC 7617).
pub(super) fn basic(url: &Url) -> Option<HeaderValue> {
    Credential::of(url).map(|credential| credential.basic())
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

/// An error of TLS with the proxy, told apart from one with the target.
pub(super) fn insecure(proxy: &Proxy, error: Error) -> Error {
    let kind = match error.kind() {
        _ if error.is_local() => return error,
        ErrorKind::TimeoutTls => ErrorKind::TimeoutProxy,
        _ => ErrorKind::ProxyTls,
    };
    Error::new(kind, format!("speak TLS with the proxy {}", proxy.shown())).with_source(error)
}

/// Asks the proxy for a tunnel to `host`.
pub(super) async fn open_tunnel(
    io: Box<dyn Io>,
    proxy: &Proxy,
    host: Host<&str>,
    port: u16,
) -> Result<Box<dyn Io>, Error> {
    match proxy.scheme {
        Scheme::Http | Scheme::Https => handshake::run(io, Connect::new(proxy, &host, port), proxy).await,
        Scheme::Socks4a => handshake::run(io, Socks4::new(proxy, &host, port)?, proxy).await,
        Scheme::Socks5 | Scheme::Socks5h => handshake::run(io, Socks5::new(proxy, &host, port)?, proxy).await,
    }
}

/// No tunnel came of it.
fn broken(kind: ErrorKind, proxy: &Proxy, what: &str) -> Error {
    Error::new(kind, format!("open a tunnel through {}: {what}", proxy.shown))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let long = format!("socks5://u:{}@p.test", "secret".repeat(50));
        for (text, shown) in [
            ("socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
            ("socks5h://u:p@P.test:9", "socks5h://p.test:9"),
            ("socks4a://u@[::1]", "socks4a://[::1]:1080"),
        ] {
            let proxy = Proxy::parse(text).expect(text);
            assert_eq!((&**proxy.shown(), proxy.authorization()), (shown, None));
            assert!(
                !matches!(proxy.host(), Host::Domain(name) if name.starts_with("127")),
                "an address is read as one"
            );
        }
        assert_eq!(Proxy::parse("https://p.test").is_ok(), cfg!(feature = "tls"));
        for bad in
            ["ftp://u:secret@p.test:1080", "nonsense", "http://", "socks5://", "socks4a://u:secret@p.test", &long]
        {
            let error = Proxy::parse(bad).expect_err("not supported");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(!error.to_string().contains("secret"));
        }
    }
}
