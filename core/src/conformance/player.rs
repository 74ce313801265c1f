//! [`Player`]: the steps of one connection as a state machine, without I/O; and its player over any [`Io`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use hyper::rt::ReadBuf;

use super::{Outcome, Signal, Step};
use crate::rt::Io;

/// What is to be done next on a connection.
///
/// ```
/// use std::io::{self, Read, Write};
///
/// use tidegate::conformance::{Op, Player};
///
/// /// Does one, without waiting for signals.
/// fn done(op: Op, player: &mut Player, socket: &mut (impl Read + Write)) -> io::Result<()> {
///     match op {
///         Op::Read(most) => {
///             let mut bytes = vec![0; most];
///             let read = socket.read(&mut bytes)?;
///             player.received(&bytes[..read]);
///         }
///         Op::Write(bytes) => socket.write_all(&bytes)?,
///         _ => {}
///     }
///     Ok(())
/// }
///
/// let mut player = Player::new(vec![tidegate::conformance::Step::write("hello")]);
/// let mut sent = io::Cursor::new(Vec::new());
/// let op = player.poll();
/// done(op, &mut player, &mut sent)?;
/// assert_eq!(sent.into_inner(), b"hello");
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Op {
    /// Read at most this many bytes, and give them to [`Player::received`]; at the end of the stream, none.
    Read(usize),
    /// Write all of these.
    Write(Bytes),
    /// Wait for the signal.
    Wait(Signal),
    /// Let others run.
    GiveWay,
    /// End the direction to the client.
    Shutdown,
    /// Close the connection, and go on.
    Close,
    /// Reset the connection, and go on.
    Reset,
    /// Close the connection, where that was not done; tell the [outcome](Player::outcome).
    End,
}

/// Plays the steps of one connection: ask for the [next](Self::poll) operation, do it, ask again.
///
/// Nothing in here waits, reads a clock or knows a socket, so that every way to run it is the same server. What needs no
/// socket of the system has [`play`](Self::play).
///
/// ```
/// use tidegate::conformance::{Op, Player, Step};
///
/// let mut player = Player::new(vec![Step::Read(2), Step::write("hello")]);
/// assert!(matches!(player.poll(), Op::Read(_)));
/// player.received(b"hi");
/// assert!(matches!(player.poll(), Op::Write(bytes) if bytes == "hello"));
/// assert!(matches!(player.poll(), Op::End));
/// assert_eq!(player.outcome(0, ([127, 0, 0, 1], 1024).into()).received, b"hi");
/// ```
#[derive(Debug)]
pub struct Player {
    steps: VecDeque<Step>,
    /// Came, and no step took it yet.
    inbox: BytesMut,
    taken: Vec<u8>,
    outbox: VecDeque<Bytes>,
    /// Nothing more comes.
    ended: bool,
    gave_way: bool,
    error: Option<io::Error>,
    #[cfg(feature = "tls")]
    tls: Option<Box<rustls::ServerConnection>>,
    /// `close_notify` was sent.
    #[cfg(feature = "tls")]
    notified: bool,
}

/// Bytes that are asked for at a time.
const READ: usize = 16 << 10;

impl Player {
    /// Begins with the first of `steps`.
    pub fn new(steps: Vec<Step>) -> Self {
        Self {
            steps: steps.into(),
            inbox: BytesMut::new(),
            taken: Vec::new(),
            outbox: VecDeque::new(),
            ended: false,
            gave_way: true,
            error: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            notified: false,
        }
    }

    /// What is to be done now: an output, without a waker. Each operation is given once: it is done when this is called again.
    pub fn poll(&mut self) -> Op {
        loop {
            if let Some(bytes) = self.outbox.pop_front() {
                return Op::Write(bytes);
            }
            #[cfg(feature = "tls")]
            if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) && !self.ended {
                return Op::Read(READ);
            }
            let Some(step) = self.steps.pop_front() else { return Op::End };
            if let Some(op) = self.step(step) {
                return op;
            }
        }
    }

    /// Does a step, or a part of it: what is left of it is put back.
    fn step(&mut self, step: Step) -> Option<Op> {
        match step {
            Step::Read(bytes) if self.inbox.len() >= bytes => self.take(bytes),
            Step::ReadHead if self.head().is_some() => self.take(self.head().unwrap_or_default()),
            Step::Read(_) | Step::ReadHead => return self.more(step),
            Step::ReadToEnd => {
                self.take(self.inbox.len());
                return self.until_the_end(step);
            }
            Step::SlowRead(_) if !self.gave_way => {
                self.gave_way = true;
                self.steps.push_front(step);
                return Some(Op::GiveWay);
            }
            Step::SlowRead(most) => {
                self.take(self.inbox.len());
                self.gave_way = false;
                return self.until_the_end(step).map(|_| Op::Read(most));
            }
            Step::Echo => {
                let came = self.inbox.split().freeze();
                self.taken.extend_from_slice(&came);
                if !came.is_empty() {
                    self.steps.push_front(step);
                    self.send(came);
                    return None;
                }
                return self.until_the_end(step);
            }
            Step::Write(bytes) => self.send(bytes),
            Step::Drip(mut bytes) => {
                if !bytes.is_empty() {
                    self.send(bytes.split_to(1));
                    self.steps.push_front(Step::Drip(bytes));
                }
            }
            Step::Shutdown => {
                #[cfg(feature = "tls")]
                if let Some(tls) = self.tls.as_mut().filter(|_| !self.notified) {
                    tls.send_close_notify();
                    self.notified = true;
                    self.flush_tls();
                    // The record goes first.
                    self.steps.push_front(step);
                    return None;
                }
                return Some(Op::Shutdown);
            }
            Step::Close => {
                self.ended = true;
                return Some(Op::Close);
            }
            Step::Reset => {
                self.ended = true;
                return Some(Op::Reset);
            }
            Step::Raise(signal) => signal.raise(),
            Step::Wait(signal) => return Some(Op::Wait(signal)),
            Step::Repeat(steps) if steps.is_empty() => {}
            Step::Repeat(steps) => {
                self.steps.push_front(Step::Repeat(steps.clone()));
                steps.into_iter().rev().for_each(|step| self.steps.push_front(step));
            }
            #[cfg(feature = "tls")]
            Step::Secure(server) => match rustls::ServerConnection::new(server.config()) {
                Ok(tls) => self.tls = Some(Box::new(tls)),
                Err(error) => self.failed(io::Error::other(error)),
            },
        }
        None
    }

    /// Takes what was read; nothing is the end of the stream.
    pub fn received(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.ended = true;
            return;
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            if let Err(error) = self.decrypt(bytes) {
                self.failed(error);
            }
            return;
        }
        self.inbox.extend_from_slice(bytes);
    }

    /// An operation could not be done: the script ends.
    pub fn failed(&mut self, error: io::Error) {
        self.error = Some(error);
        self.ended = true;
        self.steps.clear();
        self.inbox.clear();
    }

    /// What came of the connection with `client`, which was number `connection`.
    pub fn outcome(self, connection: usize, client: SocketAddr) -> Outcome {
        Outcome { connection, client, received: self.taken, error: self.error }
    }

    /// Plays to the end over `io`, which is dropped where it is to be closed, and given to `reset` where it is to be reset.
    /// For simulated networks.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the script stands where it was.
    pub async fn play<I: Io>(&mut self, io: I, reset: impl FnOnce(I)) {
        let (mut io, mut reset) = (Some(io), Some(reset));
        loop {
            let op = self.poll();
            let Some(stream) = &mut io else {
                match op {
                    Op::Wait(signal) => signal.wait().await,
                    Op::End => return,
                    _ => {}
                }
                continue;
            };
            match op {
                Op::Read(most) => {
                    let mut raw = vec![0; most];
                    let mut buf = ReadBuf::new(&mut raw);
                    match poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, buf.unfilled())).await {
                        Ok(()) => self.received(buf.filled()),
                        Err(error) => self.failed(error),
                    }
                }
                Op::Write(mut bytes) => {
                    while !bytes.is_empty() {
                        match poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, &bytes)).await {
                            Ok(written) => drop(bytes.split_to(written)),
                            Err(error) => {
                                self.failed(error);
                                break;
                            }
                        }
                    }
                }
                Op::Wait(signal) => signal.wait().await,
                Op::GiveWay => give_way().await,
                Op::Shutdown => {
                    if let Err(error) = poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx)).await {
                        self.failed(error);
                    }
                }
                Op::Close => io = None,
                Op::Reset => {
                    if let (Some(reset), Some(io)) = (reset.take(), io.take()) {
                        reset(io);
                    }
                }
                Op::End => return,
            }
        }
    }

    fn take(&mut self, bytes: usize) {
        let taken = self.inbox.split_to(bytes);
        self.taken.extend_from_slice(&taken);
    }

    /// Length of the head that is there.
    fn head(&self) -> Option<usize> {
        self.inbox.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
    }

    /// Reads more for this step; at the end there is nothing left to do.
    fn more(&mut self, step: Step) -> Option<Op> {
        if self.ended {
            self.steps.clear();
            return None;
        }
        self.steps.push_front(step);
        Some(Op::Read(READ))
    }

    /// Reads more for this step, which the end completes.
    fn until_the_end(&mut self, step: Step) -> Option<Op> {
        if self.ended {
            return None;
        }
        self.steps.push_front(step);
        Some(Op::Read(READ))
    }

    fn send(&mut self, bytes: Bytes) {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            // rustls keeps 64 KiB at most that were not taken from it.
            for part in bytes.chunks(READ) {
                let tls = self.tls.as_mut().expect("looked at above");
                if let Err(error) = io::Write::write_all(&mut tls.writer(), part) {
                    return self.failed(error);
                }
                self.flush_tls();
            }
            return;
        }
        self.outbox.push_back(bytes);
    }

    #[cfg(feature = "tls")]
    fn decrypt(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut failed = None;
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            match tls.process_new_packets() {
                Ok(state) => {
                    let start = self.inbox.len();
                    self.inbox.resize(start + state.plaintext_bytes_to_read(), 0);
                    io::Read::read_exact(&mut tls.reader(), &mut self.inbox[start..])?;
                    self.ended |= state.peer_has_closed();
                }
                Err(error) => {
                    failed = Some(io::Error::other(error));
                    break;
                }
            }
        }
        // An alert too is to be sent.
        self.flush_tls();
        failed.map_or(Ok(()), Err)
    }

    #[cfg(feature = "tls")]
    fn flush_tls(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        let mut records = Vec::new();
        // Into memory it cannot fail.
        while tls.wants_write() && tls.write_tls(&mut records).is_ok() {}
        if !records.is_empty() {
            self.outbox.push_back(records.into());
        }
    }
}

async fn give_way() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays against a client that sends these parts and then ends; shows what the player does.
    fn played(steps: impl Into<Vec<Step>>, parts: &[&str]) -> (String, Vec<u8>) {
        let (mut player, mut parts, mut shown) = (Player::new(steps.into()), parts.iter(), String::new());
        loop {
            match player.poll() {
                Op::Read(_) => player.received(parts.next().map_or(&[], |part| part.as_bytes())),
                Op::Write(bytes) => shown += &format!("{} ", bytes.escape_ascii()),
                Op::Wait(signal) => signal.wait_blocking(),
                Op::GiveWay => shown += "~ ",
                Op::Shutdown => shown += "shutdown ",
                Op::Close => shown += "close ",
                Op::Reset => shown += "reset ",
                Op::End => break,
            }
        }
        (shown, player.outcome(0, ([127, 0, 0, 1], 1).into()).received)
    }

    #[test]
    fn steps_take_what_they_ask_for_however_it_is_cut() {
        let script = || [Step::Read(2), Step::write("A"), Step::ReadHead, Step::write("B"), Step::ReadToEnd];
        for parts in [&["xyG\r\n\r\nrest"][..], &["x", "yG\r", "\n", "\r\nre", "st"]] {
            assert_eq!(played(script(), parts), ("A B ".into(), b"xyG\r\n\r\nrest".to_vec()));
        }
    }

    #[test]
    fn the_end_of_the_client_ends_what_waits_for_bytes() {
        let repeat = Step::Repeat(vec![Step::Read(1), Step::write("A")]);
        assert_eq!(played([repeat], &["x", "yz"]), ("A A A ".into(), b"xyz".to_vec()));
        assert_eq!(played([Step::Read(3), Step::write("A")], &["xy"]), (String::new(), Vec::new()));
        assert_eq!(played([Step::ReadToEnd, Step::write("A")], &["x"]), ("A ".into(), b"x".to_vec()));
    }

    #[test]
    fn parts_are_sent_as_they_are() {
        assert_eq!(played([Step::Repeat(Vec::new()), Step::write("A")], &[]).0, "A ");
        assert_eq!(played([Step::drip("abc"), Step::Shutdown], &[]).0, "a b c shutdown ");
        assert_eq!(played([Step::Echo, Step::Close], &["x", "yz"]), ("x yz close ".into(), b"xyz".to_vec()));
        assert_eq!(played([Step::SlowRead(1), Step::Reset], &["x", "y"]).0, "~ ~ ~ reset ");
    }

    #[test]
    fn signals_count() {
        let (one, two) = (Signal::new(), Signal::new());
        one.raise();
        one.raise();
        let steps = [Step::Wait(one.clone()), Step::Raise(two.clone()), Step::Wait(one), Step::Close];
        assert_eq!(played(steps, &[]).0, "close ");
        two.wait_blocking();
    }

    #[test]
    fn a_failure_ends_the_script_and_is_told() {
        let mut player = Player::new(vec![Step::ReadToEnd, Step::write("A")]);
        assert!(matches!(player.poll(), Op::Read(_)));
        player.failed(io::ErrorKind::ConnectionReset.into());
        assert!(matches!(player.poll(), Op::End));
        let outcome = player.outcome(3, ([127, 0, 0, 1], 1).into());
        assert_eq!(outcome.error.expect("told").kind(), io::ErrorKind::ConnectionReset);
    }
}
