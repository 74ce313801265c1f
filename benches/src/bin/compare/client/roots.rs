//! The certificate of the load server, as rustls wants it.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::Failure;
use crate::work::Work;

/// A configuration that trusts the server of the work and nobody else.
pub(super) fn config(work: &Work) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = work.pem()? {
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
