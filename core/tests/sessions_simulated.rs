//! Sessions in a crawl: who logs in, when again, and what a site's refusals do to them.
#![cfg(feature = "http")]

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use tidegate::http::HttpFetcher;
use tidegate::layer::HeadersLayer;
use tidegate::session::{Opening, Session, SessionPool, Why};
use tidegate::sim::{Host, PeerRequest, Reply, Sim};
use tidegate::{
    Accept, Builder, Crawl, Error, ErrorKind, FetchCx, Fetcher, Head, Outcome, Output, Page, ParseError, Profile,
    Report, Request, accepting,
};

/// A page, the form that it is behind, or a wall.
fn parse(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
    match &page.body()[..] {
        b"login form" => Err(ParseError::expired("a login form")),
        b"captcha" => Err(ParseError::blocked("a captcha")),
        _ => {
            out.item(page.utf8().into_owned());
            Ok(())
        }
    }
}

/// A site whose pages want the cookie of the last login.
#[derive(Clone, Default)]
struct Site {
    logins: Arc<AtomicU64>,
    served: Arc<AtomicU64>,
    /// A cookie is good for so many pages; 0: for ever.
    good_for: u64,
}

impl Site {
    fn answer(&self, asked: &PeerRequest) -> Reply {
        let now = self.logins.load(Ordering::Relaxed);
        match &*asked.path {
            // The cookie comes with the redirect, as from most sites.
            "/login" if asked.body == b"user=me" => {
                let nth = self.logins.fetch_add(1, Ordering::Relaxed) + 1;
                self.served.store(0, Ordering::Relaxed);
                Reply::redirect(302, "/welcome").header("set-cookie", format!("session={nth}; Path=/"))
            }
            _ if asked.header("cookie") != Some(&format!("session={now}")) => Reply::ok("login form"),
            "/welcome" => Reply::ok("welcome"),
            _ if self.good_for > 0 && self.served.fetch_add(1, Ordering::Relaxed) >= self.good_for => {
                Reply::ok("login form")
            }
            path => Reply::ok(format!("{path} in {now}")),
        }
    }
}

async fn login(opening: Opening) -> Result<Session, Error> {
    let session = Session::new();
    let request = Request::post("http://a.test/login", "").with_form([("user", "me")]);
    let page = opening.fetch(&session, request).await?;
    assert_eq!(page.utf8(), "welcome", "on each hop what the one before has set");
    Ok(session)
}

fn http(sim: &Sim) -> HttpFetcher {
    HttpFetcher::builder(&sim.runtime()).build().expect("valid")
}

fn crawl(sim: &Sim, sessions: &SessionPool, pages: usize) -> Builder<String> {
    let seeds = (0..pages).fold(Crawl::builder(sim.runtime()).profile(Profile::list()), |crawl, n| {
        crawl.seed(format!("http://a.test/{n}"))
    });
    seeds.fetcher(http(sim).layer(sessions.clone())).observer(sessions.clone()).parse_with(parse)
}

fn counts(report: &Report) -> (u64, u64) {
    (report.totals.counters.ok, report.totals.counters.error)
}

#[test]
fn one_login_serves_all_pages() {
    Sim::check(0..4, |sim| async move {
        let site = Site::default();
        let answers = site.clone();
        sim.net().host(Sim::address_of("a.test"), Host::http(move |asked| answers.answer(asked)));
        let sessions = SessionPool::new(login);
        let report = crawl(&sim, &sessions, 30).run().await.expect("the run ends well");
        assert_eq!(counts(&report), (30, 0), "{report}");
        assert_eq!((site.logins.load(Ordering::Relaxed), sessions.openings(), sessions.open_sessions()), (1, 1, 1));
    });
}

#[test]
fn what_has_expired_is_opened_again_and_its_pages_fetched_again() {
    Sim::check(0..4, |sim| async move {
        let site = Site { good_for: 10, ..Site::default() };
        let answers = site.clone();
        sim.net().host(Sim::address_of("a.test"), Host::http(move |asked| answers.answer(asked)));
        let why = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&why);
        let sessions = SessionPool::new(move |opening: Opening| {
            noted.lock().expect("not poisoned").push((opening.nth(), opening.why(), opening.previous().is_some()));
            login(opening)
        });
        let report = crawl(&sim, &sessions, 30).retries(9).retry_budget(100.0).run().await.expect("the run ends well");
        assert_eq!(counts(&report), (30, 0), "{report}");
        let expected = [(1, Why::New, false), (2, Why::Expired, true), (3, Why::Expired, true)];
        assert_eq!(*why.lock().expect("not poisoned"), expected);
        assert_eq!(sessions.openings(), 3, "once for all that the site turned away");
    });
}

/// Sessions that the site can tell apart.
fn numbered() -> SessionPool {
    SessionPool::new(|opening: Opening| async move {
        let number = HeaderValue::from(opening.nth());
        Ok(Session::new().with_headers(HeadersLayer::new().header("x-session".parse().expect("a name"), number)))
    })
}

#[test]
fn what_is_blocked_is_replaced_and_a_429_burns_none() {
    Sim::check(0..4, |sim| async move {
        let refused = AtomicU64::new(0);
        sim.net().host(
            Sim::address_of("a.test"),
            Host::http(move |asked| match asked.header("x-session") {
                Some("1") => Reply::ok("captcha"),
                Some(_) if refused.fetch_add(1, Ordering::Relaxed) < 5 => Reply::status(429).header("retry-after", "1"),
                Some(session) => Reply::ok(format!("in {session}")),
                None => Reply::status(400),
            }),
        );
        let (sessions, items) = (numbered(), tidegate::sink::collect());
        let crawl = crawl(&sim, &sessions, 10).retries(9).retry_budget(100.0).sink(items.clone());
        let report = crawl.run().await.expect("the run ends well");
        assert_eq!(counts(&report), (10, 0), "{report}");
        assert!(items.take().iter().all(|delivery| delivery.item == "in 2"));
        assert_eq!(sessions.openings(), 2);
    });
}

/// A status that means "you are out" is for the parser to see.
#[test]
fn a_403_is_what_the_parser_makes_of_it() {
    Sim::check(0..1, |sim| async move {
        sim.net().host(
            Sim::address_of("a.test"),
            Host::http(
                |asked| if asked.header("x-session") == Some("1") { Reply::status(403) } else { Reply::ok("in") },
            ),
        );
        let sessions = numbered();
        let forbidden = |page: &Page, _: &mut Output<String>| match page.status().as_u16() {
            403 => Err(ParseError::blocked("forbidden")),
            _ => Ok(()),
        };
        let crawl = crawl(&sim, &sessions, 1).parse_with(accepting(forbidden, |_: &Head| Accept::Body));
        let report = crawl.run().await.expect("the run ends well");
        assert_eq!((counts(&report), sessions.openings()), ((1, 0), 2), "{report}");
    });
}

#[test]
fn there_are_as_many_as_are_needed_at_once_and_allowed() {
    Sim::check(0..2, |sim| async move {
        let seen = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
        let noted = Arc::clone(&seen);
        sim.net().host(
            Sim::address_of("a.test"),
            Host::http(move |asked| {
                let session = asked.header("x-session").unwrap_or_default().to_owned();
                *noted.lock().expect("not poisoned").entry(session).or_insert(0) += 1;
                Reply::ok("in").after(Duration::from_secs(1))
            }),
        );
        let sessions = numbered().max_sessions(NonZeroU32::new(3).expect("not zero"));
        let sessions = sessions.max_uses(NonZeroU32::new(5).expect("not zero"));
        let report = crawl(&sim, &sessions, 40).run().await.expect("the run ends well");
        assert_eq!(counts(&report), (40, 0), "{report}");
        let seen = seen.lock().expect("not poisoned");
        assert!(seen.values().all(|uses| *uses <= 5) && seen.values().sum::<u32>() == 40, "{seen:?}");
        assert!((8..=10).contains(&sessions.openings()), "{seen:?}");
        assert!(sessions.open_sessions() <= 3);
    });
}

#[test]
fn a_login_that_fails_puts_the_others_off() {
    Sim::check(0..2, |sim| async move {
        let site = Site::default();
        let answers = site.clone();
        sim.net().host(Sim::address_of("a.test"), Host::http(move |asked| answers.answer(asked)));
        let tries = Arc::new(Mutex::new(Vec::new()));
        let (noted, runtime) = (Arc::clone(&tries), sim.runtime());
        let began = runtime.now();
        let sessions = SessionPool::new(move |opening: Opening| {
            let mut tries = noted.lock().expect("not poisoned");
            tries.push((runtime.now() - began).as_secs());
            let fails = tries.len() <= 2;
            async move {
                if fails {
                    return Err(Error::new(ErrorKind::Other, "log in: the site is closed"));
                }
                login(opening).await
            }
        });
        let crawl = crawl(&sim, &sessions, 20).retries(9).retry_budget(100.0);
        let report = crawl.run().await.expect("the run ends well");
        assert_eq!(counts(&report), (20, 0), "{report}");
        let tries = tries.lock().expect("not poisoned");
        assert!(tries.len() == 3 && tries[1] >= 1 && tries[2] >= tries[1] + 2, "{tries:?}");
    });
}

/// The first login hangs, the others do not.
fn hanging() -> SessionPool {
    let logins = AtomicU64::new(0);
    SessionPool::new(move |opening: Opening| {
        let is_first = logins.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            login(opening).await
        }
    })
}

#[test]
fn a_login_that_hangs_has_failed_after_a_while() {
    Sim::check(0..2, |sim| async move {
        let site = Site::default();
        sim.net().host(Sim::address_of("a.test"), Host::http(move |asked| site.answer(asked)));
        let sessions = hanging();
        let report = crawl(&sim, &sessions, 8).retry_budget(100.0).run().await.expect("the run ends well");
        assert_eq!((counts(&report), sessions.openings()), ((8, 0), 2), "{report}");
        let seconds = sim.elapsed().as_secs();
        assert!((31..60).contains(&seconds), "{seconds}");
    });
}

/// The total deadline of a URL holds while it opens a session; the next one takes over.
#[test]
fn an_opening_ends_with_its_url_and_is_taken_over() {
    Sim::check(0..2, |sim| async move {
        let site = Site::default();
        sim.net().host(Sim::address_of("a.test"), Host::http(move |asked| site.answer(asked)));
        let sessions = hanging();
        let mut overrides = tidegate::Overrides::default();
        overrides.total_timeout = Some(Duration::from_secs(5));
        let first = Request::get("http://a.test/first").with_overrides(overrides).with_priority(9);
        let report = crawl(&sim, &sessions, 8).seed(first).run().await.expect("the run ends well");
        assert_eq!((counts(&report), sessions.openings()), ((9, 0), 2), "{report}");
        assert!(sim.elapsed().as_secs() < 30, "{:?}", sim.elapsed());
    });
}

// C2
#[test]
fn a_session_is_for_its_site_alone() {
    Sim::check(0..1, |sim| async move {
        let noted = Arc::new(Mutex::new(Vec::new()));
        for name in ["a.test", "b.test"] {
            let noted = Arc::clone(&noted);
            let host = Host::http(move |asked| {
                let fields = ["cookie", "x-session"].map(|name| asked.header(name).unwrap_or("none").to_owned());
                noted.lock().expect("not poisoned").push(format!("{} {}", asked.host(), fields.join(" ")));
                if asked.path == "/on" { Reply::redirect(302, "http://b.test/") } else { Reply::ok("in") }
            });
            sim.net().host(Sim::address_of(name), host);
        }
        let sessions = SessionPool::new(|opening: Opening| async move {
            let url = "http://a.test/".parse().expect("literal");
            let session = Session::new();
            session.cookies().set(&url, "s=hunter2", std::time::SystemTime::UNIX_EPOCH);
            let number = HeaderValue::from(opening.nth());
            let headers = HeadersLayer::new().header("x-session".parse().expect("a name"), number);
            Ok(session.with_headers(headers.only_for("http://a.test")?).with_proxy("http://me:hunter2@proxy.test"))
        })
        .applies_to(|url| url.path() != "/without");
        assert!(!format!("{sessions:?}").contains("hunter2"));
        // Through a proxy: the one that the session has.
        let asks = Arc::clone(&noted);
        let proxy = Host::http(move |asked| {
            let proxied = asked.header("proxy-authorization").is_some();
            asks.lock().expect("not poisoned").push(format!("proxy {} {proxied}", asked.path));
            if asked.path.ends_with("/on") { Reply::redirect(302, "http://b.test/") } else { Reply::ok("in") }
        });
        sim.net().host(Sim::address_of("proxy.test"), proxy);
        let fetcher = http(&sim).layer(sessions);
        let cx = || FetchCx::detached(&sim.runtime());
        let response = fetcher.fetch(&Request::get("http://a.test/on"), &cx()).await.expect("an answer");
        assert_eq!(response.redirects.len(), 1);
        fetcher.fetch(&Request::get("http://b.test/without"), &cx()).await.expect("an answer");
        let mut direct = tidegate::Overrides::default();
        direct.max_redirects = Some(0);
        let response = fetcher.fetch(&Request::get("http://a.test/on").with_overrides(direct), &cx()).await;
        assert_eq!(response.expect("an answer").head.status, 302, "the redirect is the answer");
        let noted = noted.lock().expect("not poisoned");
        assert_eq!(
            *noted,
            [
                "proxy http://a.test/on true",
                "proxy http://b.test/ true",
                "b.test none none",
                "proxy http://a.test/on true"
            ]
        );
    });
}

#[test]
fn an_error_of_the_login_is_that_of_the_url() {
    Sim::check(0..1, |sim| async move {
        let sessions =
            SessionPool::new(|_| async { Err(Error::new(ErrorKind::ConfigInvalid, "log in without a password")) });
        let outcomes = tidegate::sink::collect();
        crawl(&sim, &sessions, 1).outcomes(outcomes.clone()).run().await.expect("the run ends well");
        let settled = outcomes.take();
        let Outcome::Error(error) = &settled[0].item.outcome else { panic!("{settled:?}") };
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    });
}

#[test]
fn a_fetch_that_has_ended_or_was_dropped_gives_its_session_back() {
    Sim::check(0..1, |sim| async move {
        let answers = |asked: &PeerRequest| if asked.path == "/silent" { Reply::silence() } else { Reply::ok("in") };
        sim.net().host(Sim::address_of("a.test"), Host::http(answers));
        let sessions = numbered().max_sessions(NonZeroU32::new(2).expect("not zero"));
        let fetcher = http(&sim).layer(sessions.clone());
        let cx = || FetchCx::detached(&sim.runtime());
        for _ in 0..2 {
            fetcher.fetch(&Request::get("http://a.test/"), &cx()).await.expect("an answer");
            let (silent, of_silent) = (Request::get("http://a.test/silent"), cx());
            let wait = cx();
            let dropped = fetcher.fetch(&silent, &of_silent);
            wait.timeout(Duration::from_secs(1), ErrorKind::Other, "wait", dropped).await.expect_err("it was dropped");
        }
        assert_eq!(sessions.openings(), 1, "there was always one that is free");
    });
}

/// Whoever follows, each hop has the cookies that the one before has set.
#[test]
fn a_request_that_says_how_many_redirects_is_followed_in_its_session() {
    Sim::check(0..1, |sim| async move {
        let site = Site::default();
        sim.net().host(Sim::address_of("a.test"), Host::http(move |asked| site.answer(asked)));
        let fetcher = http(&sim).layer(SessionPool::new(|_| async { Ok(Session::new()) }));
        for (most, expected) in [(Some(3), Ok("welcome")), (Some(0), Ok("")), (None, Ok("welcome"))] {
            let mut overrides = tidegate::Overrides::default();
            overrides.max_redirects = most;
            let request =
                Request::post("http://a.test/login", "").with_form([("user", "me")]).with_overrides(overrides);
            let response = fetcher.fetch(&request, &FetchCx::detached(&sim.runtime())).await;
            let body = response.map(|response| String::from_utf8_lossy(&response.body).into_owned());
            assert_eq!(body.as_deref().map_err(Error::kind), expected, "{most:?}");
        }
        sim.net().host(Sim::address_of("loop.test"), Host::http(|_| Reply::redirect(302, "/")));
        let error = fetcher.fetch(&Request::get("http://loop.test/"), &FetchCx::detached(&sim.runtime())).await;
        assert_eq!(error.expect_err("it never ends").kind(), ErrorKind::RedirectTooMany);
    });
}
