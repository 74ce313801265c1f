//! Why is it not faster? Each set-up is made to be bound by one thing, and the verdict of its last window is that one.
#![cfg(feature = "http")]

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tidegate::engine::Bound;
use tidegate::http::HttpFetcher;
use tidegate::sim::{Host, Lookup, Reply, Sim};
use tidegate::{
    Added, Batch, Builder, Crawl, Error, ErrorKind, Frontier, FrontierError, Head, LeaseId, Leased, Ledger,
    LedgerLimits, Output, Page, ParseError, Profile, Request, Response, Scope, Shutdown, Sink, SinkError, Snapshot,
    StreamFrontier, Verdict,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

/// URLs without end, over so many hosts.
fn urls(hosts: u64) -> impl futures::Stream<Item = Request> + Send + 'static {
    futures::stream::iter((0..u64::MAX).map(move |n| Request::get(format!("http://h{}.test/{n}", n % hosts))))
}

/// A crawl without limits: each set-up gives it one.
fn crawl(sim: &Sim) -> Builder<u64> {
    Crawl::builder(sim.runtime())
        .profile(Profile::list())
        .max_in_flight(number(10_000))
        .max_in_flight_per_host(None)
        .scope(Scope::any())
        .window(SECOND * 2)
}

/// A fetch that takes so long.
fn taking(sim: &Sim, time: Duration) -> impl tidegate::Fetcher + use<> {
    let runtime = sim.runtime();
    move |request: Request| {
        let runtime = runtime.clone();
        async move {
            if !time.is_zero() {
                runtime.sleep_until(runtime.now() + time).await;
            }
            Ok::<_, Error>(Response::new(Head::new(request.target()?, http::StatusCode::OK), "text"))
        }
    }
}

fn one_item(_: &Page, out: &mut Output<u64>) -> Result<(), ParseError> {
    out.item(1);
    Ok(())
}

/// Whether the verdict after ten seconds is this one, with more than half of the last window.
async fn is_bound(sim: &Sim, crawl: Builder<u64>, by: Bound) {
    let crawl = crawl.start().expect("valid");
    sim.sleep(SECOND * 10).await;
    let now = crawl.handle().snapshot();
    check(&now, by);
    crawl.handle().shutdown(Shutdown::Now);
    let report = crawl.await.expect("it ends well");
    assert!(report.to_string().contains(&format!("bound by {} ", by.name())) || by == Bound::Stopped, "{report}");
}

fn check(now: &Snapshot, by: Bound) {
    let verdict = now.bound_by().expect("it has run");
    assert_eq!(verdict.bound, by, "{:?} {:?} {:?}", now.bounds, now.lag, now.counters);
    assert!(verdict.recent > 0.5, "{:?}", now.bounds);
    let all: f64 = now.bounds.iter().map(|share| share.recent).sum();
    assert!((0.99..=1.01).contains(&all), "shares are parts of one: {all}");
}

#[test]
fn no_work() {
    Sim::check(0..2, |sim| async move {
        let runtime = sim.runtime();
        // One URL a second, and each takes a millisecond.
        let slow = futures::stream::unfold(0_u64, move |n| {
            let runtime = runtime.clone();
            async move {
                runtime.sleep_until(runtime.now() + SECOND).await;
                Some((Request::get(format!("http://a.test/{n}")), n + 1))
            }
        });
        is_bound(&sim, crawl(&sim).fetcher(taking(&sim, MS)).requests(slow), Bound::NoWork).await;
    });
}

#[test]
fn politeness() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, MS)).requests(urls(3)).delay(SECOND);
        is_bound(&sim, crawl, Bound::Politeness).await;
    });
}

#[test]
fn host_limit() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, SECOND)).requests(urls(3)).max_in_flight_per_host(Some(number(2)));
        is_bound(&sim, crawl, Bound::HostLimit).await;
    });
}

#[test]
fn global_limit() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, SECOND)).requests(urls(100)).max_in_flight(number(20));
        is_bound(&sim, crawl, Bound::GlobalLimit).await;
    });
}

#[test]
fn rate() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, MS)).requests(urls(100)).rate(20.0);
        is_bound(&sim, crawl, Bound::Rate).await;
    });
}

/// A task beside the crawl holds the loop for 200 ms of each 220.
#[test]
fn lag() {
    Sim::check(0..2, |sim| async move {
        let runtime = sim.runtime();
        let blocker = sim.clone();
        sim.spawn(async move {
            while blocker.elapsed() < SECOND * 11 {
                blocker.spend(MS * 200);
                runtime.sleep_until(runtime.now() + MS * 20).await;
            }
        });
        let crawl = crawl(&sim).fetcher(taking(&sim, SECOND)).requests(urls(100)).max_in_flight(number(500));
        is_bound(&sim, crawl, Bound::Lag).await;
    });
}

/// Fetches of a second under which the crawl is at its limit after ten seconds, and far from it while it ramps up.
fn ramping(sim: &Sim) -> Builder<u64> {
    crawl(sim).fetcher(taking(sim, SECOND)).requests(urls(100)).max_in_flight(number(500))
}

/// What was cut back by a signal that let go again is bound by it until it is back: 200 ms of each 300.
#[test]
fn lag_also_while_the_limit_comes_back() {
    Sim::check(0..2, |sim| async move {
        let (runtime, blocker) = (sim.runtime(), sim.clone());
        sim.spawn(async move {
            while blocker.elapsed() < SECOND * 11 {
                blocker.spend(MS * 200);
                runtime.sleep_until(runtime.now() + MS * 100).await;
            }
        });
        is_bound(&sim, ramping(&sim), Bound::Lag).await;
    });
}

/// Above its limit for 200 ms of each 300, as a signal.
fn comes_and_goes(sim: &Sim) -> impl FnMut() -> f64 + Send + use<> {
    let clock = sim.clone();
    move || if clock.elapsed().as_millis() % 300 < 200 { 1.5 } else { 0.2 }
}

#[test]
fn signal() {
    Sim::check(0..2, |sim| async move {
        is_bound(&sim, ramping(&sim).load_signal("rows", || 1.5), Bound::Signal).await;
    });
}

#[test]
fn signal_also_while_the_limit_comes_back() {
    Sim::check(0..2, |sim| async move {
        let crawl = ramping(&sim).load_signal("rows", comes_and_goes(&sim));
        is_bound(&sim, crawl, Bound::Signal).await;
    });
}

/// What this process has is more than a byte, so that the gate stays shut.
#[test]
#[cfg(target_os = "linux")]
fn memory() {
    Sim::check(0..2, |sim| async move {
        is_bound(&sim, ramping(&sim).memory_limit(1), Bound::Memory).await;
    });
}

/// Two crawls over one fetcher with 40 sockets, of which the other one has 30.
#[test]
fn descriptors() {
    Sim::check(0..2, |sim| async move {
        let slow = Host::http(|_| Reply::ok("page").after(SECOND));
        sim.net().hosts_by(move |_| Some(slow.clone()));
        let mut limits = LedgerLimits::default();
        limits.sockets = 40;
        let runtime = sim.runtime().with_ledger_limits(limits);
        let fetcher = HttpFetcher::builder(&runtime).build().expect("valid");
        let with = |most| crawl(&sim).fetcher(fetcher.clone()).requests(urls(100)).max_in_flight(number(most));
        let other = with(30).start().expect("valid");
        is_bound(&sim, with(40), Bound::Descriptors).await;
        other.handle().shutdown(Shutdown::Now);
        other.await.expect("it ends well");
    });
}

/// As many fetches as there may be sockets, where more were asked for: it is not the limit of the crawl that holds it.
#[test]
fn descriptors_also_as_the_limit_of_fetches() {
    Sim::check(0..2, |sim| async move {
        let slow = Host::http(|_| Reply::ok("page").after(SECOND));
        sim.net().hosts_by(move |_| Some(slow.clone()));
        sim.net().limit_descriptors(Some(40));
        is_bound(&sim, crawl(&sim).requests(urls(100)).max_in_flight(number(5_000)), Bound::Descriptors).await;
    });
}

/// The other crawl has all sockets, and nothing happens for longer than the window: the verdict is right all the same.
#[test]
fn descriptors_while_nothing_happens() {
    Sim::check(0..2, |sim| async move {
        let slow = Host::http(|_| Reply::ok("page").after(SECOND * 20));
        sim.net().hosts_by(move |_| Some(slow.clone()));
        let mut limits = LedgerLimits::default();
        limits.sockets = 40;
        let runtime = sim.runtime().with_ledger_limits(limits);
        let fetcher = HttpFetcher::builder(&runtime).build().expect("valid");
        let with = || crawl(&sim).fetcher(fetcher.clone()).requests(urls(100)).max_in_flight(number(40));
        let other = with().start().expect("valid");
        sim.sleep(SECOND).await;
        is_bound(&sim, with(), Bound::Descriptors).await;
        other.handle().shutdown(Shutdown::Now);
        other.await.expect("it ends well");
    });
}

#[test]
fn parser() {
    let world = Sim::builder().threads(NonZeroUsize::MIN).job_cost(MS * 100);
    world.check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, MS)).requests(urls(100)).parse_with(one_item);
        is_bound(&sim, crawl, Bound::Parser).await;
    });
}

/// Takes one item every 100 ms, and what is left once the verdict is known.
struct SlowSink(Sim);

#[async_trait]
impl Sink<u64> for SlowSink {
    async fn deliver(&mut self, batch: &mut Batch<u64>) -> Result<(), SinkError> {
        self.0.sleep(MS * 100).await;
        if self.0.elapsed() > SECOND * 10 {
            batch.drain().for_each(drop);
        }
        batch.pop();
        Ok(())
    }
}

#[test]
fn sink() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, MS)).requests(urls(100)).parse_with(one_item);
        is_bound(&sim, crawl.sink(SlowSink(sim.clone())), Bound::Sink).await;
    });
}

/// Takes a second to take links in, until the verdict is known.
struct SlowFrontier(StreamFrontier, Sim);

#[async_trait]
impl Frontier for SlowFrontier {
    async fn lease(&mut self, want: NonZeroU32, now: SystemTime) -> Result<Leased, FrontierError> {
        self.0.lease(want, now).await
    }

    async fn settle(&mut self, done: &mut Vec<(LeaseId, Verdict)>) -> Result<(), FrontierError> {
        self.0.settle(done).await
    }

    async fn add(&mut self, found: &mut Vec<Request>) -> Result<Added, FrontierError> {
        if self.1.elapsed() <= SECOND * 10 {
            self.1.sleep(SECOND).await;
        }
        self.0.add(found).await
    }
}

#[test]
fn frontier() {
    Sim::check(0..1, |sim| async move {
        let links = |page: &Page, out: &mut Output<u64>| -> Result<(), ParseError> {
            let path = page.url().path().to_owned();
            (0..1_000).for_each(|n| out.follow(format!("http://h{}.test{path}/{n}", n % 100)));
            Ok(())
        };
        let frontier = SlowFrontier(StreamFrontier::new(urls(100)), sim.clone());
        let crawl = crawl(&sim).fetcher(taking(&sim, MS)).parse_with(links).frontier(frontier);
        is_bound(&sim, crawl, Bound::Frontier).await;
    });
}

/// Bodies that come slowly, and room for two of them.
#[test]
fn bytes() {
    Sim::check(0..2, |sim| async move {
        let slow = Host::http(|_| Reply::ok(vec![b'x'; 200_000]).drip(2_000, MS * 50));
        (0..20).for_each(|n| sim.net().host(Sim::address_of(&format!("h{n}.test")), slow.clone()));
        let crawl = crawl(&sim).requests(urls(20)).rate(20.0).byte_budget(128 << 10);
        is_bound(&sim, crawl, Bound::Bytes).await;
    });
}

/// Four hosts, and all of them refuse.
#[test]
fn breaker() {
    Sim::check(0..2, |sim| async move {
        let fetcher = |request: Request| async move {
            Err(Error::new(ErrorKind::ConnectRefused, "connect").with_url(request.url()))
        };
        let crawl = crawl(&sim).fetcher(fetcher).requests(urls(4)).breaker(NonZeroU32::new(16), SECOND * 60);
        is_bound(&sim, crawl, Bound::Breaker).await;
    });
}

/// Two ports to the only address that there is, and answers that take a second.
#[test]
fn ports() {
    Sim::check(0..2, |sim| async move {
        let slow = Host::http(|_| Reply::ok("text").after(SECOND));
        sim.names_by(|_| Lookup::found([[10, 0, 0, 1].into()]));
        sim.net().host([10, 0, 0, 1], slow);
        sim.net().limit_ports(Some(2));
        let crawl = crawl(&sim).requests(urls(50)).max_in_flight(number(100));
        is_bound(&sim, crawl, Bound::Ports).await;
    });
}

/// Hosts without end, and name servers that take a second.
#[test]
fn dns() {
    Sim::check(0..2, |sim| async move {
        sim.names_by(|_| Lookup::found([[10, 0, 0, 1].into()]).after(SECOND));
        sim.net().host([10, 0, 0, 1], Host::http(|_| Reply::ok("text")));
        let urls = futures::stream::iter((0..u64::MAX).map(|n| Request::get(format!("http://h{n}.test/"))));
        let mut limits = LedgerLimits::default();
        limits.lookups = 8;
        let fetcher = HttpFetcher::builder(&sim.runtime()).ledger(Ledger::new(limits)).build().expect("valid");
        is_bound(&sim, crawl(&sim).fetcher(fetcher).requests(urls), Bound::Dns).await;
    });
}

#[test]
fn stopped() {
    Sim::check(0..2, |sim| async move {
        let crawl = crawl(&sim).fetcher(taking(&sim, MS)).requests(urls(3)).delay(SECOND).start().expect("valid");
        let handle = crawl.handle();
        sim.sleep(SECOND * 5).await;
        check(&handle.snapshot(), Bound::Politeness);
        handle.pause();
        sim.sleep(SECOND * 5).await;
        let now = handle.snapshot();
        check(&now, Bound::Stopped);
        assert_eq!(now.bound_now, Some(Bound::Stopped));
        handle.resume();
        sim.sleep(SECOND * 5).await;
        check(&handle.snapshot(), Bound::Politeness);
        handle.shutdown(Shutdown::Now);
        crawl.await.expect("it ends well");
    });
}
