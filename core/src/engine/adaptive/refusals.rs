//! Whether it is the host that refuses, or one of its URLs.

use std::time::Instant;

use crate::engine::JobId;

/// Answers to others after which a URL that is refused again is refused for itself.
const OTHERS: u32 = 8;
/// So many answers for each refusal, and [`FADED`] more, and the refusals are history.
const FADING: u32 = 4;
const FADED: u32 = 8;
/// Answers for each refusal at most, where it is the host that refuses.
const MOST: u32 = 2;

/// Refusals (429, 503) of a host, and what it answered meanwhile.
///
/// RFC 6585 does not say whether a 429 is about the server or a resource. A first one is taken for the host's, whose wait
/// must be kept. What follows says what it was: a host that is at its limit refuses several URLs, and most that it is
/// asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refusals {
    /// When the fetch began that was refused first. What began earlier says nothing.
    since: Option<Instant>,
    /// Whose URL was refused last, and whether another one's was before.
    last: Option<JobId>,
    several: bool,
    /// Whether that URL was answered when it was asked for again.
    relented: bool,
    refused: u32,
    answered: u32,
}

impl Refusals {
    /// The host has answered a fetch of this job that started then.
    pub(super) fn answered(&mut self, job: JobId, started: Instant) {
        self.relented |= self.last == Some(job);
        self.answered += u32::from(self.since.is_some_and(|since| started >= since));
        if self.answered > FADING * self.refused + FADED {
            *self = Self { last: self.last, relented: self.relented, ..Self::default() };
        }
    }

    /// The host has refused a fetch of this job that started then.
    pub(super) fn refused(&mut self, job: JobId, started: Instant) {
        self.since.get_or_insert(started);
        self.several |= self.last.is_some_and(|last| last != job);
        self.relented &= self.last != Some(job);
        self.last = Some(job);
        self.refused += 1;
    }

    /// Whether a URL that is refused again is so for itself, where so many others were answered since it was last.
    pub(super) fn is_of_url(&self, others: u32) -> bool {
        !self.several && others >= OTHERS
    }

    /// Whether the host refuses whatever it is asked for: several URLs, and a third of them at least. Or it gave later what
    /// it had refused: it was the time, and not the URL.
    pub(super) fn is_of_host(&self) -> bool {
        self.relented || self.several && MOST * self.refused >= self.answered
    }
}
