//! TLS by rustls and ring, driven over the seam's [`Io`]: [`Config`], and no type of rustls in public.

mod expiry;
mod sessions;
mod stream;
mod verify;

use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use url::Host;

pub(crate) use self::sessions::Scope;
use self::sessions::Scoped;
pub(crate) use self::stream::TlsStream;
use self::verify::Verifier;
use crate::rt::Io;
use crate::{Error, ErrorKind};

/// Sessions that are kept for resumption: 4,096. rustls' default keeps 256 names, far too few for a crawl.
const SESSIONS: usize = 4096;

/// The name of HTTP/2 over TLS (RFC 9113, 3.2).
const HTTP2: &[u8] = b"h2";

/// How servers are verified, and how many sessions are remembered. Clones share the session cache, of which a session is resumed
/// with the same host and port alone, and by way of the same proxy with the same credential.
///
/// TLS 1.2 and 1.3, the Mozilla roots, ALPN `http/1.1` and to origins `h2` before it; with the feature `native-roots` those of the system too.
///
/// ```
/// let config = tidegate::tls::Config::builder().session_cache(10_000).build()?;
/// # let _ = config;
/// # Ok::<(), tidegate::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    client: Arc<ClientConfig>,
    sessions: Arc<ClientSessionMemoryCache>,
}

impl Config {
    /// Begins with the Mozilla roots and a session cache of 4,096.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder {
            pems: Vec::new(),
            only_added: false,
            insecure: false,
            identity: None,
            pins: Vec::new(),
            tls13_only: false,
            sni: true,
            sessions: SESSIONS,
        }
    }

    /// The same, which offers HTTP/2 before HTTP/1.1 (RFC 7301); the session cache is shared.
    pub(crate) fn offering_http2(&self) -> Self {
        let mut client = ClientConfig::clone(&self.client);
        client.alpn_protocols.insert(0, HTTP2.to_vec());
        Self { client: Arc::new(client), ..self.clone() }
    }

    /// Shakes hands with `host` over `io`, and may resume a session of this scope. The caller bounds the time.
    pub(crate) async fn connect(
        &self,
        host: &Host<&str>,
        scope: Scope<'_>,
        io: Box<dyn Io>,
    ) -> Result<TlsStream, Error> {
        let name = match *host {
            Host::Domain(domain) => ServerName::try_from(domain.strip_suffix('.').unwrap_or(domain).to_owned())
                .map_err(|e| Error::new(ErrorKind::TlsCertificate, format!("name {host} in TLS")).with_source(e))?,
            Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(ip)),
            Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(ip)),
        };
        let mut client = ClientConfig::clone(&self.client);
        if let Some(sessions) = Scoped::new(&self.sessions, &name, scope) {
            client.resumption = Resumption::store(Arc::new(sessions));
        }
        let connection = ClientConnection::new(Arc::new(client), name).map_err(|e| handshake_error(e, host))?;
        TlsStream::handshake(Box::new(connection), io, host).await
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Builds a [`Config`].
///
/// ```
/// // For a test server with a certificate of its own making.
/// let config = tidegate::tls::Config::builder().insecure().build()?;
/// # let _ = config;
/// # Ok::<(), tidegate::Error>(())
/// ```
#[derive(Clone)]
pub struct ConfigBuilder {
    pems: Vec<Vec<u8>>,
    only_added: bool,
    insecure: bool,
    identity: Option<Vec<u8>>,
    pins: Vec<[u8; 32]>,
    tls13_only: bool,
    sni: bool,
    sessions: usize,
}

impl std::fmt::Debug for ConfigBuilder {
    /// Without the private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigBuilder").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}

impl ConfigBuilder {
    /// Trusts the certificates of this PEM text too.
    ///
    /// ```
    /// assert!(tidegate::tls::Config::builder().add_root_pem("no certificate").build().is_err());
    /// ```
    #[must_use]
    pub fn add_root_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.pems.push(pem.into());
        self
    }

    /// Trusts no other roots than those that were added.
    ///
    /// ```
    /// // Without any there is nobody to trust.
    /// assert!(tidegate::tls::Config::builder().only_added_roots().build().is_err());
    /// ```
    #[must_use]
    pub fn only_added_roots(mut self) -> Self {
        self.only_added = true;
        self
    }

    /// Shows servers that ask for it a certificate: a PEM text with the chain, the own one first, and its private key.
    ///
    /// ```
    /// let nothing = tidegate::tls::Config::builder().identity_pem("no certificate").build();
    /// assert!(nothing.is_err());
    /// ```
    #[must_use]
    pub fn identity_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.identity = Some(pem.into());
        self
    }

    /// Asks for a server with this key, or with one of those that were named before, beside all else: the SHA-256 of its
    /// SubjectPublicKeyInfo (RFC 7469, 2.4). With [`insecure`](Self::insecure) it is the key alone that counts.
    ///
    /// ```
    /// let config = tidegate::tls::Config::builder().pin_sha256([7; 32]).build()?;
    /// # let _ = config;
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    #[must_use]
    pub fn pin_sha256(mut self, key: [u8; 32]) -> Self {
        self.pins.push(key);
        self
    }

    /// Speaks TLS 1.3 alone.
    ///
    /// ```
    /// let config = tidegate::tls::Config::builder().tls13_only().build()?;
    /// # let _ = config;
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    #[must_use]
    pub fn tls13_only(mut self) -> Self {
        self.tls13_only = true;
        self
    }

    /// Whether the server is told in the clear which name is wanted (RFC 6066, 3); on. Servers with several certificates need it.
    ///
    /// ```
    /// let config = tidegate::tls::Config::builder().sni(false).build()?;
    /// # let _ = config;
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    #[must_use]
    pub fn sni(mut self, sni: bool) -> Self {
        self.sni = sni;
        self
    }

    /// Accepts any certificate, for any name and time: anybody on the way can read and change what is sent.
    ///
    /// ```
    /// let config = tidegate::tls::Config::builder().insecure().build()?;
    /// # let _ = config;
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sessions that are kept for resumption; 4,096.
    ///
    /// ```
    /// let config = tidegate::tls::Config::builder().session_cache(100).build()?;
    /// # let _ = config;
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    #[must_use]
    pub fn session_cache(mut self, sessions: usize) -> Self {
        self.sessions = sessions;
        self
    }

    /// Makes the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] where a PEM text has no certificate or one that cannot be read, where an identity has no key
    /// or one that is not of its certificate, and where nobody is trusted.
    pub fn build(self) -> Result<Config, Error> {
        let Self { pems, only_added, insecure, identity, pins, tls13_only, sni, sessions } = self;
        let invalid = |what: &str| Error::new(ErrorKind::ConfigInvalid, what);
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        if !only_added {
            roots.roots.extend_from_slice(webpki_roots::TLS_SERVER_ROOTS);
            #[cfg(feature = "native-roots")]
            {
                // What cannot be read of the system's store is left out, as everybody does.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        for pem in &pems {
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| invalid("read a root certificate").with_source(e))?;
                roots.add(certificate).map_err(|e| invalid("trust a root certificate").with_source(e))?;
            }
            if roots.len() == before {
                return Err(invalid("find a root certificate in a PEM text"));
            }
        }
        let roots = if insecure {
            None
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            Some(verifier.map_err(|e| invalid("verify servers without a root that is trusted").with_source(e))?)
        };
        let verifier = Arc::new(Verifier { provider: Arc::clone(&provider), roots, pins });
        let versions = if tls13_only { &[&TLS13][..] } else { &[&TLS13, &TLS12] };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|e| invalid("set up TLS").with_source(e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut client = match identity {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let chain = CertificateDer::pem_slice_iter(&pem)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| invalid("read the certificates of an identity").with_source(e))?;
                let key = PrivateKeyDer::from_pem_slice(&pem)
                    .map_err(|e| invalid("read the private key of an identity").with_source(e))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| invalid("use an identity: its key and certificate").with_source(e))?
            }
        };
        client.enable_sni = sni;
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Those of each connection are of its scope.
        client.resumption = Resumption::disabled();
        Ok(Config { client: Arc::new(client), sessions: Arc::new(ClientSessionMemoryCache::new(sessions)) })
    }
}

/// Gives an error of rustls its kind.
fn handshake_error(error: rustls::Error, host: &Host<&str>) -> Error {
    use rustls::Error as Tls;
    let kind = match error {
        Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented | Tls::UnsupportedNameType => {
            ErrorKind::TlsCertificate
        }
        Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => ErrorKind::TlsNotTls,
        _ => ErrorKind::TlsHandshake,
    };
    Error::new(kind, format!("shake hands over TLS with {host}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_read_from_pem() {
        for bad in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let error = Config::builder().add_root_pem(bad).build().expect_err("no certificate");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{bad:?}");
        }
    }
}
