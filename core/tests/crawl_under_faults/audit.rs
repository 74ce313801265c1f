//! What a crawl promised, written down where it can be seen from outside: at the fetcher, the frontier and the sinks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tidegate::http::HttpFetcher;
use tidegate::sim::Sim;
use tidegate::{
    Added, Batch, Close, Delivery, DeliveryId, Error, ErrorKind, FetchCx, Fetcher, FinishReason, Frontier,
    FrontierError, Handle, LeaseId, Leased, MemoryFrontier, Outcome, Report, Request, Response, Settled, Sink,
    SinkError, Verdict,
};
use url::Url;

use super::draw::{Rules, World};

/// Of the arithmetic of jitter.
const ROUNDING: Duration = Duration::from_micros(1);

#[derive(Clone)]
pub(crate) struct Audit {
    sim: Sim,
    world: Arc<World>,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    broken: Vec<String>,
    hosts: HashMap<String, HostPage>,
    /// Attempts that count for no URL.
    excused: u32,
    in_flight: u32,
    /// Items that the sink took, by the URL of their page.
    taken: HashMap<String, u64>,
    ids: BTreeSet<DeliveryId>,
    /// Items that the sink rejected.
    rejected: u64,
    outcomes: BTreeMap<u64, (&'static str, u64)>,
    urls: HashMap<String, u64>,
    leases: HashMap<LeaseId, String>,
    closes: Vec<Close>,
    /// What the frontier was given, and how many of them it had no room for.
    added: BTreeSet<String>,
    refused: u64,
    /// The depths at which a URL was fetched.
    depths: HashMap<String, BTreeSet<u32>>,
    /// The links of the pages that are ok, by the URL that was asked for.
    links: HashMap<String, Vec<String>>,
    told: Told,
}

/// What the outcomes come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    items: u64,
    links: u64,
    bytes: u64,
    bytes_wire: u64,
    status: BTreeMap<u16, u64>,
}

#[derive(Default)]
struct HostPage {
    last_start: Option<Duration>,
    in_flight: u32,
    /// Failures in a row, and whether they are so many, or it said so itself, that it is left alone.
    failing: u32,
    left_alone: bool,
    /// The host asked for a pause, when and for how long.
    pause: Option<(Duration, Duration)>,
}

impl Audit {
    pub(crate) fn new(sim: &Sim, world: &Arc<World>) -> Self {
        Self { sim: sim.clone(), world: Arc::clone(world), book: Arc::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("not poisoned")
    }

    pub(crate) fn fetcher(&self, inner: HttpFetcher) -> impl Fetcher + use<> {
        AuditedFetcher { audit: self.clone(), inner }
    }

    pub(crate) fn frontier(&self, inner: MemoryFrontier) -> impl Frontier + use<> {
        AuditedFrontier { audit: self.clone(), inner }
    }

    pub(crate) fn sink(&self) -> impl Sink<String> + use<> {
        ItemSink(self.clone())
    }

    pub(crate) fn outcomes(&self) -> impl Sink<Settled> + use<> {
        OutcomeSink(self.clone())
    }

    /// A fetch of the crawl begins.
    fn begin(&self, request: &Request, cx: &FetchCx) -> String {
        let origin = request.target().expect("a fetch has a valid URL").origin().ascii_serialization();
        let now = self.sim.elapsed() - self.sim.now().saturating_duration_since(cx.started());
        let mut book = self.book();
        let gap = self.world.gap.mul_f64(1.0 - self.world.jitter);
        let asked = match self.world.site(request.url()).map(|site| site.rules) {
            Some(Rules::Delay(seconds)) if self.world.robots => Duration::from_secs(seconds),
            _ => Duration::ZERO,
        };
        let gap = gap.max(asked).saturating_sub(ROUNDING);
        let mut broken = Vec::new();
        book.depths.entry(request.url().to_owned()).or_default().insert(request.depth());
        book.in_flight += 1;
        let all = book.in_flight;
        let host = book.hosts.entry(origin.clone()).or_default();
        host.in_flight += 1;
        if let Some(last) = host.last_start.filter(|last| now < *last + gap) {
            broken.push(format!("{}: {:?} after the start before it, the gap is {gap:?}", request.url(), now - last));
        }
        host.last_start = Some(now);
        if let Some((since, wait)) = host.pause.filter(|(since, wait)| now > *since && now < *since + *wait) {
            broken.push(format!("{}: {:?} after the host asked for a pause of {wait:?}", request.url(), now - since));
        }
        if !self.world.cancels() {
            let (own, limit) = (host.in_flight, self.world.per_host.map_or(u32::MAX, NonZeroU32::get));
            if own > limit {
                broken.push(format!("{}: {own} in flight on its host", request.url()));
            }
            // Fetches that wait for a port or a descriptor are there as well, without a permit.
            if all > 2 * self.world.max_in_flight.map_or(u32::MAX / 2, NonZeroU32::get) {
                broken.push(format!("{}: {all} in flight", request.url()));
            }
        }
        if cx.attempt() > self.world.retries + 1 + book.excused {
            broken.push(format!("{}: attempt {}", request.url(), cx.attempt()));
        }
        book.broken.extend(broken);
        origin
    }

    /// An attempt that a host turned away is none of its URL, nor is one that fails while the host is left alone.
    fn ended(&self, origin: &str, answer: &Result<Response, Error>) {
        let mut book = self.book();
        let Some(host) = book.hosts.get_mut(origin) else { return };
        let status = answer.as_ref().map_or(0, |response| response.head.status.as_u16());
        let fails = matches!(status, 0 | 429 | 502..=504 | 520..=524);
        host.failing = if fails { host.failing + 1 } else { 0 };
        host.left_alone = fails && (host.left_alone || matches!(status, 429 | 503) || host.failing >= 16);
        let excused = u32::from(host.left_alone);
        book.excused += excused;
    }

    fn answered(&self, origin: &str, response: &Response) {
        let wait = response.head.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let (Some(wait), 429 | 503) = (wait, response.head.status.as_u16()) else { return };
        // A job that is cancelled takes what its host said with it.
        if !self.world.cancels() {
            let now = self.sim.elapsed();
            if let Some(host) = self.book().hosts.get_mut(origin) {
                host.pause = Some((now, Duration::from_secs(wait)));
            }
        }
    }

    /// After the crawl: what it says of itself, against what was seen.
    pub(crate) fn judge(&self, report: &Report, handle: &Handle) {
        let world = &self.world;
        let mut book = self.book();
        let book = &mut *book;
        book.broken.append(&mut world.seen.lock().expect("not poisoned"));
        let c = report.totals.counters;
        let mut must = |what: &str, is: bool| {
            if !is {
                book.broken.push(format!("{what}: {c:?}"));
            }
        };
        must("conservation", c.submitted == c.ok + c.error + c.skipped + c.cancelled);
        must("one outcome for each URL", c.submitted == book.outcomes.len() as u64);
        must("numbers without a gap", book.outcomes.keys().copied().eq(1..=c.submitted));
        let count = |name: &str| book.outcomes.values().filter(|(outcome, _)| *outcome == name).count() as u64;
        let counted = [count("ok"), count("error"), count("skipped"), count("cancelled")];
        must("counted as told", counted == [c.ok, c.error, c.skipped, c.cancelled]);
        must("nothing under way", (c.jobs, c.in_flight, c.in_line, c.parsing, c.parse_queued) == (0, 0, 0, 0, 0));
        must("as many in flight as may be", world.max_in_flight.is_none_or(|most| c.in_flight_peak <= most.get()));
        must("no fetch of the crawl goes on", book.in_flight == 0 || world.cancels());
        must("no bytes are booked", handle.snapshot().bytes_in_memory == 0 || world.cancels());
        let sunk: u64 = book.taken.values().sum();
        must("items are what the sink took", report.totals.items == sunk || world.cancels());
        must("every lease was settled", book.leases.is_empty());
        let t = &report.totals;
        must("no link without an outcome", t.skipped.get("frontier.full").copied().unwrap_or_default() == book.refused);
        let totals =
            Told { items: t.items, links: t.links, bytes: t.bytes, bytes_wire: t.bytes_wire, status: t.status.clone() };
        must("totals are the sums of the outcomes", totals == book.told);
        must("the sinks were closed", book.closes.len() == 2);
        let done = report.finish_reason == FinishReason::Done;
        must("the sinks know why", book.closes.iter().all(|why| (*why == Close::Done) == done));
        must("a reason for the end", done || world.cancels());
        assert!(book.broken.is_empty(), "{}\n{report}\n{world:#?}", book.broken.join("\n"));
    }
}

struct AuditedFetcher {
    audit: Audit,
    inner: HttpFetcher,
}

/// A fetch that is under way, until it is dropped.
struct InFlight<'a>(&'a Audit, String);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut book = self.0.book();
        book.in_flight -= 1;
        if let Some(host) = book.hosts.get_mut(&self.1) {
            host.in_flight -= 1;
        }
    }
}

#[async_trait]
impl Fetcher for AuditedFetcher {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        // The rules of a host are not asked for by a job.
        if cx.job() == 0 {
            return self.inner.fetch(request, cx).await;
        }
        let origin = self.audit.begin(request, cx);
        let flight = InFlight(&self.audit, origin);
        let answer = self.inner.fetch(request, cx).await;
        self.audit.ended(&flight.1, &answer);
        if let Ok(response) = &answer {
            self.audit.answered(&flight.1, response);
        }
        answer
    }

    async fn resolve(&self, target: &Url, cx: &FetchCx) -> Result<Option<std::net::IpAddr>, Error> {
        self.inner.resolve(target, cx).await
    }
}

struct AuditedFrontier {
    audit: Audit,
    inner: MemoryFrontier,
}

#[async_trait]
impl Frontier for AuditedFrontier {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        let leased = self.inner.lease(want, now).await?;
        let mut book = self.audit.book();
        for (lease, request) in &leased.requests {
            if book.leases.insert(*lease, request.url().to_owned()).is_some() {
                book.broken.push(format!("{} is leased twice", request.url()));
            }
        }
        if leased.requests.len() > want.get() as usize {
            book.broken.push(format!("{} leases for {want}", leased.requests.len()));
        }
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        {
            let mut book = self.audit.book();
            for (lease, verdict) in done.iter() {
                match book.leases.remove(lease) {
                    None => book.broken.push(format!("{lease:?} is settled twice, or was never given")),
                    // Done means that somebody has the outcome; the other lane may have failed, but not in these worlds.
                    Some(url) if *verdict == Verdict::Done && !book.urls.contains_key(&url) => {
                        book.broken.push(format!("the lease of {url} ends before its outcome was taken"));
                    }
                    Some(url) if *verdict == Verdict::Done => {
                        let links = book.links.get(&url).into_iter().flatten();
                        let lost: Vec<_> = links.filter(|link| !book.added.contains(*link)).collect();
                        if !lost.is_empty() {
                            let broken = format!("the lease of {url} ends before its links are safe: {lost:?}");
                            book.broken.push(broken);
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        self.inner.settle(done).await
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        {
            let mut book = self.audit.book();
            for request in found.iter() {
                book.added.insert(request.url().to_owned());
                let depths = request.parent().map(|page| book.depths.get(page).cloned().unwrap_or_default());
                if depths.is_some_and(|depths| !depths.iter().any(|depth| depth + 1 == request.depth())) {
                    let broken = format!("{} is not one link below its page", request.url());
                    book.broken.push(broken);
                }
            }
        }
        let added = self.inner.add(found).await?;
        self.audit.book().refused += found.len() as u64;
        Ok(added)
    }
}

impl Audit {
    /// What a bad delivery comes to, drawn from the seed.
    fn mishap(&self) -> Option<SinkError> {
        let bad = self.sim.random() % 100 < self.world.bad_deliveries;
        bad.then(|| match self.sim.random() % 3 {
            0 => SinkError::reject("not this one"),
            1 => SinkError::retry("later").after(Duration::from_millis(self.sim.random() % 500)),
            _ => SinkError::retry("not now"),
        })
    }

    /// How many of a batch are taken before something happens.
    fn part(&self, len: usize) -> usize {
        match self.sim.random() % 3 {
            0 => 1,
            1 => (self.sim.random() as usize) % (len + 1),
            _ => len,
        }
    }
}

struct ItemSink(Audit);

#[async_trait]
impl Sink<String> for ItemSink {
    async fn deliver(&mut self, batch: &mut Batch<String>) -> Result<(), SinkError> {
        let audit = &self.0;
        if !audit.world.slow_sink.is_zero() {
            audit.sim.sleep(audit.world.slow_sink).await;
        }
        for _ in 0..audit.part(batch.len()) {
            let Some(delivery) = batch.pop() else { break };
            let mut book = audit.book();
            if !book.ids.insert(delivery.id) {
                book.broken.push(format!("{} is delivered twice", delivery.item));
            }
            *book.taken.entry(delivery.url).or_default() += 1;
        }
        match audit.mishap() {
            Some(error) => {
                let rejects = error.action() == tidegate::SinkAction::Reject && !batch.is_empty();
                audit.book().rejected += u64::from(rejects);
                Err(error)
            }
            None => Ok(()),
        }
    }

    async fn close(&mut self, why: Close) -> Result<(), SinkError> {
        self.0.book().closes.push(why);
        Ok(())
    }
}

struct OutcomeSink(Audit);

impl Audit {
    fn outcome(&self, delivery: &Delivery<Settled>) {
        let settled = &delivery.item;
        let url = settled.url().into_owned();
        let mut book = self.book();
        let mut broken = Vec::new();
        if book.outcomes.insert(settled.job, (settled.outcome.name(), settled.items)).is_some() {
            broken.push(format!("{url} has two outcomes"));
        }
        *book.urls.entry(settled.request.url().to_owned()).or_default() += 1;
        if book.ids.contains(&delivery.id) {
            broken.push(format!("the outcome of {url} has the id of an item"));
        }
        if settled.attempts > self.world.retries + 1 + book.excused {
            broken.push(format!("{url}: {} attempts", settled.attempts));
        }
        // What the outcome says was delivered is with the sink already.
        let page = settled.final_url().unwrap_or_default();
        let taken = book.taken.get(&*page).copied().unwrap_or_default();
        if matches!(settled.outcome, Outcome::Ok) && taken < settled.items {
            broken.push(format!("{url} is settled with {} items, of which the sink has taken {taken}", settled.items));
        }
        // A page that is fetched by hand is not parsed.
        if matches!(settled.outcome, Outcome::Ok) && !settled.request.url().ends_with("/fetched") {
            let text = self.world.text(&page).unwrap_or_default();
            let after =
                |word: &str| text.lines().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect();
            let (items, links): (Vec<String>, Vec<String>) = (after("item "), after("link "));
            let seen = (settled.items, settled.links, settled.bytes, settled.bytes_wire);
            let is = (items.len() as u64, links.len() as u64, text.len() as u64, text.len() as u64);
            if seen != is {
                broken.push(format!("{url} has {is:?} items, links and bytes, and is told to have {seen:?}"));
            }
            let timings = &settled.timings;
            let phases = [timings.queue, timings.local, timings.first_byte, timings.body, timings.total];
            if phases.iter().any(Option::is_none) || settled.fetched_at.is_none() {
                broken.push(format!("{url} is ok and took no time in a phase: {timings:?}"));
            }
            book.links.insert(settled.request.url().to_owned(), links);
        }
        if let Outcome::Error(error) = &settled.outcome
            && matches!(error.kind(), ErrorKind::TimeoutFirstByte | ErrorKind::HttpEmptyReply)
            && settled.status().is_some()
        {
            broken.push(format!("{url} has the status of an attempt before its last"));
        }
        let told = &mut book.told;
        told.items += settled.items;
        told.links += settled.links;
        told.bytes += settled.bytes;
        told.bytes_wire += settled.bytes_wire;
        if let Some(status) = settled.status() {
            *told.status.entry(status.as_u16()).or_default() += 1;
        }
        let total = tidegate::Limits::discovered().deadlines.total;
        // The wheel's tick, a slice for each that is ready before it, and what kept the loop from looking at all.
        let late = Duration::from_millis(60) + if self.world.inline { Duration::from_secs(20) } else { Duration::ZERO };
        if settled.timings.total.is_some_and(|took| took > total + late) {
            broken.push(format!("{url}: an attempt of {:?}", settled.timings.total));
        }
        book.broken.extend(broken);
    }
}

#[async_trait]
impl Sink<Settled> for OutcomeSink {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        let audit = &self.0;
        for _ in 0..audit.part(batch.len()) {
            let Some(delivery) = batch.pop() else { break };
            audit.outcome(&delivery);
        }
        match audit.mishap() {
            // An outcome that nobody has is one too few.
            Some(error) if error.action() != tidegate::SinkAction::Reject => Err(error),
            _ => Ok(()),
        }
    }

    async fn close(&mut self, why: Close) -> Result<(), SinkError> {
        self.0.book().closes.push(why);
        Ok(())
    }
}
