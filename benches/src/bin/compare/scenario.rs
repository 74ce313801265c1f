//! [`Scenario`]: the questions that are asked, and the cases that answer each.

use std::time::Duration;

use clap::ValueEnum;
use tidegate::{BYTES_PER_TLS_CONNECTION, Demand};

use crate::case::{Case, Watch};
use crate::client::Client;
use crate::figure::Figure;
use crate::work::Work;

/// Destinations of the largest runs: a source has 28,232 ports for each.
const ADDRESSES: u8 = 8;

/// How long the node's servers take to answer.
const NODE_MS: u64 = 3_026;
/// Pages a second: what one core can take the links out of is between the first and the last.
const PAGE_RATES: [u32; 4] = [200, 400, 600, 800];

/// Put in place of the folder of the documentation, which only the one who runs it knows.
pub(crate) const SITE: &str = "(site)";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// 1 KB bodies, 256 in flight, connections kept.
    Keepalive,
    /// The same over TLS.
    KeepaliveTls,
    /// 10,000 connections that each wait 800 ms.
    Waiting,
    /// The same over TLS, 5,000 of them.
    WaitingTls,
    /// Bodies of 142 KB on 2,000 connections.
    Large,
    /// The same over TLS.
    LargeTls,
    /// A new connection for each request.
    Fresh,
    /// A new TLS connection for each request, with a full handshake.
    Handshakes,
    /// A new TLS connection for each request, with tickets.
    Tickets,
    /// 64 to 16,384 in flight.
    Growth,
    /// 1,000 to 19,000 sockets on one thread, all waiting.
    Sockets,
    /// 15,000 TLS sockets on one thread, all waiting, with a ticker beside them.
    SocketsTls,
    /// 19,000 sockets with a ticker beside them.
    SocketsLag,
    /// 50,000 sockets on three processes of one thread.
    Fifty,
    /// 12,405 in flight at 4,100 requests a second.
    Node,
    /// The node with pages of 142 KB whose links are found on a second core, at several rates.
    NodePages,
    /// A whole site, the documentation of Rust's `std` that rustup installs, by following its links.
    Pages,
    /// 1,000 requests a second, beside 5,000 connections that drip and without them.
    Drip,
    /// The same with 5,000 proxies whose answer to CONNECT drips.
    DripProxies,
}

/// How much of it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Parts of the requests and of the time: 1 for all of it.
    pub(crate) part: f64,
}

impl Size {
    fn requests(self, all: u64, least: u64) -> u64 {
        ((all as f64 * self.part) as u64).max(least)
    }

    fn time(self, seconds: f64) -> Duration {
        Duration::from_secs_f64((seconds * self.part).max(2.0))
    }
}

const TIDEGATE: [Client; 4] =
    [Client::TidegateFetcher, Client::TidegateCrawl, Client::TidegateFetcherSmol, Client::TidegateCrawlSmol];
const OTHERS: [Client; 8] = [
    Client::Hyper,
    Client::HyperUtil,
    Client::Reqwest,
    Client::ReqwestMulti,
    Client::Curl,
    Client::Aiohttp,
    Client::Undici,
    Client::Go,
];

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keepalive => "keepalive",
            Self::KeepaliveTls => "keepalive-tls",
            Self::Waiting => "waiting",
            Self::WaitingTls => "waiting-tls",
            Self::Large => "large",
            Self::LargeTls => "large-tls",
            Self::Fresh => "fresh",
            Self::Handshakes => "handshakes",
            Self::Tickets => "tickets",
            Self::Growth => "growth",
            Self::Sockets => "sockets",
            Self::SocketsTls => "sockets-tls",
            Self::SocketsLag => "sockets-lag",
            Self::Fifty => "fifty",
            Self::Node => "node",
            Self::NodePages => "node-pages",
            Self::Pages => "pages",
            Self::Drip => "drip",
            Self::DripProxies => "drip-proxies",
        }
    }

    /// Its tables.
    pub(crate) fn cases(self, size: Size) -> Vec<Case> {
        let tls = matches!(
            self,
            Self::KeepaliveTls
                | Self::WaitingTls
                | Self::LargeTls
                | Self::Handshakes
                | Self::Tickets
                | Self::SocketsTls
        );
        let case = Case {
            scenario: self.name(),
            title: String::new(),
            server: if tls { vec!["--tls".into()] } else { Vec::new() },
            work: work(size.requests(400_000, 10_000), 256),
            processes: 1,
            clients: everybody(tls),
            watch: Watch::Memory,
            figures: vec![Figure::CpuUs, Figure::Rate, Figure::P50, Figure::P99, Figure::PeakMb, Figure::ServerShare],
            demand: None,
        };
        match self {
            Self::Keepalive | Self::KeepaliveTls => {
                vec![Case { title: "1 KB bodies, 256 in flight, connections kept".into(), ..case }]
            }
            Self::Waiting | Self::WaitingTls => vec![waiting(case, if tls { 5_000 } else { 10_000 }, size)],
            Self::Large | Self::LargeTls => vec![large(case, size)],
            Self::Fresh | Self::Handshakes | Self::Tickets => vec![fresh(self, case, size)],
            Self::Growth => [64, 512, 4_096, 16_384].map(|many| growth(&case, many)).into(),
            Self::Sockets => {
                [1_000, 2_000, 5_000, 10_000, 15_000, 19_000].map(|many| sockets(&case, many, size)).into()
            }
            Self::SocketsTls => {
                let mut case = ticking(sockets(&case, 15_000, size));
                if let Some(demand) = &mut case.demand {
                    demand.bytes_per_connection = BYTES_PER_TLS_CONNECTION;
                }
                vec![case]
            }
            Self::SocketsLag => vec![Case { clients: TIDEGATE.into(), ..ticking(sockets(&case, 19_000, size)) }],
            Self::Fifty => {
                let mut case = sockets(&case, 16_667, size);
                case.title = "3 processes, 50,001 sockets, all waiting".into();
                case.processes = 3;
                case.clients = [vec![Client::Raw], TIDEGATE.into()].concat();
                vec![case]
            }
            Self::Node => vec![node(case, size)],
            Self::NodePages => PAGE_RATES.map(|rate| node_pages(&case, rate, size)).into(),
            Self::Pages => vec![pages(case)],
            Self::Drip | Self::DripProxies => {
                [0, 5_000].map(|dripping| drip(&case, dripping, self == Self::DripProxies, size)).into()
            }
        }
    }
}

fn work(requests: u64, concurrency: u32) -> Work {
    Work {
        port: 0,
        addresses: 1,
        path: "/".into(),
        requests,
        concurrency,
        rate: None,
        fresh: false,
        certificate: None,
        ticker: false,
        dripping: 0,
        slow_proxies: false,
        parse: false,
        cores: 1,
        follow: false,
        settle_ms: 500,
    }
}

fn everybody(tls: bool) -> Vec<Client> {
    let without_tls = [Client::HyperUtil, Client::Curl, Client::Aiohttp, Client::Undici, Client::Go];
    let all = [Client::Raw].into_iter().chain(TIDEGATE).chain(OTHERS);
    all.filter(|client| !tls || !without_tls.contains(client)).collect()
}

fn waiting(case: Case, connections: u32, size: Size) -> Case {
    let rounds = size.requests(5, 3);
    Case {
        title: format!("{connections} connections that each wait 800 ms"),
        server: [case.server, vec!["--delay-ms".into(), "800".into()]].concat(),
        work: Work { addresses: ADDRESSES, ..work(rounds * u64::from(connections), connections) },
        figures: vec![
            Figure::CpuUs,
            Figure::WaitingKb,
            Figure::PeakKb,
            Figure::IdleKb,
            Figure::P99,
            Figure::ServerShare,
        ],
        ..case
    }
}

fn large(case: Case, size: Size) -> Case {
    Case {
        title: "2,000 connections, bodies of 142 KB".into(),
        server: [case.server, vec!["--bytes".into(), "142000".into()]].concat(),
        work: Work { addresses: ADDRESSES, ..work(size.requests(40_000, 6_000), 2_000) },
        figures: vec![Figure::CpuUs, Figure::Rate, Figure::PeakMb, Figure::PeakKb, Figure::IdleKb, Figure::ServerShare],
        ..case
    }
}

fn fresh(scenario: Scenario, case: Case, size: Size) -> Case {
    let (title, requests) = match scenario {
        Scenario::Fresh => ("a new connection for each request, 64 in flight", 60_000),
        Scenario::Tickets => ("a new TLS connection for each request, resumed by ticket, 64 in flight", 20_000),
        _ => ("a new TLS connection for each request, full handshakes, 64 in flight", 20_000),
    };
    let tickets = (scenario == Scenario::Tickets).then(|| ["--tickets".to_owned(), "2".to_owned()]);
    Case {
        title: title.into(),
        server: case.server.into_iter().chain(tickets.into_iter().flatten()).collect(),
        work: Work { addresses: ADDRESSES, fresh: true, ..work(size.requests(requests, 2_000), 64) },
        ..case
    }
}

fn growth(case: &Case, many: u32) -> Case {
    Case {
        title: format!("1 KB bodies, {many} in flight"),
        work: Work { addresses: ADDRESSES, concurrency: many, ..case.work.clone() },
        clients: [vec![Client::Raw], TIDEGATE.into(), vec![Client::Hyper, Client::Reqwest]].concat(),
        ..case.clone()
    }
}

fn sockets(case: &Case, many: u32, size: Size) -> Case {
    let tls = if case.server.is_empty() { "" } else { " TLS" };
    Case {
        title: format!("{many}{tls} sockets, all waiting"),
        work: Work { addresses: ADDRESSES, path: "/gate/".into(), ..work(many.into(), many) },
        clients: [vec![Client::Raw], TIDEGATE.into(), vec![Client::Hyper, Client::Reqwest]].concat(),
        watch: Watch::Gate(size.time(10.0)),
        figures: vec![
            Figure::WaitingKb,
            Figure::Seen("waiting_cpu_share"),
            Figure::Seen("open_seconds"),
            Figure::CpuUs,
            Figure::Seen("kernel_kb"),
        ],
        demand: Some(Demand::new(many.into(), Duration::from_secs(1))),
        ..case.clone()
    }
}

fn ticking(mut case: Case) -> Case {
    case.title += ", with a ticker";
    case.work.ticker = true;
    case.figures.extend([Figure::LagP50, Figure::LagP99, Figure::LagMax]);
    case
}

fn node(case: Case, size: Size) -> Case {
    const RATE: f64 = 4_100.0;
    let wait = Duration::from_millis(NODE_MS);
    let requests = (size.time(60.0).as_secs_f64() * RATE) as u64;
    Case {
        title: "4,100 requests/s, each answered after 3.026 s: 12,405 in flight".into(),
        server: vec!["--delay-ms".into(), NODE_MS.to_string()],
        work: Work { addresses: ADDRESSES, rate: Some(RATE), ticker: true, ..work(requests, 18_000) },
        clients: [TIDEGATE.into(), vec![Client::Reqwest, Client::Idle, Client::IdleSmol]].concat(),
        figures: vec![
            Figure::CpuShare,
            Figure::LagP50,
            Figure::LagP99,
            Figure::LagP999,
            Figure::LagMax,
            Figure::PeakMb,
            Figure::Seen("kernel_kb"),
            Figure::P50,
            Figure::P99,
            Figure::Seen("in_flight"),
            Figure::Seen("littles_law"),
            Figure::Seen("gate_closed"),
            Figure::ServerShare,
        ],
        demand: Some(Demand::new(RATE, wait)),
        ..case
    }
}

fn node_pages(case: &Case, rate: u32, size: Size) -> Case {
    let all = f64::from(rate);
    let wait = Duration::from_millis(NODE_MS);
    let requests = (size.time(60.0).as_secs_f64() * all) as u64;
    // Half as many again as there are by Little's law.
    let most = (all * wait.as_secs_f64() * 1.5) as u32;
    Case {
        title: format!(
            "{rate} pages/s of 142 KB, each answered after 3.026 s, links found on the client's second core"
        ),
        server: vec!["--delay-ms".into(), NODE_MS.to_string(), "--bytes".into(), "142000".into()],
        work: Work {
            addresses: ADDRESSES,
            rate: Some(all),
            ticker: true,
            parse: true,
            cores: 2,
            ..work(requests, most)
        },
        clients: vec![Client::TidegateCrawl, Client::TidegateCrawlSmol, Client::Idle, Client::IdleSmol],
        figures: vec![
            Figure::Rate,
            Figure::Behind,
            Figure::CpuShare,
            Figure::ThreadShare,
            Figure::LagP50,
            Figure::LagP99,
            Figure::LagP999,
            Figure::LagMax,
            Figure::PeakMb,
            Figure::P99,
            Figure::Seen("in_flight"),
            Figure::Seen("littles_law"),
            Figure::Seen("gate_closed"),
            Figure::Seen("links"),
            Figure::ServerShare,
        ],
        ..case.clone()
    }
}

fn pages(case: Case) -> Case {
    Case {
        title: "the documentation of std, links followed, 64 in flight".into(),
        server: vec!["--site".into(), SITE.into()],
        work: Work { path: "/std/index.html".into(), follow: true, ..work(0, 64) },
        clients: vec![
            Client::ReqwestScan,
            Client::ReqwestScraper,
            Client::TidegatePages,
            Client::TidegatePagesSmol,
            Client::Spider,
            Client::Wget2,
            Client::Scrapy,
            Client::Crawlee,
        ],
        figures: vec![
            Figure::CpuUs,
            Figure::Rate,
            Figure::Pages,
            Figure::Megabytes,
            Figure::PeakMb,
            Figure::ServerShare,
        ],
        ..case
    }
}

fn drip(case: &Case, dripping: u32, slow_proxies: bool, size: Size) -> Case {
    const RATE: f64 = 1_000.0;
    let mut clients = [TIDEGATE.into(), vec![Client::Hyper, Client::Reqwest]].concat();
    // Bare hyper knows no proxies.
    clients.retain(|client| !slow_proxies || *client != Client::Hyper);
    Case {
        title: match dripping {
            0 => "1,000 requests/s".into(),
            many if slow_proxies => format!("1,000 requests/s beside {many} proxies that drip their answer to CONNECT"),
            many => format!("1,000 requests/s beside {many} connections that drip a byte a second"),
        },
        work: Work {
            addresses: ADDRESSES,
            rate: Some(RATE),
            dripping,
            slow_proxies,
            ..work((size.time(20.0).as_secs_f64() * RATE) as u64, 1_000)
        },
        clients,
        figures: vec![
            Figure::P50,
            Figure::P99,
            Figure::P999,
            Figure::CpuUs,
            Figure::PeakMb,
            Figure::Seen("connections"),
            Figure::ServerShare,
        ],
        ..case.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_case_asks_for_more_than_the_machine_has() {
        for scenario in Scenario::value_variants() {
            for case in scenario.cases(Size { part: 1.0 }) {
                let Work { concurrency, dripping, addresses, requests, .. } = case.work;
                assert!(concurrency + dripping < 20_000, "{}: descriptors of a process", case.title);
                let one = (concurrency + dripping) * case.processes / u32::from(addresses);
                assert!(one < 28_000, "{}: ports to a destination", case.title);
                assert!(
                    case.work.follow || requests >= u64::from(concurrency),
                    "{}: all connections are used",
                    case.title
                );
                assert!(case.clients.len() > 1 && !case.figures.is_empty(), "{}", case.title);
            }
        }
    }
}
