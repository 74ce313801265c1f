//! Code of the embedder's that runs inside a crawl and misbehaves, and requests that come by unusual ways.

#[macro_use]
mod common;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use common::{answer, code, crawl, lock, outcomes, settled, with_header};
use futures::executor::block_on;
use tidegate::rt::Runtime;
use tidegate::{
    Added, Error, ErrorKind, FetchCx, Fetcher, Frontier, FrontierError, HostCx, HostPolicy, HostRules, LeaseId, Leased,
    Overrides, Request, Response, Scope, Settled, Verdict,
};
use url::Url;

on_all_runtimes!(
    a_panic_in_a_filter_ends_the_run_and_says_so,
    a_panic_in_the_rules_of_a_host_ends_the_run_and_says_so,
    a_panic_in_a_frontier_is_its_failure,
    a_frontier_that_gives_one_at_a_time_is_asked_again,
    a_page_fetched_by_hand_does_not_widen_the_scope,
    links_of_streamed_requests_are_in_the_scope_of_their_page,
    a_name_that_only_the_proxy_knows_is_fetched,
    more_links_than_the_frontier_holds_are_settled,
    what_public_pages_lead_to_is_guarded,
);

fn by_url(settled: &[Settled]) -> BTreeMap<String, String> {
    settled.iter().map(|s| (s.url().into_owned(), code(s))).collect()
}

async fn linked(request: Request) -> Result<Response, Error> {
    Ok(answer(&request, 200, ">/1\n>/2"))
}

// K10
fn a_panic_in_a_filter_ends_the_run_and_says_so(runtime: &Runtime) {
    let all = outcomes();
    let scope = Scope::any().filtered(|url| if url.path() == "/2" { panic!("no such page") } else { true });
    let run = crawl(runtime).seed("http://a.test/").fetcher(linked).scope(scope).outcomes(all.clone()).run();
    let error = block_on(run).expect_err("the filter panicked");
    assert!(error.to_string().contains("no such page"), "{error}");
    assert!(!all.take().is_empty(), "what had settled was told");
}

struct Panics;

#[async_trait]
impl HostPolicy for Panics {
    async fn prepare(&self, _: &Url, _: &HostCx) -> Result<Box<dyn HostRules>, Error> {
        Ok(Box::new(Self))
    }
}

impl HostRules for Panics {
    fn allows(&self, _: &Url) -> bool {
        panic!("no rules")
    }
}

// K10
fn a_panic_in_the_rules_of_a_host_ends_the_run_and_says_so(runtime: &Runtime) {
    let run = crawl(runtime).seed("http://a.test/").fetcher(linked).host_policy(Panics).run();
    let error = block_on(run).expect_err("the rules panicked");
    assert!(error.to_string().contains("no rules"), "{error}");
}

/// Gives one request at a time, and the next only when that one has settled.
#[derive(Default)]
struct OneByOne {
    waiting: VecDeque<Request>,
    out: Option<LeaseId>,
    next: u64,
    panics: bool,
}

#[async_trait]
impl Frontier for OneByOne {
    async fn lease(&mut self, _: NonZeroU32, _: SystemTime) -> Result<Leased, FrontierError> {
        assert!(!self.panics, "out of paper");
        let mut leased = Leased::default();
        if self.out.is_none()
            && let Some(request) = self.waiting.pop_front()
        {
            self.next += 1;
            self.out = Some(LeaseId(self.next));
            leased.requests.push((LeaseId(self.next), request));
        }
        leased.drained = self.waiting.is_empty();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        self.out = None;
        done.clear();
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        let new = found.len() as u64;
        self.waiting.extend(found.drain(..));
        Ok(Added::new(new, 0))
    }
}

fn a_panic_in_a_frontier_is_its_failure(runtime: &Runtime) {
    let frontier = OneByOne { panics: true, ..OneByOne::default() };
    let error = block_on(crawl(runtime).fetcher(linked).frontier(frontier).run()).expect_err("it panicked");
    assert_eq!(error.kind(), ErrorKind::FrontierFailed);
    assert!(error.to_string().contains("out of paper"), "{error}");
}

fn a_frontier_that_gives_one_at_a_time_is_asked_again(runtime: &Runtime) {
    let waiting = (0..200).map(|i| Request::get(format!("http://a.test/{i}"))).collect();
    let frontier = OneByOne { waiting, ..OneByOne::default() };
    let fetcher = |request: Request| async move { Ok(answer(&request, 200, "")) };
    let report = block_on(crawl(runtime).fetcher(fetcher).frontier(frontier).run()).expect("the run ends well");
    assert_eq!(report.totals.counters.ok, 200);
}

fn a_page_fetched_by_hand_does_not_widen_the_scope(runtime: &Runtime) {
    let all = outcomes();
    let (go, gone) = futures::channel::oneshot::channel::<()>();
    let gone = futures::FutureExt::shared(gone);
    let crawl = crawl(runtime)
        .seed("http://a.example/")
        .fetcher(move |request: Request| {
            let gone = gone.clone();
            async move {
                match request.url() {
                    "http://a.example/" => {
                        let _ = gone.await;
                        Ok(answer(&request, 200, ">http://other.example/page"))
                    }
                    "http://login.example/" => {
                        Ok(with_header(answer(&request, 302, ""), "location", "http://other.example/"))
                    }
                    _ => Ok(answer(&request, 200, "")),
                }
            }
        })
        .outcomes(all.clone())
        .start()
        .expect("settings are fine");
    let page = block_on(crawl.handle().fetch("http://login.example/")).expect("it is fetched");
    assert_eq!(page.url().host_str(), Some("other.example"));
    let _ = go.send(());
    let report = block_on(crawl).expect("the run ends well");
    let all = by_url(&settled(&report, &all));
    assert_eq!(all["http://other.example/page"], "scope", "{all:?}");
}

fn links_of_streamed_requests_are_in_the_scope_of_their_page(runtime: &Runtime) {
    let all = outcomes();
    let fetcher = |request: Request| async move {
        let body = if request.depth() == 0 { ">/1\n>http://elsewhere.example/" } else { "" };
        Ok(answer(&request, 200, body))
    };
    let requests = futures::stream::iter(["http://a.example/", "http://b.example/"].map(Request::get));
    let run = crawl(runtime).requests(requests).fetcher(fetcher).outcomes(all.clone()).run();
    let report = block_on(run).expect("the run ends well");
    let all = by_url(&settled(&report, &all));
    assert_eq!((all["http://a.example/1"].as_str(), all["http://b.example/1"].as_str()), ("ok", "ok"));
    assert_eq!(all["http://elsewhere.example/"], "scope");
}

/// Knows no name, as a machine behind a proxy.
struct NoNames;

#[async_trait]
impl Fetcher for NoNames {
    async fn fetch(&self, request: &Request, _: &FetchCx) -> Result<Response, Error> {
        Ok(answer(request, 200, ""))
    }

    async fn resolve(&self, _: &Url, _: &FetchCx) -> Result<Option<IpAddr>, Error> {
        Err(Error::new(ErrorKind::DnsNotFound, "resolve the name"))
    }
}

fn a_name_that_only_the_proxy_knows_is_fetched(runtime: &Runtime) {
    let all = outcomes();
    let mut overrides = Overrides::default();
    overrides.proxy = Some("http://127.0.0.1:3128".into());
    let inside = Request::get("http://inside.test/").with_overrides(overrides);
    let run = crawl(runtime).seeds([inside, Request::get("http://outside.test/")]).fetcher(NoNames);
    let report = block_on(run.outcomes(all.clone()).run()).expect("the run ends well");
    let all = by_url(&settled(&report, &all));
    assert_eq!(all["http://inside.test/"], "ok");
    assert_eq!(all["http://outside.test/"], "dns.not_found");
}

fn more_links_than_the_frontier_holds_are_settled(runtime: &Runtime) {
    let all = outcomes();
    let fetcher = |request: Request| async move {
        let links: String = (0..5000).map(|i| format!(">/{i}\n")).collect();
        Ok(answer(&request, 200, if request.depth() == 0 { links } else { String::new() }))
    };
    let run = crawl(runtime).seed("http://a.test/").fetcher(fetcher).frontier_capacity(100).outcomes(all.clone()).run();
    let report = block_on(run).expect("the run ends well");
    assert_eq!(report.totals.skipped.get("frontier.full"), Some(&4900), "{report}");
    assert_eq!(settled(&report, &all).len(), 5001);
}

/// Everything answers from a public address but for the host `inside`; says which requests were guarded.
struct Remotes(Arc<Mutex<BTreeMap<String, bool>>>);

#[async_trait]
impl Fetcher for Remotes {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        lock(&self.0).insert(request.url().to_owned(), cx.is_guarded());
        let mut response = match request.url() {
            "http://inside.example/" => answer(request, 200, ">/page"),
            "http://outside.example/" => answer(request, 200, ">/page\n>/moved"),
            "http://outside.example/moved" => with_header(answer(request, 302, ""), "location", "/target"),
            _ => answer(request, 200, ""),
        };
        let inside = request.url().starts_with("http://inside.");
        response.remote = Some(if inside { "10.0.0.1:80" } else { "1.1.1.1:80" }.parse().expect("an address"));
        Ok(response)
    }
}

// C4
fn what_public_pages_lead_to_is_guarded(runtime: &Runtime) {
    for on in [true, false] {
        let guarded = Arc::new(Mutex::new(BTreeMap::new()));
        let seeds = ["http://inside.example/", "http://outside.example/"];
        let run = crawl(runtime).seeds(seeds).fetcher(Remotes(Arc::clone(&guarded))).guard(on).run();
        block_on(run).expect("the run ends well");
        let expected = [
            ("http://inside.example/", false),
            ("http://inside.example/page", false),
            ("http://outside.example/", false),
            ("http://outside.example/moved", on),
            ("http://outside.example/page", on),
            ("http://outside.example/target", on),
        ];
        assert_eq!(*lock(&guarded), expected.map(|(url, guarded)| (url.to_owned(), guarded)).into());
    }
}
