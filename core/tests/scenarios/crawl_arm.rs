//! A real crawl on any runtime, with a scripted fetcher, rules, frontier, parser and sink.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use tidegate::rt::Runtime;
use tidegate::{
    Added, Batch, Crawl, Decode, Error, ErrorKind, FetchCx, Fetcher, Frontier, FrontierError, Handle, Head, HostCx,
    HostPolicy, HostRules, LeaseId, Leased, Limits, Outcome as Settlement, Output, Overrides, Page, ParseAction,
    ParseError, Profile, Request, Response, Shutdown, Sink, SinkError, Verdict as LeaseVerdict,
};
use url::Url;

use super::format::{Answer, Command, Lookup, Millis, Parse, Scenario, Start, Timed, Verdict, nth_or_last};
use super::{Holder, Outcome};

/// How long a command waits for the starts before it, where they do not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Works for so long on the thread that it is called on.
pub(crate) type Spend = Arc<dyn Fn(Duration) + Send + Sync>;

/// Runs a scenario as a crawl.
pub(crate) async fn run(runtime: Runtime, scenario: Arc<Scenario>, spend: Spend) -> Outcome {
    let site = Arc::new(Site {
        start: runtime.now(),
        runtime: runtime.clone(),
        scenario: Arc::clone(&scenario),
        seen: Mutex::default(),
    });
    let outcomes = tidegate::sink::collect();
    let mut crawl = builder(&site, spend).outcomes(outcomes.clone());
    if let Some(sink) = scenario.sink {
        crawl = crawl.sink(OneByOne { site: Arc::clone(&site), takes: sink.takes.into() });
    }
    let crawl = crawl.start().expect("the settings fit");
    let (handle, observer, commander) = (crawl.handle(), crawl.handle(), Arc::clone(&site));
    runtime.spawn(async move { commander.command(handle).await });
    let report = crawl.await.expect("the run ends well");

    let counters = report.totals.counters;
    assert_eq!(counters.submitted, counters.ok + counters.error + counters.skipped + counters.cancelled, "{report}");
    assert_eq!((counters.in_flight, counters.jobs, counters.parse_queued), (0, 0, 0), "{report}");
    let mut seen = site.seen();
    let bytes_left = observer.snapshot().bytes_in_memory;
    let mut outcome = Outcome {
        bytes_left,
        starts: std::mem::take(&mut seen.starts),
        peaks: std::mem::take(&mut seen.peaks),
        ..Outcome::default()
    };
    for delivery in outcomes.take() {
        let settled = delivery.item;
        let text = match &settled.outcome {
            Settlement::Error(error) => format!("error {}", error.kind().code()),
            Settlement::Skipped(reason) => format!("skipped {}", reason.code()),
            other => other.name().to_owned(),
        };
        let name = settled.request.id().expect("every request has its name").to_owned();
        let verdict = Verdict { outcome: text, attempts: settled.attempts };
        assert_eq!(outcome.verdicts.insert(name.clone(), verdict), None, "{name} has one verdict");
    }
    assert_eq!(outcome.verdicts.len() as u64, counters.submitted, "one verdict for each URL");
    for (name, verdict) in &outcome.verdicts {
        let (lease, taken) = seen.settled.remove(name).unwrap_or_else(|| panic!("the lease of {name} did not end"));
        let is_unwanted = |c: &Timed| matches!(&c.command, Command::Cancel(job) if job == name);
        let returns = verdict.outcome == "cancelled" && !scenario.commands.iter().any(is_unwanted);
        assert_eq!(lease, if returns { LeaseVerdict::Return } else { LeaseVerdict::Done }, "{name}");
        if scenario.sink.is_some() && verdict.outcome == "ok" {
            assert!(taken, "{name} was done before the sink had its item");
        }
    }
    assert!(seen.settled.is_empty(), "leases that no URL had: {:?}", seen.settled);
    for job in &scenario.jobs {
        let unvisited = || Verdict { outcome: "unvisited".to_owned(), attempts: 0 };
        outcome.verdicts.entry(job.name.clone()).or_insert_with(unvisited);
    }
    outcome
}

fn builder(site: &Arc<Site>, spend: Spend) -> tidegate::Builder<String> {
    let scenario = &site.scenario;
    let s = &scenario.crawl;
    let mut profile = Profile::own();
    profile.gap_jitter = 0.0;
    profile.limits.redirects = s.redirects;
    let parser = Arc::clone(site);
    let parse = move |page: &Page, out: &mut Output<String>| parser.parse(page, out, &spend);
    let mut crawl = Crawl::builder(site.runtime.clone())
        .profile(profile)
        .breaker(NonZeroU32::new(16), Duration::from_secs(60))
        .max_in_flight(NonZeroU32::new(s.max_in_flight).expect("not zero"))
        .delay(s.gap.into())
        .retries(s.attempts - 1)
        .max_in_flight_per_host(s.per_host.and_then(NonZeroU32::new))
        .max_in_flight_per_address(s.per_address.and_then(NonZeroU32::new))
        .rate(s.rate.unwrap_or_default())
        .backoff(s.backoff.into(), s.backoff.into())
        .retry_budget(s.retry_budget)
        .random_seed(7)
        .frontier(Script::new(site))
        .fetcher(Shared(Arc::clone(site)))
        .parse_with(parse);
    if let Some(pages) = s.max_pages {
        crawl = crawl.max_pages(pages);
    }
    if scenario.has_rules() { crawl.host_policy(Shared(Arc::clone(site))) } else { crawl.no_robots() }
}

/// All that the scenario says of the world, and what was seen of the crawl.
struct Site {
    runtime: Runtime,
    start: Instant,
    scenario: Arc<Scenario>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    starts: Vec<Start>,
    /// How often each job or host was asked for each kind of thing.
    counts: HashMap<(&'static str, String), usize>,
    in_flight: HashMap<Holder, u32>,
    peaks: HashMap<Holder, u32>,
    /// Items that the sink took.
    taken: HashSet<String>,
    /// How the lease of each job ended, and whether its item was taken by then.
    settled: HashMap<String, (LeaseVerdict, bool)>,
}

/// A fetch that runs, for the counts of what is in flight.
struct InFlight<'a> {
    site: &'a Site,
    holders: Vec<Holder>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut seen = self.site.seen();
        for holder in &self.holders {
            *seen.in_flight.entry(holder.clone()).or_default() -= 1;
        }
    }
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().trim_end_matches(".test").to_owned()
}

fn job_of(url: &Url) -> String {
    url.path().trim_start_matches('/').to_owned()
}

impl Site {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of this question, from 0.
    fn nth(&self, what: &'static str, of: &str) -> usize {
        let mut seen = self.seen();
        let count = seen.counts.entry((what, of.to_owned())).or_default();
        *count += 1;
        *count - 1
    }

    async fn wait(&self, time: Duration) {
        if !time.is_zero() {
            self.runtime.sleep_until(self.runtime.now() + time).await;
        }
    }

    fn begin(&self, job: &str, host: &str, attempt: u32, is_hop: bool) -> InFlight<'_> {
        let at = Millis(self.runtime.now().saturating_duration_since(self.start).as_millis() as u64);
        let address = self.scenario.host(host).address.map(Holder::Address);
        let holders: Vec<_> = [Holder::Crawl, Holder::Host(host.to_owned())].into_iter().chain(address).collect();
        let mut seen = self.seen();
        let hop = is_hop.then(|| host.to_owned());
        seen.starts.push(Start { at, job: job.to_owned(), attempt, hop });
        for holder in &holders {
            let now = seen.in_flight.entry(holder.clone()).or_default();
            *now += 1;
            let now = *now;
            let peak = seen.peaks.entry(holder.clone()).or_default();
            *peak = now.max(*peak);
        }
        drop(seen);
        InFlight { site: self, holders }
    }

    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let target = request.target()?;
        let (name, host) = (job_of(&target), host_of(&target));
        let nth = self.nth("fetch", &name);
        let (answer, latency) = self.scenario.answer(self.scenario.job(&name), &host, nth);
        let _in_flight = self.begin(&name, &host, cx.attempt(), target.query().is_some());
        self.wait(latency).await;
        wake_while_polled().await;
        let status = |code| StatusCode::from_u16(code).expect("a status of a scenario");
        match answer {
            Answer::Error(kind) => Err(Error::new(kind, "fetch as the scenario says")),
            Answer::Status { status: code, retry_after } => {
                let mut head = Head::new(target, status(code));
                if let Some(seconds) = retry_after {
                    head.headers.insert(http::header::RETRY_AFTER, seconds.into());
                }
                let accepted = cx.accept(&head);
                cx.book(1000).await;
                let page = self.nth("page", &name);
                let mut response = Response::new(head, page.to_string());
                response.accepted = accepted;
                let parse = nth_or_last(&self.scenario.job(&name).parses, page);
                if let Some(Parse::Undecodable(kind)) = parse {
                    response.decoder = Some(Arc::new(Undecodable(kind)));
                }
                Ok(response)
            }
            Answer::Redirect { host } => {
                let mut head = Head::new(target, status(302));
                let location = format!("http://{host}.test/{name}?hop={nth}");
                head.headers.insert(http::header::LOCATION, location.parse().expect("a URL of a scenario"));
                Ok(Response::new(head, ""))
            }
        }
    }

    async fn look_up(&self, what: &'static str, host: &str) -> Result<(), Error> {
        let said = self.scenario.host(host);
        let answers = if what == "prepare" { &said.prepares } else { &said.resolves };
        let answer = nth_or_last(answers, self.nth(what, host)).unwrap_or(Lookup::Ok);
        self.wait(said.lookup_latency.into()).await;
        match answer {
            Lookup::Ok => Ok(()),
            Lookup::Error(kind) => Err(Error::new(kind, format!("{what} as the scenario says"))),
        }
    }

    fn parse(&self, page: &Page, out: &mut Output<String>, spend: &Spend) -> Result<(), ParseError> {
        let name = job_of(page.url());
        let job = self.scenario.job(&name);
        let nth = page.utf8().parse().expect("the number of the page");
        let result = nth_or_last(&job.parses, nth).unwrap_or(Parse::Ok);
        spend(job.parse_takes.into());
        match result {
            Parse::Ok => out.item(name),
            Parse::Retry { after: None } => return Err(ParseError::retry("as the scenario says")),
            Parse::Retry { after: Some(wait) } => {
                return Err(ParseError::retry("as the scenario says").after(wait.into()));
            }
            Parse::Fail => return Err(ParseError::new(ParseAction::Fail, "as the scenario says")),
            // No report of it on standard error.
            Parse::Undecodable(kind) => panic!("{name} was decoded in spite of {kind:?}"),
            Parse::Panic => std::panic::resume_unwind(Box::new("as the scenario says")),
        }
        Ok(())
    }

    async fn command(&self, handle: Handle) {
        let mut commands = self.scenario.commands.clone();
        commands.sort_by_key(|command| command.at);
        for command in commands {
            self.runtime.sleep_until(self.start + Duration::from(command.at)).await;
            // On a real clock the starts before it may be late, and it comes after them all the same.
            let before = self.scenario.starts.iter().filter(|start| start.at < command.at);
            let key = |start: &Start| (start.job.clone(), start.attempt, start.hop.clone());
            let before: HashSet<_> = before.map(key).collect();
            let have_come = || before.is_subset(&self.seen().starts.iter().map(key).collect());
            let patience = self.runtime.now() + PATIENCE;
            while !have_come() && self.runtime.now() < patience {
                self.wait(Duration::from_millis(1)).await;
            }
            match command.command {
                Command::Pause => handle.pause(),
                Command::Resume => handle.resume(),
                Command::Shutdown(within) => handle.shutdown(Shutdown::Graceful { within: within.into() }),
                Command::Cancel(name) => {
                    let cancelled = handle.cancel(move |request| request.id() == Some(&*name)).await;
                    assert_eq!(cancelled.expect("the crawl runs"), 1);
                }
                other => panic!("a crawl has no {other:?}"),
            }
        }
    }
}

/// Is woken while it is polled, after something else has woken it.
async fn wake_while_polled() {
    let mut woken = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut woken, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A body that cannot be decoded.
struct Undecodable(ErrorKind);

impl Decode for Undecodable {
    fn decode(&self, _head: &Head, _wire: Bytes, _limits: &Limits) -> Result<Bytes, Error> {
        Err(Error::new(self.0, "decode as the scenario says"))
    }
}

/// The site, as the traits of a crawl have it.
struct Shared(Arc<Site>);

#[async_trait]
impl Fetcher for Shared {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        self.0.fetch(request, cx).await
    }

    async fn resolve(&self, target: &Url, _cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        let host = host_of(target);
        self.0.look_up("resolve", &host).await?;
        Ok(self.0.scenario.host(&host).address)
    }
}

#[async_trait]
impl HostPolicy for Shared {
    async fn prepare(&self, target: &Url, _cx: &HostCx) -> Result<Box<dyn HostRules>, Error> {
        let name = host_of(target);
        self.0.look_up("prepare", &name).await?;
        Ok(Box::new(Rules(self.0.scenario.host(&name))))
    }
}

struct Rules(super::format::Host);

impl HostRules for Rules {
    fn allows(&self, target: &Url) -> bool {
        !self.0.disallows.contains(&job_of(target))
    }

    fn crawl_delay(&self) -> Option<Duration> {
        self.0.crawl_delay.map(Into::into)
    }

    fn valid_for(&self) -> Duration {
        self.0.valid_for.map_or(Duration::from_secs(86_400), Into::into)
    }
}

/// Gives out the jobs of the scenario, each at its time.
struct Script {
    site: Arc<Site>,
    start: SystemTime,
    left: VecDeque<(SystemTime, Request)>,
    /// The jobs that were given out; their places are the leases.
    leased: Vec<String>,
}

impl Script {
    fn new(site: &Arc<Site>) -> Self {
        let start = site.runtime.wall_clock();
        let mut jobs: Vec<_> = site.scenario.jobs.iter().collect();
        jobs.sort_by_key(|job| job.at);
        let request = |job: &super::format::Job| {
            let url = format!("http://{}.test/{}", job.host, job.name);
            let request = if job.post { Request::post(url, "") } else { Request::get(url) };
            let mut request = request.with_id(job.name.clone()).with_priority(job.priority);
            if let Some(attempts) = job.attempts {
                let mut overrides = Overrides::default();
                overrides.max_retries = Some(attempts - 1);
                request = request.with_overrides(overrides);
            }
            match job.not_before {
                Some(at) => request.with_not_before(start + Duration::from(at)),
                None => request,
            }
        };
        let left = jobs.into_iter().map(|job| (start + Duration::from(job.at), request(job))).collect();
        Self { site: Arc::clone(site), start, left, leased: Vec::new() }
    }
}

#[async_trait]
impl Frontier for Script {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        let mut leased = Leased::default();
        while self.left.front().is_some_and(|(at, _)| *at <= now.max(self.start))
            && leased.requests.len() < want.get() as usize
        {
            let (_, request) = self.left.pop_front().expect("it was looked at");
            let lease = LeaseId(self.leased.len() as u64);
            self.leased.push(request.id().expect("every request has its name").to_owned());
            leased.requests.push((lease, request));
        }
        leased.next_due = self.left.front().map(|(at, _)| *at).filter(|at| *at > now);
        leased.drained = self.left.is_empty();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, LeaseVerdict)>) -> Result<(), FrontierError> {
        let mut seen = self.site.seen();
        for (lease, verdict) in done.drain(..) {
            let name = &self.leased[lease.0 as usize];
            let taken = seen.taken.contains(name);
            assert_eq!(seen.settled.insert(name.clone(), (verdict, taken)), None, "the lease of {name} ended twice");
        }
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        assert!(found.is_empty(), "no scenario has links");
        Ok(Added::new(0, 0))
    }
}

/// A sink that takes one item at a time.
struct OneByOne {
    site: Arc<Site>,
    takes: Duration,
}

#[async_trait]
impl Sink<String> for OneByOne {
    async fn deliver(&mut self, batch: &mut Batch<String>) -> Result<(), SinkError> {
        self.site.wait(self.takes).await;
        let Some(delivery) = batch.first() else { return Ok(()) };
        if self.site.scenario.job(&delivery.item).rejected {
            return Err(SinkError::reject("as the scenario says"));
        }
        self.site.seen().taken.insert(delivery.item.clone());
        batch.pop();
        Ok(())
    }
}
