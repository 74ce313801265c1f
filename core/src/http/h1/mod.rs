//! HTTP/1.1 without I/O and without a clock: bytes of an answer go in, its head and its body come out.
//!
//! As lenient as other clients are where they agree (a lone LF ends a line of a head, any reason phrase); strict wherever two
//! readers could see different answers. The verdict on an answer never depends on how its bytes were cut into reads.

mod chunked;
mod encode;
mod error;
mod framing;
mod head;
#[cfg(any(test, fuzzing))]
mod properties;
#[cfg(test)]
mod tests;

use http::Method;

use self::chunked::Chunked;
pub(super) use self::encode::HeadWriter;
pub(super) use self::error::Violation;
use self::framing::Body;
pub(super) use self::head::Head;
#[cfg(fuzzing)]
pub use self::properties::replies;
use crate::Limits;

/// What is allocated ahead of the bytes of an announced length at most: the announcement is the server's word.
const MAX_RESERVE: usize = 256 << 10;

/// And so many times what came, since bodies that drip are many (A9).
const AHEAD: usize = 8;

/// Reads one answer.
#[derive(Debug)]
pub(super) struct Answer {
    at: At,
    /// Nobody asked for a body.
    is_head: bool,
    /// Neither side says that it closes after this exchange.
    stays: bool,
    /// Something came after the end: nobody's, and no answer to what would be asked next.
    has_stray: bool,
    interim: u8,
    /// Bytes of interim heads: the limit is for all heads together.
    interim_bytes: u32,
    /// Bytes of the head when it was parsed last.
    parsed: u32,
    /// Bytes of the head in which it does not end.
    scanned: u32,
}

#[derive(Debug)]
enum At {
    Head,
    Body(Body),
    End,
    /// What is wrong, told when the body is asked for: the head was in order.
    Broken(Violation),
}

/// What the bytes so far make.
#[derive(Debug)]
pub(super) enum Progress {
    /// No head yet. So many bytes were interim answers, and are done with.
    Skip(usize),
    /// The head of the answer, which ends after so many bytes, and the length of its body where it is known.
    Head(usize, Head, Option<u64>),
}

impl Answer {
    /// Begins to read the answer to a request; `stays`: the request lets the connection be used again.
    pub(super) fn to(method: &Method, stays: bool) -> Self {
        let is_head = *method == Method::HEAD;
        Self { at: At::Head, is_head, stays, has_stray: false, interim: 0, interim_bytes: 0, parsed: 0, scanned: 0 }
    }

    /// Looks for the head in `bytes`: all that have come and that were neither skipped nor a head.
    pub(super) fn head(&mut self, bytes: &[u8], limits: &Limits) -> Result<Progress, Violation> {
        let mut skip = 0;
        loop {
            let most = limits.head_bytes.saturating_sub(self.interim_bytes as usize);
            let rest = &bytes[skip..];
            let is_over = rest.len() > most;
            let rest = &rest[..rest.len().min(most)];
            if !is_over && !self.is_worth_parsing(rest) {
                return Ok(Progress::Skip(skip));
            }
            let Some((head, fields, length)) = head::parse(rest, limits.headers)? else {
                if is_over {
                    return Err(Violation::HeadTooLarge(limits.head_bytes));
                }
                self.parsed = small(rest.len());
                return Ok(Progress::Skip(skip));
            };
            skip += length;
            if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                return Err(Violation::Switched);
            }
            if head.status.is_informational() {
                self.interim += 1;
                if self.interim > Limits::INTERIM {
                    return Err(Violation::TooManyInterim);
                }
                self.interim_bytes += small(length);
                (self.parsed, self.scanned) = (0, 0);
                continue;
            }
            let (body, stays) = fields.judge(head.version, head.status, self.is_head)?;
            self.stays &= stays;
            let length = if let Body::Length(length) = body { Some(length) } else { None };
            self.at = if length == Some(0) { At::End } else { At::Body(body) };
            return Ok(Progress::Head(skip, head, length));
        }
    }

    /// Whether the head may have ended in what is new, or so much is new that another look costs little beside what came:
    /// a head that drips is not parsed for each byte.
    fn is_worth_parsing(&mut self, bytes: &[u8]) -> bool {
        // The first of the line ends that make the end may have been there already.
        let new = &bytes[(self.scanned as usize).saturating_sub(2)..];
        self.scanned = small(bytes.len());
        let is_new = bytes.len() >= self.parsed as usize * 2;
        let ends = || new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
        !bytes.is_empty() && (is_new || ends())
    }

    /// Takes bytes of the body, and appends what is data to `out`.
    pub(super) fn body(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Violation> {
        let used = match &mut self.at {
            At::Body(Body::Length(left)) => {
                let here = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                reserve(out, here, *left);
                out.extend_from_slice(&bytes[..here]);
                *left -= here as u64;
                if *left == 0 {
                    self.at = At::End;
                }
                here
            }
            At::Body(Body::Chunked(chunked)) => match chunked.decode(bytes, out) {
                Ok(used) => {
                    if chunked.has_ended() {
                        self.at = At::End;
                    }
                    used
                }
                Err(violation) => {
                    self.at = At::Broken(violation);
                    return Err(violation);
                }
            },
            At::Body(Body::UntilClose) => {
                out.extend_from_slice(bytes);
                bytes.len()
            }
            At::Head | At::End => 0,
            At::Broken(violation) => return Err(*violation),
        };
        self.has_stray |= used < bytes.len();
        Ok(())
    }

    /// The connection was closed where a head was to come, after `unread` bytes of it: what is wrong.
    pub(super) fn cut_head(&self, unread: &[u8], limits: &Limits) -> Violation {
        if unread.is_empty() && self.interim == 0 {
            return Violation::Empty;
        }
        // It may have been worth no look until now.
        head::parse(unread, limits.headers).err().unwrap_or(Violation::Cut)
    }

    /// The connection was closed after the head: whether the answer may end so.
    pub(super) fn close(&mut self) -> Result<(), Violation> {
        self.stays = false;
        match &self.at {
            At::Body(Body::UntilClose) | At::End => {
                self.at = At::End;
                Ok(())
            }
            At::Head | At::Body(_) => Err(Violation::Cut),
            At::Broken(violation) => Err(*violation),
        }
    }

    /// Whether the whole answer was read. An error that is known already is told.
    pub(super) fn has_ended(&self) -> Result<bool, Violation> {
        match self.at {
            At::Broken(violation) => Err(violation),
            At::End => Ok(true),
            At::Head | At::Body(_) => Ok(false),
        }
    }

    /// Whether another request may follow: the answer ended as its framing says, with the last byte that came.
    pub(super) fn is_reusable(&self) -> bool {
        matches!(self.at, At::End) && self.stays && !self.has_stray
    }

    /// No other request may follow.
    pub(super) fn spoil(&mut self) {
        self.stays = false;
    }
}

/// Makes room for `here` bytes of the `left` that were announced, so that it is exact in the end.
fn reserve(out: &mut Vec<u8>, here: usize, left: u64) {
    if out.capacity() - out.len() < here {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let ahead = AHEAD * (out.len() + here);
        out.reserve_exact(left.min(ahead).min(out.len().max(MAX_RESERVE)).max(here));
    }
}

fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
