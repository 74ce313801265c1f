//! What observers are told: each URL's events in a legal order, exactly one end, the same log for the same seed.
#![cfg(feature = "http")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::observer::{Event, What};
use tidegate::sim::{Host, Lookup, Reply, Sim};
use tidegate::sink::Collect;
use tidegate::{
    Builder, Crawl, ErrorKind, Observer, Output, Page, ParseError, Profile, Request, Scope, Settled, Shutdown,
};

const SECOND: Duration = Duration::from_secs(1);

/// The lines of all events, and the life of each URL as names.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    lives: BTreeMap<u64, Vec<&'static str>>,
    /// Outcome, attempts and URL, by job.
    ends: BTreeMap<u64, (String, u32, String)>,
    of_crawl: Vec<&'static str>,
    last: Duration,
}

impl Observer for Log {
    fn event(&self, event: &Event<'_>) {
        let mut kept = self.0.lock().expect("not poisoned");
        assert!(event.elapsed >= kept.last, "time goes on");
        kept.last = event.elapsed;
        kept.lines.push(event.to_string());
        if event.job == 0 {
            kept.of_crawl.push(event.what.name());
            return;
        }
        kept.lives.entry(event.job).or_default().push(event.what.name());
        if let What::Settled(settled) = event.what {
            let end = (settled.outcome.name().to_owned(), settled.attempts, event.url.to_string());
            assert!(kept.ends.insert(event.job, end).is_none(), "job {} is settled twice", event.job);
        }
    }
}

/// What may follow an event.
fn follows(event: &str) -> &'static [&'static str] {
    match event {
        "leased" => &["queued", "settled"],
        "queued" => &["dispatched", "settled"],
        "dispatched" | "phase" | "connected" | "headers" => {
            &["phase", "connected", "headers", "body", "retried", "settled"]
        }
        "body" => &["redirected", "parsing", "retried", "settled"],
        "redirected" | "retried" => &["dispatched", "settled"],
        "parsing" => &["parsed", "settled"],
        "parsed" => &["delivered", "retried", "settled"],
        "delivered" => &["settled"],
        _ => &[],
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").lines.clone()
    }

    fn life(&self, job: u64) -> Vec<&'static str> {
        self.0.lock().expect("not poisoned").lives[&job].clone()
    }

    /// Whether each life is legal, and ends as its outcome says.
    fn check(&self, outcomes: &Collect<Settled>) {
        let kept = self.0.lock().expect("not poisoned");
        for (job, life) in &kept.lives {
            assert_eq!((life[0], life[life.len() - 1]), ("leased", "settled"), "job {job}: {life:?}");
            for pair in life.windows(2) {
                assert!(follows(pair[0]).contains(&pair[1]), "job {job}: {} after {}: {life:?}", pair[1], pair[0]);
            }
        }
        let told: BTreeMap<_, _> = outcomes
            .take()
            .iter()
            .map(|d| (d.item.job, (d.item.outcome.name().to_owned(), d.item.attempts, d.item.url().into_owned())))
            .collect();
        assert_eq!(told, kept.ends);
        assert_eq!(kept.ends.len(), kept.lives.len());
    }
}

fn crawl(sim: &Sim) -> Builder<String> {
    let parse = |page: &Page, out: &mut Output<String>| -> Result<(), ParseError> {
        match page.utf8().as_ref() {
            "again" if page.attempt() == 1 => return Err(ParseError::retry("once more")),
            "panic" => panic!("on purpose"),
            text => out.item(text.to_owned()),
        }
        Ok(())
    };
    Crawl::builder(sim.runtime()).profile(Profile::list()).backoff(SECOND, SECOND).scope(Scope::any()).parse_with(parse)
}

fn world(sim: &Sim) {
    sim.name("a.test", Lookup::found([IpAddr::from([24, 1, 0, 1])]));
    sim.name("gone.test", Lookup::not_found());
    sim.net().host(
        IpAddr::from([24, 1, 0, 1]),
        Host::http(|asked| match asked.path.as_str() {
            "/ok" | "/moved-to" => Reply::ok("text"),
            "/moved" => Reply::redirect(302, "http://a.test/moved-to"),
            "/busy" => Reply::status(503),
            "/again" => Reply::ok("again"),
            "/panic" => Reply::ok("panic"),
            "/reset" => Reply::raw("HTTP/1.1 20").then_reset(),
            "/silent" => Reply::silence(),
            _ => Reply::status(404),
        }),
    );
}

const URLS: [&str; 11] = [
    "http://a.test/ok",
    "http://a.test/moved",
    "http://a.test/busy",
    "http://a.test/again",
    "http://a.test/panic",
    "http://a.test/reset",
    "http://a.test/404",
    "http://gone.test/",
    "http://[::1",
    "http://me:secret@a.test/ok?2",
    "http://a.test/silent",
];

async fn run(sim: &Sim, log: &Log, cancel: bool, stop: bool) -> Collect<Settled> {
    world(sim);
    let kept = tidegate::sink::collect();
    let deep = Request::get("http://a.test/deep").with_depth(5);
    let crawl = crawl(sim)
        .max_depth(3)
        .random_seed(7)
        // Each answer is one of the tries, also a 503.
        .breaker(None, SECOND * 60)
        .seeds(URLS.map(Request::get))
        .seed(deep)
        .outcomes(kept.clone())
        .sink(tidegate::sink::collect())
        .observer(log.clone())
        .start()
        .expect("valid");
    let handle = crawl.handle();
    if cancel {
        sim.sleep(SECOND / 2).await;
        handle
            .cancel(|request| request.url().contains("busy") || request.url().contains("silent"))
            .await
            .expect("runs");
    }
    if stop {
        sim.sleep(SECOND / 2).await;
        handle.shutdown(Shutdown::Now);
    }
    crawl.await.expect("it ends well");
    kept
}

#[test]
fn the_events_of_a_url_come_in_order_and_end_with_its_outcome() {
    Sim::check(0..6, |sim| async move {
        let log = Log::default();
        let kept = run(&sim, &log, false, false).await;
        log.check(&kept);
        let (lines, names) = (log.lines(), log.0.lock().expect("not poisoned").of_crawl.clone());
        assert!(names.contains(&"resolved") && names.contains(&"host_failed"), "{names:?}");
        assert!(lines.iter().all(|line| !line.contains("secret")), "no userinfo");
        for part in [
            "leased depth 5 http://a.test/deep",
            "settled skipped depth http://a.test/deep",
            "attempt 1 connected 24.1.0.1:80 new http://a.test/",
            " reused http://a.test/",
            "attempt 1 headers HTTP/1.1 302 http://a.test/moved",
            "redirected 302 to http://a.test/moved-to http://a.test/moved",
            "attempt 1 dispatched hop 1 after ",
            "attempt 1 retried http.status in ",
            "attempt 2 retried http.status in ",
            "attempt 3 settled error http.status fetched in ",
            "retried parser.retry in ",
            "settled error parser.panic",
            "settled error url.invalid",
            "settled error dns.not_found",
            "delivered 1 items",
        ] {
            assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
        }
    });
}

#[test]
fn what_is_cancelled_or_stopped_ends_its_life_too() {
    for (cancel, stop) in [(true, false), (false, true), (true, true)] {
        Sim::check(0..6, |sim| async move {
            let log = Log::default();
            let kept = run(&sim, &log, cancel, stop).await;
            log.check(&kept);
            let cancelled = log.lines().iter().filter(|line| line.contains("settled cancelled")).count();
            assert!(cancelled > 0, "{:#?}", log.lines());
        });
    }
}

#[test]
fn equal_seeds_give_equal_logs() {
    let lines = |seed| {
        let sim = Sim::new(seed);
        let log = Log::default();
        sim.block_on(run(&sim, &log, true, false));
        log.lines()
    };
    assert_eq!(lines(3), lines(3));
}

#[test]
fn the_life_of_a_page_event_by_event() {
    Sim::check(0..2, |sim| async move {
        world(&sim);
        let log = Log::default();
        let crawl = crawl(&sim).seed("http://a.test/ok").observer(log.clone());
        crawl.run().await.expect("it ends well");
        let life = log.life(1);
        // Names are looked up before anything of theirs is dispatched; the fetch asks the cache, and its other phases are
        // its own.
        let expected = [
            "leased",
            "queued",
            "dispatched",
            "phase",
            "phase",
            "connected",
            "phase",
            "phase",
            "headers",
            "body",
            "parsing",
            "parsed",
            "delivered",
            "settled",
        ];
        assert_eq!(life, expected);
    });
}

/// A panic in an observer, wherever it is called, ends the run, and leaves the other observer its whole story.
#[test]
fn a_panic_of_an_observer_is_contained() {
    for name in ["leased", "dispatched", "phase", "headers", "settled", "resolved"] {
        Sim::check(0..2, |sim| async move {
            world(&sim);
            let (log, kept) = (Log::default(), tidegate::sink::collect());
            let bad = move |event: &Event<'_>| assert_ne!(event.what.name(), name, "on purpose");
            let crawl =
                crawl(&sim).seeds(URLS.map(Request::get)).outcomes(kept.clone()).observer(bad).observer(log.clone());
            let error = crawl.run().await.expect_err("the observer failed");
            assert_eq!(error.kind(), ErrorKind::Other);
            assert!(error.to_string().contains("on purpose"), "{error}");
            assert!(sim.panics().is_empty(), "{:?}", sim.panics());
            log.check(&kept);
        });
    }
}
