//! `tidegate crawl` against the demo site, on both runtimes.

mod cli_common;

use std::collections::{HashMap, HashSet};

use cli_common::{Files, KEYS, RUNTIMES, Server, answer, check_stats, keys_of, run};
use serde_json::Value;
use tidegate_examples::demo::{DemoOptions, DemoSite};

fn small_site() -> DemoSite {
    let mut options = DemoOptions::default();
    options.pages = 300;
    DemoSite::start(options).expect("the site starts")
}

const QUICK: [&str; 6] = ["--per-host", "64", "--delay", "0", "--retries", "1"];

#[test]
fn a_site_is_crawled_to_its_end() {
    for runtime in RUNTIMES {
        let site = small_site();
        let files = Files::new();
        let stats = files.path("stats.json");
        let options =
            ["crawl", site.url().as_str(), "--runtime", runtime, "--links", "--stats", &stats].map(str::to_owned);
        let options: Vec<_> = options.iter().map(String::as_str).chain(QUICK).collect();
        let ended = run(&options);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let keys: Vec<_> = KEYS.into_iter().chain(["depth", "found_on", "title", "links_count", "links"]).collect();
        for line in &ended.lines {
            assert_eq!(keys_of(line), keys);
        }
        let by_url: HashMap<&str, &Value> =
            ended.records.iter().map(|record| (record["url"].as_str().expect("text"), record)).collect();
        assert_eq!(by_url.len(), ended.records.len(), "each URL once");
        let home = ended.of(site.url().as_str());
        assert_eq!((&home["depth"], &home["title"]), (&0.into(), &"Tidegate demo".into()));
        assert!(home["found_on"].is_null());
        let links = home["links"].as_array().expect("a list");
        assert_eq!(home["links_count"], links.len());
        for record in &ended.records {
            // Every link to the site has a record of its own.
            for link in record["links"].as_array().into_iter().flatten() {
                let link = link.as_str().expect("text");
                assert!(by_url.contains_key(link) || !link.starts_with(site.url().as_str()), "{link}");
            }
            // And every URL but the seed was found on a page that is one link nearer to it.
            let depth = record["depth"].as_u64().expect("a number");
            let parent = &record["found_on"];
            let is_parent = |page: &&Value| page["final_url"] == *parent && page["depth"] == depth - 1;
            assert!(if depth == 0 { parent.is_null() } else { ended.records.iter().any(|page| is_parent(&page)) });
        }
        // robots.txt forbids it.
        let private = ended.of(&format!("{}private/keys", site.url()));
        assert_eq!((&private["outcome"], &private["skipped"]), (&"skipped".into(), &"robots".into()));
        let stats = files.json("stats.json");
        check_stats(&stats);
        assert_eq!((&stats["submitted"], &stats["finish_reason"]), (&ended.records.len().into(), &"done".into()));
        assert_eq!(stats["cancelled"], 0);
    }
}

#[test]
fn depth_scope_and_expressions_bound_a_crawl() {
    let site = small_site();
    let home = site.url().to_string();
    let options = ["crawl", &home, "--depth", "1", "--exclude", "/articles/", "--scope", "origin"];
    let ended = run(&options.into_iter().chain(QUICK).collect::<Vec<_>>());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let fetched: HashSet<_> =
        ended.records.iter().filter(|r| r["outcome"] == "ok").map(|r| r["url"].as_str().expect("text")).collect();
    let expected = ["", "catalogue/", "corners/", "sitemap.xml"].map(|path| format!("{home}{path}"));
    assert_eq!(fetched, expected.iter().map(String::as_str).collect());
    let why: HashSet<_> = ended.records.iter().filter_map(|r| r["skipped"].as_str()).collect();
    assert_eq!(why, HashSet::from(["depth", "scope"]));
    let scope = format!("prefix:{home}catalogue/");
    let options = ["crawl", &home, "--scope", &scope, "--max-pages", "20"];
    let ended = run(&options.into_iter().chain(QUICK).collect::<Vec<_>>());
    let outside = ended.records.iter().filter(|r| r["outcome"] == "ok" && r["depth"] != 0);
    assert!(outside.into_iter().all(|r| r["url"].as_str().is_some_and(|url| url.contains("/catalogue/"))));
}

#[test]
fn the_demo_prints_a_summary_and_no_records() {
    let files = Files::new();
    let stats = files.path("stats.json");
    let ended = run(&["crawl", "--demo", "--max-pages", "50", "--stats", &stats]);
    assert_eq!((ended.code, ended.records.len()), (Some(0), 0), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("tidegate: demo site at http://127.0.0.1:"), "{}", ended.stderr);
    assert!(ended.stderr.contains("64 connections a host, no delay") && ended.stderr.contains("robots.txt heeded"));
    assert!(ended.stderr.contains("\ntidegate: max_pages: "), "{}", ended.stderr);
    let stats = files.json("stats.json");
    check_stats(&stats);
    assert_eq!(stats["finish_reason"], "max_pages");
}

// C2
#[test]
fn headers_go_to_the_seeds_site_only() {
    let other = Server::start(|_| answer("200 OK", "", "other"));
    let link = format!("<a href=/next>a</a><a href=http://localhost:{}/>b</a>", other.addr.port());
    let seed = Server::start(move |head| match head {
        head if head.starts_with("GET / ") => answer("200 OK", "content-type: text/html\r\n", &link),
        _ => answer("200 OK", "", "leaf"),
    });
    let url = format!("http://{}/", seed.addr);
    let resolve = format!("localhost:{}:127.0.0.1", other.addr.port());
    let options =
        ["crawl", &url, "--scope", "any", "--no-robots", "--header", "X-Secret: s3cret", "--resolve", &resolve];
    let ended = run(&options.into_iter().chain(QUICK).collect::<Vec<_>>());
    assert_eq!(ended.records.len(), 3, "{:?} {}", ended.lines, ended.stderr);
    let (seen, told) = (seed.heads(), other.heads());
    assert_eq!((seen.len(), told.len()), (2, 1));
    assert!(seen.iter().all(|head| head.contains("x-secret: s3cret")), "{seen:?}");
    assert!(!told[0].contains("s3cret") && told[0].contains("user-agent: tidegate/"), "{told:?}");
}
