//! The demo site, crawled whole over real sockets.

#[macro_use]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{code, ms, outcomes, settled, wait_for};
use futures::executor::block_on;
use tidegate::rt::Runtime;
use tidegate::{Builder, Crawl, Profile, Settled};
use tidegate_examples::demo::{DemoOptions, DemoSite, PathClass};
use tidegate_parse::follow_links;

on_all_runtimes!(the_whole_site_is_found_and_every_corner_is_named, a_server_that_dies_ends_the_crawl_with_errors,);

const PAGES: u32 = 400;

fn site() -> DemoSite {
    let mut options = DemoOptions::default();
    options.pages = PAGES;
    // A request that was under way when the first 429 was given is none that came too early.
    options.limited_grace = ms(800);
    DemoSite::start(options).expect("loopback")
}

fn polite(runtime: &Runtime, site: &DemoSite) -> Builder<()> {
    let mut profile = Profile::own();
    profile.robots = true;
    Crawl::builder(runtime.clone())
        .profile(profile)
        .user_agent("tidegate-test/1.0 (+mailto:nobody@demo.invalid)")
        .max_in_flight_per_host(Some(common::n(20)))
        .backoff(ms(5), ms(50))
        .retry_budget(100.0)
        .seed(site.url())
        .seed(site.url().join("/corners/").expect("a path"))
        .parse_with(follow_links())
}

fn path(settled: &Settled) -> String {
    settled.request.target().expect("all links are URLs").path().to_owned()
}

fn the_whole_site_is_found_and_every_corner_is_named(runtime: &Runtime) {
    let (site, kept) = (site(), outcomes());
    let report = block_on(polite(runtime, &site).outcomes(kept.clone()).run()).expect("the run ends well");
    let list = settled(&report, &kept);

    // Everything but the page whose gzip is broken; two links may lead to one page by redirects.
    let found: BTreeSet<_> = list
        .iter()
        .filter(|s| s.outcome.name() == "ok")
        .map(|s| s.final_url().expect("answered").into_owned())
        .collect();
    assert_eq!(found.len() as u32, PAGES - 1, "{report}");
    assert_eq!(list.iter().map(|s| s.request.identity()).collect::<BTreeSet<_>>().len(), list.len());

    let broken: BTreeMap<_, _> = list
        .iter()
        .filter(|s| path(s).starts_with("/broken/") || path(s).starts_with("/redirects/"))
        .map(|s| (path(s), code(s)))
        .collect();
    let expected = [
        ("/broken/chunk", "http.protocol"),
        ("/broken/chunk-end", "body.incomplete"),
        ("/broken/empty", "http.empty_reply"),
        ("/broken/gzip", "body.incomplete"),
        ("/broken/header", "http.header"),
        ("/broken/length", "body.incomplete"),
        ("/broken/reset", "connect.reset"),
        ("/broken/reset-body", "connect.reset"),
        ("/broken/status-line", "http.status_line"),
        ("/broken/type", "type"),
        ("/redirects/article", "ok"),
        ("/redirects/chain-3", "ok"),
        ("/redirects/landed", "ok"),
        ("/redirects/loop-a", "redirect.too_many"),
        ("/redirects/permanent", "ok"),
        ("/redirects/relative", "ok"),
        ("/redirects/scheme", "redirect.invalid"),
        ("/redirects/self", "redirect.too_many"),
        ("/redirects/single", "ok"),
    ];
    assert_eq!(broken, expected.map(|(path, code)| (path.to_owned(), code.to_owned())).into());
    let with =
        |folder: &str, outcome: &str| list.iter().filter(|s| path(s).starts_with(folder) && code(s) == outcome).count();
    assert_eq!((with("/missing/", "http.status"), with("/errors/", "http.status")), (5, 3));
    assert_eq!((with("/flaky/", "ok"), with("/limited/", "ok"), with("/private/", "robots")), (5, 41, 2));
    assert!(list.iter().filter(|s| path(s).starts_with("/flaky/")).all(|s| s.attempts == 2));

    let stats = site.stats();
    assert_eq!((stats.requests(PathClass::Private), stats.requests(PathClass::Robots)), (0, 1));
    assert_eq!(stats.violations, 0);
    assert!(stats.too_many > 0, "the limit was met");
    assert!(stats.connections_peak <= 21, "{} connections for 20 fetches", stats.connections_peak);
}

fn a_server_that_dies_ends_the_crawl_with_errors(runtime: &Runtime) {
    let (site, kept) = (site(), outcomes());
    let crawl = polite(runtime, &site).max_in_flight_per_host(Some(common::n(4))).outcomes(kept.clone());
    let crawl = crawl.start().expect("settings are fine");
    wait_for(|| site.stats().total() >= 60);
    drop(site);
    let report = block_on(crawl).expect("a dead server is data");
    let list = settled(&report, &kept);
    assert!(report.totals.counters.ok > 0 && report.totals.counters.error > 0, "{report}");
    let errors: BTreeSet<_> = list.iter().filter(|s| s.outcome.name() == "error").map(code).collect();
    let known =
        ["body.incomplete", "connect.refused", "connect.reset", "host.unavailable", "http.empty_reply", "http.status"];
    assert!(errors.contains("connect.refused"), "{errors:?}");
    assert!(
        errors
            .iter()
            .all(|code| known.contains(&code.as_str()) || code.starts_with("http.") || code.starts_with("redirect.")),
        "{errors:?}"
    );
}
