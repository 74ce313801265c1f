//! A TLS server on a thread, with a certificate of its own.

use std::io;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Peer, Server};

/// The stream of one connection.
pub(crate) type TlsPeer = StreamOwned<ServerConnection, std::net::TcpStream>;

/// When the certificates of [`server`] end.
pub(crate) const NOT_AFTER: (i32, u8, u8) = (2035, 1, 2);

/// A server for `name`, and its certificate in PEM. Closing sends no `close_notify` unless `serve` does.
pub(crate) fn server(
    name: &str,
    serve: impl Fn(&mut TlsPeer) -> io::Result<()> + Send + Sync + 'static,
) -> (Server, String) {
    certified(name, NOT_AFTER, rustls::DEFAULT_VERSIONS, serve)
}

/// As [`server`], with an end of the certificate and versions of the protocol.
pub(crate) fn certified(
    name: &str,
    (year, month, day): (i32, u8, u8),
    versions: &[&'static rustls::SupportedProtocolVersion],
    serve: impl Fn(&mut TlsPeer) -> io::Result<()> + Send + Sync + 'static,
) -> (Server, String) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a valid name");
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let pem = certificate.pem();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions that ring has")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("a key that fits");
    let config = Arc::new(config);
    let server = Server::start(move |peer: &mut Peer| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, peer.stream.try_clone()?);
        serve(&mut stream)
    });
    (server, pem)
}
