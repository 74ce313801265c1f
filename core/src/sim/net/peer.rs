//! A scripted HTTP/1.1 server: what it is asked, and what it answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::SimStream;
use crate::sim::timer::SimSleep;
use crate::sim::world::World;

/// Bytes of a request head that a peer reads at most.
const MAX_HEAD: usize = 1 << 20;

/// A request as it came to a peer of the simulated network.
///
/// ```
/// use tidegate::sim::{Host, Reply};
/// let picky = Host::http(|asked| match asked.header("Accept") {
///     Some(types) if types.contains("text/html") => Reply::ok(format!("{} of {}", asked.path, asked.host())),
///     _ => Reply::status(406),
/// });
/// # let _ = picky;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerRequest {
    /// The method.
    pub method: String,
    /// The target as it was written: a path with its query, or a whole URL to a proxy.
    pub path: String,
    /// Header fields in their order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Since the start of the simulation, when the head was complete.
    pub at: Duration,
    /// The number of its connection in the simulation, from 0.
    pub connection: u64,
    /// Its number on the connection, from 0.
    pub nth: u32,
    /// Who asks.
    pub from: SocketAddr,
    /// Who is asked.
    pub to: SocketAddr,
    /// Drawn from the seed, for an answer that varies.
    pub random: u64,
}

impl PeerRequest {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// The host that is asked for.
    pub fn host(&self) -> &str {
        self.header("host").unwrap_or_default()
    }
}

fn field<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether a `Connection` field among these asks for the end of the connection (RFC 9112, 9.6).
fn closes(headers: &[(String, String)]) -> bool {
    let options = field(headers, "connection").into_iter().flat_map(|value| value.split(','));
    options.into_iter().any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// What a peer answers: bytes, pauses, and how it ends. A status of 1xx is an answer like any other; for one before the answer
/// proper, send both as [`raw`](Self::raw) bytes.
///
/// ```
/// use std::time::Duration;
/// use tidegate::sim::Reply;
///
/// let page = Reply::ok("<title>hello</title>").header("content-type", "text/html");
/// let busy = Reply::status(503).header("retry-after", "7");
/// let moved = Reply::redirect(301, "http://b.test/");
/// let cut = Reply::ok("hello, world").cut_last(5);
/// let drip = Reply::ok("hello, world").drip(1, Duration::from_secs(1));
/// let garbage = Reply::raw("SSH-2.0-OpenSSH_9.2\r\n");
/// # let _ = (page, busy, moved, cut, drip, garbage);
/// ```
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// In place of all that.
    raw: Option<Vec<u8>>,
    chunked: Option<usize>,
    after: Duration,
    drip: Option<(usize, Duration)>,
    cut: Option<Cut>,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    After(usize),
    Last(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    KeepOpen,
    CloseAfter(Duration),
    HalfClose,
    Reset,
    Silence,
}

impl Reply {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            raw: None,
            chunked: None,
            after: Duration::ZERO,
            drip: None,
            cut: None,
            then: Then::KeepOpen,
        }
    }

    /// 200 with this body, at once, on a connection that is kept open.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body.into())
    }

    /// This status, without a body.
    pub fn status(status: u16) -> Self {
        Self::new(status, Vec::new())
    }

    /// A redirect.
    pub fn redirect(status: u16, to: impl Into<String>) -> Self {
        Self::status(status).header("location", to)
    }

    /// These bytes instead of an answer; headers, body and chunks say nothing then.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { raw: Some(bytes.into()), ..Self::new(0, Vec::new()) }
    }

    /// Nothing at all, for ever.
    pub fn silence() -> Self {
        Self::raw("").then_silence()
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Replaces the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body in chunks of so many bytes, without a length.
    #[must_use]
    pub fn chunked(mut self, bytes: usize) -> Self {
        self.chunked = Some(bytes.max(1));
        self
    }

    /// Thinks for this long before the first byte.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// Sends so many bytes at a time, with this pause after each.
    #[must_use]
    pub fn drip(mut self, bytes: usize, pause: Duration) -> Self {
        self.drip = Some((bytes.max(1), pause));
        self
    }

    /// Sends only the first bytes of the whole answer, its head included, and then closes.
    #[must_use]
    pub fn cut_after(self, bytes: usize) -> Self {
        self.cut(Cut::After(bytes))
    }

    /// Sends all but the last bytes of the whole answer, and then closes.
    #[must_use]
    pub fn cut_last(self, bytes: usize) -> Self {
        self.cut(Cut::Last(bytes))
    }

    fn cut(mut self, cut: Cut) -> Self {
        self.cut = Some(cut);
        if self.then == Then::KeepOpen {
            self.then = Then::CloseAfter(Duration::ZERO);
        }
        self
    }

    /// Closes the connection after it.
    #[must_use]
    pub fn then_close(self) -> Self {
        self.then_close_after(Duration::ZERO)
    }

    /// Says nothing of it, and closes the connection so long after it: a stale connection for whoever keeps it.
    #[must_use]
    pub fn then_close_after(mut self, time: Duration) -> Self {
        self.then = Then::CloseAfter(time);
        self
    }

    /// Ends its own direction after it, and goes on reading.
    #[must_use]
    pub fn then_half_close(mut self) -> Self {
        self.then = Then::HalfClose;
        self
    }

    /// Resets the connection after it.
    #[must_use]
    pub fn then_reset(mut self) -> Self {
        self.then = Then::Reset;
        self
    }

    /// Never says anything more on this connection.
    #[must_use]
    pub fn then_silence(mut self) -> Self {
        self.then = Then::Silence;
        self
    }

    fn render(&self, method: &str) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, if self.status == 200 { "OK" } else { "Simulated" });
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = self.headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        let bodiless = method == "HEAD" || matches!(self.status, 100..=199 | 204 | 304);
        match self.chunked {
            _ if framed || matches!(self.status, 100..=199 | 204 | 304) => {}
            Some(_) => text.push_str("transfer-encoding: chunked\r\n"),
            None => text.push_str(&format!("content-length: {}\r\n", self.body.len())),
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        match self.chunked {
            _ if bodiless => {}
            Some(size) => {
                for part in self.body.chunks(size) {
                    bytes.extend(format!("{:x}\r\n", part.len()).into_bytes());
                    bytes.extend(part);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
            None => bytes.extend(&self.body),
        }
        bytes
    }

    fn bytes(&self, method: &str) -> Vec<u8> {
        let mut bytes = self.render(method);
        if let Some(cut) = self.cut {
            bytes.truncate(match cut {
                Cut::After(first) => first,
                Cut::Last(last) => bytes.len().saturating_sub(last),
            });
        }
        bytes
    }
}

/// How a host answers.
pub(super) type Answer = dyn Fn(&PeerRequest) -> Reply + Send + Sync;

/// Answers what comes over one connection, until one of both ends it.
pub(super) async fn serve(world: Weak<World>, mut stream: SimStream, answer: Arc<Answer>, connection: u64) {
    let mut input = VecDeque::new();
    for nth in 0.. {
        let Some(mut request) = read_request(&world, &mut stream, &mut input).await else { return };
        let Some(world) = world.upgrade() else { return };
        request.connection = connection;
        request.nth = nth;
        request.random = world.lock().rng.u64(..);
        let reply = answer(&request);
        let then = if reply.then == Then::KeepOpen && (closes(&request.headers) || closes(&reply.headers)) {
            Then::CloseAfter(Duration::ZERO)
        } else {
            reply.then
        };
        if play(&world, &mut stream, reply, &request.method).await.is_err() {
            return;
        }
        match then {
            Then::KeepOpen => {}
            Then::CloseAfter(time) => {
                let sleep = std::pin::pin!(SimSleep::after(&world, time));
                let gone = std::pin::pin!(std::future::poll_fn(|cx| stream.poll_gone(cx)));
                futures::future::select(sleep, gone).await;
                return;
            }
            Then::Reset => return stream.reset(),
            Then::HalfClose => {
                stream.shutdown();
                drop(world);
                drain(&mut stream).await;
                return;
            }
            Then::Silence => {
                drop(world);
                drain(&mut stream).await;
                return;
            }
        }
    }
}

async fn drain(stream: &mut SimStream) {
    while stream.read().await.is_ok_and(|bytes| !bytes.is_empty()) {}
}

async fn play(world: &Arc<World>, stream: &mut SimStream, reply: Reply, method: &str) -> std::io::Result<()> {
    if !reply.after.is_zero() {
        SimSleep::after(world, reply.after).await;
    }
    let bytes = reply.bytes(method);
    match reply.drip {
        None => stream.write_all(&bytes).await,
        Some((size, pause)) => {
            for part in bytes.chunks(size) {
                stream.write_all(part).await?;
                SimSleep::after(world, pause).await;
            }
            Ok(())
        }
    }
}

/// The next request; `None` at the end of the connection, or where it is none that a peer understands.
async fn read_request(world: &Weak<World>, stream: &mut SimStream, input: &mut VecDeque<u8>) -> Option<PeerRequest> {
    let head = loop {
        let bytes = input.make_contiguous();
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > MAX_HEAD {
            return None;
        }
        more(stream, input).await?;
    };
    let at = world.upgrade()?.elapsed();
    let text = String::from_utf8_lossy(&input.drain(..head).collect::<Vec<_>>()).into_owned();
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<_> = lines.filter_map(header).collect();
    // No client here sends chunks, and bytes that were taken for the next request would be worse than an end.
    if field(&headers, "transfer-encoding").is_some() {
        return None;
    }
    let length = field(&headers, "content-length").map_or(Some(0), |value| value.parse().ok())?;
    while input.len() < length {
        more(stream, input).await?;
    }
    let body = input.drain(..length).collect();
    let (from, to) = (stream.peer(), stream.local());
    Some(PeerRequest { method, path, headers, body, at, connection: 0, nth: 0, from, to, random: 0 })
}

async fn more(stream: &mut SimStream, input: &mut VecDeque<u8>) -> Option<()> {
    let bytes = stream.read().await.ok().filter(|bytes| !bytes.is_empty())?;
    input.extend(bytes);
    Some(())
}
