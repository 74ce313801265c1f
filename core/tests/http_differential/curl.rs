//! Replies as libcurl reads them, over a Unix socket: what was written there is there to be read, so that nothing waits for time.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use curl::easy::{Easy2, Handler, WriteError};
use curl::multi::{Easy2Handle, Multi};
use http::Method;
use tempfile::TempDir;

use super::reply::FAILS;
use super::told;

/// So often curl is let go on, with nothing new to read, before the server closes.
const PATIENCE: usize = 20;

/// A server for curl, and a new curl for each reply.
pub(super) struct Curl {
    listener: UnixListener,
    dir: TempDir,
}

impl Curl {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        Self { listener, dir }
    }

    /// Whether the connection is used again is asked of a whole reply only: a parked one curl looks at once a second, and what
    /// comes in between it takes or not as time goes.
    pub(super) fn verdict(&self, method: &Method, pieces: Vec<Vec<u8>>) -> String {
        // An earlier curl may have knocked again.
        while self.listener.accept().is_ok() {}
        let multi = Multi::new();
        let first = self.ask(&multi, method);
        let mut conn = self.asked(&multi, None).expect("a new connection");
        let is_whole = pieces.len() == 1;
        let ended = answer(&multi, &first, &mut conn, pieces.into());
        let first = multi.remove2(first).expect("it was added");
        let Ok(is_open) = ended else { return FAILS.to_owned() };
        let status = first.response_code().expect("an answer has a status");
        let kept = is_whole && is_open && self.is_used_again(&multi, &conn);
        told(status.try_into().expect("three digits"), &first.get_ref().0, kept)
    }

    fn is_used_again(&self, multi: &Multi, conn: &UnixStream) -> bool {
        let again = self.ask(multi, &Method::GET);
        let other = self.asked(multi, Some(conn));
        multi.remove2(again).expect("it was added");
        other.is_none()
    }

    fn ask(&self, multi: &Multi, method: &Method) -> Easy2Handle<Body> {
        let mut request = Easy2::new(Body::default());
        let asked = request
            .url("http://a.test/")
            .and_then(|()| request.unix_socket_path(Some(self.dir.path().join("socket"))))
            .and_then(|()| request.nobody(*method == Method::HEAD));
        asked.expect("libcurl can do that");
        multi.add2(request).expect("libcurl can do that")
    }

    /// Waits for a request: the connection that it comes over, or none where that is `known`.
    fn asked(&self, multi: &Multi, known: Option<&UnixStream>) -> Option<UnixStream> {
        let mut new = None;
        for _ in 0..PATIENCE {
            multi.perform().expect("libcurl works");
            if known.is_some_and(has_request) {
                return None;
            }
            if new.is_none() {
                new = self.listener.accept().ok().map(|(conn, _)| conn);
            }
            if let Some(conn) = new.take_if(|conn| conn.set_nonblocking(true).is_ok() && has_request(conn)) {
                return Some(conn);
            }
        }
        panic!("curl does not ask");
    }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Handler for Body {
    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        self.0.extend_from_slice(data);
        Ok(data.len())
    }
}

fn has_request(mut conn: &UnixStream) -> bool {
    conn.read(&mut [0; 4096]).is_ok_and(|count| count > 0)
}

/// Sends all pieces, one for each time that curl looks for some, and closes where that does not end the answer: whether the
/// connection is still open.
fn answer(
    multi: &Multi,
    request: &Easy2Handle<Body>,
    conn: &mut UnixStream,
    mut pieces: VecDeque<Vec<u8>>,
) -> Result<bool, curl::Error> {
    let mut ended: Option<Result<(), curl::Error>> = None;
    let mut patience = PATIENCE;
    loop {
        if let Some(mut piece) = pieces.pop_front() {
            let sent = match conn.write(&piece) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock && ended.is_none() => 0,
                // A curl that has its answer, or has given up, need not listen.
                Err(_) => piece.len(),
            };
            piece.drain(..sent);
            if !piece.is_empty() {
                pieces.push_front(piece);
            }
        } else if let Some(ended) = ended {
            return ended.map(|()| patience > PATIENCE / 2);
        } else {
            patience = patience.checked_sub(1).expect("curl ends when the server has closed");
            if patience == PATIENCE / 2 {
                conn.shutdown(Shutdown::Write).expect("it was open");
            }
        }
        multi.perform().expect("libcurl works");
        multi.messages(|message| ended = message.result_for2(request).or_else(|| ended.take()));
    }
}
