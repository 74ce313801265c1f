//! [`Identity`]: who a server says it is.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::NoServerSessionStorage;

/// A certificate of its own making, for `localhost` and the addresses.
pub(crate) struct Identity {
    pub(crate) pem: String,
    pub(crate) config: Arc<ServerConfig>,
}

impl Identity {
    /// Makes one whose TLS 1.3 handshakes give so many tickets; without them, nothing is resumed.
    pub(crate) fn make(addresses: impl IntoIterator<Item = IpAddr>, tickets: usize) -> io::Result<Self> {
        let names: Vec<_> =
            ["localhost".to_owned()].into_iter().chain(addresses.into_iter().map(|ip| ip.to_string())).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .map_err(io::Error::other)?;
        config.send_tls13_tickets = tickets;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if tickets > 0 {
            // Stateless: the client keeps what is resumed.
            config.ticketer = ring::Ticketer::new().map_err(io::Error::other)?;
        }
        Ok(Self { pem: cert.pem(), config: Arc::new(config) })
    }
}
