//! From a description to a crawl that runs: what is contradictory is refused, and every task is started.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;

use super::super::driver::{Driver, Parts, Settings};
use super::super::fetch_loop::FetchLoop;
use super::super::frontier_task::FrontierDoor;
use super::super::inbox::{Inbox, LaneOf, Message};
use super::super::lag_probe::{LagProbe, Worker};
use super::super::lane::{Lane, SinkLane};
use super::super::load::Signals;
use super::super::parse_stage::{Local, ParseStage};
use super::super::stall::Stalls;
use super::super::stats::Stats;
use super::super::{Crawl, Handle};
use super::{Builder, Rules};
use crate::engine::{Bound, Engine};
use crate::observer::Observers;
use crate::rt::Runtime;
use crate::{BodyBytes, Error, ErrorKind, MemoryFrontier, Sink, defaults};

impl<I: Send + 'static> Builder<I> {
    /// Starts the crawl on its runtime.
    ///
    /// # Errors
    /// `config.invalid` where a setting is missing or contradicts another; the message says which.
    ///
    /// ```
    /// # async fn example(crawl: tidegate::Builder<String>) -> Result<(), tidegate::Error> {
    /// let crawl = crawl.start()?;
    /// let handle = crawl.handle();
    /// handle.submit([tidegate::Request::get("https://example.org/late")])?;
    /// crawl.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(self) -> Result<Crawl, Error> {
        self.check()?;
        let (profile, runtime) = (self.profile, self.runtime);
        let user_agent = self.user_agent.unwrap_or_else(|| concat!("tidegate/", env!("CARGO_PKG_VERSION")).to_owned());
        let fetcher = match self.fetcher {
            Some(fetcher) => fetcher,
            None => defaults::fetcher(&runtime, &user_agent)?,
        };
        let host_policy = match self.host_policy {
            Rules::Custom(policy) => Some(policy),
            Rules::ByProfile if profile.robots => Some(defaults::host_policy()),
            Rules::ByProfile | Rules::None => None,
        };
        let inbox = self.inbox;
        let stage = Arc::new(Local::new(self.router, &runtime, Arc::clone(&inbox)));
        let mut config = self.config;
        let limits = fetcher.ledger().map_or_else(|| runtime.ledger_limits(), |ledger| ledger.limits().clone());
        config.max_in_flight = self.max_in_flight.map_or(config.max_in_flight, NonZeroU32::get);
        config.sockets = Some(limits.sockets);
        config.ramp_from = config.ramp_from.filter(|_| self.max_in_flight.is_none());
        config.byte_budget = self.byte_budget.unwrap_or(limits.body_bytes);
        config.parse_permits = stage.permits();
        config.prepare_hosts = host_policy.is_some();
        let frontier =
            self.frontier.unwrap_or_else(|| Box::new(MemoryFrontier::new(self.frontier_capacity, config.seed)));
        let loops = self.loops.unwrap_or_else(|| runtime.spawner().parallelism().get());
        let mut signals = Signals::new();
        signals.add_memory(&runtime, self.memory_limit);
        self.signals.into_iter().for_each(|(name, signal)| signals.add(Bound::Signal, name.into(), signal));
        let probe = Arc::new(LagProbe::start(&runtime, Arc::clone(&inbox), self.lag_limit, signals));
        let stats = Arc::new(Mutex::new(Stats::new(runtime.now(), self.window, runtime.cpu_time())));
        let (sink, limit) = (self.sink.filter(|_| self.stream.is_none()), self.sink_limit);
        let door = || (&runtime, Arc::clone(&inbox), probe.worker());
        let items =
            sink.map(|sink| Box::new(lane(door(), sink, LaneOf::Items, limit)) as Box<dyn Lane>).or(self.stream);
        let outcomes = self.outcomes.map(|sink| lane(door(), sink, LaneOf::Outcomes, limit));
        let (done, report) = oneshot::channel();
        let ledger = Arc::new(BodyBytes::new(config.byte_budget, profile.limits.body_wire));
        let handle = Handle {
            inbox: Arc::clone(&inbox),
            stats: Arc::clone(&stats),
            probe: Arc::clone(&probe),
            runtime: runtime.clone(),
            ledger: Arc::clone(&ledger),
            sockets: fetcher.ledger().cloned(),
        };
        let alarm = Arc::clone(&inbox);
        let alarm = Box::new(move |message| alarm.push(Message::ObserverPanicked(message)));
        let parts = Parts {
            observers: Observers::new(self.observers, runtime.now(), alarm),
            loops: (0..loops.max(1)).map(|_| FetchLoop::start(&runtime, Arc::clone(&inbox), probe.worker())).collect(),
            frontier: FrontierDoor::start(&runtime, Arc::clone(&inbox), frontier, probe.worker()),
            engine: Engine::new(config),
            settings: Settings {
                profile,
                user_agent: user_agent.into_boxed_str(),
                scope: self.scope,
                max_depth: self.max_depth,
                max_time: self.max_time,
                parse_limit: self.parse_limit,
                close_limit: self.close_limit,
            },
            runtime: runtime.clone(),
            inbox,
            fetcher: Some(fetcher),
            host_policy,
            stalls: Stalls::new(self.stalls_told),
            worker: probe.worker(),
            stage,
            items,
            outcomes,
            probe,
            stats,
            ledger,
        };
        runtime.spawn(Driver::new(parts, self.seeds, done));
        Ok(Crawl::new(handle, report))
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::ConfigInvalid, format!("start the crawl: {what}")));
        if self.profile.user_agent_required && self.user_agent.is_none() {
            return invalid(
                "it visits other people's servers and must say who it is: \
                 set user_agent(\"name/version (+mailto:you@example.org)\")",
            );
        }
        if self.seeds.is_empty() && self.frontier.is_none() {
            return invalid("it has nothing to fetch: set seed(..), requests(..) or frontier(..)");
        }
        if (self.sink.is_some() || self.stream.is_some()) && self.router.is_empty() {
            return invalid("it has a sink but no parser: set parse_with(..) or route(..)");
        }
        Ok(())
    }
}

fn lane<T: Send + 'static>(
    (runtime, inbox, worker): (&Runtime, Arc<Inbox>, Worker),
    sink: Box<dyn Sink<T>>,
    of: LaneOf,
    limit: Duration,
) -> SinkLane<T> {
    SinkLane::start(runtime, inbox, sink, of, limit, worker)
}
