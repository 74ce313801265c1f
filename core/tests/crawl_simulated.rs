//! What whole crawls promise about hops, scope, guard, retries, budgets and ends, each in a small simulated world.
#![cfg(feature = "http")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidegate::sim::{Host, Lookup, PeerRequest, Reply, Sim};
use tidegate::sink::Collect;
use tidegate::{
    Accept, Added, Batch, Builder, Close, Crawl, Error, FinishReason, Frontier, FrontierError, LeaseId, Leased,
    MemoryFrontier, Outcome, Output, Overrides, Page, ParseError, Profile, Report, Request, Scope, Settled, Shutdown,
    Sink, SinkError, StreamFrontier, Verdict,
};

const SECOND: Duration = Duration::from_secs(1);

type Answer = fn() -> Reply;

/// What the servers were asked for: `host/path`.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, asked: &PeerRequest) {
        self.0.lock().expect("not poisoned").push(format!("{}{}", asked.host(), asked.path));
    }

    fn all(&self) -> Vec<String> {
        let mut all = self.0.lock().expect("not poisoned").clone();
        all.sort();
        all
    }

    fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|seen| *seen == what).count()
    }
}

/// A host of this name at this address, which answers by path.
fn serve(
    sim: &Sim,
    name: &str,
    at: [u8; 4],
    seen: &Seen,
    answer: impl Fn(&PeerRequest) -> Reply + Send + Sync + 'static,
) {
    sim.name(name, Lookup::found([IpAddr::from(at)]));
    let seen = seen.clone();
    let host = Host::http(move |asked| {
        seen.add(asked);
        answer(asked)
    });
    sim.net().host(IpAddr::from(at), host);
}

/// Each line of a page is a link or an item.
fn parse(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    for line in page.utf8().lines() {
        match line.split_once(' ') {
            Some(("link", to)) => out.follow(to),
            Some(("item", item)) => out.item(item.to_owned()),
            _ => {}
        }
    }
    Ok(())
}

fn crawl(sim: &Sim) -> Builder<String> {
    Crawl::builder(sim.runtime()).profile(Profile::list()).backoff(SECOND, SECOND).scope(Scope::any()).parse_with(parse)
}

fn end(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Error(error) => error.kind().code(),
        Outcome::Skipped(reason) => reason.code(),
        other => other.name(),
    }
}

/// How each URL ended.
fn ends(kept: &Collect<Settled>) -> BTreeMap<String, &'static str> {
    let settled = kept.take();
    settled
        .iter()
        .map(|d| (d.item.request.url().trim_start_matches("http://").to_owned(), end(&d.item.outcome)))
        .collect()
}

fn are(ends: &BTreeMap<String, &'static str>, expected: &[(&str, &str)]) {
    let ends: Vec<_> = ends.iter().map(|(url, end)| (url.as_str(), *end)).collect();
    assert_eq!(ends, expected);
}

async fn run(crawl: Builder<String>) -> (Report, Collect<Settled>) {
    let kept = tidegate::sink::collect();
    let report = crawl.outcomes(kept.clone()).run().await.expect("the run ends well");
    (report, kept)
}

// C4
#[test]
fn what_a_public_page_leads_to_is_not_private_whoever_asked_before() {
    Sim::check(0..4, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "public.test", [24, 1, 0, 1], &seen, |asked| match asked.path.as_str() {
            "/" => Reply::ok("link http://secret.test/link\nlink http://mixed.test/\nlink http://robots.test/"),
            "/hop" => Reply::redirect(302, "http://secret.test/hop"),
            _ => Reply::status(404),
        });
        // Its own links and hops are free, and so is its robots.txt.
        serve(&sim, "secret.test", [10, 0, 0, 1], &seen, |asked| match asked.path.as_str() {
            "/" => Reply::redirect(302, "http://inner.test/"),
            _ => Reply::ok("a secret"),
        });
        serve(&sim, "inner.test", [10, 0, 0, 2], &seen, |_| Reply::ok("within"));
        serve(&sim, "robots.test", [10, 0, 0, 3], &seen, |_| Reply::ok("a secret"));
        // One public address does not make the other one so.
        sim.name("mixed.test", Lookup::found([IpAddr::from([24, 1, 0, 9]), IpAddr::from([10, 0, 0, 1])]));
        sim.net().host(IpAddr::from([24, 1, 0, 9]), Host::refuses());
        let mut profile = Profile::list();
        profile.robots = true;
        let later = sim.runtime().wall_clock() + SECOND;
        let seeds =
            ["http://public.test/", "http://public.test/hop"].map(|url| Request::get(url).with_not_before(later));
        let (_, kept) = run(crawl(&sim).profile(profile).retries(0).seeds(seeds).seed("http://secret.test/")).await;
        let ends = ends(&kept);
        assert_eq!(ends["secret.test/"], "ok");
        assert_eq!((ends["secret.test/link"], ends["public.test/hop"]), ("guard.blocked", "guard.blocked"));
        assert_eq!(ends["robots.test/"], "guard.blocked");
        assert_ne!(ends["mixed.test/"], "ok");
        let private: Vec<_> = seen.all().into_iter().filter(|url| !url.starts_with("public")).collect();
        assert_eq!(private, ["inner.test/", "inner.test/robots.txt", "secret.test/", "secret.test/robots.txt"]);
    });
}

#[test]
fn without_the_guard_a_public_page_leads_anywhere() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "public.test", [24, 1, 0, 1], &seen, |_| Reply::ok("link http://secret.test/"));
        serve(&sim, "secret.test", [10, 0, 0, 1], &seen, |_| Reply::ok(""));
        let (_, kept) = run(crawl(&sim).guard(false).seed("http://public.test/")).await;
        are(&ends(&kept), &[("public.test/", "ok"), ("secret.test/", "ok")]);
    });
}

#[test]
fn the_rules_of_a_host_hold_for_the_path_of_each_hop() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |asked| match asked.path.as_str() {
            "/robots.txt" => Reply::ok("User-agent: *\nDisallow: /private\n"),
            "/" => Reply::redirect(302, "/private"),
            _ => Reply::ok(""),
        });
        let mut profile = Profile::list();
        profile.robots = true;
        let (_, kept) = run(crawl(&sim).profile(profile).seed("http://a.test/")).await;
        are(&ends(&kept), &[("a.test/", "robots")]);
        assert_eq!(seen.all(), ["a.test/", "a.test/robots.txt"]);
    });
}

#[test]
fn seeds_widen_the_scope_by_where_they_lead_and_nothing_else_does() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "seed.test", [24, 1, 0, 1], &seen, |asked| match asked.path.as_str() {
            "/moved" => Reply::redirect(302, "http://new.test/"),
            "/links" => Reply::ok(
                "link http://new.test/1\nlink http://by-hand.test/1\nlink http://streamed.test/1\nlink http://other.test/1",
            ),
            "/hand" => Reply::redirect(302, "http://by-hand.test/"),
            "/stream" => Reply::redirect(302, "http://streamed.test/"),
            _ => Reply::ok(""),
        });
        serve(&sim, "new.test", [24, 1, 0, 2], &seen, |_| Reply::ok(""));
        serve(&sim, "other.test", [24, 1, 0, 5], &seen, |_| Reply::ok(""));
        serve(&sim, "by-hand.test", [24, 1, 0, 3], &seen, |_| Reply::ok(""));
        // A link to the host of the page is in scope, wherever the request for the page began.
        serve(&sim, "streamed.test", [24, 1, 0, 4], &seen, |_| Reply::ok("link http://streamed.test/own"));
        let kept = tidegate::sink::collect();
        let later = sim.runtime().wall_clock() + SECOND * 10;
        let crawl = crawl(&sim)
            .scope(Scope::host())
            .outcomes(kept.clone())
            .seeds(["http://seed.test/moved", "http://other.test/"])
            .seed(Request::get("http://seed.test/links").with_not_before(later))
            .start()
            .expect("valid");
        let handle = crawl.handle();
        handle.submit([Request::get("http://seed.test/stream")]).expect("it runs");
        let page = handle.fetch("http://seed.test/hand").await.expect("it is there");
        assert_eq!(page.url().as_str(), "http://by-hand.test/");
        crawl.await.expect("the run ends well");
        assert!(handle.submit([Request::get("http://seed.test/late")]).is_err(), "it has ended");
        are(
            &ends(&kept),
            &[
                ("by-hand.test/1", "scope"),
                ("new.test/1", "ok"),
                ("other.test/", "ok"),
                ("other.test/1", "ok"),
                ("seed.test/hand", "ok"),
                ("seed.test/links", "ok"),
                ("seed.test/moved", "ok"),
                ("seed.test/stream", "ok"),
                ("streamed.test/1", "scope"),
                ("streamed.test/own", "ok"),
            ],
        );
    });
}

#[test]
fn a_post_that_may_have_arrived_is_not_sent_again() {
    let answers: [Answer; 7] = [
        Reply::silence,
        || Reply::raw("").then_close(),
        || Reply::raw("").then_reset(),
        || Reply::raw("HTTP/1.1 20").then_reset(),
        || Reply::ok("a body").cut_last(2).then_close(),
        || Reply::status(503),
        || Reply::status(429).header("retry-after", "1"),
    ];
    for answer in answers {
        Sim::check(0..2, |sim| async move {
            let seen = Seen::default();
            serve(&sim, "a.test", [24, 1, 0, 1], &seen, move |_| answer());
            serve(&sim, "b.test", [24, 1, 0, 2], &seen, move |_| answer());
            let seeds = [Request::post("http://a.test/", "x"), Request::get("http://b.test/")];
            let (_, kept) = run(crawl(&sim).retries(2).seeds(seeds)).await;
            assert_eq!((seen.count("a.test/"), seen.count("b.test/")), (1, 3));
            assert!(ends(&kept).values().all(|end| *end != "ok"));
        });
    }
    Sim::check(0..2, |sim| async move {
        sim.net().host(Sim::address_of("a.test"), Host::refuses());
        let (report, _) = run(crawl(&sim).retries(2).seed(Request::post("http://a.test/", "x"))).await;
        assert_eq!(report.totals.counters.retries, 2, "nothing has arrived");
    });
}

#[test]
fn a_reused_connection_is_replaced_only_where_nothing_of_an_answer_came() {
    let bad: [(Answer, usize, &str); 4] = [
        (|| Reply::raw("").then_close(), 2, "ok"),
        (|| Reply::raw("HTTP/1.1 20").drip(4, SECOND).then_reset(), 1, "connect.reset"),
        (|| Reply::raw("SSH-2.0-OpenSSH_9.2\r\n").then_close(), 1, "http.status_line"),
        (Reply::silence, 1, "timeout.first_byte"),
    ];
    for (answer, times, expected) in bad {
        Sim::check(0..2, |sim| async move {
            let seen = Seen::default();
            serve(&sim, "a.test", [24, 1, 0, 1], &seen, move |asked| match asked.nth {
                0 => Reply::ok(""),
                _ => answer(),
            });
            let later = sim.runtime().wall_clock() + SECOND;
            let seeds = [Request::get("http://a.test/"), Request::get("http://a.test/next").with_not_before(later)];
            let (_, kept) = run(crawl(&sim).retries(0).seeds(seeds)).await;
            are(&ends(&kept), &[("a.test/", "ok"), ("a.test/next", expected)]);
            assert_eq!(seen.count("a.test/next"), times, "{expected}");
        });
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_plain_connection_is_no_connection_for_https() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok(""));
        let later = sim.runtime().wall_clock() + SECOND;
        let secret = Request::get("https://a.test/secret").with_not_before(later);
        let (_, kept) = run(crawl(&sim).retries(0).seed("http://a.test:443/").seed(secret)).await;
        assert_ne!(ends(&kept)["https://a.test/secret"], "ok");
        assert_eq!(seen.all().len(), 1, "nothing of it is sent in the clear");
    });
}

#[test]
fn a_page_is_of_the_attempt_that_brought_it() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        let tries = seen.clone();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, move |_| match tries.count("a.test/") {
            1 => Reply::status(503),
            _ => Reply::ok(""),
        });
        let refuse = |page: &Page, _: &mut Output<String>| -> Result<(), ParseError> {
            Err(ParseError::broken(format!("attempt {}", page.attempt())))
        };
        let (report, kept) = run(crawl(&sim).retries(1).parse_with(refuse).seed("http://a.test/")).await;
        let settled = kept.take().remove(0).item;
        assert_eq!((end(&settled.outcome), settled.attempts), ("parser.broken", 2));
        assert_eq!(settled.page.map(|page| page.attempt()), Some(2), "a refused page is kept: {report}");
    });
}

#[test]
fn a_page_for_the_embedder_goes_before_what_waits() {
    Sim::check(0..2, |sim| async move {
        let order = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &order, |_| Reply::ok(""));
        let urls = (0..50).map(|n| Request::get(format!("http://a.test/{n}")));
        let crawl = crawl(&sim).delay(SECOND).seeds(urls).start().expect("valid");
        let handle = crawl.handle();
        sim.sleep(SECOND * 5).await;
        handle.fetch("http://a.test/now").await.expect("it is there");
        assert!(order.all().len() < 10, "{:?}", order.all());
        handle.shutdown(Shutdown::Now);
        crawl.await.expect("the run ends well");
    });
}

#[test]
fn what_is_cancelled_closes_its_connection_at_once() {
    Sim::check(0..2, |sim| async move {
        sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::silence()));
        let later = sim.runtime().wall_clock() + SECOND * 10;
        let seeds = [Request::get("http://a.test/"), Request::get("http://b.test/").with_not_before(later)];
        let crawl = crawl(&sim).seeds(seeds).start().expect("valid");
        let handle = crawl.handle();
        sim.sleep(SECOND).await;
        assert_eq!((sim.net().open_sockets(), handle.cancel(|_| true).await.expect("it runs")), (1, 1));
        sim.sleep(SECOND).await;
        assert_eq!(sim.net().open_sockets(), 0);
        handle.shutdown(Shutdown::Now);
        crawl.await.expect("the run ends well");
    });
}

#[test]
fn the_settings_of_a_request_hold_in_a_crawl() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |asked| match asked.path.as_str() {
            "/moved" => Reply::redirect(302, "/elsewhere").body("moved"),
            "/silent" => Reply::silence(),
            _ => Reply::ok("0123456789"),
        });
        let with = |path: &str, change: fn(&mut Overrides)| {
            let mut overrides = Overrides::default();
            change(&mut overrides);
            Request::get(format!("http://a.test/{path}")).with_overrides(overrides)
        };
        let seeds = [
            with("fits", |o| o.max_body = Some(10)),
            with("large", |o| o.max_body = Some(9)),
            with("moved", |o| o.max_redirects = Some(0)),
            with("silent", |o| (o.first_byte_timeout, o.max_retries) = (Some(SECOND), Some(0))),
        ];
        let (report, kept) = run(crawl(&sim).seeds(seeds)).await;
        are(
            &ends(&kept),
            &[
                ("a.test/fits", "ok"),
                ("a.test/large", "body.too_large"),
                ("a.test/moved", "http.status"),
                ("a.test/silent", "timeout.first_byte"),
            ],
        );
        assert!(report.totals.elapsed < SECOND * 2, "{report}");
    });
}

#[test]
fn bodies_that_nobody_wants_are_read_for_the_connection_only() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        let drip = |reply: Reply| reply.body(vec![b'x'; 100 << 10]).drip(1 << 10, SECOND / 10);
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, move |asked| match asked.path.as_str() {
            "/short" | "/short?save" => Reply::status(404).body("not here"),
            "/long" => drip(Reply::status(404)),
            "/moved" => drip(Reply::redirect(302, "/short")),
            _ => drip(Reply::ok("")),
        });
        let refuse = tidegate::accepting(parse, |head: &tidegate::Head| match head.url.query() {
            Some("save") => Accept::Body,
            _ => Accept::Refuse,
        });
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("page");
        let paths = ["short", "long", "moved", "unwanted"].map(|path| Request::get(format!("http://a.test/{path}")));
        let saved = Request::get("http://a.test/short?save").save_to(&file);
        let (report, kept) = run(crawl(&sim).parse_with(refuse).seeds(paths).seed(saved)).await;
        let wire: BTreeMap<_, _> =
            kept.take().iter().map(|d| (d.item.request.url().to_owned(), d.item.bytes_wire)).collect();
        assert_eq!((wire["http://a.test/short"], wire["http://a.test/long"]), (8, 0));
        assert_eq!(wire["http://a.test/short?save"], 8, "it is read into memory");
        assert!(report.totals.elapsed < SECOND * 5, "{report}");
        assert!(!file.exists(), "an error page takes no file's place");
    });
}

#[test]
fn the_byte_budget_counts_pages_until_they_are_parsed() {
    for (budget, is_held_up) in [(1, true), (1 << 30, false)] {
        let sim = Sim::builder().seed(1).threads(NonZeroUsize::MIN).job_cost(SECOND).build();
        let own = sim.clone();
        let (peak, last) = sim.block_on(async move {
            let last = Arc::new(Mutex::new(Duration::ZERO));
            let at = Arc::clone(&last);
            serve(&own, "a.test", [24, 1, 0, 1], &Seen::default(), move |asked| {
                *at.lock().expect("not poisoned") = asked.at;
                Reply::ok(vec![b'x'; 1000]).after(SECOND / 10)
            });
            let urls = (0..30).map(|n| Request::get(format!("http://a.test/{n}")));
            let most = NonZeroU32::new(2).expect("not zero");
            let (report, _) = run(crawl(&own).byte_budget(budget).max_in_flight(most).seeds(urls)).await;
            assert_eq!(report.totals.counters.ok, 30);
            (report.totals.bytes_in_memory_peak, *last.lock().expect("not poisoned"))
        });
        sim.end();
        // The parser is slow: either the pages that wait for it hold up what comes, or nothing does.
        assert_eq!(last > SECOND * 2, is_held_up, "{last:?}");
        assert!(if is_held_up { peak == 1 << 10 } else { peak > 20 << 10 }, "{peak}");
    }
}

/// Fails with the first delivery, or tells what it was told.
struct Ending {
    sim: Sim,
    fails: bool,
    told: Arc<Mutex<Vec<(&'static str, Duration)>>>,
}

impl Ending {
    fn tell(&self, what: &'static str) {
        self.told.lock().expect("not poisoned").push((what, self.sim.elapsed()));
    }
}

#[async_trait]
impl Sink<Settled> for Ending {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        if self.fails {
            return Err(SinkError::fatal("the disk is full"));
        }
        batch.ack_all();
        Ok(())
    }
}

#[async_trait]
impl Sink<String> for Ending {
    async fn deliver(&mut self, _: &mut Batch<String>) -> Result<(), SinkError> {
        self.tell("asked");
        Err(SinkError::retry("later").after(SECOND * 7))
    }

    async fn close(&mut self, why: Close) -> Result<(), SinkError> {
        self.tell(if why == Close::Failed { "failed" } else { "other" });
        Ok(())
    }
}

#[test]
fn a_crawl_that_fails_closes_its_other_sink_as_failed_and_at_once() {
    Sim::check(0..3, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok("item 1"));
        // Its outcome is the first to come, while the item of the other waits for the sink.
        serve(&sim, "b.test", [24, 1, 0, 2], &seen, |_| Reply::ok("").after(SECOND * 10));
        let told = Arc::default();
        let ending = |fails| Ending { sim: sim.clone(), fails, told: Arc::clone(&told) };
        let crawl = crawl(&sim).seeds(["http://a.test/", "http://b.test/"]);
        let error = crawl.sink(ending(false)).outcomes(ending(true)).run().await.expect_err("a sink failed");
        assert_eq!(error.kind().code(), "sink.failed");
        let told: Vec<_> = told.lock().expect("not poisoned").iter().map(|(what, at)| (*what, at.as_secs())).collect();
        assert_eq!(told, [("asked", 0), ("asked", 7), ("failed", 10)]);
    });
}

/// Fails when it is asked, or has never taken in what it was given.
struct Broken(bool);

#[async_trait]
impl Frontier for Broken {
    async fn lease(&mut self, _: NonZeroU32, _: std::time::SystemTime) -> Result<Leased, FrontierError> {
        Err(FrontierError::new("ask the broker"))
    }

    async fn settle(&mut self, _: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        if self.0 {
            futures::future::pending::<()>().await;
        }
        found.clear();
        Ok(Added::default())
    }
}

#[test]
fn a_frontier_that_breaks_is_told_to_both_sinks() {
    struct Told(Arc<Mutex<Vec<Close>>>);
    #[async_trait]
    impl<T: Send + 'static> Sink<T> for Told {
        async fn deliver(&mut self, batch: &mut Batch<T>) -> Result<(), SinkError> {
            batch.ack_all();
            Ok(())
        }

        async fn close(&mut self, why: Close) -> Result<(), SinkError> {
            self.0.lock().expect("not poisoned").push(why);
            Ok(())
        }
    }
    Sim::check(0..2, |sim| async move {
        let told = Arc::default();
        let crawl = crawl(&sim).frontier(Broken(false)).sink(Told(Arc::clone(&told))).outcomes(Told(Arc::clone(&told)));
        assert_eq!(crawl.run().await.expect_err("it is broken").kind().code(), "frontier.failed");
        assert_eq!(*told.lock().expect("not poisoned"), [Close::Failed, Close::Failed]);
    });
}

#[test]
fn a_frontier_that_hangs_is_left_behind() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).frontier(Broken(true)).close_limit(SECOND).seed("http://a.test/");
        let crawl = crawl.start().expect("valid");
        crawl.handle().shutdown(Shutdown::Now);
        assert!(crawl.await.is_err());
        sim.sleep(SECOND).await;
        assert_eq!((sim.tasks(), sim.elapsed().as_secs()), (0, 2));
    });
}

#[test]
fn the_wait_for_a_sink_begins_anew_once_it_has_taken_something() {
    struct EverySecond(u32);
    #[async_trait]
    impl Sink<String> for EverySecond {
        async fn deliver(&mut self, batch: &mut Batch<String>) -> Result<(), SinkError> {
            self.0 += 1;
            if self.0 % 2 == 1 {
                return Err(SinkError::retry("not now"));
            }
            batch.pop();
            Ok(())
        }
    }
    Sim::check(0..2, |sim| async move {
        sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::ok("item 1\nitem 2\nitem 3\nitem 4")));
        let report = crawl(&sim).sink(EverySecond(0)).seed("http://a.test/").run().await.expect("the run ends well");
        assert!(report.totals.items == 4 && report.totals.elapsed < SECOND / 2, "{report}");
    });
}

#[test]
fn the_last_page_that_is_allowed_ends_what_was_not_begun() {
    Sim::check(0..2, |sim| async move {
        sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::ok("")));
        let crawl = crawl(&sim).delay(SECOND).max_pages(2).seed("http://a.test/").start().expect("valid");
        let handle = crawl.handle();
        let pages = [1, 2, 3].map(|n| handle.fetch(format!("http://a.test/{n}")));
        let pages = futures::future::join_all(pages).await;
        assert_eq!(pages.iter().filter(|page| page.is_ok()).count(), 2);
        let report = crawl.await.expect("the run ends well");
        assert_eq!((report.finish_reason, report.totals.counters.ok), (FinishReason::MaxPages, 2));
        assert!(report.totals.elapsed < SECOND * 3 / 2, "at once, and not when its turn comes: {report}");
    });
}

#[test]
fn a_stricter_end_and_the_limit_of_closing_are_kept() {
    struct Stuck(Sim);
    #[async_trait]
    impl Sink<Settled> for Stuck {
        async fn deliver(&mut self, _: &mut Batch<Settled>) -> Result<(), SinkError> {
            self.0.sleep(SECOND * 100_000).await;
            Ok(())
        }
    }
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok(""));
        let crawl = crawl(&sim).close_limit(SECOND * 5).outcomes(Stuck(sim.clone())).seed("http://a.test/");
        let crawl = crawl.start().expect("valid");
        let handle = crawl.handle();
        sim.sleep(SECOND / 2).await;
        handle.shutdown(Shutdown::Graceful { within: SECOND * 3600 });
        sim.sleep(SECOND / 2).await;
        handle.shutdown(Shutdown::Now);
        let error = crawl.await.expect_err("the sink does not close");
        assert_eq!((error.kind().code(), sim.elapsed().as_secs()), ("sink.failed", 6));
    });
}

#[test]
fn what_hangs_when_the_time_is_over_has_as_long_again_at_most() {
    Sim::check(0..2, |sim| async move {
        sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::silence()));
        let (report, _) = run(crawl(&sim).max_time(SECOND * 2).seed("http://a.test/")).await;
        assert_eq!((report.finish_reason, report.totals.elapsed.as_secs()), (FinishReason::MaxTime, 4));
    });
}

#[test]
fn the_clock_of_what_held_it_up_stops_with_the_crawl() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok("").after(SECOND));
        let crawl = crawl(&sim).seed("http://a.test/").start().expect("valid");
        let handle = crawl.handle();
        let report = crawl.await.expect("the run ends well");
        sim.sleep(SECOND * 10).await;
        assert_eq!(handle.snapshot().bounds, report.totals.bounds);
    });
}

#[test]
fn a_crawl_that_waits_for_a_date_polls_nothing() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok(""));
        let later = sim.runtime().wall_clock() + SECOND * 1000;
        let seeds = [Request::get("http://a.test/"), Request::get("http://a.test/later").with_not_before(later)];
        let crawl = crawl(&sim).seeds(seeds).start().expect("valid");
        sim.sleep(SECOND * 200).await;
        let before = sim.polls();
        sim.sleep(SECOND * 700).await;
        assert!(sim.polls() - before < 10, "{} polls", sim.polls() - before);
        assert_eq!(crawl.await.expect("the run ends well").totals.counters.ok, 2);
    });
}

/// Takes outcomes from this time on.
struct At(Sim, Duration);

#[async_trait]
impl Sink<Settled> for At {
    async fn deliver(&mut self, batch: &mut Batch<Settled>) -> Result<(), SinkError> {
        self.0.sleep(self.1.saturating_sub(self.0.elapsed())).await;
        batch.ack_all();
        Ok(())
    }
}

/// Takes everything in and gives its first request only, then one more for each that is settled.
struct OneAtATime {
    inner: MemoryFrontier,
    sim: Sim,
    open: usize,
    /// When it has an answer to "what else".
    answers_at: Duration,
}

#[async_trait]
impl Frontier for OneAtATime {
    async fn lease(&mut self, _: NonZeroU32, now: std::time::SystemTime) -> Result<Leased, FrontierError> {
        if self.open > 0 {
            self.sim.sleep(self.answers_at.saturating_sub(self.sim.elapsed())).await;
            return Ok(Leased::default());
        }
        let leased = self.inner.lease(NonZeroU32::MIN, now).await?;
        self.open += leased.requests.len();
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        // The rest at the next call.
        let mut one: Vec<_> = done.drain(..1).collect();
        self.open -= 1;
        self.inner.settle(&mut one).await
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        self.inner.add(found).await
    }
}

#[test]
fn an_answer_that_a_settlement_overtook_is_asked_for_again() {
    Sim::check(0..60, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok(""));
        let frontier = OneAtATime { inner: MemoryFrontier::new(9, 1), sim: sim.clone(), open: 0, answers_at: SECOND };
        let seeds = ["http://a.test/1", "http://a.test/2", "http://a.test/3"];
        let crawl = crawl(&sim).frontier(frontier).outcomes(At(sim.clone(), SECOND)).seeds(seeds);
        let report = crawl.run().await.expect("the run ends well");
        assert_eq!(report.totals.counters.ok, 3);
    });
}

#[test]
fn a_question_that_waits_holds_up_no_settlement() {
    Sim::check(0..3, |sim| async move {
        sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::ok("")));
        let answers_at = SECOND * 3600;
        let frontier = OneAtATime { inner: MemoryFrontier::new(9, 1), sim: sim.clone(), open: 0, answers_at };
        let crawl = crawl(&sim).frontier(frontier).seeds(["http://a.test/1", "http://a.test/2"]);
        let report = crawl.run().await.expect("the run ends well");
        assert!(report.totals.counters.ok == 2 && report.totals.elapsed < SECOND, "{report}");
    });
}

#[test]
fn a_question_that_waits_holds_up_no_link() {
    Sim::check(0..3, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |asked| match asked.path.as_str() {
            "/" => Reply::ok("link http://a.test/link"),
            _ => Reply::ok(""),
        });
        let own = sim.clone();
        let slow = futures::stream::unfold(0, move |n| {
            let own = own.clone();
            async move {
                if n == 1 {
                    own.sleep(SECOND * 3600).await;
                }
                (n < 2).then(|| (Request::get(format!("http://a.test/{}", ["", "late"][n])), n + 1))
            }
        });
        // Nor does it where the page of the link is not settled for long.
        let crawl = crawl(&sim).frontier(StreamFrontier::new(slow)).outcomes(At(sim.clone(), SECOND * 100));
        let crawl = crawl.start().expect("valid");
        sim.sleep(SECOND).await;
        assert_eq!(seen.all(), ["a.test/", "a.test/link"]);
        assert_eq!(crawl.await.expect("the run ends well").totals.counters.ok, 3);
    });
}

/// Has room for any number and gives one of them.
#[derive(Default)]
struct Swallows(Vec<Request>, bool);

#[async_trait]
impl Frontier for Swallows {
    async fn lease(&mut self, _: NonZeroU32, _: std::time::SystemTime) -> Result<Leased, FrontierError> {
        let mut leased = Leased::default();
        leased.requests.extend(self.0.pop().map(|request| (LeaseId(1), request)));
        self.1 |= !leased.requests.is_empty();
        leased.drained = self.1;
        Ok(leased)
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        done.clear();
        Ok(())
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        self.0.extend(found.drain(..).find(|request| request.url().ends_with("last")));
        Ok(Added::default())
    }
}

#[test]
fn a_frontier_that_was_behind_is_not_for_ever() {
    Sim::check(0..1, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok(""));
        let crawl = crawl(&sim).frontier(Swallows::default()).start().expect("valid");
        let (handle, one) = (crawl.handle(), Request::get("http://a.test/"));
        let all = std::iter::repeat_n(one, 100_001).chain([Request::get("http://a.test/last")]);
        handle.submit(all).expect("it runs");
        assert_eq!(crawl.await.expect("the run ends well").totals.counters.ok, 1);
    });
}

#[test]
fn what_is_dropped_unacknowledged_is_the_next_to_come() {
    use futures::StreamExt;
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        serve(&sim, "a.test", [24, 1, 0, 1], &seen, |_| Reply::ok("item 1\nitem 2\nitem 3"));
        let (crawl, mut items) = crawl(&sim).seed("http://a.test/").items().expect("valid");
        let mut came = Vec::new();
        drop(items.next().await);
        while let Some(item) = items.next().await {
            came.push(item.ack().item);
        }
        assert_eq!(came, ["1", "2", "3"]);
        assert_eq!(crawl.await.map(|report| report.totals.items).map_err(|e: Error| e.kind()), Ok(3));
    });
}
