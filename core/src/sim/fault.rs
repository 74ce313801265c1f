//! Faults that strike the n-th call of an operation.

use std::io;
use std::sync::Arc;

/// An operation of the machine that runs the crawl, as the seam sees it.
///
/// ```
/// use tidegate::sim::{Op, Sim};
/// let sim = Sim::new(1);
/// sim.fail(Op::Spawn, 0);
/// sim.spawn(async { unreachable!("it is dropped unpolled") });
/// assert_eq!(sim.count(Op::Spawn), 1);
/// assert!(Op::ALL.contains(&Op::Spawn));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// A connection is asked for.
    Connect,
    /// Bytes are read.
    Read,
    /// Bytes are written.
    Write,
    /// A name is looked up.
    Resolve,
    /// A task is spawned.
    Spawn,
    /// A job is given to the offload.
    Offload,
}

impl Op {
    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::Connect, Self::Read, Self::Write, Self::Resolve, Self::Spawn, Self::Offload];
}

/// The error of a call that fails.
pub(super) type Failure = Arc<dyn Fn() -> io::Error + Send + Sync>;

#[derive(Default)]
pub(super) struct Faults {
    counts: [u64; Op::ALL.len()],
    planned: Vec<(Op, u64, Failure)>,
}

impl Faults {
    pub(super) fn plan(&mut self, op: Op, nth: u64, failure: Failure) {
        self.planned.push((op, nth, failure));
    }

    /// Counts a call; the error with which it fails, where it does.
    pub(super) fn strikes(&mut self, op: Op) -> Option<Failure> {
        let count = &mut self.counts[op as usize];
        let nth = *count;
        *count += 1;
        let planned = self.planned.iter().find(|(of, n, _)| *of == op && *n == nth);
        planned.map(|(_, _, failure)| Arc::clone(failure))
    }

    pub(super) fn count(&self, op: Op) -> u64 {
        self.counts[op as usize]
    }
}
