//! Who decides how much is in flight: the engine, with its own limits or a fixed one, or another rule.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidegate::RetryTime;
use tidegate::engine::{Action, Blame, Config, Engine, Event, HostId, JobId, JobSpec, JobVerdict};

use crate::crawlee::Crawlee;
use crate::scenario::Scenario;

/// Fetches in flight at most, whatever the policy.
pub(crate) const MOST: u32 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Tidegate,
    Fixed(u32),
    Crawlee,
}

/// A request that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// A small number, unique among the jobs that live.
    pub(crate) job: usize,
    pub(crate) host: usize,
    /// From 1.
    pub(crate) attempt: u32,
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Page,
    /// 429 or 503.
    Refused {
        retry_after: Option<Duration>,
    },
    TimedOut,
}

/// A crawl that never runs out of URLs, apart from what it fetches them with. Times are those since its start.
pub(crate) trait Client {
    /// What to send now; asked until it gives none.
    fn start(&mut self, now: Duration) -> Option<Start>;
    fn end(&mut self, now: Duration, job: usize, outcome: Outcome);
    /// When to [`wake`](Self::wake) it.
    fn timeout(&self) -> Option<Duration>;
    fn wake(&mut self, now: Duration);
    /// URLs that were given up.
    fn lost(&self) -> u64;
}

impl Policy {
    pub(crate) const ALL: [Self; 5] =
        [Self::Tidegate, Self::Fixed(10), Self::Fixed(200), Self::Fixed(2_000), Self::Crawlee];

    pub(crate) fn text(self) -> String {
        match self {
            Self::Tidegate => "tidegate".into(),
            Self::Fixed(limit) => format!("fixed {limit}"),
            Self::Crawlee => "crawlee".into(),
        }
    }

    pub(crate) fn client(self, scenario: &Scenario, seed: u64) -> Box<dyn Client> {
        let mut config = Config::default();
        config.max_in_flight = MOST;
        config.seed = seed;
        match self {
            Self::Tidegate => {
                config.per_host = Some(MOST);
                config.adaptive = true;
                config.breaker = Some(16);
                config.ramp_from = scenario.ramp_from.or(config.ramp_from);
                config.host_ramp_from = scenario.ramp_from.unwrap_or(config.host_ramp_from);
            }
            Self::Fixed(limit) => {
                config.per_host = Some(limit);
                config.ramp_from = None;
            }
            Self::Crawlee => return Box::new(Crawlee::new(scenario.hosts as usize)),
        }
        Box::new(EngineClient::new(config, scenario.hosts))
    }
}

/// The engine, told what a driver would tell it.
struct EngineClient {
    engine: Engine,
    origin: Instant,
    hosts: Vec<HostId>,
    /// Hosts that a URL is due for, so that as many wait for each of them always.
    owed: VecDeque<usize>,
    /// Jobs that live, by their index.
    jobs: Vec<Option<JobId>>,
    lost: u64,
}

impl EngineClient {
    fn new(config: Config, hosts: u32) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; it is moved by the model")]
        let origin = Instant::now();
        let queue = config.queue as usize;
        let mut engine = Engine::new(config);
        let hosts: Vec<_> = (0..hosts).map(|n| engine.host(&format!("http://host-{n}.test"))).collect();
        let owed = (0..hosts.len()).cycle().take(queue).collect();
        Self { engine, origin, hosts, owed, jobs: Vec::new(), lost: 0 }
    }

    fn feed(&mut self, now: Instant) {
        for _ in 0..self.engine.want() {
            let Some(host) = self.owed.pop_front() else { break };
            let job = self.engine.submit(now, self.hosts[host], JobSpec::default());
            let index = job.index();
            self.jobs.resize(self.jobs.len().max(index + 1), None);
            self.jobs[index] = Some(job);
        }
    }
}

impl Client for EngineClient {
    fn start(&mut self, now: Duration) -> Option<Start> {
        let now = self.origin + now;
        loop {
            self.feed(now);
            match self.engine.poll(now)? {
                Action::Fetch { job, attempt } => {
                    let host = self.engine.host_of(job)?.index();
                    if attempt == 1 {
                        self.owed.push_back(host);
                    }
                    return Some(Start { job: job.index(), host, attempt });
                }
                Action::Parse(job) => self.engine.handle_event(now, Event::Parsed { job, deliver: false }),
                Action::Settle { job, verdict } => {
                    self.lost += u64::from(verdict != JobVerdict::Ok);
                    self.jobs[job.index()] = None;
                    self.engine.handle_event(now, Event::Closed { job });
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, now: Duration, job: usize, outcome: Outcome) {
        let now = self.origin + now;
        let Some(job) = self.jobs[job] else { return };
        let event = match outcome {
            Outcome::Page => Event::Fetched { job },
            Outcome::TimedOut => Event::Failed { job, retry: RetryTime::AfterBackoff, blame: Blame::Host },
            Outcome::Refused { retry_after } if self.engine.may_retry(job) || self.engine.may_wait(job) => {
                let retry = retry_after.map_or(RetryTime::AfterBackoff, RetryTime::After);
                Event::Failed { job, retry, blame: Blame::Throttled }
            }
            // As the driver does it: the URL has no attempt left, the host's wish is kept all the same.
            Outcome::Refused { retry_after } => {
                if let Some(wait) = retry_after {
                    self.engine.handle_event(now, Event::Throttled { job, wait });
                }
                Event::Failed { job, retry: RetryTime::Never, blame: Blame::Throttled }
            }
        };
        self.engine.handle_event(now, event);
    }

    fn timeout(&self) -> Option<Duration> {
        self.engine.poll_timeout().map(|time| time.saturating_duration_since(self.origin))
    }

    fn wake(&mut self, now: Duration) {
        self.engine.handle_timeout(self.origin + now);
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}
