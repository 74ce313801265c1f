//! One direction of a connection.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::Link;
use crate::sim::world::nanos;

/// Bytes on their way from a writer to a reader, and how they end.
pub(super) struct Pipe {
    link: Link,
    segments: VecDeque<(u64, Bytes)>,
    /// Bytes on their way and unread.
    held: usize,
    /// When the line is free for the next byte.
    free_at: u64,
    /// When the last segment arrives; none overtakes another.
    last_at: u64,
    /// When the end arrives, and when a reset does.
    fin: Option<u64>,
    reset: Option<u64>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Nobody will read any more.
    pub(super) unread: bool,
}

#[derive(Clone, Copy)]
pub(super) enum End {
    Fin,
    Reset,
}

/// What a read finds.
pub(super) enum Found {
    Bytes(Bytes),
    End(End),
    /// Nothing yet.
    Nothing,
}

impl Pipe {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            segments: VecDeque::new(),
            held: 0,
            free_at: 0,
            last_at: 0,
            fin: None,
            reset: None,
            reader: None,
            writer: None,
            unread: false,
        }
    }

    /// Bytes that may be written now.
    pub(super) fn room(&self) -> usize {
        self.link.window.saturating_sub(self.held)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.fin.is_some() || self.reset.is_some()
    }

    /// Sends one segment from the front of `bytes`: how many it took, and when it arrives.
    pub(super) fn send(&mut self, now: u64, bytes: &[u8], rng: &mut fastrand::Rng) -> (usize, u64) {
        let chunk = match (*self.link.chunk.start(), *self.link.chunk.end()) {
            (low, high) if low < high => rng.usize(low..=high),
            (low, _) => low,
        };
        let len = bytes.len().min(self.room()).min(chunk);
        let on_the_line = self.link.bandwidth.map_or(0, |rate| len as u64 * 1_000_000_000 / rate.get());
        self.free_at = self.free_at.max(now).saturating_add(on_the_line);
        let at = self.arrival(self.free_at, rng);
        self.segments.push_back((at, Bytes::copy_from_slice(&bytes[..len])));
        self.held += len;
        (len, at)
    }

    /// Ends the direction after what was sent; when that arrives.
    pub(super) fn finish(&mut self, now: u64, end: End, rng: &mut fastrand::Rng) -> u64 {
        let from = self.free_at.max(now);
        let at = self.arrival(from, rng);
        match end {
            End::Fin => self.fin = Some(at),
            End::Reset => self.reset = Some(at),
        }
        at
    }

    /// When what is sent then arrives.
    pub(super) fn arrival(&mut self, sent: u64, rng: &mut fastrand::Rng) -> u64 {
        let jitter = nanos(self.link.jitter);
        let jitter = if jitter == 0 { 0 } else { rng.u64(..=jitter) };
        let at = sent.saturating_add(nanos(self.link.latency)).saturating_add(jitter);
        self.last_at = self.last_at.max(at);
        self.last_at
    }

    pub(super) fn is_reset(&self, now: u64) -> bool {
        self.reset.is_some_and(|at| at <= now)
    }

    pub(super) fn will_be_reset(&self) -> bool {
        self.reset.is_some()
    }

    /// Takes what has arrived, at most `most` bytes of one segment.
    pub(super) fn take(&mut self, now: u64, most: usize) -> Found {
        // What came before a reset is read before it, as on Linux.
        if let Some((at, bytes)) = self.segments.front_mut().filter(|_| most > 0)
            && *at <= now
        {
            let part = bytes.split_to(bytes.len().min(most));
            if bytes.is_empty() {
                self.segments.pop_front();
            }
            self.held -= part.len();
            return Found::Bytes(part);
        }
        if self.is_reset(now) {
            return Found::End(End::Reset);
        }
        let is_ended = self.segments.is_empty() && self.fin.is_some_and(|at| at <= now);
        if is_ended { Found::End(End::Fin) } else { Found::Nothing }
    }

    /// When the first byte that nobody has read came, or will come.
    pub(super) fn unread_at(&self) -> Option<u64> {
        self.segments.front().map(|(at, _)| *at)
    }

    /// Whether the reader knows that nothing more comes.
    pub(super) fn has_ended(&self, now: u64) -> bool {
        self.is_reset(now) || self.fin.is_some_and(|at| at <= now)
    }
}
