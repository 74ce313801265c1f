//! The engine's vocabulary: what it is told and what it asks for.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Bound;
use crate::{RetryTime, SkipReason};

/// Names a job: a URL between its lease and its settlement. Never reused while an event for it may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

impl JobId {
    /// A small number, unique among the jobs that live: an index for the driver's own table.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// An id that no engine gave.
    #[cfg(all(test, tidegate_loom))]
    pub(crate) fn numbered(index: u32) -> Self {
        Self { index, serial: 0 }
    }

    /// The whole id as a number.
    pub fn as_u64(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }
}

/// Names a host: an origin, by whatever key the driver gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

impl HostId {
    /// A small number, unique among the hosts that are remembered.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What the engine needs to know of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobSpec {
    /// Higher goes first among the jobs of a host.
    pub priority: i32,
    /// Not to be started before.
    pub not_before: Option<Instant>,
    /// Tries in all; 0 takes the engine's setting.
    pub attempts: u32,
    /// Subject to the host's rules; a job that is not skips the vetting.
    pub vet: bool,
    /// Somebody waits for its page, and perhaps it is a sink: it goes before all others, and past whatever waits for the sinks.
    pub awaited: bool,
}

/// What the driver tells the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The host's rules are known.
    Prepared {
        /// The host.
        host: HostId,
        /// The least gap that the rules ask for.
        gap: Option<Duration>,
        /// When the rules must be asked for again.
        valid_until: Option<Instant>,
    },
    /// The host has an address, or needs none.
    Resolved {
        /// The host.
        host: HostId,
        /// The address, for the limit per address.
        address: Option<IpAddr>,
    },
    /// The host's rules or address could not be had.
    HostFailed {
        /// The host.
        host: HostId,
        /// When to try again.
        retry: RetryTime,
    },
    /// The job may be fetched, as far as the rules of its host and the crawl go.
    Vetted {
        /// The job.
        job: JobId,
    },
    /// The job is not to be fetched.
    Skipped {
        /// The job.
        job: JobId,
        /// Why.
        reason: SkipReason,
    },
    /// The fetch must wait for a port or a descriptor: it gives its permit back, and its host starts nothing more.
    Waits {
        /// The job.
        job: JobId,
    },
    /// It has what it waited for, and goes on with [`Action::Readmit`].
    Turn {
        /// The job.
        job: JobId,
    },
    /// A complete answer is there, to be parsed.
    Fetched {
        /// The job.
        job: JobId,
    },
    /// The answer is a redirect to a URL of this host; its next hop waits there. A host that was forgotten is none: ask
    /// [`Engine::host`](super::Engine::host) for it first.
    Redirected {
        /// The job.
        job: JobId,
        /// The host of the next hop.
        host: HostId,
    },
    /// The attempt failed, while it was fetched or parsed.
    Failed {
        /// The job.
        job: JobId,
        /// When another attempt makes sense.
        retry: RetryTime,
        /// What it says about the host.
        blame: Blame,
    },
    /// The answer is taken, but the host asks for a pause.
    Throttled {
        /// The job.
        job: JobId,
        /// How long.
        wait: Duration,
    },
    /// The page is parsed.
    Parsed {
        /// The job.
        job: JobId,
        /// Whether there are items to deliver.
        deliver: bool,
    },
    /// The sink has taken or rejected all items of the job.
    Delivered {
        /// The job.
        job: JobId,
        /// Whether any was rejected.
        rejected: bool,
    },
    /// The outcome is with whoever wanted it; the job is forgotten.
    Closed {
        /// The job.
        job: JobId,
    },
    /// Bytes of bodies that are in memory now.
    Bytes(u64),
    /// The frontier has more additions to take than it should: pages that would give more wait.
    FrontierBehind(bool),
    /// A load signal shut the gate or opened its part of it; the gate is open where no signal holds it shut.
    Gate {
        /// What the crawl is bound by while the signal holds it shut: [`Bound::Lag`], [`Bound::Memory`], [`Bound::Signal`].
        signal: Bound,
        /// Whether new fetches may start, as far as this signal goes.
        open: bool,
    },
    /// So many lookups stand in line for their turn: a reason for the pace, and no rule.
    LookupsInLine(u32),
    /// This machine is short of something that fetches wait for ([`Bound::Descriptors`]), or no longer.
    Short {
        /// What it lacks.
        of: Bound,
        /// Whether it does.
        short: bool,
    },
}

/// Whom a failure is to be laid to: whose limit, pace and breaker learn of it.
///
/// ```
/// use tidegate::engine::Blame;
/// // A 404 is the URL's, and says that its host is well.
/// let blame = |status: u16| if status == 503 { Blame::Throttled } else { Blame::Url };
/// assert_eq!(blame(404), Blame::Url);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// Neither host nor URL: a proxy, the resolver, this machine, the parser.
    Nobody,
    /// The URL: its host is well and has answered.
    Url,
    /// The host, which did not answer as it should: refused, reset, timed out, a gateway's error.
    Host,
    /// The host, which asks for fewer requests (429, 503): the wait holds for all of it.
    Throttled,
    /// This machine, which has no port for this destination: only its host waits, and the others go on.
    Ports,
}

/// What the engine asks the driver to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Find the rules of the host; answer with [`Event::Prepared`] or [`Event::HostFailed`].
    Prepare(HostId),
    /// Find the address of the host; answer with [`Event::Resolved`] or [`Event::HostFailed`].
    Resolve(HostId),
    /// Judge the job by the rules of its host; answer with [`Event::Vetted`] or [`Event::Skipped`].
    Vet(JobId),
    /// Start an attempt; answer with `Fetched`, `Redirected` or `Failed`, and before that with `Waits` and `Turn` where it has
    /// to wait for this machine.
    Fetch {
        /// The job.
        job: JobId,
        /// The attempt, from 1.
        attempt: u32,
    },
    /// The fetch whose turn has come has its permit again.
    Readmit(JobId),
    /// Parse the answer; answer with `Parsed`, `Failed` or `Skipped`.
    Parse(JobId),
    /// Give the items to the sink; answer with [`Event::Delivered`].
    Deliver(JobId),
    /// Drop whatever is done for the job; no answer. A [`Action::Settle`] follows.
    Abort(JobId),
    /// The job has its verdict; answer with [`Event::Closed`] once it was passed on.
    Settle {
        /// The job.
        job: JobId,
        /// What became of it.
        verdict: JobVerdict,
    },
    /// The host has been idle for long and is forgotten.
    Forget(HostId),
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobVerdict {
    /// Fetched, parsed, delivered.
    Ok,
    /// The last error of the job.
    Error,
    /// The error of its host, which has no rules or no address.
    HostError,
    /// Not fetched, for this reason.
    Skipped(SkipReason),
    /// Ended by the shutdown.
    Cancelled,
}
