//! What a crawl fetches, what it does not, and what becomes of each URL.

#[macro_use]
mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::{
    Gate, Seen, answer, code, crawl, dally, lines, lock, ms, n, outcomes, settled, summary, tree, with_header,
};
use futures::FutureExt as _;
use futures::executor::block_on;
use http::{HeaderName, HeaderValue};
use tidegate::rt::{Inline, Runtime, ThreadPool};
use tidegate::{
    Error, ErrorKind, FetchCx, Fetcher, FinishReason, HostCx, HostPolicy, HostRules, Output, Page, ParseError, Profile,
    Request, Response, Scope,
};

on_all_runtimes!(
    every_page_of_a_tree_is_fetched_once,
    max_pages_is_exact,
    max_depth_and_scope_give_skip_records,
    labels_choose_the_parser_and_data_arrives,
    posts_differ_by_their_body,
    a_parser_panic_fails_its_url_only,
    a_parser_that_does_not_end_fails_its_url_only,
    a_parse_error_says_what_to_do,
    stop_ends_the_crawl_and_its_output_counts,
    a_flaky_answer_is_fetched_again,
    the_last_answer_of_a_failing_url_counts,
    retry_after_holds_the_whole_host,
    redirects_are_hops_of_one_url,
    a_fetcher_panic_fails_its_url_only,
    the_limit_of_a_host_holds,
    the_limit_of_an_address_holds_over_its_hosts,
    an_address_limit_survives_cancelled_urls_and_new_addresses,
    max_in_flight_holds,
    the_gap_holds,
    inline_parsing_works,
    two_crawls_share_a_small_pool,
    a_byte_budget_smaller_than_a_body_does_not_hang,
    rules_that_expire_are_asked_for_again,
    rules_that_cannot_be_had_fail_the_url,
    items_without_a_sink_are_counted,
    absurd_durations_are_no_end,
    a_bad_url_is_a_record,
);

fn every_page_of_a_tree_is_fetched_once(runtime: &Runtime) {
    let (seen, kept, items) = (Seen::default(), outcomes(), tidegate::sink::collect());
    let count = seen.clone();
    let fetcher = move |request: Request| {
        count.add(request.url());
        async move {
            dally(3).await;
            tree(&request, 700)
        }
    };
    let run = crawl(runtime).seed("http://a.test/0").fetcher(fetcher).sink(items.clone()).outcomes(kept.clone()).run();
    let report = block_on(run).expect("the run ends well");
    let list = settled(&report, &kept);
    assert_eq!((list.len(), report.totals.counters.ok), (700, 700));
    assert_eq!(report.finish_reason, FinishReason::Done);
    assert!(seen.all().len() == 700 && seen.total() == 700);
    let items = items.take();
    assert_eq!(items.iter().map(|d| d.id).collect::<BTreeSet<_>>().len(), 700);
    assert_eq!(items.iter().map(|d| d.item.clone()).collect::<BTreeSet<_>>().len(), 700);
    assert_eq!((report.totals.items, report.totals.links), (700, 699));
    let child = list.iter().find(|s| s.url() == "http://a.test/7").expect("a page of the tree");
    assert_eq!((child.request.depth(), child.request.parent()), (3, Some("http://a.test/3")));
}

fn max_pages_is_exact(runtime: &Runtime) {
    for pages in [1, 10, 100] {
        let (seen, kept) = (Seen::default(), outcomes());
        let count = seen.clone();
        let fetcher = move |request: Request| {
            count.add(request.url());
            async move {
                dally(2).await;
                tree(&request, 5000)
            }
        };
        let run = crawl(runtime).seed("http://a.test/0").fetcher(fetcher).max_pages(pages).outcomes(kept.clone()).run();
        let report = block_on(run).expect("the run ends well");
        settled(&report, &kept);
        assert_eq!(report.finish_reason, FinishReason::MaxPages);
        assert_eq!((u64::from(seen.total()), report.totals.counters.ok), (pages, pages), "{report}");
    }
}

fn max_depth_and_scope_give_skip_records(runtime: &Runtime) {
    let kept = outcomes();
    let fetcher = |request: Request| async move {
        let body = match request.target()?.path() {
            "/" => ">/1\n>http://b.test/elsewhere\n>http://sub.a.test/near\n>mailto:x@y\n",
            "/1" => ">/2\n>/1\n",
            "/2" => ">/3\n",
            _ => "",
        };
        Ok(answer(&request, 200, body))
    };
    let run = crawl(runtime).seed("http://a.test/").fetcher(fetcher).max_depth(2).outcomes(kept.clone()).run();
    let report = block_on(run).expect("the run ends well");
    let summary = summary(&settled(&report, &kept));
    let expected = [("/", "ok"), ("/1", "ok"), ("/2", "ok"), ("/3", "depth"), ("/elsewhere", "scope"), ("/near", "ok")];
    assert_eq!(summary, expected.map(|(path, code)| (path.to_owned(), code.to_owned())).into());
    assert_eq!(report.totals.skipped.get("depth"), Some(&1));
}

fn labels_choose_the_parser_and_data_arrives(runtime: &Runtime) {
    fn listing(_: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        for product in 1..=3 {
            out.follow(Request::get(format!("/p/{product}")).with_label("product").with_data(&("shoes", product))?);
        }
        out.follow(Request::get("/unlabelled"));
        Ok(())
    }
    fn product(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        let (category, number): (String, u32) = page.data()?;
        out.item(format!("{category} {number}"));
        Ok(())
    }
    let items = tidegate::sink::collect();
    let run = crawl(runtime)
        .seed(Request::get("http://a.test/list").with_label("listing"))
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "=plain")) })
        .route("listing", listing)
        .route("product", product)
        .sink(items.clone())
        .run();
    block_on(run).expect("the run ends well");
    let items: BTreeSet<_> = items.take().into_iter().map(|d| d.item).collect();
    assert_eq!(items, ["shoes 1", "shoes 2", "shoes 3", "plain"].map(String::from).into());
}

fn posts_differ_by_their_body(runtime: &Runtime) {
    let seen = Seen::default();
    let count = seen.clone();
    let fetcher = move |request: Request| {
        count.add(std::str::from_utf8(&request.body()).expect("text"));
        async move { Ok(answer(&request, 200, "")) }
    };
    let post = |body: &'static str| {
        Request::post("http://a.test/q", body)
            .with_header(HeaderName::from_static("content-type"), HeaderValue::from_static("application/json"))
    };
    let seeds = [post("1"), post("2"), post("1"), Request::get("http://a.test/q")];
    let report = block_on(crawl(runtime).seeds(seeds).fetcher(fetcher).run()).expect("the run ends well");
    assert_eq!(report.totals.counters.submitted, 3);
    assert_eq!(seen.all(), [("", 1), ("1", 1), ("2", 1)].map(|(body, n)| (body.to_owned(), n)).into());
}

/// A payload that panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any("from a drop");
        }
    }
}

// I1, I2
fn a_parser_panic_fails_its_url_only(runtime: &Runtime) {
    fn nasty(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        out.item("half".to_owned());
        match page.url().path() {
            "/text" => panic!("with {} words", 3),
            "/value" => std::panic::panic_any(42),
            "/bomb" => std::panic::panic_any(Bomb),
            _ => Ok(()),
        }
    }
    let (kept, items) = (outcomes(), tidegate::sink::collect());
    let seeds = ["/text", "/value", "/bomb"].into_iter().map(str::to_owned).chain((0..50).map(|i| format!("/{i}")));
    let run = crawl(runtime)
        .seeds(seeds.map(|path| format!("http://a.test{path}")))
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .parse_with(nasty)
        .sink(items.clone())
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    let list = settled(&report, &kept);
    assert_eq!(report.totals.errors.get("parser.panic"), Some(&3), "{report}");
    assert_eq!((report.totals.counters.ok, items.take().len()), (50, 50));
    let text = list.iter().find(|s| s.request.url().ends_with("/text")).expect("settled");
    let tidegate::Outcome::Error(error) = &text.outcome else { panic!("{text:?}") };
    assert!(error.to_string().contains("with 3 words") && text.page.is_some(), "{error}");
}

fn a_parse_error_says_what_to_do(runtime: &Runtime) {
    fn judge(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        out.item("=".to_owned());
        match page.url().path() {
            "/again" if page.attempt() == 1 => Err(ParseError::retry("a shell")),
            "/blocked" => Err(ParseError::blocked("captcha")),
            "/expired" => Err(ParseError::expired("login form")),
            "/broken" => Err(ParseError::broken("half a page")),
            "/number" => Err("x".parse::<u32>().expect_err("no number").into()),
            "/never" => Err(ParseError::retry("later").after(Duration::MAX)),
            _ => Ok(()),
        }
    }
    let (kept, items) = (outcomes(), tidegate::sink::collect());
    let paths = ["again", "blocked", "expired", "broken", "number", "never", "fine"];
    let run = crawl(runtime)
        .seeds(paths.map(|path| format!("http://a.test/{path}")))
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .parse_with(judge)
        .sink(items.clone())
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    let list = settled(&report, &kept);
    let found: Vec<_> = paths
        .iter()
        .map(|path| {
            let settled = list.iter().find(|s| s.request.url().ends_with(path)).expect("settled");
            (*path, code(settled), settled.attempts, settled.page.is_some())
        })
        .collect();
    let expected = [
        ("again", "ok", 2, false),
        ("blocked", "parser.blocked", 3, true),
        ("expired", "parser.expired", 3, true),
        ("broken", "parser.broken", 1, true),
        ("number", "parser.failed", 1, true),
        ("never", "parser.retry", 1, true),
        ("fine", "ok", 1, false),
    ];
    assert_eq!(found, expected.map(|(path, code, attempts, page)| (path, code.to_owned(), attempts, page)));
    assert_eq!(items.take().len(), 2, "all or nothing");
}

fn stop_ends_the_crawl_and_its_output_counts(runtime: &Runtime) {
    fn until_seven(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
        lines(page, out)?;
        if page.url().path() == "/7" { Err(ParseError::stop("found it")) } else { Ok(()) }
    }
    let (kept, items) = (outcomes(), tidegate::sink::collect());
    let run = crawl(runtime)
        .seed("http://a.test/0")
        .fetcher(|request: Request| async move { tree(&request, 1_000_000) })
        .parse_with(until_seven)
        .sink(items.clone())
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &kept);
    assert_eq!(report.finish_reason, FinishReason::Stopped);
    assert!(items.take().iter().any(|d| d.item == "7"));
}

fn a_flaky_answer_is_fetched_again(runtime: &Runtime) {
    let (seen, kept) = (Seen::default(), outcomes());
    let count = seen.clone();
    let fetcher = move |request: Request| {
        let before = count.add(request.url());
        async move {
            match request.target()?.path() {
                "/503" if before == 0 => Ok(answer(&request, 503, "not now")),
                "/reset" if before < 2 => Err(Error::new(ErrorKind::ConnectReset, "read")),
                "/post" if before == 0 => Err(Error::new(ErrorKind::ConnectReset, "read")),
                "/refused" if before == 0 => Err(Error::new(ErrorKind::ConnectRefused, "connect")),
                _ => Ok(answer(&request, 200, "=ok")),
            }
        }
    };
    let seeds = [
        Request::get("http://a.test/503"),
        Request::get("http://a.test/reset"),
        Request::post("http://a.test/post", "may have arrived"),
        Request::post("http://a.test/refused", "did not arrive"),
    ];
    let report =
        block_on(crawl(runtime).seeds(seeds).fetcher(fetcher).outcomes(kept.clone()).run()).expect("the run ends well");
    let list = settled(&report, &kept);
    let expected = [("/503", "ok"), ("/post", "connect.reset"), ("/refused", "ok"), ("/reset", "ok")];
    assert_eq!(summary(&list), expected.map(|(path, code)| (path.to_owned(), code.to_owned())).into());
    assert_eq!(seen.of("http://a.test/reset"), 3);
    assert_eq!(report.totals.counters.retries, 4);
}

fn the_last_answer_of_a_failing_url_counts(runtime: &Runtime) {
    let kept = outcomes();
    // A fetcher that does not ask what is wanted gives error pages to the parser.
    let fetcher = |request: Request| async move { Ok(answer(&request, 503, "=still an answer")) };
    let report = block_on(crawl(runtime).seed("http://a.test/").fetcher(fetcher).outcomes(kept.clone()).run())
        .expect("the run ends well");
    let list = settled(&report, &kept);
    assert_eq!(
        (list[0].attempts, list[0].status().map(|s| s.as_u16()), code(&list[0])),
        (3, Some(503), "ok".to_owned())
    );
}

// C12
fn retry_after_holds_the_whole_host(runtime: &Runtime) {
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (log, clock) = (Arc::clone(&starts), runtime.clone());
    let fetcher = move |request: Request| {
        let mut log = lock(&log);
        log.push(clock.now());
        let first = log.len() == 1;
        async move {
            let status = if first { 429 } else { 200 };
            Ok(with_header(answer(&request, status, ""), "retry-after", "1"))
        }
    };
    let run = crawl(runtime)
        .seeds((0..5).map(|i| format!("http://a.test/{i}")))
        .max_in_flight_per_host(Some(n(1)))
        .fetcher(fetcher)
        .run();
    let report = block_on(run).expect("the run ends well");
    assert_eq!(report.totals.counters.ok, 5);
    let starts = lock(&starts);
    assert_eq!(starts.len(), 6);
    assert!(starts[1] - starts[0] >= Duration::from_secs(1), "{:?}", starts[1] - starts[0]);
}

// C1, C3
fn redirects_are_hops_of_one_url(runtime: &Runtime) {
    let (seen, kept) = (Seen::default(), outcomes());
    let count = seen.clone();
    let fetcher = move |request: Request| {
        count.add(request.url());
        async move {
            let url = request.target()?;
            let to = |location: &str| with_header(answer(&request, 302, ""), "location", location);
            Ok(match url.path() {
                "/" => answer(&request, 200, ">/one\n>/loop\n>/scheme\n>/away\n>/none"),
                "/one" => to("http://b.a.test/two"),
                "/two" => to("three"),
                "/loop" => to("/loop"),
                "/scheme" => to("ftp://a.test/"),
                "/away" => to("http://elsewhere.test/"),
                "/none" => answer(&request, 302, "=no location"),
                _ => answer(&request, 200, "=landed"),
            })
        }
    };
    let report = block_on(crawl(runtime).seed("http://a.test/").fetcher(fetcher).outcomes(kept.clone()).run())
        .expect("the run ends well");
    let list = settled(&report, &kept);
    let expected = [
        ("/", "ok"),
        ("/away", "scope"),
        ("/loop", "redirect.too_many"),
        ("/none", "ok"),
        ("/one", "ok"),
        ("/scheme", "redirect.invalid"),
    ];
    assert_eq!(summary(&list), expected.map(|(path, code)| (path.to_owned(), code.to_owned())).into());
    assert_eq!(seen.of("http://a.test/loop"), 11, "ten redirects are followed");
    assert_eq!(seen.of("http://elsewhere.test/"), 0);
    let one = list.iter().find(|s| s.request.url().ends_with("/one")).expect("settled");
    assert_eq!((one.final_url().as_deref(), one.attempts), (Some("http://b.a.test/three"), 1));
    let hops: Vec<_> = one.redirects.iter().map(|hop| &*hop.url).collect();
    assert_eq!(hops, ["http://a.test/one", "http://b.a.test/two"]);
}

/// Panics before there is a future, and in it.
struct Panics;

impl Fetcher for Panics {
    fn fetch<'a, 'b, 'c, 'out>(
        &'a self,
        request: &'b Request,
        _cx: &'c FetchCx,
    ) -> tidegate::rt::BoxFuture<'out, Result<Response, Error>>
    where
        'a: 'out,
        'b: 'out,
        'c: 'out,
        Self: 'out,
    {
        assert!(!request.url().ends_with("/0"), "before the future");
        Box::pin(async move {
            dally(1).await;
            match request.url().as_bytes().last() {
                Some(b'1') => panic!("in the future"),
                Some(b'2') => std::panic::panic_any(Bomb),
                _ => Ok(answer(request, 200, "")),
            }
        })
    }
}

// I3
fn a_parser_that_does_not_end_fails_its_url_only(runtime: &Runtime) {
    let runtime = runtime.clone().with_offload(ThreadPool::new(std::num::NonZeroUsize::MIN));
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let kept = outcomes();
    let run = crawl(&runtime)
        .seeds(["loops", "1", "2"].map(|path| format!("http://a.test/{path}")))
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .parse_limit(ms(100))
        .parse_with(move |page: &Page, _: &mut Output<String>| -> Result<(), ParseError> {
            if page.url().path() == "/loops" {
                let _ = lock(&held).recv();
            }
            Ok(())
        })
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    assert_eq!(settled(&report, &kept).len(), 3);
    assert_eq!(report.totals.errors.get("parser.timeout"), Some(&1), "{report}");
    assert_eq!(report.totals.counters.ok, 2);
    drop(release);
}

fn a_fetcher_panic_fails_its_url_only(runtime: &Runtime) {
    let kept = outcomes();
    let run =
        crawl(runtime).seeds((0..6).map(|i| format!("http://a.test/{i}"))).fetcher(Panics).outcomes(kept.clone()).run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &kept);
    assert_eq!((report.totals.errors.get("fetcher.panic"), report.totals.counters.ok), (Some(&3), 3), "{report}");
}

/// Counts what is in flight for each key, and the most that ever was. Nothing ends before a key had as much in flight
/// as is allowed, so that a limit is reached where it can be.
#[derive(Clone)]
struct InFlight {
    limit: u32,
    keys: Arc<Mutex<std::collections::BTreeMap<String, (u32, u32)>>>,
    full: Gate,
}

impl InFlight {
    fn up_to(limit: u32) -> Self {
        Self { limit, keys: Arc::default(), full: Gate::default() }
    }

    async fn during(&self, key: &str, polls: u32) {
        {
            let mut map = lock(&self.keys);
            let (now, most) = map.entry(key.to_owned()).or_default();
            *now += 1;
            *most = (*most).max(*now);
            if *now >= self.limit {
                self.full.open();
            }
        }
        self.full.wait().await;
        dally(polls).await;
        lock(&self.keys).get_mut(key).expect("counted above").0 -= 1;
    }

    fn most(&self) -> u32 {
        lock(&self.keys).values().map(|(_, most)| *most).max().unwrap_or(0)
    }
}

fn the_limit_of_a_host_holds(runtime: &Runtime) {
    let hosts = InFlight::up_to(3);
    let count = hosts.clone();
    let fetcher = move |request: Request| {
        let count = count.clone();
        async move {
            let key = request.target()?.origin().ascii_serialization();
            count.during(&key, 5).await;
            Ok(answer(&request, 200, ""))
        }
    };
    let run = crawl(runtime)
        .seeds((0..400).map(|i| format!("http://{}.test/{i}", i % 4)))
        .max_in_flight_per_host(Some(n(3)))
        .fetcher(fetcher)
        .run();
    assert_eq!(block_on(run).expect("the run ends well").totals.counters.ok, 400);
    assert_eq!(hosts.most(), 3);
}

/// Gives hosts addresses, and counts what is in flight for each address.
struct Addressed {
    in_flight: InFlight,
    lookups: AtomicU32,
    /// Each lookup of a host gives it another address.
    moves: bool,
}

impl Addressed {
    fn new(limit: u32, moves: bool) -> (Self, InFlight) {
        let in_flight = InFlight::up_to(limit);
        (Self { in_flight: in_flight.clone(), lookups: AtomicU32::new(0), moves }, in_flight)
    }
}

#[async_trait]
impl Fetcher for Addressed {
    async fn fetch(&self, request: &Request, _cx: &FetchCx) -> Result<Response, Error> {
        self.in_flight.during("the one address", 4).await;
        Ok(answer(request, 200, ""))
    }

    async fn resolve(&self, _target: &url::Url, _cx: &FetchCx) -> Result<Option<IpAddr>, Error> {
        dally(2).await;
        let lookup = self.lookups.fetch_add(1, Ordering::Relaxed);
        let last = if self.moves { (lookup % 200) as u8 } else { 1 };
        Ok(Some(IpAddr::from([192, 0, 2, last])))
    }
}

fn the_limit_of_an_address_holds_over_its_hosts(runtime: &Runtime) {
    let (fetcher, in_flight) = Addressed::new(2, false);
    let run = crawl(runtime)
        .seeds((0..200).map(|i| format!("http://{}.test/{i}", i % 10)))
        .max_in_flight_per_address(Some(n(2)))
        .max_in_flight_per_host(Some(n(1)))
        .fetcher(fetcher)
        .run();
    assert_eq!(block_on(run).expect("the run ends well").totals.counters.ok, 200);
    assert_eq!(in_flight.most(), 2);
}

fn an_address_limit_survives_cancelled_urls_and_new_addresses(runtime: &Runtime) {
    let (fetcher, _) = Addressed::new(1, true);
    let kept = outcomes();
    let run = crawl(runtime)
        .seeds((0..300).map(|i| format!("http://{}.test/{i}", i % 5)))
        .max_in_flight_per_address(Some(n(1)))
        .host_policy(Fleeting)
        .delay(ms(1))
        .frontier(OneByOne::default())
        .fetcher(fetcher)
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &kept);
    assert_eq!(report.totals.counters.ok, 300, "{report}");
}

/// A frontier that gives a few at a time, and nothing more until one of those has settled.
#[derive(Default)]
struct OneByOne {
    waiting: Vec<Request>,
    leased: u64,
    under_way: u64,
}

#[async_trait]
impl tidegate::Frontier for OneByOne {
    async fn lease(
        &mut self,
        _want: std::num::NonZeroU32,
        _now: std::time::SystemTime,
    ) -> Result<tidegate::Leased, tidegate::FrontierError> {
        let mut leased = tidegate::Leased::default();
        while self.under_way < 20 {
            let Some(request) = self.waiting.pop() else { break };
            self.leased += 1;
            self.under_way += 1;
            leased.requests.push((tidegate::LeaseId(self.leased), request));
        }
        leased.drained = self.waiting.is_empty() && self.under_way == 0;
        Ok(leased)
    }

    async fn settle(
        &mut self,
        done: &mut Vec<(tidegate::LeaseId, tidegate::Verdict)>,
    ) -> Result<(), tidegate::FrontierError> {
        self.under_way -= done.len() as u64;
        done.clear();
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<tidegate::Added, tidegate::FrontierError> {
        self.waiting.append(found);
        Ok(tidegate::Added::default())
    }
}

fn max_in_flight_holds(runtime: &Runtime) {
    let all = InFlight::up_to(9);
    let count = all.clone();
    let fetcher = move |request: Request| {
        let count = count.clone();
        async move {
            count.during("all", 7).await;
            Ok(answer(&request, 200, ""))
        }
    };
    let run =
        crawl(runtime).seeds((0..500).map(|i| format!("http://{i}.test/"))).max_in_flight(n(9)).fetcher(fetcher).run();
    let report = block_on(run).expect("the run ends well");
    assert_eq!((report.totals.counters.ok, all.most()), (500, 9), "{report}");
    assert_eq!(report.totals.counters.in_flight_peak, 9);
}

fn the_gap_holds(runtime: &Runtime) {
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let log = Arc::clone(&starts);
    struct Log(Arc<Mutex<Vec<Instant>>>);
    #[async_trait]
    impl Fetcher for Log {
        async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
            // When it was admitted: our own lag must not count for or against it.
            lock(&self.0).push(cx.started());
            Ok(answer(request, 200, ""))
        }
    }
    let run = crawl(runtime).seeds((0..12).map(|i| format!("http://a.test/{i}"))).delay(ms(40)).fetcher(Log(log)).run();
    assert_eq!(block_on(run).expect("the run ends well").totals.counters.ok, 12);
    let mut starts = lock(&starts).clone();
    starts.sort();
    let gaps: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Admission is a few microseconds before the context is made, both times.
    assert!(gaps.iter().all(|gap| *gap >= ms(19)), "half of the gap at least: {gaps:?}");
}

fn inline_parsing_works(runtime: &Runtime) {
    let kept = outcomes();
    let runtime = runtime.clone().with_offload(Inline::new());
    let run = crawl(&runtime)
        .seed("http://a.test/0")
        .fetcher(|request: Request| async move { tree(&request, 300) })
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    assert_eq!(settled(&report, &kept).len(), 300);
}

fn two_crawls_share_a_small_pool(runtime: &Runtime) {
    let runtime = runtime.clone().with_offload(ThreadPool::new(std::num::NonZeroUsize::MIN).with_queue(0));
    let one = |host: &str| {
        crawl(&runtime)
            .seed(format!("http://{host}.test/0"))
            .fetcher(|request: Request| async move { tree(&request, 300) })
            .run()
    };
    let (a, b, c) = block_on(async { futures::join!(one("a"), one("b"), one("c")) });
    for report in [a, b, c] {
        assert_eq!(report.expect("the run ends well").totals.counters.ok, 300);
    }
}

struct Books;

#[async_trait]
impl Fetcher for Books {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        for _ in 0..4 {
            cx.book(1024).await;
            dally(1).await;
        }
        Ok(answer(request, 200, "x".repeat(4096)))
    }
}

fn a_byte_budget_smaller_than_a_body_does_not_hang(runtime: &Runtime) {
    let kept = outcomes();
    let run = crawl(runtime)
        .seeds((0..200).map(|i| format!("http://{}.test/{i}", i % 7)))
        .byte_budget(100)
        .fetcher(Books)
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &kept);
    assert_eq!(report.totals.counters.ok, 200);
    assert!(report.totals.bytes_in_memory_peak >= 1024, "{report}");
}

/// Rules that are valid for no time at all.
struct Fleeting;

struct FleetingRules;

impl HostRules for FleetingRules {
    fn allows(&self, target: &url::Url) -> bool {
        !target.path().starts_with("/no")
    }

    fn valid_for(&self) -> Duration {
        Duration::ZERO
    }
}

#[async_trait]
impl HostPolicy for Fleeting {
    async fn prepare(&self, _target: &url::Url, _cx: &HostCx) -> Result<Box<dyn HostRules>, Error> {
        dally(1).await;
        Ok(Box::new(FleetingRules))
    }
}

fn rules_that_expire_are_asked_for_again(runtime: &Runtime) {
    let kept = outcomes();
    let fetcher = |request: Request| async move {
        if request.url().contains("robots") { Ok(answer(&request, 404, "")) } else { tree(&request, 200) }
    };
    let run = crawl(runtime)
        .seeds(["http://a.test/0", "http://a.test/no"])
        .host_policy(Fleeting)
        .fetcher(fetcher)
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    settled(&report, &kept);
    assert_eq!((report.totals.counters.ok, report.totals.skipped.get("robots")), (200, Some(&1)), "{report}");
}

/// Panics, fails for good, or works the second time, by host.
#[derive(Default)]
struct Unruly(AtomicU32);

#[async_trait]
impl HostPolicy for Unruly {
    async fn prepare(&self, target: &url::Url, _cx: &HostCx) -> Result<Box<dyn HostRules>, Error> {
        match target.host_str() {
            Some("panic.test") => panic!("in a policy"),
            Some("never.test") => Err(Error::new(ErrorKind::RobotsUnavailable, "ask")),
            Some("again.test") if self.0.fetch_add(1, Ordering::Relaxed) == 0 => {
                Err(Error::new(ErrorKind::RobotsUnavailable, "ask"))
            }
            _ => Ok(Box::new(FleetingRules)),
        }
    }
}

// C13
fn rules_that_cannot_be_had_fail_the_url(runtime: &Runtime) {
    let kept = outcomes();
    let hosts = ["panic", "never", "again"];
    let run = crawl(runtime)
        .seeds(hosts.iter().flat_map(|host| (0..3).map(move |i| format!("http://{host}.test/{host}{i}"))))
        .host_policy(Unruly::default())
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    let list = settled(&report, &kept);
    assert_eq!(report.totals.counters.ok, 3, "{report}");
    assert_eq!(report.totals.errors.get("robots.unavailable"), Some(&3), "{report}");
    assert_eq!(report.totals.errors.get("fetcher.panic"), Some(&3), "{report}");
    assert!(list.iter().filter(|s| s.outcome.name() == "error").all(|s| s.attempts == 0));
}

fn items_without_a_sink_are_counted(runtime: &Runtime) {
    let kept = outcomes();
    let run = crawl(runtime)
        .seed("http://a.test/0")
        .fetcher(|request: Request| async move { tree(&request, 30) })
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    assert!(settled(&report, &kept).iter().all(|s| s.items == 1));
    assert_eq!(report.totals.items, 30);
}

fn absurd_durations_are_no_end(runtime: &Runtime) {
    let mut overrides = tidegate::Overrides::default();
    overrides.total_timeout = Some(Duration::MAX);
    // Nothing is answered before the crawl is told to end, or it would have ended by itself.
    let (told, is_told) = futures::channel::oneshot::channel::<()>();
    let is_told = is_told.shared();
    let fetcher = move |request: Request| {
        let is_told = is_told.clone();
        async move {
            let _ = is_told.await;
            Ok(answer(&request, 200, ""))
        }
    };
    let run = crawl(runtime)
        .seed(Request::get("http://a.test/").with_overrides(overrides))
        .max_time(Duration::MAX)
        .drain(Duration::MAX)
        .backoff(Duration::MAX, Duration::MAX)
        .fetcher(fetcher);
    let crawl = run.start().expect("settings are fine");
    crawl.handle().shutdown(tidegate::Shutdown::Graceful { within: Duration::MAX });
    // Nobody hears it where the fetch had not begun.
    let _ = told.send(());
    let report = block_on(crawl).expect("the run ends well");
    assert_eq!(report.finish_reason, FinishReason::Shutdown);
}

fn a_bad_url_is_a_record(runtime: &Runtime) {
    let kept = outcomes();
    let run = crawl(runtime)
        .profile(Profile::list())
        .requests(futures::stream::iter(["http://", "ftp://a.test/", "http://a.test/"].map(Request::get)))
        .scope(Scope::any())
        .fetcher(|request: Request| async move { Ok(answer(&request, 200, "")) })
        .outcomes(kept.clone())
        .run();
    let report = block_on(run).expect("the run ends well");
    let codes: Vec<_> = settled(&report, &kept).iter().map(code).collect();
    assert_eq!(codes, ["url.invalid", "url.scheme", "ok"]);
}
