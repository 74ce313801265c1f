//! What the driver has counted since it published last, so that readers see all of a turn or nothing of it.

use std::time::Duration;

use crate::{Outcome, Settled, Timings};

/// Kept by the driver; empty after each turn, with its room kept.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) fetched: Vec<Timings>,
    pub(super) parsed: Vec<Duration>,
    pub(super) settled: Vec<Ended>,
    /// Counters of the parsers' own.
    pub(super) counts: Vec<(&'static str, u64)>,
}

/// What is counted of a settled URL.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: Option<u16>,
    /// The code of its error.
    pub(super) error: Option<&'static str>,
    pub(super) skipped: Option<&'static str>,
    pub(super) items: u64,
    pub(super) links: u64,
    pub(super) bytes: u64,
    pub(super) bytes_wire: u64,
}

impl Tally {
    pub(super) fn settled(&mut self, settled: &Settled) {
        let (error, skipped) = match &settled.outcome {
            Outcome::Error(error) => (Some(error.kind().code()), None),
            Outcome::Skipped(reason) => (None, Some(reason.code())),
            Outcome::Ok | Outcome::Cancelled => (None, None),
        };
        self.settled.push(Ended {
            status: settled.status().map(|status| status.as_u16()),
            error,
            skipped,
            items: settled.items,
            links: settled.links,
            bytes: settled.bytes,
            bytes_wire: settled.bytes_wire,
        });
    }
}
