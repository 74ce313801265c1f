//! Tests of the engine: a bench for lists of literals, and a reference model that audits random and simulated runs.

mod auditor;
mod awaited;
mod in_line;
mod literals;
mod model;
mod scripts;
mod simulated;
mod steps;
mod want;

use std::time::{Duration, Instant};

use super::*;
use crate::RetryTime;

const MS: Duration = Duration::from_millis(1);
const NS: Duration = Duration::from_nanos(1);

/// All of them.
const BLAMES: [Blame; 5] = [Blame::Nobody, Blame::Url, Blame::Host, Blame::Throttled, Blame::Ports];

fn origin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    Instant::now()
}

/// Everything adaptive off.
fn plain() -> Config {
    Config {
        ramp_from: None,
        adaptive: false,
        breaker: None,
        gap_jitter: 0.0,
        parse_permits: 8,
        retry_budget: 1.0,
        ..Config::default()
    }
}

struct Bench {
    engine: Engine,
    now: Instant,
    settled: Vec<(JobId, JobVerdict)>,
    /// Actions that came while something else was looked for.
    kept: Vec<Action>,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self { engine: Engine::new(config), now: origin(), settled: Vec::new(), kept: Vec::new() }
    }

    fn submit(&mut self, host: &str) -> JobId {
        self.submit_with(host, JobSpec::default())
    }

    fn submit_with(&mut self, host: &str, spec: JobSpec) -> JobId {
        let host = self.engine.host(host);
        self.engine.submit(self.now, host, spec)
    }

    fn event(&mut self, event: Event) {
        self.engine.handle_event(self.now, event);
    }

    /// All actions that there are now; settlements are closed at once and kept apart.
    fn actions(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.kept);
        while let Some(action) = self.engine.poll(self.now) {
            match action {
                Action::Settle { job, verdict } => {
                    self.settled.push((job, verdict));
                    self.event(Event::Closed { job });
                }
                other => actions.push(other),
            }
        }
        actions
    }

    fn fetches(&mut self) -> Vec<JobId> {
        let fetch = |action| match action {
            Action::Fetch { job, .. } => Some(job),
            _ => None,
        };
        self.actions().into_iter().filter_map(fetch).collect()
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.engine.handle_timeout(self.now);
    }

    fn fail(&mut self, job: JobId, retry: RetryTime) {
        self.event(Event::Failed { job, retry, blame: Blame::Nobody });
    }

    /// From the answer to the verdict, without items.
    fn finish(&mut self, job: JobId) {
        self.event(Event::Fetched { job });
        let mut actions = self.actions();
        let parse = actions.iter().position(|action| *action == Action::Parse(job)).expect("it is parsed next");
        actions.remove(parse);
        self.kept = actions;
        self.event(Event::Parsed { job, deliver: false });
    }
}
