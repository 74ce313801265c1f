//! What the tests that break crawls share: a small site of three hosts, a crawl of it whose frontier and sinks write down
//! all that they see, and what must hold of the books when it is over.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod cancel;

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tidegate::http::HttpFetcher;
use tidegate::sim::{Host, Link, Reply, Scheduling, Sim};
use tidegate::{
    Added, Batch, Builder, Close, Crawl, Delivery, DeliveryId, Frontier, FrontierError, Handle, LeaseId, Leased,
    MemoryFrontier, Outcome, Output, Page, ParseError, Request, Settled, Sink, SinkError, Verdict,
};

pub(crate) const MS: Duration = Duration::from_millis(1);

/// Longer than any deadline of the crawls here, so that all comes to rest.
pub(crate) const REST: Duration = Duration::from_secs(300);

/// The page that is larger than the window of its connection.
const LARGE: usize = 30_000;

/// A world with one worker for parsers and nothing queued before it, so that a permit that is lost is the last; reads and
/// writes take their time, so that slices of the fetch loop end in the middle of bodies.
pub(crate) fn sim(scheduling: Scheduling, seed: u64) -> Sim {
    Sim::builder()
        .seed(seed)
        .scheduling(scheduling)
        .queue(0)
        .job_cost(MS)
        .io_cost(MS / 6)
        .max_time(MS * 3_600_000)
        .build()
}

/// Runs a check, and says where it failed.
pub(crate) fn at<T>(place: &str, (scheduling, seed): (Scheduling, u64), check: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        panic!("{place}, {} {seed}: {}", scheduling.name(), text.unwrap_or("a panic without a text"))
    })
}

/// Puts the site into the network.
///
/// | URL | answer |
/// |---|---|
/// | `http://a.test/` | links to all that follows |
/// | `/large` | a body larger than the window |
/// | `/moved` | a redirect to `http://b.test/landed` |
/// | `/busy` | 503 the first time |
/// | `/packed` | a body that the parse stage must decode |
/// | `/corrupt` | a body that cannot be decoded |
/// | `/private` | disallowed by robots.txt |
/// | `/missing` | 404 |
/// | `http://c.test/away` | out of scope |
/// | `http://b.test/` | a page; that host has no robots.txt |
pub(crate) fn site(sim: &Sim) {
    let asked = AtomicUsize::new(0);
    let a = Host::http(move |request| match request.path.as_str() {
        "/robots.txt" => Reply::ok("User-agent: *\nDisallow: /private\n"),
        "/" => {
            let links =
                ["/large", "/moved", "/busy", "/packed", "/corrupt", "/private", "/missing", "http://c.test/away"];
            Reply::ok(links.map(|link| format!("link {link}\n")).concat()).chunked(50)
        }
        "/large" => Reply::ok(vec![b'x'; LARGE]),
        "/moved" => Reply::redirect(302, "http://b.test/landed"),
        "/busy" if asked.fetch_add(1, Relaxed) == 0 => Reply::status(503),
        "/busy" => Reply::ok("busy no more"),
        "/packed" => Reply::ok(packed()).header("content-encoding", "br"),
        "/corrupt" => Reply::ok(vec![0xff; 100]).header("content-encoding", "br"),
        _ => Reply::status(404),
    });
    let b = Host::http(|request| match request.path.as_str() {
        "/" | "/landed" => Reply::ok("hello"),
        _ => Reply::status(404),
    });
    let small = Link::new().window(16 << 10).chunk(2 << 10..=2 << 10);
    sim.net().host(Sim::address_of("a.test"), a.with_link(small));
    sim.net().host(Sim::address_of("b.test"), b);
}

/// Compressed once: the compressor costs more than a whole crawl.
fn packed() -> Vec<u8> {
    static PACKED: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut packed = Vec::new();
        brotli::BrotliCompress(&mut &b"packed"[..], &mut packed, &Default::default()).expect("in memory");
        packed
    });
    PACKED.clone()
}

/// What the site's URLs come to when nothing fails: URL, outcome, attempts, items.
pub(crate) const CLEAN: [(&str, &str, u32, u64); 10] = [
    ("http://a.test/", "ok", 1, 2),
    ("http://a.test/busy", "ok", 2, 2),
    ("http://a.test/corrupt", "error", 1, 0),
    ("http://a.test/large", "ok", 1, 2),
    ("http://a.test/missing", "error", 1, 0),
    ("http://a.test/moved", "ok", 1, 2),
    ("http://a.test/packed", "ok", 1, 2),
    ("http://a.test/private", "skipped", 0, 0),
    ("http://b.test/", "ok", 1, 2),
    ("http://c.test/away", "skipped", 0, 0),
];

/// Two items of each page, and its links.
fn parse(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    out.item(format!("{}#0", page.request().url()));
    out.item(format!("{}#1", page.request().url()));
    for line in page.utf8().lines() {
        if let Some(link) = line.strip_prefix("link ") {
            out.follow(page.url().join(link)?.as_str());
        }
    }
    Ok(())
}

/// What frontier and sinks have seen.
#[derive(Default)]
pub(crate) struct Book {
    /// Verdicts of each lease.
    pub(crate) leases: BTreeMap<LeaseId, (String, Vec<Verdict>)>,
    /// What happened and must not.
    pub(crate) faults: Vec<String>,
    pub(crate) outcomes: Vec<Told>,
    /// Items that were acknowledged, and the URL of each.
    pub(crate) items: Vec<(DeliveryId, String)>,
    calls: [u64; 7],
    plan: Option<(Call, u64, How)>,
}

/// An outcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) url: String,
    pub(crate) outcome: &'static str,
    pub(crate) attempts: u32,
    pub(crate) items: u64,
    pub(crate) error: Option<String>,
}

/// A call of a frontier or of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Lease,
    Settle,
    Add,
    Items,
    Outcomes,
    CloseItems,
    CloseOutcomes,
}

/// How a call fails. A frontier knows only of errors that are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Retry,
    Reject,
    Fatal,
    Panic,
    /// It never ends.
    Hang,
}

#[derive(Clone, Default)]
pub(crate) struct Audit(Arc<Mutex<Book>>);

impl Audit {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A crawl of the site that has one permit of each kind, a frontier as slow as one on disk, and slow sinks.
    pub(crate) fn crawl(&self, sim: &Sim, fetcher: HttpFetcher) -> Builder<String> {
        let frontier = AuditFrontier { sim: sim.clone(), audit: self.clone(), inner: MemoryFrontier::new(100, 1) };
        Crawl::builder(sim.runtime())
            .user_agent("torture/1 (+mailto:me@a.test)")
            .random_seed(sim.seed())
            .max_in_flight(NonZeroU32::MIN)
            .max_in_flight_per_host(Some(NonZeroU32::MIN))
            .delay(MS * 20)
            .frontier(frontier)
            .fetcher(fetcher)
            .parse_with(parse)
            .outcomes(AuditSink {
                sim: sim.clone(),
                audit: self.clone(),
                calls: [Call::Outcomes, Call::CloseOutcomes],
                take: Self::take_outcome,
            })
            .seed("http://a.test/")
            .seed("http://b.test/")
    }

    /// The same, with its items to a sink.
    pub(crate) fn crawl_to_sink(&self, sim: &Sim, fetcher: HttpFetcher) -> Builder<String> {
        self.crawl(sim, fetcher).sink(AuditSink {
            sim: sim.clone(),
            audit: self.clone(),
            calls: [Call::Items, Call::CloseItems],
            take: Self::take_item,
        })
    }

    /// Makes the n-th call of this kind fail, counted from 0.
    pub(crate) fn fail(&self, call: Call, nth: u64, how: How) {
        self.book().plan = Some((call, nth, how));
    }

    /// How often it was called.
    pub(crate) fn count(&self, call: Call) -> u64 {
        self.book().calls[call as usize]
    }

    /// Counts a call; how it fails, where it does and that is no panic.
    fn strikes(&self, call: Call) -> Option<How> {
        let mut book = self.book();
        let nth = book.calls[call as usize];
        book.calls[call as usize] += 1;
        let how = book.plan.filter(|(of, n, _)| (*of, *n) == (call, nth)).map(|(.., how)| how);
        drop(book);
        if how == Some(How::Panic) {
            std::panic::resume_unwind(Box::new("torn"));
        }
        how
    }

    fn take_outcome(&self, delivery: &Delivery<Settled>) {
        let settled = &delivery.item;
        let error = match &settled.outcome {
            Outcome::Error(error) => Some(error.to_string()),
            _ => None,
        };
        let (url, outcome) = (settled.request.url().to_owned(), settled.outcome.name());
        let told = Told { url, outcome, attempts: settled.attempts, items: settled.items, error };
        let mut book = self.book();
        let acknowledged = book.items.iter().filter(|(_, url)| *url == told.url).count() as u64;
        // One that was cancelled while its items were delivered may have some there.
        if outcome != "cancelled" && acknowledged != told.items {
            book.faults.push(format!("{told:?} with {acknowledged} items acknowledged"));
        }
        book.outcomes.push(told);
    }

    pub(crate) fn take_item(&self, delivery: &Delivery<String>) {
        let url = delivery.item.split('#').next().unwrap_or_default().to_owned();
        self.book().items.push((delivery.id, url));
    }

    /// The outcomes by URL, as [`CLEAN`] has them.
    pub(crate) fn told(&self) -> Vec<Told> {
        let mut told = self.book().outcomes.clone();
        told.sort();
        told
    }

    /// What holds of every crawl, however it ended: nothing is settled twice, and nothing acknowledged twice.
    pub(crate) fn assert_nothing_twice(&self) {
        let book = self.book();
        assert_eq!(book.faults, Vec::<String>::new());
        for (id, (url, verdicts)) in &book.leases {
            assert!(verdicts.len() <= 1, "{id:?} of {url} is settled {verdicts:?}");
        }
        let mut seen = HashMap::new();
        for (id, url) in &book.items {
            assert!(seen.insert(*id, url).is_none(), "{id} of {url} is acknowledged twice");
        }
        let mut seen = HashMap::new();
        for told in &book.outcomes {
            let other = seen.insert(&told.url, told);
            assert!(other.is_none(), "two outcomes: {told:?} and {other:?}");
        }
    }

    /// What holds of a crawl whose tasks all ran to their end: each lease is settled as its outcome says, and the counters
    /// are those of the outcomes. `cancelled` is how the leases of cancelled URLs end: those go back of which the crawl's
    /// end has made nothing, and those do not that the embedder did not want.
    pub(crate) fn assert_conserved(&self, handle: &Handle, cancelled: Verdict) {
        self.assert_counted(handle);
        let book = self.book();
        for (url, verdicts) in book.leases.values() {
            let told = book.outcomes.iter().find(|told| told.url == *url);
            let told = told.unwrap_or_else(|| panic!("{url} was leased and has no outcome"));
            let expected = if told.outcome == "cancelled" { cancelled } else { Verdict::Done };
            assert_eq!(verdicts[..], [expected], "{told:?}");
        }
    }

    /// Each lease was settled.
    pub(crate) fn assert_all_leases_settled(&self) {
        for (url, verdicts) in self.book().leases.values() {
            assert_eq!(verdicts.len(), 1, "{url}");
        }
    }

    /// Each URL has its outcome, and the counters are those of the outcomes.
    pub(crate) fn assert_counted(&self, handle: &Handle) {
        self.assert_nothing_twice();
        let counters = handle.snapshot().counters;
        let book = self.book();
        let of = |outcome: &str| book.outcomes.iter().filter(|told| told.outcome == outcome).count() as u64;
        assert_eq!(counters.submitted, book.outcomes.len() as u64, "an outcome for each URL: {:?}", book.outcomes);
        assert_eq!(
            (counters.ok, counters.error, counters.skipped, counters.cancelled),
            (of("ok"), of("error"), of("skipped"), of("cancelled"))
        );
        let busy = (counters.in_flight, counters.jobs, counters.parsing, counters.parse_queued);
        assert_eq!(busy, (0, 0, 0, 0), "{counters:?}");
    }
}

/// What holds of the world when a crawl is over: no task, no booked byte, no socket but the parked ones; and none of
/// those without the fetcher.
pub(crate) fn assert_nothing_left(sim: &Sim, handle: Option<&Handle>, fetcher: HttpFetcher) {
    sim.run_for(REST);
    assert_eq!(sim.panics(), Vec::<String>::new());
    assert_eq!(sim.tasks(), 0, "tasks");
    assert_eq!(handle.map_or(0, |handle| handle.snapshot().bytes_in_memory), 0, "bytes");
    assert_eq!(sim.net().open_sockets() as usize, fetcher.idle_connections(), "sockets");
    drop(fetcher);
    assert_eq!(sim.net().open_sockets(), 0, "sockets without the fetcher");
}

/// A frontier that takes its time and settles one lease a call.
struct AuditFrontier {
    sim: Sim,
    audit: Audit,
    inner: MemoryFrontier,
}

impl AuditFrontier {
    async fn begin(&self, call: Call) -> Result<(), FrontierError> {
        pause(&self.sim).await;
        match self.audit.strikes(call) {
            Some(How::Hang) => std::future::pending().await,
            Some(_) => Err(FrontierError::new("go on after a fault")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Frontier for AuditFrontier {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        self.begin(Call::Lease).await?;
        let leased = self.inner.lease(want, now).await?;
        let mut book = self.audit.book();
        for (id, request) in &leased.requests {
            book.leases.insert(*id, (request.url().to_owned(), Vec::new()));
        }
        drop(book);
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        self.begin(Call::Settle).await?;
        let mut one = vec![done.remove(0)];
        {
            let mut book = self.audit.book();
            let Book { leases, outcomes, faults, .. } = &mut *book;
            match leases.get_mut(&one[0].0) {
                Some((url, verdicts)) => {
                    verdicts.push(one[0].1);
                    if one[0].1 == Verdict::Done && !outcomes.iter().any(|told| told.url == *url) {
                        faults.push(format!("the lease of {url} is done, and nobody has taken its outcome"));
                    }
                }
                None => faults.push(format!("{:?} was never leased", one[0].0)),
            }
        }
        self.inner.settle(&mut one).await
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        self.begin(Call::Add).await?;
        self.inner.add(found).await
    }
}

/// A sink that takes one delivery at a time, each after a while.
struct AuditSink<T> {
    sim: Sim,
    audit: Audit,
    calls: [Call; 2],
    take: fn(&Audit, &Delivery<T>),
}

impl<T> AuditSink<T> {
    async fn begin(&self, call: Call) -> Result<(), SinkError> {
        pause(&self.sim).await;
        match self.audit.strikes(call) {
            Some(How::Retry) => Err(SinkError::retry("later")),
            Some(How::Hang) => std::future::pending().await,
            Some(How::Reject) => Err(SinkError::reject("never")),
            Some(_) => Err(SinkError::fatal("the end")),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl<T: Send + 'static> Sink<T> for AuditSink<T> {
    async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
        self.begin(self.calls[0]).await?;
        if let Some(delivery) = batch.pop() {
            (self.take)(&self.audit, &delivery);
        }
        Ok(())
    }

    async fn close(&mut self, _: Close) -> Result<(), SinkError> {
        self.begin(self.calls[1]).await
    }
}

/// A while, and a poll more: what else is to be done at that instant may come before or after.
async fn pause(sim: &Sim) {
    sim.sleep(MS).await;
    let mut gave_way = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut gave_way, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A fetcher without a proxy.
pub(crate) fn fetcher(sim: &Sim) -> HttpFetcher {
    HttpFetcher::builder(&sim.runtime()).seed(1).build().expect("valid")
}
