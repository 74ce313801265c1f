//! [`Certified`]: a TLS server with a certificate of its own making.

use std::sync::{Arc, OnceLock};

use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A TLS server for the name [`Certified::NAME`], whose certificate is made once a process. It is valid from 1975 to 4096.
/// Clients judge that by the clock of the system, also those in a simulated world: rustls reads no other.
///
/// ```
/// use tidegate::conformance::{Certified, Script, Step};
/// let server = Certified::new();
/// assert!(server.root_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// let script = Script::new([Step::Secure(server), Step::ReadHead, Step::write("HTTP/1.1 204 No Content\r\n\r\n")]);
/// ```
#[derive(Clone)]
pub struct Certified(Arc<Made>);

struct Made {
    config: Arc<ServerConfig>,
    pem: String,
}

impl Certified {
    /// The name in the certificate.
    pub const NAME: &'static str = "conformance.test";

    /// The server.
    #[expect(clippy::new_without_default, reason = "making a key is no default")]
    pub fn new() -> Self {
        static MADE: OnceLock<Certified> = OnceLock::new();
        MADE.get_or_init(|| Self(Arc::new(Made::new()))).clone()
    }

    /// The certificate, which clients are to trust.
    pub fn root_pem(&self) -> &str {
        &self.0.pem
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.config)
    }
}

impl Made {
    fn new() -> Self {
        let params = rcgen::CertificateParams::new([Certified::NAME.to_owned()]).expect("a valid name");
        let key = rcgen::KeyPair::generate().expect("the system has randomness");
        let certificate = params.self_signed(&key).expect("a key that can sign");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("the key is that of the certificate");
        Self { config: Arc::new(config), pem: certificate.pem() }
    }
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certified")
    }
}
