//! `tidegate monitor`: a look at each URL of a list, once a period.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::{Method, StatusCode};
use tidegate::http::HttpFetcher;
use tidegate::{
    Added, Delivery, DeliveryId, Error, FetchCx, Fetcher, Frontier, FrontierError, LeaseId, Leased, Outcome, Profile,
    Recurring, Request, Response, Settled, Verdict,
};

use super::args::MonitorArgs;
use super::input::List;
use super::output::{Outputs, line};
use super::page::PageParser;
use super::record::{MonitorKeys, Record, Shape};
use super::setup::{Setup, USER_AGENT, as_set};
use super::time::rfc3339;
use super::{Failure, run, say};
use crate::demo::{DemoOptions, DemoSite};

/// Looks at each URL of the demo site where no number is given.
const DEMO_ROUNDS: u64 = 2;

pub(super) fn run(args: MonitorArgs) -> Result<u8, Failure> {
    let MonitorArgs { mut list, demo, period, rounds, common } = args;
    let demo = demo.then(|| DemoSite::start(DemoOptions::default())).transpose();
    let demo = demo.map_err(|error| Failure::run(format!("cannot start the demo site: {error}")))?;
    if let Some(site) = &demo {
        list.urls = site.monitor_urls(u32::MAX);
    }
    let rounds = rounds.map(NonZeroU64::get).or_else(|| demo.as_ref().map(|_| DEMO_ROUNDS));
    let requests = List::open(list, &common, Method::HEAD, 1)?.read_all()?;
    if requests.is_empty() {
        return Err(Failure::usage("nothing to watch: the list is empty"));
    }
    let mut profile = Profile::list();
    // A bad look is told as one; the next round looks again.
    profile.attempts = 1;
    let user_agent = common.user_agent.as_deref().unwrap_or(USER_AGENT);
    let setup = Setup::new(&common, profile, user_agent, demo.is_some())?;
    let outputs = Outputs::open(&common, demo.is_some())?;
    if let Some(site) = demo.as_ref().filter(|_| !common.quiet) {
        let (urls, rounds) = (requests.len(), rounds.map_or_else(|| "all".into(), |n| n.to_string()));
        say(format_args!(
            "demo site at {}; {urls} URLs every {period:?}, {rounds} rounds, {}",
            site.url(),
            setup.politeness()
        ));
    }
    let start = setup.runtime.wall_clock();
    let missed = Arc::new(AtomicU64::new(0));
    let mut looks = Recurring::new(requests, period, start);
    if let Some(rounds) = rounds {
        looks = looks.with_rounds(rounds);
    }
    let builder = setup.builder(&common);
    // A look is a measurement: what is down is looked at all the same.
    let builder = if common.adaptive { builder } else { as_set(builder) };
    let builder = builder
        .fetcher(HeadOrGet(setup.fetcher.clone()))
        .frontier(Looks { looks, missed: Arc::clone(&missed) })
        .parse_with(PageParser::new(&common).head_only());
    let states = States::new(start, period);
    let observed = states.clone();
    let shape = Shape { headers: common.include_headers };
    let ended = run::to_end(
        builder,
        &common,
        outputs,
        Box::new(move |delivery, buffer| {
            let settled = &delivery.item;
            let more = MonitorKeys {
                state: observed.observe(delivery),
                certificate_expires_at: settled.certificate_expiry.map(rfc3339),
            };
            line(&Record::new(delivery, shape, more), buffer)
        }),
    )?;
    ended.finish(&common, Some(states.summary(missed.load(Ordering::Relaxed))), None)
}

/// Asks again with GET where a server refuses HEAD. One look, one attempt, one outcome; the body is not read, because the
/// parser wants the head only.
struct HeadOrGet(HttpFetcher);

#[async_trait]
impl Fetcher for HeadOrGet {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let response = self.0.fetch(request, cx).await?;
        let refused = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&response.head.status);
        if *request.method() == Method::HEAD && refused {
            return self.0.fetch(&request.clone().with_method(Method::GET), cx).await;
        }
        Ok(response)
    }

    async fn resolve(&self, target: &url::Url, cx: &FetchCx) -> Result<Option<std::net::IpAddr>, Error> {
        self.0.resolve(target, cx).await
    }
}

/// The list that comes round again, and how many looks it left out.
struct Looks {
    looks: Recurring,
    missed: Arc<AtomicU64>,
}

#[async_trait]
impl Frontier for Looks {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        let leased = self.looks.lease(want, now).await;
        self.missed.store(self.looks.missed(), Ordering::Relaxed);
        leased
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        self.looks.settle(done).await
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        self.looks.add(found).await
    }
}

/// What the last looks at each URL say, and when in the period they began.
#[derive(Clone, Debug)]
struct States(Arc<Mutex<Seen>>);

#[derive(Debug)]
struct Seen {
    start: SystemTime,
    period: Duration,
    /// Bad looks in a row; one entry for each URL of the list.
    bad: HashMap<DeliveryId, u32>,
    /// Looks that began in each tenth of the period.
    tenths: [u64; 10],
}

impl States {
    fn new(start: SystemTime, period: Duration) -> Self {
        Self(Arc::new(Mutex::new(Seen { start, period, bad: HashMap::new(), tenths: [0; 10] })))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a look into account; the state of its URL then.
    fn observe(&self, delivery: &Delivery<Settled>) -> Option<&'static str> {
        let settled = &delivery.item;
        let mut seen = self.seen();
        if let (Some(end), Some(total)) = (settled.fetched_at, settled.timings.total) {
            seen.began(end.checked_sub(total).unwrap_or(end));
        }
        let is_good = match &settled.outcome {
            Outcome::Ok => settled.status().is_some_and(|status| status.as_u16() < 400),
            Outcome::Error(_) => false,
            // Not a look.
            _ => return seen.bad.get(&delivery.id).map(|bad| state(*bad)),
        };
        let bad = seen.bad.entry(delivery.id).or_default();
        *bad = if is_good { 0 } else { bad.saturating_add(1) };
        Some(state(*bad))
    }

    fn summary(&self, missed: u64) -> String {
        let seen = self.seen();
        let count = |name| seen.bad.values().filter(|bad| state(**bad) == name).count();
        let tenths: Vec<_> = seen.tenths.iter().map(u64::to_string).collect();
        format!(
            "{} up, {} suspect, {} down; {missed} looks left out; starts in each tenth of the period: {}",
            count("up"),
            count("suspect"),
            count("down"),
            tenths.join(" ")
        )
    }
}

impl Seen {
    fn began(&mut self, at: SystemTime) {
        let since = at.duration_since(self.start).unwrap_or_default();
        let of_period = since.as_nanos() % self.period.as_nanos().max(1);
        let tenth = of_period * 10 / self.period.as_nanos().max(1);
        self.tenths[usize::try_from(tenth).unwrap_or(0).min(9)] += 1;
    }
}

/// One bad look may be ours or the network's; two are the server's.
fn state(bad: u32) -> &'static str {
    match bad {
        0 => "up",
        1 => "suspect",
        _ => "down",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_needs_two_looks() {
        assert_eq!([0, 1, 2, 3].map(state), ["up", "suspect", "down", "down"]);
    }

    #[test]
    fn starts_are_counted_by_tenths_of_the_period() {
        let states = States::new(SystemTime::UNIX_EPOCH, Duration::from_millis(100));
        for millis in [0, 9, 10, 99, 100, 119, 250] {
            states.seen().began(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        }
        assert_eq!(states.seen().tenths, [3, 2, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert!(states.summary(4).starts_with("0 up, 0 suspect, 0 down; 4 looks left out;"));
    }
}
