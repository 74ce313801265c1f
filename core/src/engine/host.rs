//! What the engine knows of a host: its waiting jobs, its permits, and when it may be asked next.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::adaptive::Adaptive;
use super::event::JobId;
use super::queue::Queue;

#[derive(Debug)]
pub(super) struct Host {
    pub(super) serial: u32,
    pub(super) key: Box<str>,
    pub(super) state: HostState,
    /// Jobs that wait for the host's rules and are not vetted yet.
    pub(super) arriving: Vec<JobId>,
    /// Jobs that may be started.
    pub(super) queue: Queue,
    /// Jobs of any stage; a host without any is idle.
    pub(super) jobs: u32,
    /// Those among them that somebody waits for.
    pub(super) awaited: u32,
    /// Those that stand in line too.
    pub(super) in_flight: u32,
    /// Fetches among them that wait for a port or a descriptor: nothing more is started meanwhile.
    pub(super) in_line: u32,
    /// The gap that the host's rules ask for, above the crawl's own.
    pub(super) gap: Duration,
    /// No start before: pacing, or a wait that the host asked for.
    pub(super) not_before: Option<Instant>,
    pub(super) valid_until: Option<Instant>,
    pub(super) address: Option<IpAddr>,
    pub(super) failures: u32,
    pub(super) backoff: Duration,
    /// Since when only local pressure keeps it from being prepared or resolved.
    pub(super) pressed_since: Option<Instant>,
    pub(super) place: Place,
    /// The address of which a permit is kept for it, while it is ready.
    pub(super) offered: Option<IpAddr>,
    /// Named by the engine's list of idle hosts.
    pub(super) listed_idle: bool,
    /// Answers of any kind that it gave, round and round.
    pub(super) answers: u32,
    pub(super) adaptive: Option<Box<Adaptive>>,
    /// It is at its limit.
    pub(super) is_limited: bool,
    /// What it waits for in [`Place::Timed`] is that it answers again.
    pub(super) timed_tripped: bool,
}

/// How far a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostState {
    New,
    /// In line for a permit to be prepared.
    ToPrepare,
    Preparing,
    Prepared,
    /// In line for a permit to be resolved.
    ToResolve,
    Resolving,
    Ready,
    /// Its rules or address could not be had; tried again when the timer comes.
    BackingOff {
        prepared: bool,
    },
}

/// Which list names the host, so that it is named once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    Ready,
    /// A timer will bring it back, at this time.
    Timed(Instant),
    /// In the waiting list of its address.
    Address,
}

impl Host {
    pub(super) fn new(key: Box<str>, serial: u32) -> Self {
        Self {
            serial,
            key,
            state: HostState::New,
            arriving: Vec::new(),
            queue: Queue::default(),
            jobs: 0,
            awaited: 0,
            in_flight: 0,
            in_line: 0,
            gap: Duration::ZERO,
            not_before: None,
            valid_until: None,
            address: None,
            failures: 0,
            backoff: Duration::ZERO,
            pressed_since: None,
            place: Place::Nowhere,
            offered: None,
            listed_idle: false,
            answers: 0,
            adaptive: None,
            is_limited: false,
            timed_tripped: false,
        }
    }

    /// Whether forgetting it changes nothing for the site: no wait that it asked for, no answer under way.
    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        let settled = matches!(self.state, HostState::Ready | HostState::New) && self.place == Place::Nowhere;
        settled && self.in_flight == 0 && self.not_before.is_none_or(|time| time <= now)
    }

    /// Whether somebody waits for its next job.
    pub(super) fn is_awaited_first(&self) -> bool {
        self.queue.peek().is_some_and(|waiting| waiting.awaited)
    }

    /// Its failures count no longer: an answer came, or those who waited for one are settled.
    pub(super) fn recovered(&mut self) {
        self.failures = 0;
        self.backoff = Duration::ZERO;
        self.pressed_since = None;
    }

    /// No start before `time`, whatever was said before.
    pub(super) fn wait_until(&mut self, time: Instant) {
        self.not_before = Some(self.not_before.map_or(time, |before| before.max(time)));
    }
}
