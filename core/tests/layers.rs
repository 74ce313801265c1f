//! Layers between a crawl and its fetcher: what goes on the wire, and what the crawl still knows.
#![cfg(feature = "http")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::http::HttpFetcher;
use tidegate::layer::{AuthLayer, Credentials, HeadersLayer, TraceLayer};
use tidegate::sim::{Host, Reply, Sim};
use tidegate::{Crawl, FetchCx, Fetcher, Profile, Request};

type Seen = Arc<Mutex<Vec<String>>>;

fn take(seen: &Seen) -> Vec<String> {
    std::mem::take(&mut *seen.lock().expect("not poisoned"))
}

/// A server that notes host, path and credentials, and what it is sent on to.
fn noting(seen: &Seen, on: Option<&'static str>) -> Host {
    let seen = Arc::clone(seen);
    Host::http(move |asked| {
        let credentials = asked.header("authorization").unwrap_or("nothing");
        seen.lock().expect("not poisoned").push(format!("{}{} {credentials}", asked.host(), asked.path));
        match on.filter(|_| asked.path == "/on") {
            Some(to) => Reply::redirect(302, to),
            None => Reply::ok("hello"),
        }
    })
}

fn http(sim: &Sim) -> HttpFetcher {
    HttpFetcher::builder(&sim.runtime()).build().expect("valid")
}

fn auth() -> AuthLayer {
    let bearer = |token| Credentials::bearer(token).expect("valid");
    let layer = AuthLayer::new().origin("http://a.test", bearer("for-a")).expect("an origin");
    layer.origin("http://b.test", bearer("for-b")).expect("an origin")
}

// C2, C7
#[test]
fn each_hop_of_a_crawl_has_the_credentials_of_its_own_origin() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        sim.net().host(Sim::address_of("a.test"), noting(&seen, Some("http://b.test/on")));
        sim.net().host(Sim::address_of("b.test"), noting(&seen, Some("http://c.test/")));
        sim.net().host(Sim::address_of("c.test"), noting(&seen, None));
        let crawl = Crawl::builder::<()>(sim.runtime()).profile(Profile::list()).fetcher(http(&sim).layer(auth()));
        let report = crawl.seed("http://a.test/on").run().await.expect("the run ends well");
        assert_eq!(report.totals.counters.ok, 1, "{report}");
        assert_eq!(take(&seen), ["a.test/on Bearer for-a", "b.test/on Bearer for-b", "c.test/ nothing"]);
    });
}

// C2, C7
#[test]
fn without_a_crawl_no_redirect_carries_credentials_to_another_origin() {
    Sim::check(0..2, |sim| async move {
        let seen = Seen::default();
        sim.net().host(Sim::address_of("a.test"), noting(&seen, Some("http://b.test/")));
        sim.net().host(Sim::address_of("b.test"), noting(&seen, None));
        let fetcher = http(&sim).layer(auth());
        let cx = FetchCx::detached(&sim.runtime());
        let response = fetcher.fetch(&Request::get("http://a.test/on"), &cx).await.expect("an answer");
        assert_eq!(response.redirects.len(), 1);
        assert_eq!(take(&seen), ["a.test/on Bearer for-a", "b.test/ nothing"]);
    });
}

#[test]
fn the_layer_that_was_added_last_is_the_first() {
    Sim::check(0..1, |sim| async move {
        let told = Seen::default();
        let seen = Seen::default();
        sim.net().host(Sim::address_of("a.test"), noting(&seen, None));
        let trace = |name: &'static str| {
            let told = Arc::clone(&told);
            TraceLayer::new(move |fetched| {
                let fields = fetched.request.headers().map_or(0, http::HeaderMap::len);
                told.lock().expect("not poisoned").push(format!("{name} {fields} {fetched}"));
            })
        };
        let language = http::HeaderValue::from_static("nl");
        let headers = HeadersLayer::new().header(http::header::ACCEPT_LANGUAGE, language);
        let fetcher = http(&sim).layer(trace("inner")).layer(headers).layer(auth()).layer(trace("outer"));
        let cx = FetchCx::detached(&sim.runtime());
        fetcher.fetch(&Request::get("http://a.test/"), &cx).await.expect("an answer");
        let told = take(&told);
        assert!(told[0].starts_with("inner 2 GET http://a.test/ attempt 1: 200 in "), "{told:?}");
        assert!(told[1].starts_with("outer 0 GET http://a.test/ attempt 1: 200 in "), "{told:?}");
    });
}

/// A crawl resolves before it admits, and books sockets before it opens them, whatever is in front of the fetcher.
#[test]
fn address_and_ledger_are_those_of_the_fetcher_within() {
    Sim::check(0..1, |sim| async move {
        let http = http(&sim);
        let ledger = http.ledger().expect("it books").clone();
        let stack: Arc<dyn Fetcher> = Arc::new(
            http.layer(TraceLayer::new(|_| {}))
                .layer(HeadersLayer::new())
                .layer(AuthLayer::new())
                .layer(|inner| Arc::new(inner) as Arc<dyn Fetcher>),
        );
        let cx = FetchCx::detached(&sim.runtime());
        let address = stack.resolve(&"http://a.test/".parse().expect("literal"), &cx).await.expect("it is there");
        assert_eq!(address, Some(Sim::address_of("a.test")));
        let booked = stack.ledger().expect("it is handed on").usage();
        assert_eq!(booked.sockets, ledger.usage().sockets);
        assert_eq!(stack.ledger().expect("it is handed on").limits().sockets, ledger.limits().sockets);
    });
}

#[test]
fn an_attempt_that_is_cut_off_is_told_of() {
    Sim::check(0..2, |sim| async move {
        let told = Seen::default();
        sim.net().host(Sim::address_of("a.test"), Host::http(|_| Reply::silence()));
        let all = Arc::clone(&told);
        let trace = TraceLayer::new(move |fetched| all.lock().expect("not poisoned").push(fetched.to_string()));
        let crawl = Crawl::builder::<()>(sim.runtime()).profile(Profile::list()).fetcher(http(&sim).layer(trace));
        let mut overrides = tidegate::Overrides::default();
        overrides.total_timeout = Some(Duration::from_secs(3));
        overrides.max_retries = Some(0);
        let request = Request::get("http://a.test/").with_overrides(overrides);
        crawl.seed(request).run().await.expect("the run ends well");
        let told = take(&told);
        assert!(told.len() == 1 && told[0].starts_with("GET http://a.test/ attempt 1: dropped in 30"), "{told:?}");
    });
}
