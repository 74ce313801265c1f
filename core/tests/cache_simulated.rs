//! The cache in front of the HTTP fetcher: what is asked of the server, and what a crawl sees.
#![cfg(feature = "http")]

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderValue, Method};
use tidegate::cache::{CacheLayer, Cached, FromCache, MemoryCache};
use tidegate::http::HttpFetcher;
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{
    Accept, Crawl, ErrorKind, FetchCx, Fetcher, Outcome, Output, Page, ParseError, Profile, Request, Response, Settled,
    accepting,
};

const SECOND: Duration = Duration::from_secs(1);

type Asked = Arc<Mutex<Vec<String>>>;

struct Setup {
    asked: Asked,
    store: MemoryCache,
    fetcher: Cached<HttpFetcher>,
    sim: Sim,
}

/// A fetcher with a cache, and a server that notes what it is asked, with its conditions.
fn setup(sim: &Sim, answer: impl Fn(&str, Option<&str>) -> Reply + Send + Sync + 'static) -> Setup {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let host = Host::http(move |asked| {
        let condition = asked.header("if-none-match").or_else(|| asked.header("if-modified-since"));
        noted.lock().expect("not poisoned").push(format!("{} {} {condition:?}", asked.method, asked.path));
        answer(&asked.path, condition)
    });
    sim.net().host(Sim::address_of("a.test"), host);
    let store = MemoryCache::new(1 << 20);
    let http = HttpFetcher::builder(&sim.runtime()).build().expect("valid");
    Setup { asked, fetcher: http.layer(CacheLayer::new(store.clone())), store, sim: sim.clone() }
}

impl Setup {
    async fn fetch(&self, request: Request) -> Response {
        self.fetcher.fetch(&request, &FetchCx::detached(&self.sim.runtime())).await.expect("an answer")
    }

    /// The body, and how it came.
    async fn get(&self, path: &str) -> (String, Option<FromCache>) {
        let response = self.fetch(Request::get(format!("http://a.test{path}"))).await;
        let body = response.decoded(&tidegate::Limits::default()).expect("it can be decoded");
        (String::from_utf8_lossy(&body).into_owned(), response.from_cache)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }

    async fn wait(&self, time: Duration) {
        let runtime = self.sim.runtime();
        runtime.sleep_until(runtime.now() + time).await;
    }
}

fn fresh(seconds: u64) -> Reply {
    Reply::ok("hello").header("cache-control", format!("max-age={seconds}"))
}

#[test]
fn what_is_fresh_is_asked_for_once_and_what_is_stale_again() {
    Sim::check(0..2, |sim| async move {
        let setup = setup(&sim, |_, _| fresh(60));
        assert_eq!(setup.get("/x").await, ("hello".into(), None));
        setup.wait(SECOND * 50).await;
        let again = setup.fetch(Request::get("http://a.test/x")).await;
        assert_eq!((&again.body[..], again.bytes_wire, again.from_cache), (&b"hello"[..], 0, Some(FromCache::Fresh)));
        assert_eq!(again.remote.map(|remote| remote.ip()), Some(Sim::address_of("a.test")));
        assert_eq!(setup.asked(), ["GET /x None"]);
        assert_eq!(setup.get("/y").await.1, None);
        setup.wait(SECOND * 20).await;
        assert_eq!(setup.get("/x").await.1, None);
        assert_eq!(setup.asked(), ["GET /y None", "GET /x None"]);
        assert_eq!((setup.store.len(), setup.store.is_empty()), (2, false));
        setup.store.clear();
        assert_eq!((setup.get("/x").await.1, setup.store.len()), (None, 1));
    });
}

#[test]
fn what_has_not_changed_comes_from_the_cache_and_what_has_replaces_it() {
    Sim::check(0..2, |sim| async move {
        let version = Arc::new(Mutex::new("1"));
        let current = Arc::clone(&version);
        let setup = setup(&sim, move |_, condition| {
            let version = *current.lock().expect("not poisoned");
            let tag = format!("\"{version}\"");
            let reply = if condition == Some(&*tag) { Reply::status(304) } else { Reply::ok(version) };
            reply.header("etag", tag).header("cache-control", "max-age=5").header("x-seen", version)
        });
        assert_eq!(setup.get("/").await, ("1".into(), None));
        setup.wait(SECOND * 6).await;
        assert_eq!(setup.get("/").await, ("1".into(), Some(FromCache::Revalidated)));
        assert_eq!(setup.get("/").await, ("1".into(), Some(FromCache::Fresh)), "the 304 renewed it");
        *version.lock().expect("not poisoned") = "2";
        setup.wait(SECOND * 6).await;
        assert_eq!(setup.get("/").await, ("2".into(), None));
        assert_eq!(setup.get("/").await, ("2".into(), Some(FromCache::Fresh)));
        assert_eq!(setup.asked(), ["GET / None", "GET / Some(\"\\\"1\\\"\")", "GET / Some(\"\\\"1\\\"\")"]);
    });
}

#[test]
fn a_304_about_something_else_is_not_taken_for_it() {
    Sim::check(0..1, |sim| async move {
        let setup = setup(&sim, |_, condition| match condition {
            Some(_) => Reply::status(304).header("etag", "\"other\""),
            None => Reply::ok("hello").header("etag", "\"mine\""),
        });
        for _ in 0..2 {
            assert_eq!(setup.get("/").await, ("hello".into(), None));
        }
        assert_eq!(setup.asked(), ["GET / None", "GET / Some(\"\\\"mine\\\"\")", "GET / None"]);
    });
}

#[test]
fn a_server_in_trouble_takes_nothing_from_the_cache() {
    Sim::check(0..1, |sim| async move {
        let broken = Arc::new(Mutex::new(false));
        let is_broken = Arc::clone(&broken);
        let setup = setup(&sim, move |_, condition| match condition {
            _ if *is_broken.lock().expect("not poisoned") => Reply::status(503),
            Some(_) => Reply::status(304),
            None => Reply::ok("hello").header("etag", "\"1\""),
        });
        setup.get("/").await;
        *broken.lock().expect("not poisoned") = true;
        assert_eq!(setup.get("/").await, (String::new(), None));
        *broken.lock().expect("not poisoned") = false;
        assert_eq!(setup.get("/").await, ("hello".into(), Some(FromCache::Revalidated)));
    });
}

#[test]
fn an_unsafe_method_makes_the_next_get_ask() {
    Sim::check(0..1, |sim| async move {
        let setup = setup(&sim, |path, _| match path {
            "/refused" => Reply::status(409),
            _ => fresh(60),
        });
        for path in ["/x", "/other"] {
            setup.get(path).await;
        }
        setup.fetch(Request::new(Method::HEAD, "http://a.test/x")).await;
        setup
            .fetch(Request::post("http://a.test/refused", "x").with_header(COOKIE, HeaderValue::from_static("a")))
            .await;
        assert_eq!(setup.get("/x").await.1, Some(FromCache::Fresh));
        setup.fetch(Request::post("http://a.test/x", "x")).await;
        assert_eq!(setup.get("/x").await.1, None);
        assert_eq!(setup.get("/other").await.1, Some(FromCache::Fresh));
    });
}

// C2
#[test]
fn nobody_gets_what_was_for_the_credentials_of_another() {
    Sim::check(0..1, |sim| async move {
        let setup = setup(&sim, |_, _| fresh(60));
        let with = |token| Request::get("http://a.test/").with_header(AUTHORIZATION, HeaderValue::from_static(token));
        for _ in 0..2 {
            assert_eq!(setup.fetch(with("Bearer a")).await.from_cache, None, "it is not kept unless that is asked for");
        }
        assert!(setup.store.is_empty());
        let http = HttpFetcher::builder(&sim.runtime()).build().expect("valid");
        let fetcher = http.layer(CacheLayer::new(setup.store.clone()).authorized(true));
        for (token, from_cache) in [
            ("Bearer a", None),
            ("Bearer a", Some(FromCache::Fresh)),
            ("Bearer b", None),
            ("Bearer b", Some(FromCache::Fresh)),
            ("Bearer a", None),
        ] {
            let response = fetcher.fetch(&with(token), &FetchCx::detached(&sim.runtime())).await.expect("an answer");
            assert_eq!(response.from_cache, from_cache, "{token}");
        }
        assert_eq!(setup.get("/").await.1, None, "without any");
    });
}

// B1
#[test]
fn an_encoded_body_is_kept_as_it_came_and_decoded_as_ever() {
    // gzip of "hello"
    const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x106\x05\0\0\0";
    Sim::check(0..1, |sim| async move {
        let setup = setup(&sim, |_, _| {
            Reply::ok(GZIP).header("content-encoding", "gzip").header("cache-control", "max-age=60")
        });
        assert_eq!(setup.get("/").await, ("hello".into(), None));
        assert_eq!(setup.get("/").await, ("hello".into(), Some(FromCache::Fresh)));
    });
}

#[test]
fn redirects_are_kept_hop_by_hop_in_a_crawl_and_not_at_all_without_one() {
    Sim::check(0..1, |sim| async move {
        let setup = setup(&sim, |path, _| match path {
            "/old" => Reply::redirect(301, "/new").header("cache-control", "max-age=60"),
            _ => fresh(60),
        });
        for _ in 0..2 {
            assert_eq!(setup.get("/old").await, ("hello".into(), None));
        }
        assert!(setup.store.is_empty(), "nobody knows what the first hop said");
        assert_eq!(setup.asked().len(), 4);
        for _ in 0..2 {
            let crawl = Crawl::builder(sim.runtime()).profile(Profile::list()).fetcher(setup.fetcher.clone());
            crawl.seed("http://a.test/old").parse_with(page).run().await.expect("the run ends well");
        }
        assert_eq!(setup.asked(), ["GET /old None", "GET /new None"]);
    });
}

fn page(_: &Page, _: &mut Output<Option<FromCache>>) -> Result<(), ParseError> {
    Ok(())
}

#[test]
fn a_crawl_is_told_what_came_from_the_cache() {
    Sim::check(0..2, |sim| async move {
        let setup = setup(&sim, |_, condition| match condition {
            Some(_) => Reply::status(304),
            None => fresh(5).header("etag", "\"1\""),
        });
        let mut told = Vec::new();
        for wait in [0, 1, 9] {
            setup.wait(SECOND * wait).await;
            let (items, outcomes) = (tidegate::sink::collect(), tidegate::sink::collect());
            let parse = |page: &Page, out: &mut Output<Option<FromCache>>| {
                assert_eq!((page.status().as_u16(), &page.body()[..]), (200, &b"hello"[..]));
                out.item(page.from_cache());
                Ok::<_, ParseError>(())
            };
            let crawl = Crawl::builder(sim.runtime()).profile(Profile::list()).fetcher(setup.fetcher.clone());
            let crawl = crawl.seed("http://a.test/").parse_with(parse).sink(items.clone()).outcomes(outcomes.clone());
            let report = crawl.run().await.expect("the run ends well");
            assert_eq!(report.totals.counters.ok, 1, "{report}");
            let settled: Vec<Settled> = outcomes.take().into_iter().map(|delivery| delivery.item).collect();
            let of_page: Vec<_> = items.take().into_iter().map(|delivery| delivery.item).collect();
            assert_eq!(of_page, [settled[0].from_cache]);
            told.push((settled[0].from_cache, settled[0].status().map(|status| status.as_u16())));
        }
        let expected = [None, Some(FromCache::Fresh), Some(FromCache::Revalidated)];
        assert_eq!(told, expected.map(|how| (how, Some(200))));
    });
}

#[test]
fn a_parser_that_wants_no_body_gets_none_from_the_cache_either() {
    Sim::check(0..1, |sim| async move {
        let setup = setup(&sim, |_, _| fresh(60));
        setup.get("/").await;
        for (accept, is_ok) in [(Accept::Head, true), (Accept::Fail, false)] {
            let outcomes = tidegate::sink::collect();
            let parser = accepting(page, move |_: &tidegate::Head| accept);
            let crawl = Crawl::builder(sim.runtime()).profile(Profile::list()).fetcher(setup.fetcher.clone());
            let crawl = crawl.seed("http://a.test/").parse_with(parser).outcomes(outcomes.clone());
            crawl.run().await.expect("the run ends well");
            let settled: Vec<Settled> = outcomes.take().into_iter().map(|delivery| delivery.item).collect();
            assert_eq!(matches!(settled[0].outcome, Outcome::Ok), is_ok);
            assert_eq!((settled[0].bytes, settled[0].from_cache), (0, Some(FromCache::Fresh)));
        }
        assert_eq!(setup.asked(), ["GET / None"]);
    });
}

/// What was fetched of a private address because its user said so is not for a page of the public network that links to it.
#[test]
fn the_guard_holds_for_what_is_kept() {
    Sim::check(0..2, |sim| async move {
        let setup = setup(&sim, |_, _| fresh(600));
        let inside = IpAddr::from([10, 0, 0, 1]);
        sim.name("inside.test", tidegate::sim::Lookup::found([inside]));
        sim.net().host(inside, Host::http(|_| Reply::ok("secret").header("cache-control", "max-age=600")));
        let link = |_: &Page, out: &mut Output<()>| {
            out.follow("http://inside.test/");
            Ok::<_, ParseError>(())
        };
        let outcomes_of = async |seed: &str| {
            let outcomes = tidegate::sink::collect();
            let crawl = Crawl::builder(sim.runtime()).profile(Profile::list()).fetcher(setup.fetcher.clone());
            let crawl = crawl.guard(true).scope(tidegate::Scope::any()).max_depth(1);
            let crawl = crawl.seed(seed).parse_with(link).outcomes(outcomes.clone());
            crawl.run().await.expect("the run ends well");
            outcomes.take().into_iter().map(|delivery| delivery.item).collect::<Vec<Settled>>()
        };
        let of_seed = outcomes_of("http://inside.test/").await;
        assert!(matches!(of_seed[0].outcome, Outcome::Ok), "{of_seed:?}");
        // The second time the public page is of the cache, and leads on as the first.
        for _ in 0..2 {
            let all = outcomes_of("http://a.test/").await;
            let linked = all.iter().find(|settled| settled.url() == "http://inside.test/").expect("it was found");
            let Outcome::Error(error) = &linked.outcome else { panic!("{linked:?}") };
            assert_eq!(error.kind(), ErrorKind::GuardBlocked);
        }
    });
}
