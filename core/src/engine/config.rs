//! What the engine is told once.

use std::time::Duration;

/// The rules by which an engine admits, paces and retries.
///
/// ```
/// use tidegate::engine::Config;
/// let mut config = Config::default();
/// config.per_host = Some(2);
/// assert_eq!(config.attempts, 3);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Fetches in flight at most: 10,000. With those that wait for a port or a descriptor, which are none, there are twice as
    /// many at most.
    pub max_in_flight: u32,
    /// Sockets that may be open, which is the most that are in flight where it is less; the verdict then says descriptors.
    /// `None`: not known.
    pub sockets: Option<u32>,
    /// Fetches in flight at first; each success adds one, which doubles it every round trip. `None` starts at the most.
    pub ramp_from: Option<u32>,
    /// Fetches in flight for a host at most; `None`: no limit of its own.
    pub per_host: Option<u32>,
    /// Find out how many fetches at a time, and how many a second, each host can bear: by how long its answers take, by its
    /// failures, and, with a [`breaker`](Self::breaker), by what it says (429, 503, `Retry-After`). On. A limit of up to 64
    /// that is set is used in full until the host fails.
    pub adaptive: bool,
    /// Fetches in flight for a host at first, where its limit is adaptive: 16. Doubles every round trip until answers take
    /// longer.
    pub host_ramp_from: u32,
    /// Failures of a host in a row, over a twentieth of its [patience](Self::host_patience) at least, after which it is
    /// left alone, but for a probe now and then: 16, and a quarter of it where the host has never answered. What fails then,
    /// or is throttled (429, 503), is no attempt of a URL. With `None` no host is left alone, and each attempt counts.
    pub breaker: Option<u32>,
    /// How long a host that has answered may answer nothing, before all that waits for it settles. `None`, the default: as
    /// long as the longest wait before a retry, 60 s, and 10 s at least. In any case it takes a failure and probes, as many as
    /// [`attempts`](Self::attempts) together; where the host has never answered that is all.
    pub host_patience: Option<Duration>,
    /// Fetches in flight for an address at most, whatever the hosts on it; `None`: no limit of its own.
    pub per_address: Option<u32>,
    /// Least time between two starts on a host.
    pub gap: Duration,
    /// Part of the gap by which it varies either way, from 0 to 1.
    pub gap_jitter: f64,
    /// Starts a second over the whole crawl; `None`: no limit.
    pub rate: Option<f64>,
    /// Pages that are parsed at a time: the capacity of the offload.
    pub parse_permits: u32,
    /// Pages whose items wait for the sink at a time: 256.
    pub deliver_permits: u32,
    /// Jobs that are fetched and not yet settled, above which no fetch is started: 1,024. What a slow parser or sink
    /// can pile up.
    pub backlog: u32,
    /// Bytes of bodies in memory above which no fetch is started: 256 MiB.
    pub byte_budget: u64,
    /// Fetches that are kept going while the lag gate is closed: 16.
    pub gate_floor: u32,
    /// Tries of a URL in all: 3.
    pub attempts: u32,
    /// Shortest wait before a retry: 1 s.
    pub backoff_base: Duration,
    /// Longest wait before a retry: 60 s.
    pub backoff_cap: Duration,
    /// Longest `Retry-After` that is honoured: 10 min. Beyond it the URL settles.
    pub retry_after_cap: Duration,
    /// Retries for each first attempt, over the whole crawl: 0.2.
    pub retry_budget: f64,
    /// Retries that are allowed whatever the budget says: 10.
    pub retry_floor: u32,
    /// First attempts after which the crawl ends; `None`: no end.
    pub max_starts: Option<u64>,
    /// Hosts whose rules or address are being found at a time: 256. They hold no fetch permit, but sockets and lookups.
    pub prepare_permits: u32,
    /// How long a URL may be turned away by local pressure before it settles: 10 min.
    pub room_patience: Duration,
    /// Jobs that wait in the engine at most; more stay in the frontier: 10,000.
    pub queue: u32,
    /// The same while some of them could start but for a limit of the whole crawl: 1,024. By Little's law what may start in the
    /// time that the frontier takes to give more: 5,000 a second in 200 ms.
    pub lookahead: u32,
    /// Hosts remembered at most, busy ones apart: 100,000.
    pub max_hosts: usize,
    /// Ask for the rules of a host before its first URL.
    pub prepare_hosts: bool,
    /// Ask for the address of a host before its first URL.
    pub resolve_hosts: bool,
    /// Seed of all random choices.
    pub seed: u64,
}

impl Config {
    /// Fetches in flight at most, by what was asked for and by what there is.
    pub(super) fn most_in_flight(&self) -> u32 {
        self.max_in_flight.min(self.sockets.unwrap_or(u32::MAX))
    }

    /// With at least one of each thing of which none would start nothing.
    pub(crate) fn clamped(mut self) -> Self {
        for most in [
            &mut self.max_in_flight,
            &mut self.parse_permits,
            &mut self.deliver_permits,
            &mut self.backlog,
            &mut self.gate_floor,
            &mut self.attempts,
            &mut self.prepare_permits,
            &mut self.queue,
            &mut self.lookahead,
        ] {
            *most = (*most).max(1);
        }
        for most in [&mut self.sockets, &mut self.ramp_from, &mut self.per_host, &mut self.per_address] {
            *most = most.map(|most| most.max(1));
        }
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_in_flight: 10_000,
            sockets: None,
            ramp_from: Some(16),
            per_host: None,
            adaptive: true,
            host_ramp_from: 16,
            breaker: Some(16),
            host_patience: None,
            per_address: None,
            gap: Duration::ZERO,
            gap_jitter: 0.5,
            rate: None,
            parse_permits: 1,
            deliver_permits: 256,
            backlog: 1024,
            byte_budget: 256 << 20,
            gate_floor: 16,
            attempts: 3,
            backoff_base: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(60),
            retry_after_cap: Duration::from_secs(600),
            retry_budget: 0.2,
            retry_floor: 10,
            max_starts: None,
            prepare_permits: 256,
            room_patience: Duration::from_secs(600),
            queue: 10_000,
            lookahead: 1024,
            max_hosts: 100_000,
            prepare_hosts: false,
            resolve_hosts: false,
            seed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::engine::{Action, Engine, Event, JobSpec};

    #[test]
    fn nothing_at_all_is_one() {
        let nothing = Config {
            max_in_flight: 0,
            sockets: Some(0),
            ramp_from: Some(0),
            per_host: Some(0),
            per_address: Some(0),
            parse_permits: 0,
            deliver_permits: 0,
            backlog: 0,
            byte_budget: 0,
            gate_floor: 0,
            attempts: 0,
            prepare_permits: 0,
            queue: 0,
            lookahead: 0,
            max_hosts: 0,
            ..Config::default()
        };
        #[expect(clippy::disallowed_methods, reason = "any origin of time will do")]
        let now = Instant::now();
        for prepares in [false, true] {
            let mut engine = Engine::new(Config { prepare_hosts: prepares, ..nothing.clone() });
            assert_eq!(engine.want(), 1);
            let host = engine.host("http://a.test");
            engine.submit(now, host, JobSpec::default());
            let mut settled = false;
            while let Some(action) = engine.poll(now) {
                let event = match action {
                    Action::Prepare(host) => Event::Prepared { host, gap: None, valid_until: None },
                    Action::Fetch { job, .. } => Event::Fetched { job },
                    Action::Parse(job) => Event::Parsed { job, deliver: true },
                    Action::Deliver(job) => Event::Delivered { job, rejected: false },
                    Action::Settle { job, .. } => {
                        settled = true;
                        Event::Closed { job }
                    }
                    _ => continue,
                };
                engine.handle_event(now, event);
            }
            assert!(settled);
        }
        assert_eq!(Config::default().clamped(), Config::default());
    }
}
