//! A world that is drawn from a seed, and what the crawl is told of it.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::time::Duration;

use tidegate::rt::{Inline, Runtime};
use tidegate::sim::{Host, Link, Lookup, PeerRequest, Reply, Sim};
use tidegate::{Handle, LedgerLimits, Output, Page, ParseError, Profile, Request, Shutdown};

const MS: Duration = Duration::from_millis(1);

/// Everything that was drawn. `Debug` shows it where a promise is broken.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) hosts: Vec<Site>,
    pub(crate) pages: u64,
    links: u64,
    pub(crate) per_host: Option<NonZeroU32>,
    pub(crate) gap: Duration,
    pub(crate) jitter: f64,
    pub(crate) robots: bool,
    pub(crate) retries: u32,
    pub(crate) max_in_flight: Option<NonZeroU32>,
    pub(crate) rate: Option<f64>,
    pub(crate) max_pages: Option<u64>,
    pub(crate) max_time: Option<Duration>,
    pub(crate) byte_budget: u64,
    pub(crate) frontier_capacity: usize,
    descriptors: Option<u32>,
    ports: Option<u32>,
    pub(crate) inline: bool,
    parse_cost: Duration,
    /// Pages of a hundred on which the parser goes wrong.
    bad_pages: u64,
    /// Deliveries of a hundred with which a sink goes wrong.
    pub(crate) bad_deliveries: u64,
    pub(crate) slow_sink: Duration,
    pub(crate) meddling: Vec<(Duration, Meddle)>,
    /// Broken promises that a server or a parser saw.
    pub(crate) seen: Mutex<Vec<String>>,
}

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    addr: IpAddr,
    link: Link,
    kind: Kind,
    connections: Option<u32>,
    /// Answers of a hundred that are wrong.
    evil: u64,
    pub(crate) rules: Rules,
    salt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Refuses,
    BlackHole,
    Unreachable,
    NoName,
    NameFails,
    NameNever,
    NameLate,
}

/// What its robots.txt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    None,
    Disallow,
    Delay(u64),
    Broken,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Meddle {
    Pause(Duration),
    Cancel,
    Submit,
    Fetch,
    Graceful(Duration),
    Now,
}

fn mix(a: u64, b: u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b);
    rng.u64(..)
}

impl World {
    pub(crate) fn draw(sim: &Sim) -> Self {
        // Apart from the simulation's own numbers, so that all three orders see the same world.
        let mut rng = fastrand::Rng::with_seed(sim.seed() ^ 0x5eed);
        let rng = &mut rng;
        let calm = rng.u8(..4) == 0;
        let hosts = (0..rng.u64(1..=6)).map(|n| Site::draw(n, calm, rng)).collect();
        let meddling = (0..if calm { 0 } else { rng.u8(..4) }).map(|_| Self::meddle_with(rng)).collect();
        Self {
            hosts,
            pages: rng.u64(1..=25),
            links: rng.u64(0..=5),
            per_host: NonZeroU32::new(rng.u32(0..=3)),
            gap: MS * [0, 0, 50, 400, 2000][rng.usize(..5)],
            jitter: if rng.bool() { 0.5 } else { 0.0 },
            robots: rng.bool(),
            retries: rng.u32(0..=3),
            max_in_flight: NonZeroU32::new(rng.u32(0..=12)),
            rate: if rng.u8(..4) == 0 { Some(rng.f64() * 50.0 + 0.5) } else { None },
            max_pages: if rng.u8(..6) == 0 { Some(rng.u64(1..20)) } else { None },
            max_time: if rng.u8(..6) == 0 { Some(MS * rng.u32(1..60_000)) } else { None },
            byte_budget: if rng.u8(..3) == 0 { rng.u64(1..2000) } else { 256 << 20 },
            frontier_capacity: if rng.u8(..5) == 0 { rng.usize(1..6) } else { 1000 },
            descriptors: if rng.u8(..4) == 0 { Some(rng.u32(2..5)) } else { None },
            ports: if rng.u8(..6) == 0 { Some(rng.u32(1..3)) } else { None },
            inline: rng.u8(..4) == 0,
            parse_cost: MS * [0, 0, 1, 10, 150][rng.usize(..5)],
            bad_pages: [0, 0, 15, 50][rng.usize(..4)],
            bad_deliveries: [0, 0, 20, 50][rng.usize(..4)],
            slow_sink: MS * [0, 0, 5, 700][rng.usize(..4)],
            meddling,
            seen: Mutex::default(),
        }
    }

    fn meddle_with(rng: &mut fastrand::Rng) -> (Duration, Meddle) {
        let what = match rng.u8(..12) {
            0..=2 => Meddle::Pause(MS * rng.u32(1..20_000)),
            3..=4 => Meddle::Cancel,
            5..=6 => Meddle::Submit,
            7..=9 => Meddle::Fetch,
            10 => Meddle::Graceful(MS * rng.u32(0..20_000)),
            _ => Meddle::Now,
        };
        (MS * rng.u32(0..10_000), what)
    }

    /// Whether jobs are taken away from the middle of their work: what they held is free before its owner knows.
    pub(crate) fn cancels(&self) -> bool {
        let ends = |(_, what): &(Duration, Meddle)| matches!(what, Meddle::Cancel | Meddle::Graceful(_) | Meddle::Now);
        self.meddling.iter().any(ends) || self.max_time.is_some() || self.max_pages.is_some()
    }

    pub(crate) fn profile(&self) -> Profile {
        let mut profile = Profile::crawl();
        profile.per_host = self.per_host;
        profile.gap = self.gap;
        profile.gap_jitter = self.jitter;
        profile.robots = self.robots;
        profile.guard = false;
        profile
    }

    pub(crate) fn runtime(&self, sim: &Sim) -> Runtime {
        let runtime = if self.inline { sim.runtime().with_offload(Inline::new()) } else { sim.runtime() };
        // Half of the ledgers think that there is more than the system has.
        if sim.seed().is_multiple_of(2) { runtime.with_ledger_limits(LedgerLimits::default()) } else { runtime }
    }

    pub(crate) fn seeds(&self) -> Vec<Request> {
        self.hosts.iter().map(|host| Request::get(format!("http://{}/p/0", host.name))).collect()
    }

    /// How long what is left may take to end after the crawl.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(300) + self.parse_cost
    }

    pub(crate) fn site(&self, url: &str) -> Option<&Site> {
        let host = url.strip_prefix("http://")?.split('/').next()?;
        self.hosts.iter().find(|site| site.name == host)
    }

    /// What is at this URL.
    pub(crate) fn text(&self, url: &str) -> Option<String> {
        let (name, path) = url.strip_prefix("http://")?.split_once('/')?;
        let index = self.hosts.iter().position(|site| site.name == name)?;
        Some(self.page(index, &format!("/{path}")))
    }

    /// Puts all of it into the simulation.
    pub(crate) fn build(self: &std::sync::Arc<Self>, sim: &Sim) {
        sim.net().limit_descriptors(self.descriptors);
        sim.net().limit_ports(self.ports);
        for (index, site) in self.hosts.iter().enumerate() {
            let lookup = match site.kind {
                Kind::NoName => Lookup::not_found(),
                Kind::NameFails => Lookup::failed(),
                Kind::NameNever => Lookup::never(),
                Kind::NameLate => Lookup::found([site.addr]).after(Duration::from_secs(3)),
                _ => Lookup::found([site.addr]),
            };
            sim.name(&site.name, lookup);
            let world = std::sync::Arc::clone(self);
            let host = match site.kind {
                Kind::Refuses => Host::refuses(),
                Kind::BlackHole => Host::black_hole(),
                Kind::Unreachable => Host::unreachable(),
                _ => Host::http(move |asked| world.answer(index, asked)),
            };
            let host = host.with_link(site.link.clone());
            let host = site.connections.map_or_else(|| host.clone(), |most| host.clone().with_connections(most));
            sim.net().host(site.addr, host);
        }
    }

    fn answer(&self, index: usize, asked: &PeerRequest) -> Reply {
        // Several names may be at one address.
        let named = self.hosts.iter().position(|site| site.name == asked.host()).unwrap_or(index);
        let site = &self.hosts[named];
        let mut rng = fastrand::Rng::with_seed(asked.random);
        if asked.path == "/robots.txt" {
            let rules = match site.rules {
                Rules::None => Reply::status(404),
                Rules::Disallow => Reply::ok("User-agent: *\nDisallow: /private\n"),
                Rules::Delay(seconds) => Reply::ok(format!("User-agent: *\nCrawl-delay: {seconds}\n")),
                Rules::Broken => Reply::status(500),
            };
            // Nothing that would be other rules.
            return match rng.u64(..300) < site.evil {
                false => rules,
                true if rng.bool() => Reply::status(503),
                true => rules.cut_last(2).then_reset(),
            };
        }
        if self.robots && site.rules == Rules::Disallow && asked.path.starts_with("/private") {
            self.seen.lock().expect("not poisoned").push(format!("{} was asked for {}", site.name, asked.path));
        }
        let page = Reply::ok(self.page(named, &asked.path)).header("content-type", "text/plain");
        let is_loop = site.evil >= 40 && asked.path.ends_with('4');
        if rng.u64(..100) >= site.evil && !is_loop {
            return page;
        }
        if is_loop {
            return Reply::redirect(301, asked.path.clone());
        }
        let other = &self.hosts[rng.usize(..self.hosts.len())].name;
        match rng.u8(..19) {
            0 => page.cut_last(1),
            1 => page.cut_after(rng.usize(0..200)).then_reset(),
            2 => Reply::silence(),
            3 => Reply::raw("SSH-2.0-OpenSSH_9.2\r\n").then_close(),
            4 => Reply::status(429).header("retry-after", rng.u8(1..6).to_string()),
            5 => Reply::status(503).header("retry-after", rng.u8(1..6).to_string()),
            6 => Reply::status(500),
            // The head at once, and then a body that takes too long: for a pause, for its end, for its head.
            7 => page.body(vec![b' '; 4000]).drip(200, Duration::from_secs(20)),
            8 => page.body(vec![b' '; 4000]).drip(200, Duration::from_secs(9)),
            9 => page.drip(1, Duration::from_secs(2)),
            17 => page.then_close_after(MS * rng.u32(1..200)),
            10 => Reply::raw("").then_close(),
            11 => page.body("this is no gzip at all").header("content-encoding", "gzip"),
            12 => Reply::redirect(302, format!("http://{other}/p/{}", rng.u64(..self.pages))),
            13 => Reply::redirect(301, asked.path.clone()),
            14 => page.after(MS * rng.u32(1..4000)),
            15 => page.chunked(7),
            16 => page.chunked(7).cut_last(3),
            _ => Reply::status(410),
        }
    }

    /// A line for each item and link. The graph is the same each time that a page is asked for.
    fn page(&self, index: usize, path: &str) -> String {
        let number = path.rsplit('/').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
        let own = mix(self.hosts[index].salt, number);
        let mut text = String::new();
        for item in 0..own % 4 {
            text.push_str(&format!("item {item}\n"));
        }
        for link in 0..self.links {
            let to = mix(own, link);
            let host = &self.hosts[(to % self.hosts.len() as u64) as usize].name;
            let folder = if to.is_multiple_of(7) { "private" } else { "p" };
            text.push_str(&format!("link http://{host}/{folder}/{}\n", (to >> 16) % self.pages));
        }
        text
    }

    pub(crate) fn parser(
        self: &std::sync::Arc<Self>,
        sim: &Sim,
    ) -> impl Fn(&Page, &mut Output<String>) -> Result<(), ParseError> + Send + Sync + 'static {
        let (world, sim) = (std::sync::Arc::clone(self), sim.clone());
        move |page, out| {
            let text = page.url().as_str();
            let fate = mix(text.len() as u64 ^ u64::from(page.attempt()), text.bytes().map(u64::from).sum());
            if !world.parse_cost.is_zero() {
                sim.spend(world.parse_cost);
            }
            for line in page.utf8().lines() {
                match line.split_once(' ') {
                    Some(("item", n)) => out.item(format!("{text}#{n}")),
                    Some(("link", to)) => out.follow(to),
                    _ => {}
                }
            }
            if fate % 100 >= world.bad_pages {
                return Ok(());
            }
            match (fate >> 32) % 5 {
                0 => resume_unwind(Box::new("a bug of the parser")),
                1 => Err(ParseError::retry("not yet")),
                2 => Err(ParseError::blocked("who are you")),
                3 => Err(ParseError::broken("no title")),
                _ => Err(std::io::Error::other("no number").into()),
            }
        }
    }

    /// The doings of the embedder, each in its time.
    pub(crate) fn meddle(&self, sim: &Sim, handle: &Handle) {
        for (at, what) in self.meddling.iter().copied() {
            let (own, handle) = (sim.clone(), handle.clone());
            let name = self.hosts[0].name.clone();
            sim.spawn(async move {
                own.sleep(at).await;
                match what {
                    Meddle::Pause(time) => {
                        handle.pause();
                        own.sleep(time).await;
                        handle.resume();
                    }
                    Meddle::Cancel => _ = handle.cancel(|request| request.url().len().is_multiple_of(2)).await,
                    Meddle::Submit => _ = handle.submit([Request::get(format!("http://{name}/p/submitted"))]),
                    Meddle::Fetch => _ = handle.fetch(Request::get(format!("http://{name}/p/fetched"))).await,
                    Meddle::Graceful(within) => handle.shutdown(Shutdown::Graceful { within }),
                    Meddle::Now => handle.shutdown(Shutdown::Now),
                }
            });
        }
    }
}

impl Site {
    fn draw(n: u64, calm: bool, rng: &mut fastrand::Rng) -> Self {
        use Kind::{BlackHole, Http, NameFails, NameLate, NameNever, NoName, Refuses, Unreachable};
        let others = [Refuses, BlackHole, Unreachable, NoName, NameFails, NameNever, NameLate];
        let kind = if n == 0 || rng.u8(..5) > 0 { Http } else { others[rng.usize(..others.len())] };
        let link = Link::new()
            .latency(MS * rng.u32(0..80))
            .jitter(MS * rng.u32(0..2) * rng.u32(0..40))
            .chunk([1..=1, 1..=40, 16 << 10..=16 << 10][rng.usize(..3)].clone())
            .window([64 << 10, 100][rng.usize(..2)]);
        let narrow = NonZeroU64::new(rng.u64(200..20_000)).filter(|_| rng.u8(..4) == 0);
        let link = narrow.map_or_else(|| link.clone(), |bytes| link.clone().bandwidth(bytes));
        let rules = [Rules::None, Rules::Disallow, Rules::Delay(rng.u64(1..4)), Rules::Broken];
        Self {
            name: format!("h{n}.test"),
            // The last two share one.
            addr: IpAddr::from([24, 1, 0, n.min(4) as u8]),
            link,
            kind,
            connections: if rng.u8(..5) == 0 { Some(rng.u32(1..4)) } else { None },
            evil: if calm { 0 } else { [0, 10, 40, 90][rng.usize(..4)] },
            rules: rules[if rng.u8(..8) == 0 { 3 } else { rng.usize(..3) }],
            salt: rng.u64(..),
        }
    }
}
