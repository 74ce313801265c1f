//! [`Connection`]: what a server keeps for each, which is little.

use std::io;

use super::outgoing::Outgoing;
use super::site::{Page, Site};
use super::transport::{Flow, Transport};
use crate::request::{LONGEST, Method, Scan, scan};

/// A connection, never given to another one: its place in the table, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) place: u32,
    pub(crate) number: u32,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Waiting for a request, or writing an answer.
    Serving,
    /// An answer is held back.
    Held { slot: bool, head_only: bool },
    /// An answer stands in line for a slot.
    InLine { head_only: bool },
    /// An answer waits at the gate.
    AtGate { head_only: bool },
    /// Bytes of a body that are still to come one by one.
    Dripping { left: u64 },
    /// The head of an answer to CONNECT is to go on from here, byte by byte.
    Connecting { at: usize },
}

pub(crate) struct Connection {
    pub(crate) id: Id,
    pub(crate) transport: Transport,
    pub(crate) doing: Doing,
    pub(crate) outgoing: Outgoing,
    /// Whether it ends with this answer.
    pub(crate) last: bool,
    /// Whether TLS is still a guess: a request may come without.
    pub(crate) unsure: bool,
    /// Whether the socket had no more to give when it was read last: a short read says so, and spares another one.
    pub(crate) drained: bool,
    /// Whether the peer has said goodbye; a short read then says nothing.
    pub(crate) ending: bool,
    /// What has been read and not been understood yet; a whole request leaves nothing.
    pub(crate) unread: Vec<u8>,
}

/// A request, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) wanted: Wanted,
    pub(crate) head_only: bool,
    pub(crate) last: bool,
}

/// What a target asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Usual,
    Page(Page),
    Delayed { ms: u32 },
    Bytes(u64),
    Drip(u64),
    Tunnel,
    Gate,
    Release,
    Stats,
}

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 22;

impl Connection {
    /// The next request, where a whole one has come. An error, also that of the peer's goodbye, ends the connection.
    pub(crate) fn next_request(&mut self, buffer: &mut [u8], site: &Site) -> io::Result<Option<Asked>> {
        loop {
            if let Some((length, asked)) = understand(&self.unread, site)? {
                self.unread.drain(..length);
                return Ok(Some(asked));
            }
            if self.unsure {
                match self.transport.socket.peek(&mut buffer[..1]) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    peeked => drop(peeked?),
                }
                self.unsure = false;
                if buffer[0] != HANDSHAKE {
                    self.transport.tls = None;
                }
            }
            let Some(count) = self.read(buffer)? else { return Ok(None) };
            let bytes = &buffer[..count];
            if self.unread.is_empty() {
                // The usual case: one request in one piece, which is never copied.
                match understand(bytes, site)? {
                    Some((length, asked)) => {
                        self.unread.extend_from_slice(&bytes[length..]);
                        return Ok(Some(asked));
                    }
                    None => self.unread.extend_from_slice(bytes),
                }
            } else {
                self.unread.extend_from_slice(bytes);
            }
        }
    }

    /// Reads what comes while an answer is held back, so that a goodbye is seen.
    pub(crate) fn read_ahead(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(count) = self.read(buffer)? {
            if self.unread.len() + count > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.unread.extend_from_slice(&buffer[..count]);
        }
        Ok(())
    }

    /// What came; `None` where nothing has.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.drained {
            return Ok(None);
        }
        let read = self.transport.read(buffer)?;
        self.drained = match read {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(count) => self.transport.tls.is_none() && !self.ending && count < buffer.len(),
            None => true,
        };
        Ok(read)
    }

    /// Writes on. An error, also that of the last answer's end, ends the connection.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<Flow> {
        let flow = self.transport.write(&mut self.outgoing, piece)?;
        if flow == Flow::On {
            // Its bytes are shared, but a slot of the table is large enough without them.
            self.outgoing = Outgoing::default();
            if self.last && self.doing == Doing::Serving {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(flow)
    }
}

/// The request at the start of `bytes`, and its length.
fn understand(bytes: &[u8], site: &Site) -> io::Result<Option<(usize, Asked)>> {
    match scan(bytes) {
        Scan::Request { length, method, last, target } => {
            let wanted = if method == Method::Connect { Wanted::Tunnel } else { wanted(target, site) };
            Ok(Some((length, Asked { wanted, head_only: method == Method::Head, last })))
        }
        Scan::Partial => Ok(None),
        Scan::Bad => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn wanted(target: &str, site: &Site) -> Wanted {
    let number = |start: &str| target.strip_prefix(start)?.parse::<u64>().ok();
    if let Some(n) = number("/bytes/") {
        Wanted::Bytes(n)
    } else if let Some(ms) = number("/delay/").and_then(|ms| u32::try_from(ms).ok()) {
        Wanted::Delayed { ms }
    } else if let Some(n) = number("/drip/") {
        Wanted::Drip(n)
    } else if target.starts_with("/gate") {
        Wanted::Gate
    } else if target == "/release" {
        Wanted::Release
    } else if target == "/stats" {
        Wanted::Stats
    } else {
        site.answer(target).map_or(Wanted::Usual, Wanted::Page)
    }
}
