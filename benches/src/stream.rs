//! What the server needs of a connection, over TCP and over TLS.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::server::TlsStream;

/// Room for a request; almost all fit, so that a waiting connection is small.
const ROOM: usize = 512;

/// A connection that was accepted.
pub(crate) trait Stream: Send {
    /// Reads what is there, and waits where there is nothing; 0 at the end.
    fn read(&mut self, bytes: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>> + Send;

    /// Writes `head`, then `length` bytes made of `piece` again and again.
    fn write(&mut self, head: &[u8], length: u64, piece: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

impl Stream for TcpStream {
    async fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            self.readable().await?;
            bytes.reserve(ROOM);
            match self.try_read_buf(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    async fn write(&mut self, mut head: &[u8], mut length: u64, piece: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while !head.is_empty() || length > 0 {
            let body = part(&piece[at..], length);
            match self.try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    let of_head = written.min(head.len());
                    head = &head[of_head..];
                    length -= (written - of_head) as u64;
                    at += written - of_head;
                    if at == piece.len() {
                        at = 0;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Stream for TlsStream<TcpStream> {
    async fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        bytes.reserve(ROOM);
        self.read_buf(bytes).await
    }

    async fn write(&mut self, head: &[u8], mut length: u64, piece: &[u8]) -> io::Result<()> {
        self.write_all(head).await?;
        while length > 0 {
            let body = part(piece, length);
            self.write_all(body).await?;
            length -= body.len() as u64;
        }
        self.flush().await
    }
}

fn part(piece: &[u8], length: u64) -> &[u8] {
    &piece[..piece.len().min(usize::try_from(length).unwrap_or(usize::MAX))]
}

/// Who a server says it is: a certificate of its own making, for `localhost` and `127.0.0.1`.
pub(crate) struct Identity {
    pub(crate) pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

impl Identity {
    /// Every handshake with it is a full one: nothing is resumed.
    pub(crate) fn make() -> io::Result<Self> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .map_err(io::Error::other)?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { pem: cert.pem(), acceptor: Arc::new(config).into() })
    }
}
