//! [`Transport`]: a connection that was accepted, with TLS or without.

use std::io::{self, IoSlice, Read as _, Write as _};

use mio::net::TcpStream;
use rustls::ServerConnection;

use super::outgoing::Outgoing;

/// Whether a socket has taken or given all there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// There may be more at once.
    On,
    /// The socket says when it goes on.
    Blocked,
}

/// Without TLS, the socket alone.
pub(crate) struct Transport {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<Box<ServerConnection>>,
}

impl Transport {
    /// Reads once into `buffer`: what came, 0 at the end, and `None` where nothing has come.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else { return unless_blocked(self.socket.read(buffer)) };
        loop {
            if let Some(count) = unless_blocked(tls.reader().read(buffer))? {
                return Ok(Some(count));
            }
            match unless_blocked(tls.read_tls(&mut self.socket))? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(_) => {}
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            // Its part of the handshake, and tickets.
            while tls.wants_write() && unless_blocked(tls.write_tls(&mut self.socket))?.is_some() {}
        }
    }

    /// Writes as much as the socket takes.
    pub(crate) fn write(&mut self, outgoing: &mut Outgoing, piece: &[u8]) -> io::Result<Flow> {
        loop {
            let parts = outgoing.parts(piece).map(IoSlice::new);
            let written = match &mut self.tls {
                None if outgoing.is_empty() => return Ok(Flow::On),
                None => unless_blocked(self.socket.write_vectored(&parts))?,
                Some(tls) if tls.wants_write() => {
                    if unless_blocked(tls.write_tls(&mut self.socket))?.is_none() {
                        return Ok(Flow::Blocked);
                    }
                    continue;
                }
                Some(_) if outgoing.is_empty() => return Ok(Flow::On),
                Some(tls) => Some(tls.writer().write_vectored(&parts)?),
            };
            match written {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(count) => outgoing.advance(count, piece),
                None => return Ok(Flow::Blocked),
            }
        }
    }
}

/// `None` for what would block.
fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}
