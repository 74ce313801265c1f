//! What a server does, as data: a [`Script`] of [`Step`]s for each connection, so that a thread plays it over a socket and a
//! simulated runtime over its own network.

use std::io;
use std::net::SocketAddr;

use async_channel::{Receiver, Sender};
use bytes::Bytes;

#[cfg(feature = "tls")]
use super::certificate::Certified;

/// What a server does: the steps of its first connection, of its second, and so on. It accepts no others.
///
/// Connections are played side by side. One closes when its last step is done.
///
/// ```
/// use tidegate::conformance::{Script, Step};
/// let script = Script::new([Step::Read(5), Step::write("hello")]).and([Step::Echo]);
/// assert_eq!(script.connections.len(), 2);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Script {
    /// The steps of each connection, in the order in which they are accepted.
    pub connections: Vec<Vec<Step>>,
}

impl Script {
    /// A server for one connection.
    pub fn new(steps: impl Into<Vec<Step>>) -> Self {
        Self { connections: vec![steps.into()] }
    }

    /// Serves one connection more.
    #[must_use]
    pub fn and(mut self, steps: impl Into<Vec<Step>>) -> Self {
        self.connections.push(steps.into());
        self
    }
}

/// One thing that a server does on a connection.
///
/// A step that waits for bytes ends the script where the client ends the connection; what stands after it and needs no
/// bytes (`Raise`) is not done then.
///
/// ```
/// use tidegate::conformance::{Script, Signal, Step};
/// // Answers each request of a connection with an empty page, the first one when it is told to.
/// let go_on = Signal::new();
/// let answer = [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")];
/// let script = Script::new([Step::Wait(go_on.clone()), Step::Repeat(answer.into())]);
/// go_on.raise();
/// # drop(script);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step {
    /// Reads this many bytes.
    Read(usize),
    /// Reads the head of an HTTP request: up to an empty line.
    ReadHead,
    /// Reads until the client ends its direction, or the connection.
    ReadToEnd,
    /// The same in parts of at most this many bytes; gives way after each.
    SlowRead(usize),
    /// Sends back what comes, to the end.
    Echo,
    /// Sends these bytes.
    Write(Bytes),
    /// Sends these bytes one by one.
    Drip(Bytes),
    /// Ends the direction to the client; over TLS with a `close_notify` before.
    Shutdown,
    /// Closes the connection; over TLS without a `close_notify`.
    Close,
    /// Resets the connection.
    Reset,
    /// Raises a signal.
    Raise(Signal),
    /// Waits for a signal, and takes it.
    Wait(Signal),
    /// Does these steps again and again, until the client ends the connection.
    Repeat(Vec<Self>),
    /// Speaks TLS from here on, as this server.
    #[cfg(feature = "tls")]
    Secure(Certified),
}

impl Step {
    /// [`Step::Write`].
    pub fn write(bytes: impl Into<Bytes>) -> Self {
        Self::Write(bytes.into())
    }

    /// [`Step::Drip`].
    pub fn drip(bytes: impl Into<Bytes>) -> Self {
        Self::Drip(bytes.into())
    }
}

/// Most raises that nobody has taken yet.
const RAISES: usize = 1024;

/// Something that one side raises and the other waits for. Each wait takes one raise. Clones are the same signal.
///
/// ```
/// let signal = tidegate::conformance::Signal::new();
/// signal.raise();
/// futures::executor::block_on(signal.wait());
/// ```
#[derive(Clone, Debug)]
pub struct Signal {
    sender: Sender<()>,
    receiver: Receiver<()>,
}

impl Signal {
    /// A signal that is not raised.
    #[expect(clippy::new_without_default, reason = "two signals are never equal")]
    pub fn new() -> Self {
        let (sender, receiver) = async_channel::bounded(RAISES);
        Self { sender, receiver }
    }

    /// Raises it once more.
    ///
    /// # Panics
    /// When 1,024 raises have not been taken.
    pub fn raise(&self) {
        assert!(self.sender.try_send(()).is_ok(), "a signal was raised {RAISES} times, and nobody waits for it");
    }

    /// Waits until it is raised, and takes that.
    ///
    /// # Cancel safety
    /// Takes nothing where it is dropped before it is ready.
    pub async fn wait(&self) {
        // This signal holds the sender too.
        let _ = self.receiver.recv().await;
    }

    /// As [`wait`](Self::wait), and blocks this thread meanwhile.
    pub fn wait_blocking(&self) {
        let _ = self.receiver.recv_blocking();
    }
}

/// What a server has seen of one connection.
///
/// ```
/// use tidegate::conformance::{Player, Step};
/// let mut player = Player::new(vec![Step::Read(1)]);
/// player.poll();
/// player.failed(std::io::ErrorKind::ConnectionReset.into());
/// player.poll();
/// let outcome = player.outcome(0, ([127, 0, 0, 1], 1024).into());
/// assert!(outcome.received.is_empty());
/// assert_eq!(outcome.error.expect("it was reset").kind(), std::io::ErrorKind::ConnectionReset);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The number of the connection, from 0, in the order of their acceptance.
    pub connection: usize,
    /// The client's end.
    pub client: SocketAddr,
    /// All bytes that steps took, decrypted where the server spoke TLS.
    pub received: Vec<u8>,
    /// Why the connection failed under the script, where it did.
    pub error: Option<io::Error>,
}

/// A server that plays its script.
///
/// ```
/// use tidegate::conformance::{Harness, Script, Step};
///
/// fn receives_all<H: Harness>(harness: &H) {
///     let served = harness.serve(Script::new([Step::ReadToEnd]));
///     // .. what connects to `served.addr` ..
///     let outcome = harness.block_on(served.outcome());
///     assert_eq!(outcome.received, b"all");
/// }
/// ```
#[derive(Debug)]
pub struct Served {
    /// Where it listens.
    pub addr: SocketAddr,
    outcomes: Receiver<Outcome>,
}

impl Served {
    /// A server at `addr`, and what tells its outcomes.
    pub fn new(addr: SocketAddr, script: &Script) -> (Self, Reporter) {
        let (sender, outcomes) = async_channel::bounded(script.connections.len().max(1));
        (Self { addr, outcomes }, Reporter(sender))
    }

    /// Waits until one of the connections has ended, in the order in which they do.
    ///
    /// # Panics
    /// Where all connections of the script have ended and were told.
    pub async fn outcome(&self) -> Outcome {
        self.outcomes.recv().await.expect("the script has another connection, and its player does not panic")
    }
}

/// Tells what came of each connection; for who plays scripts.
///
/// ```
/// use tidegate::conformance::{Player, Script, Served, Step};
/// let script = Script::new([Step::Close]);
/// let (served, reporter) = Served::new(([127, 0, 0, 1], 80).into(), &script);
/// // A connection of a client at port 1024 came, and its steps were done.
/// let player = Player::new(Vec::new());
/// reporter.report(player.outcome(0, ([127, 0, 0, 1], 1024).into()));
/// assert_eq!(futures::executor::block_on(served.outcome()).client.port(), 1024);
/// ```
#[derive(Clone, Debug)]
pub struct Reporter(Sender<Outcome>);

impl Reporter {
    /// Tells one outcome.
    pub fn report(&self, outcome: Outcome) {
        // One for each connection has room; a case may have ended before.
        let _ = self.0.try_send(outcome);
    }
}
