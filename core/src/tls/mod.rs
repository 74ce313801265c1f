//! TLS by rustls and ring, driven over the seam's [`Io`]: [`Config`], and no type of rustls in public.

mod expiry;
mod stream;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use url::Host;

pub(crate) use self::stream::TlsStream;
use crate::rt::Io;
use crate::{Error, ErrorKind};

/// Sessions that are kept for resumption: 4,096. rustls' default keeps 256 names, far too few for a crawl.
const SESSIONS: usize = 4096;

/// How servers are verified, and how many sessions are remembered. Clones share the session cache.
///
/// TLS 1.2 and 1.3, ALPN `http/1.1`, the Mozilla roots; with the feature `native-roots` those of the system too.
///
/// ```
/// let config = tidegate::tls::Config::builder().session_cache(10_000).build()?;
/// # let _ = config;
/// # Ok::<(), tidegate::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    client: Arc<ClientConfig>,
}

impl Config {
    /// Begins with the Mozilla roots and a session cache of 4,096.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder { pems: Vec::new(), insecure: false, sessions: SESSIONS }
    }

    /// Shakes hands with `host` over `io`. The caller bounds the time.
    pub(crate) async fn connect(&self, host: &Host<&str>, io: Box<dyn Io>) -> Result<TlsStream, Error> {
        let name = match *host {
            Host::Domain(domain) => ServerName::try_from(domain.strip_suffix('.').unwrap_or(domain).to_owned())
                .map_err(|e| Error::new(ErrorKind::TlsCertificate, format!("name {host} in TLS")).with_source(e))?,
            Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(ip)),
            Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(ip)),
        };
        let connection = ClientConnection::new(Arc::clone(&self.client), name).map_err(|e| handshake_error(e, host))?;
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
#[derive(Clone, Debug)]
pub struct ConfigBuilder {
    pems: Vec<Vec<u8>>,
    insecure: bool,
    sessions: usize,
}

impl ConfigBuilder {
    /// Trusts the certificates of this PEM text too.
    #[must_use]
    pub fn add_root_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.pems.push(pem.into());
        self
    }

    /// Accepts any certificate, for any name and time: anybody on the way can read and change what is sent.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sessions that are kept for resumption; 4,096.
    #[must_use]
    pub fn session_cache(mut self, sessions: usize) -> Self {
        self.sessions = sessions;
        self
    }

    /// Makes the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] where a PEM text has no certificate or one that cannot be read.
    pub fn build(self) -> Result<Config, Error> {
        let Self { pems, insecure, sessions } = self;
        let invalid = |what: &str| Error::new(ErrorKind::ConfigInvalid, what);
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        #[cfg(feature = "native-roots")]
        {
            // What cannot be read of the system's store is left out, as everybody does.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
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
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid("set up TLS").with_source(e))?;
        let mut client = if insecure {
            let verifier = Arc::new(AcceptAny(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        } else {
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        client.resumption = Resumption::in_memory_sessions(sessions);
        Ok(Config { client: Arc::new(client) })
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

/// Accepts every certificate, but still checks that the server has its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
