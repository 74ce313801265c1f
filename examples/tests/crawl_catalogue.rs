//! The catalogue example: against the truth of the demo site, with faults put in, and as a program.

#[macro_use]
mod common;
#[allow(dead_code, reason = "its main is not ours")]
#[path = "../src/bin/catalogue.rs"]
mod catalogue;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use async_trait::async_trait;
use catalogue::{Failures, Item, Store, replay, shop, start_at};
use common::{Seen, ms, n, wait_for, watched};
use futures::executor::block_on;
use serde_json::Value;
use tidegate::http::HttpFetcher;
use tidegate::rt::Runtime;
use tidegate::{Batch, Builder, Error, ErrorKind, FetchCx, Fetcher, Profile, Request, Response, Sink, SinkError};
use tidegate_examples::demo::{DemoOptions, DemoSite, PathClass};

on_all_runtimes!(everything_is_brought_in_once_whatever_the_sink_does, what_failed_is_kept_and_replayed);

fn site(pages: u32) -> DemoSite {
    let mut options = DemoOptions::default();
    options.pages = pages;
    options.limited_grace = ms(800);
    DemoSite::start(options).expect("loopback")
}

fn home(site: &DemoSite) -> String {
    format!("{}catalogue/", site.url())
}

/// The example's crawl in a hurry: the site is ours.
fn hurried(runtime: &Runtime) -> Builder<Item> {
    shop(runtime.clone())
        .profile(Profile::own())
        .user_agent("tidegate-test/1.0")
        .max_in_flight_per_host(Some(n(16)))
        .backoff(ms(1), ms(10))
        .retry_budget(100.0)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the file was written");
    assert!(text.is_empty() || text.ends_with('\n'), "no line is torn");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// What is in the store, line for line, is what the site knows to be true.
fn assert_is_the_truth(store: &Path, site: &DemoSite) {
    let lines = lines(store);
    let ids: BTreeSet<_> = lines.iter().map(|line| line["id"].to_string()).collect();
    assert_eq!(ids.len(), lines.len(), "each id once");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (mut products, mut reviews) = (BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
    for item in lines.iter().map(|line| &line["item"]) {
        if item["type"] == "product" {
            assert!(products.insert(text(&item["sku"]), item).is_none(), "{item} comes twice");
        } else {
            let of = reviews.entry(text(&item["sku"])).or_default();
            assert!(of.insert(text(&item["id"]), item).is_none(), "{item} comes twice");
        }
    }
    let truth = site.catalogue();
    assert_eq!(products.len(), truth.len());
    for product in &truth {
        let found = products.get(&product.sku).expect("every product");
        assert_eq!(
            (&found["category"], &found["discontinued"]),
            (&Value::from(product.category.as_str()), &Value::from(product.discontinued))
        );
        if !product.discontinued {
            for (key, value) in [
                ("name", &product.name),
                ("description", &product.description),
                ("price", &product.price),
                ("currency", &product.currency),
            ] {
                assert_eq!(found[key], Value::from(value.as_str()), "{key} of {}", product.sku);
            }
        }
        let none = BTreeMap::new();
        let of = reviews.get(&product.sku).unwrap_or(&none);
        assert_eq!(of.len(), product.reviews.len(), "all reviews of {}", product.sku);
        for review in &product.reviews {
            let found = of.get(&review.id).expect("every review");
            assert_eq!((text(&found["author"]), text(&found["text"])), (review.author.clone(), review.text.clone()));
            assert_eq!(found["rating"], review.rating);
        }
    }
    let known: usize = truth.iter().map(|product| product.reviews.len()).sum();
    assert_eq!(reviews.values().map(BTreeMap::len).sum::<usize>(), known);
}

/// A store whose disk is moody: it takes parts of batches, loses acknowledgements of what it wrote, and asks for time.
struct Moody {
    store: Store,
    rng: fastrand::Rng,
}

#[async_trait]
impl Sink<Item> for Moody {
    async fn deliver(&mut self, batch: &mut Batch<Item>) -> Result<(), SinkError> {
        match self.rng.u32(..4) {
            0 => Err(SinkError::retry("before it wrote").after(ms(1))),
            1 => {
                // Written, and the acknowledgement is lost: all of it comes again.
                let mut copy = batch.iter().map(copy_of).collect();
                self.store.deliver(&mut copy).await?;
                Err(SinkError::retry("after it wrote").after(ms(1)))
            }
            2 => {
                let part = self.rng.usize(1..=batch.len());
                let mut some = batch.iter().take(part).map(copy_of).collect();
                self.store.deliver(&mut some).await?;
                (0..part).for_each(|_| drop(batch.pop()));
                Ok(())
            }
            _ => self.store.deliver(batch).await,
        }
    }
}

fn copy_of(delivery: &tidegate::Delivery<Item>) -> tidegate::Delivery<Item> {
    let item = serde_json::to_value(&delivery.item).and_then(serde_json::from_value).expect("an item is JSON");
    tidegate::Delivery::new(delivery.id, delivery.url.clone(), delivery.fetched_at, item)
}

// J2, J3
fn everything_is_brought_in_once_whatever_the_sink_does(runtime: &Runtime) {
    let (site, folder) = (site(300), tempfile::tempdir().expect("a folder"));
    let (out, failed) = (folder.path().join("out"), folder.path().join("failed"));
    let sink = Moody { store: Store::open(&out).expect("a file"), rng: fastrand::Rng::with_seed(11) };
    let run = hurried(runtime)
        .seed(start_at(home(&site)))
        // A guarded corner of the same site: its 429s hold the whole crawl back.
        .seeds((0..30).map(|i| format!("{}limited/{i}", site.url())))
        .sink(sink)
        .outcomes(Failures::open(&failed).expect("a file"))
        .run();
    let report = block_on(run).expect("the run ends well");
    assert_is_the_truth(&out, &site);
    assert_eq!(lines(&failed), Vec::<Value>::new(), "{report}");
    let c = report.totals.counters;
    assert_eq!((c.submitted, c.error), (c.ok, 0), "{report}");
    let stats = site.stats();
    assert!(stats.soft_blocks > 0 && stats.too_many > 0, "the test is of these");
    assert_eq!((stats.violations, stats.requests(PathClass::Limited)), (0, 30 + stats.too_many));

    // The same crawl into the same file adds nothing.
    let before = std::fs::read(&out).expect("the store");
    let run = hurried(runtime).seed(start_at(home(&site))).sink(Store::open(&out).expect("a file")).run();
    assert_eq!(block_on(run).expect("the run ends well").totals.counters.error, 0);
    assert!(std::fs::read(&out).expect("the store") == before);
}

/// Fails some URLs, each time in another way, until it is told to stop that.
struct Faulty {
    inner: HttpFetcher,
    seen: Seen,
}

#[async_trait]
impl Fetcher for Faulty {
    async fn fetch(&self, request: &Request, cx: &FetchCx) -> Result<Response, Error> {
        let sum = request.identity().iter().fold(0u32, |sum, byte| sum.wrapping_mul(31) + u32::from(*byte));
        let deep = matches!(request.label(), Some("product" | "reviews"));
        if deep && sum.is_multiple_of(5) {
            self.seen.add(request.label().expect("just seen"));
            return match sum % 3 {
                0 => Err(Error::new(ErrorKind::ConnectReset, "read")),
                1 => panic!("in the fetcher"),
                _ => {
                    self.inner.fetch(&request.clone().with_url(format!("http://{}/errors/1", host(request))), cx).await
                }
            };
        }
        self.inner.fetch(request, cx).await
    }
}

fn host(request: &Request) -> String {
    let url = request.target().expect("it was admitted");
    url[url::Position::BeforeHost..url::Position::AfterPort].to_owned()
}

fn what_failed_is_kept_and_replayed(runtime: &Runtime) {
    let (site, folder) = (site(300), tempfile::tempdir().expect("a folder"));
    let (out, failed, again) = (folder.path().join("out"), folder.path().join("failed"), folder.path().join("again"));
    let seen = Seen::default();
    let inner = HttpFetcher::builder(runtime).user_agent("tidegate-test/1.0").build().expect("defaults are fine");
    let run = hurried(runtime)
        .seed(start_at(home(&site)))
        .fetcher(Faulty { inner, seen: seen.clone() })
        .sink(Store::open(&out).expect("a file"))
        .outcomes(Failures::open(&failed).expect("a file"))
        .run();
    let report = block_on(run).expect("failed URLs are data");
    assert!(seen.of("product") > 0 && seen.of("reviews") > 0, "the test is of both");
    let failures = lines(&failed);
    assert_eq!(failures.len() as u64, report.totals.counters.error, "{report}");
    let kinds: BTreeSet<_> = failures.iter().map(|line| line["error"].as_str().expect("text")).collect();
    assert_eq!(kinds, ["connect.reset", "fetcher.panic", "http.status"].into());
    assert!(failures.iter().all(|line| !line["message"].as_str().expect("text").is_empty()));

    // A crash in the middle of a line must not matter.
    let mut torn = std::fs::read(&out).expect("the store");
    torn.truncate(torn.len() - 7);
    std::fs::write(&out, &torn).expect("the store");
    let lost = torn.len() - torn.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1) > 0;
    assert!(lost);

    let run = hurried(runtime)
        .seeds(replay(&failed).expect("it is ours"))
        // The page of the torn line, whichever it was.
        .seed(start_at(home(&site)))
        .sink(Store::open(&out).expect("a file"))
        .outcomes(Failures::open(&again).expect("a file"))
        .run();
    block_on(run).expect("the run ends well");
    assert_eq!(lines(&again), Vec::<Value>::new());
    assert_is_the_truth(&out, &site);
}

/// The program, which polite defaults would make slow.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catalogue"));
    command.args(["--user-agent", "tidegate-test/1.0", "--per-host", "16"]).args(arguments);
    if !arguments.contains(&"--delay") {
        command.args(["--delay", "0"]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name of this test")
}

fn extracts_and_replays(runtime: &str) {
    let (site, folder) = (site(300), tempfile::tempdir().expect("a folder"));
    let (out, failed, again) = (folder.path().join("out"), folder.path().join("failed"), folder.path().join("again"));
    let run = |arguments: &[&str]| {
        let output = program(arguments).args(["--runtime", runtime, "--out", text(&out)]).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        said
    };
    // Failures first: a replay needs no more than what stands in the file.
    let dead = DemoSite::start(DemoOptions::default()).expect("loopback");
    let gone = home(&dead);
    drop(dead);
    let said = run(&["--failed", text(&failed), &gone]);
    assert!(said.contains("robots.unavailable 1") || said.contains("connect.refused 1"), "{said}");
    let there = std::fs::read_to_string(&failed).expect("a failure").replace(&gone, &home(&site));
    std::fs::write(&failed, there).expect("the file");
    run(&["--replay", text(&failed), "--failed", text(&again)]);
    assert_eq!(lines(&again), Vec::<Value>::new());
    assert_is_the_truth(&out, &site);
    let refused = program(&["--out", text(&out), "--replay", text(&failed), "--failed", text(&failed)]).output();
    assert_eq!(refused.expect("it starts").status.code(), Some(1));
}

#[test]
fn the_program_extracts_and_replays_on_tokio() {
    watched("the_program_extracts_and_replays_on_tokio", || extracts_and_replays("tokio"));
}

#[test]
fn the_program_extracts_and_replays_on_smol() {
    watched("the_program_extracts_and_replays_on_smol", || extracts_and_replays("smol"));
}

// K4
#[test]
fn an_interrupted_program_goes_on_where_it_was() {
    watched("an_interrupted_program_goes_on_where_it_was", || {
        let (site, folder) = (site(300), tempfile::tempdir().expect("a folder"));
        let (out, failed, again) =
            (folder.path().join("out"), folder.path().join("failed"), folder.path().join("again"));
        let mut child = program(&["--out", text(&out), "--failed", text(&failed), "--delay", "20", &home(&site)])
            .spawn()
            .expect("it starts");
        wait_for(|| site.stats().requests(PathClass::Products) > 10);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        assert_eq!(child.wait().expect("our child").code(), Some(130));
        let cancelled = lines(&failed);
        assert!(!cancelled.is_empty() && cancelled.iter().all(|line| line["error"] == "cancelled"));
        assert!(lines(&out).len() < site.catalogue().len());
        let end = program(&["--out", text(&out), "--failed", text(&again), "--replay", text(&failed)]).output();
        assert_eq!(end.expect("it starts").status.code(), Some(0));
        assert_eq!(lines(&again), Vec::<Value>::new());
        // What was in the frontier and never leased is found again from the home page, into the same file.
        let rest = program(&["--out", text(&out), "--failed", text(&again), &home(&site)]).output();
        assert_eq!(rest.expect("it starts").status.code(), Some(0));
        assert_is_the_truth(&out, &site);
    });
}
