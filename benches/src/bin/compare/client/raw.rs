//! The floor: one loop over epoll, and a parser that knows the load server and nobody else. What it costs is what the kernel
//! costs.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tidegate_benches::now;

use super::roots;
use super::workers::{PACE, due};
use crate::Failure;
use crate::meter::{self, Meter};
use crate::work::Work;

const EVENTS: usize = 1024;
/// What all connections read into.
const BUFFER: usize = 64 * 1024;
/// The copy out of the kernel costs more at an unlucky offset.
const PAGE: usize = 4096;
/// Connections that are opened before the loop looks at its events again, so that the server's backlog does not run over.
const DIALS: u32 = 64;

struct Raw<'a> {
    work: &'a Work,
    requests: Vec<Vec<u8>>,
    tls: Option<Arc<ClientConfig>>,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connections without a request.
    idle: Vec<usize>,
    started: u64,
    ended: u64,
    meter: Meter,
    begun: Instant,
}

struct Connection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    since: Instant,
    /// Whether it has no request.
    idle: bool,
    request: usize,
    /// Bytes of the request that are written.
    written: usize,
    /// A head that has come in part.
    head: Vec<u8>,
    /// What is to come of the body, once the head has.
    left: Option<usize>,
    body: usize,
}

/// Does the work on this thread, and reports.
pub(super) fn run(work: &Work) -> Result<(), Failure> {
    if work.dripping > 0 {
        return Err("the floor has no timers to drip with".into());
    }
    let urls = work.urls();
    let requests = urls.iter().enumerate().map(|(n, url)| {
        let address = work.address(n as u64);
        let path = url.split_once(&address.to_string()).map_or("/", |(_, path)| path);
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
    });
    let requests = requests.collect();
    let tls = work.certificate.is_some().then(|| roots::config(work).map(Arc::new)).transpose()?;
    let poll = Poll::new()?;
    let (connections, idle) = (Vec::with_capacity(work.concurrency as usize), Vec::new());
    let meter = Meter::begin()?;
    let mut raw = Raw { work, requests, tls, poll, connections, idle, started: 0, ended: 0, meter, begun: now() };
    raw.run()?;
    let measured = raw.meter.end();
    // Nothing is left to do, but the connections are still there.
    std::thread::park_timeout(Duration::from_millis(work.settle_ms));
    Ok(meter::report(measured)?)
}

impl Raw<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let room = vec![0; BUFFER + PAGE];
        let aligned = room.as_ptr().align_offset(PAGE);
        let mut room = room;
        let buffer = &mut room[aligned..aligned + BUFFER];
        let mut events = Events::with_capacity(EVENTS);
        while self.ended < self.work.requests {
            let more = self.start_some(buffer);
            let wait = if more { Some(Duration::ZERO) } else { self.work.rate.map(|_| PACE) };
            self.poll.poll(&mut events, wait)?;
            for event in &events {
                self.go_on(event.token().0, buffer);
            }
        }
        Ok(())
    }

    /// Starts what is due; gives whether something still is.
    fn start_some(&mut self, buffer: &mut [u8]) -> bool {
        let rate = self.work.rate.map_or(u64::MAX, |rate| due(now().saturating_duration_since(self.begun), rate));
        let due = rate.min(self.work.requests);
        for _ in 0..DIALS {
            if self.started >= due {
                return false;
            }
            match self.idle.pop() {
                Some(place) => self.start(place, buffer),
                None if self.connections.len() < self.work.concurrency as usize => self.open(),
                None => return false,
            }
        }
        true
    }

    /// A request on a connection of its own.
    fn open(&mut self) {
        let (place, n) = (self.connections.len(), self.started);
        self.started += 1;
        match self.connect(n, place) {
            Ok(connection) => self.connections.push(connection),
            Err(e) => self.fail(&e),
        }
    }

    fn connect(&self, n: u64, place: usize) -> Result<Connection, Failure> {
        let address = self.work.address(n);
        let since = now();
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        self.poll.registry().register(&mut socket, Token(place), Interest::READABLE | Interest::WRITABLE)?;
        let tls = match &self.tls {
            None => None,
            Some(config) => {
                let name = ServerName::from(address.ip());
                Some(Box::new(ClientConnection::new(Arc::clone(config), name)?))
            }
        };
        let request = n as usize % self.requests.len();
        Ok(Connection { socket, tls, since, idle: false, request, written: 0, head: Vec::new(), left: None, body: 0 })
    }

    /// The next request on a connection that has had its answer.
    fn start(&mut self, place: usize, buffer: &mut [u8]) {
        let n = self.started;
        self.started += 1;
        if self.work.fresh {
            match self.connect(n, place) {
                Ok(connection) => self.connections[place] = connection,
                Err(e) => self.fail(&e),
            }
            return;
        }
        let connection = &mut self.connections[place];
        // It stays with its address, as a pool does.
        connection.since = now();
        connection.written = 0;
        connection.idle = false;
        self.go_on(place, buffer);
    }

    fn fail(&mut self, why: &Failure) {
        self.ended += 1;
        self.meter.failed(why);
    }

    fn go_on(&mut self, place: usize, buffer: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if connection.idle {
            return;
        }
        match connection.go_on(&self.requests[connection.request], buffer) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                self.meter.answered(connection.since, bytes);
                connection.idle = true;
                self.ended += 1;
                if self.work.rate.is_none() && self.started < self.work.requests {
                    self.start(place, buffer);
                } else {
                    self.idle.push(place);
                }
            }
            Err(e) => {
                connection.idle = true;
                self.fail(&e.into());
            }
        }
    }
}

impl Connection {
    /// Writes and reads as far as it goes; gives the length of the body when all of it has come.
    fn go_on(&mut self, request: &[u8], buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.tls.is_some() {
            return self.go_on_with_tls(request, buffer);
        }
        if self.written < request.len() {
            match self.socket.write(&request[self.written..]) {
                Ok(count) => self.written += count,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
            // Nothing can have come yet.
            return Ok(None);
        }
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    if let Some(length) = self.take(&buffer[..count])? {
                        return Ok(Some(length));
                    }
                    if count < buffer.len() {
                        return Ok(None);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    fn go_on_with_tls(&mut self, request: &[u8], buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(mut tls) = self.tls.take() else { return Ok(None) };
        let answer = self.speak(&mut tls, request, buffer);
        self.tls = Some(tls);
        answer
    }

    fn speak(&mut self, tls: &mut ClientConnection, request: &[u8], buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            if self.written < request.len() && !tls.is_handshaking() {
                self.written += tls.writer().write(&request[self.written..])?;
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                        return Ok(None);
                    }
                    Err(e) => return Err(e),
                }
            }
            match tls.reader().read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    if let Some(length) = self.take(&buffer[..count])? {
                        return Ok(Some(length));
                    }
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Bytes of an answer; gives the length of its body with the last of them.
    fn take(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let left = match self.left {
            Some(left) => left.checked_sub(bytes.len()),
            None if self.head.is_empty() => match length_and_start(bytes)? {
                Some((length, start)) => {
                    self.body = length;
                    length.checked_sub(bytes.len() - start)
                }
                None => {
                    self.head.extend_from_slice(bytes);
                    return Ok(None);
                }
            },
            None => {
                let mut head = std::mem::take(&mut self.head);
                head.extend_from_slice(bytes);
                return self.take(&head);
            }
        };
        match left {
            None => Err(io::ErrorKind::InvalidData.into()),
            Some(0) => {
                self.left = None;
                Ok(Some(self.body))
            }
            left => {
                self.left = left;
                Ok(None)
            }
        }
    }
}

/// The length of the body and where it begins, where the head is whole.
fn length_and_start(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    const LENGTH: &[u8] = b"Content-Length: ";
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    let at = head.windows(LENGTH.len()).position(|part| part == LENGTH).ok_or(io::ErrorKind::InvalidData)?;
    let digits = head[at + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let length =
        digits.fold(0_usize, |length, digit| length.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    Ok(Some((length, end + 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_the_load_server_is_understood() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n";
        assert_eq!(length_and_start(head).expect("a length"), Some((1024, head.len())));
        assert_eq!(length_and_start(&head[..head.len() - 1]).expect("no error"), None);
        assert!(length_and_start(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
