//! The same crawl with other secrets: whoever is not to know a secret sees the same bytes, and no log, error or `Debug` differs.
//!
//! Three origins, two of them over TLS, lead to one another by way of two proxies, with cookies, passwords and fields of the
//! caller's own.
#![cfg(feature = "tls")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Peer, Server, read_head, run, tls};
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use tidegate::http::{CookieJar, HttpFetcher};
use tidegate::observer::Event;
use tidegate::rt::Runtime;
use tidegate::tls::Config;
use tidegate::{Crawl, Profile, Request, Settled};

/// A secret and those that may see it: its origin and, where that is not spoken to over TLS, the proxies on the way.
const SECRETS: [(&str, &[&str]); 8] = [
    ("password of a", &["a"]),
    ("field of a", &["a"]),
    ("cookie of a", &["a"]),
    ("bearer of b", &["b", "http proxy", "socks proxy"]),
    ("cookie of b", &["b", "http proxy", "socks proxy"]),
    ("cookie of c", &["c"]),
    ("password of the http proxy", &["http proxy"]),
    ("password of the socks proxy", &["socks proxy"]),
];

/// What there is of each, by name. None has a digit, and they differ in length.
type Secrets = BTreeMap<&'static str, &'static str>;

fn usual() -> Secrets {
    let values = ["qwfpg", "jluyo", "arstd", "hneio", "zxcvb", "kmwqy", "gtbnm", "dvpol"];
    SECRETS.iter().map(|(name, _)| *name).zip(values).collect()
}

/// What each party has seen, and what was told.
#[derive(Clone, Default)]
struct Seen {
    by: BTreeMap<&'static str, Vec<String>>,
    told: String,
}

#[derive(Default)]
struct World {
    secrets: Secrets,
    seen: Seen,
}

type Shared = Arc<Mutex<World>>;

fn note(world: &Shared, party: &'static str, bytes: &[u8]) {
    let mut world = world.lock().expect("no panic while locked");
    world.seen.by.entry(party).or_default().push(bytes.escape_ascii().to_string());
}

fn secret(world: &Shared, name: &str) -> &'static str {
    world.lock().expect("no panic while locked").secrets[name]
}

/// What an origin answers to a request for a path: a redirect, a page, or nothing.
fn answer(world: &Shared, origin: &str, head: &str) -> Vec<u8> {
    let cookie = match origin {
        "a" => format!("Set-Cookie: id={}; Path=/\r\n", secret(world, "cookie of a")),
        "b" => format!("Set-Cookie: id={}; Path=/\r\n", secret(world, "cookie of b")),
        _ => format!("Set-Cookie: id={}; Path=/; Secure\r\n", secret(world, "cookie of c")),
    };
    let moved = |to: &str| format!("HTTP/1.1 302 Found\r\n{cookie}Location: {to}\r\nContent-Length: 0\r\n\r\n");
    let path = head.split(' ').nth(1).unwrap_or_default();
    let path = path.strip_prefix("http://b.test").unwrap_or(path);
    match (origin, path) {
        ("a", "/start") => moved("http://b.test/hop"),
        ("b", "/hop") => moved("https://c.test/hop"),
        ("c", "/hop") => moved("https://a.test/back"),
        ("a", "/nowhere") => moved("mailto:me@c.test"),
        ("b", "/silent") => String::new(),
        ("c", "/garbage") => "SSH-2.0-OpenSSH\r\n\r\n".into(),
        ("c", "/cut") => format!("HTTP/1.1 200 OK\r\n{cookie}Content-Length: 9\r\n\r\nhalf"),
        _ => format!("HTTP/1.1 200 OK\r\n{cookie}Content-Length: 5\r\n\r\nhello"),
    }
    .into_bytes()
}

/// Answers the requests of one connection, and closes it after an answer that cannot be followed by another.
fn serve(world: &Shared, origin: &'static str, stream: &mut (impl Read + Write)) -> io::Result<()> {
    while let Some(head) = read_head(stream)? {
        note(world, origin, head.as_bytes());
        let reply = answer(world, origin, &head);
        stream.write_all(&reply)?;
        stream.flush()?;
        if !reply.ends_with(b"hello") && !reply.ends_with(b"Content-Length: 0\r\n\r\n") {
            break;
        }
    }
    Ok(())
}

/// Where a name leads; none for one that the proxies refuse.
type Names = Arc<BTreeMap<&'static str, SocketAddr>>;

/// Moves bytes both ways.
fn tunnel(peer: &mut Peer, mut target: TcpStream) -> io::Result<()> {
    let (mut up_from, mut up_to) = (peer.stream.try_clone()?, target.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(std::net::Shutdown::Write);
    });
    io::copy(&mut target, &mut peer.stream).map(drop)
}

/// CONNECT, and plain requests, which it passes on without what is meant for it.
fn http_proxy(world: &Shared, names: &Names) -> Server {
    let (world, names) = (Arc::clone(world), Arc::clone(names));
    Server::start(move |peer| {
        while let Some(head) = read_head(&mut peer.stream)? {
            note(&world, "http proxy", head.as_bytes());
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let is_tunnel = head.starts_with("CONNECT ");
            let name = target.trim_start_matches("http://").split([':', '/']).next().unwrap_or_default();
            let Some(addr) = names.get(name) else {
                return peer.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
            };
            let mut to = TcpStream::connect(addr)?;
            if is_tunnel {
                peer.send(b"HTTP/1.1 200 OK\r\n\r\n")?;
                return tunnel(peer, to);
            }
            let own = |line: &&str| !line.to_ascii_lowercase().starts_with("proxy-authorization:");
            let passed: Vec<_> = head.split("\r\n").filter(own).collect();
            to.write_all(passed.join("\r\n").as_bytes())?;
            to.shutdown(std::net::Shutdown::Write)?;
            let mut reply = Vec::new();
            to.read_to_end(&mut reply)?;
            note(&world, "http proxy", &reply);
            peer.send(&reply)?;
            if reply.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    })
}

/// SOCKS5 with a password, by name.
fn socks_proxy(world: &Shared, names: &Names) -> Server {
    let (world, names) = (Arc::clone(world), Arc::clone(names));
    Server::start(move |peer| {
        let read = |length: usize, stream: &mut TcpStream| {
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes)?;
            note(&world, "socks proxy", &bytes);
            io::Result::Ok(bytes)
        };
        read(4, &mut peer.stream)?;
        peer.send(b"\x05\x02")?;
        for part in 0..2 {
            let length = read(2 - part, &mut peer.stream)?[1 - part];
            read(length.into(), &mut peer.stream)?;
        }
        peer.send(b"\x01\x00")?;
        let length = read(5, &mut peer.stream)?[4];
        let name = read(length.into(), &mut peer.stream)?;
        let port = read(2, &mut peer.stream)?;
        let Some(addr) = std::str::from_utf8(&name).ok().and_then(|name| names.get(name)) else {
            return peer.send(b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00");
        };
        peer.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")?;
        let mut target = TcpStream::connect(addr)?;
        if port != [0, 80] {
            return tunnel(peer, target);
        }
        while let Some(head) = read_head(&mut peer.stream)? {
            note(&world, "socks proxy", head.as_bytes());
            target.write_all(head.as_bytes())?;
            let mut reply = Vec::new();
            let mut byte = [0];
            while !reply.ends_with(b"hello") && !reply.ends_with(b"Content-Length: 0\r\n\r\n") {
                if target.read(&mut byte)? == 0 {
                    return peer.send(&reply);
                }
                reply.push(byte[0]);
            }
            note(&world, "socks proxy", &reply);
            peer.send(&reply)?;
        }
        Ok(())
    })
}

struct Parties {
    world: Shared,
    roots: [String; 2],
    proxies: [Server; 2],
}

impl Parties {
    fn new() -> Self {
        let world = Shared::default();
        let over_tls = |origin: &'static str, name| {
            let world = Arc::clone(&world);
            tls::server(name, move |stream| {
                serve(&world, origin, stream)?;
                stream.conn.send_close_notify();
                stream.flush()
            })
        };
        let ((a, root_a), (c, root_c)) = (over_tls("a", "a.test"), over_tls("c", "c.test"));
        let shared = Arc::clone(&world);
        let b = Server::start(move |peer| serve(&shared, "b", &mut peer.stream));
        let names = [("a.test", a.addr), ("b.test", b.addr), ("c.test", c.addr), ("wrong.test", c.addr)];
        let names = Arc::new(BTreeMap::from(names));
        let proxies = [http_proxy(&world, &names), socks_proxy(&world, &names)];
        Self { world, roots: [root_a, root_c], proxies }
    }

    /// Crawls one URL after the other, so that the order in which they are fetched is always the same.
    async fn crawl(&self, rt: &Runtime, secrets: &Secrets) -> Seen {
        *self.world.lock().expect("no panic while locked") = World { secrets: secrets.clone(), seen: Seen::default() };
        let [http, socks] = &self.proxies;
        let proxies = [
            format!("http://me:{}@{}", secrets["password of the http proxy"], http.addr),
            format!("socks5h://me:{}@{}", secrets["password of the socks proxy"], socks.addr),
        ];
        let config = self.roots.iter().fold(Config::builder(), |config, root| config.add_root_pem(root.as_str()));
        let jar = CookieJar::new();
        let builder = HttpFetcher::builder(rt).tls(config.build().expect("roots")).cookies(jar.clone());
        let builder = proxies.iter().fold(builder, |builder, proxy| builder.proxy(proxy));
        let mut told = format!("{builder:?}\n");
        let fetcher = builder.build().expect("valid");
        let a = |path: &str| format!("https://me:{}@a.test{path}", secrets["password of a"]);
        let field = HeaderValue::from_static(secrets["field of a"]);
        let bearer = HeaderValue::try_from(format!("Bearer {}", secrets["bearer of b"])).expect("letters");
        let with_field =
            |url: String| Request::get(url).with_header(HeaderName::from_static("x-api-key"), field.clone());
        let mut requests = vec![
            with_field(a("/start")),
            Request::get("http://b.test/own").with_header(AUTHORIZATION, bearer.clone()),
            with_field(a("/again")),
            Request::get("https://a.test/cookies"),
            Request::get("http://b.test/silent").with_header(AUTHORIZATION, bearer),
            with_field(a("/nowhere")),
            with_field(a("/lost").replace("a.test", "lost.test")),
            with_field(a("/lost").replace("a.test", "wrong.test")),
        ];
        requests.extend(
            ["https://c.test/garbage", "https://c.test/cut", "http://c.test/", "https://c.test/"].map(Request::get),
        );
        // By way of the one proxy, and of the other.
        for request in requests.iter().flat_map(|request| [request, request]) {
            let log = Arc::new(Mutex::new(String::new()));
            let (events, outcomes) = (Arc::clone(&log), tidegate::sink::collect::<Settled>());
            let crawl = Crawl::builder::<()>(rt.clone())
                .profile(Profile::own())
                .fetcher(fetcher.clone())
                .seeds([request.clone()])
                .retries(0)
                .observer(move |event: &Event<'_>| {
                    let mut log = events.lock().expect("no panic while locked");
                    writeln!(log, "{event}\n{event:?}").expect("memory");
                })
                .outcomes(outcomes.clone());
            let report = crawl.run().await.expect("it ends well");
            told += &log.lock().expect("no panic while locked");
            for delivery in outcomes.take() {
                writeln!(told, "{:?}", delivery.item).expect("memory");
            }
            // What it was bound by and how the loop did is a matter of time.
            let report_lines: Vec<_> =
                report.to_string().lines().filter(|line| !line.starts_with("lag")).map(str::to_owned).collect();
            let errors = &report.totals.errors;
            writeln!(told, "{report_lines:?} {errors:?}\n{request:?}\n{fetcher:?}\n{jar:?}").expect("memory");
        }
        // Without a crawl, and with all that an answer has.
        for url in [a("/start"), a("/nowhere")] {
            let fetched = common::fetch(rt, &fetcher, with_field(url)).await;
            writeln!(told, "{fetched:?} {:?}", fetched.as_ref().map(|response| &response.redirects)).expect("memory");
        }
        let mut seen = std::mem::take(&mut self.world.lock().expect("no panic while locked").seen);
        seen.told = without_times(&told);
        seen
    }
}

/// Times, ports and counts differ from run to run: digits do not count, nor the unit behind them.
fn without_times(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        out.push('#');
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        rest = ["ns", "µs", "ms", "s"].iter().find_map(|unit| rest.strip_prefix(unit)).unwrap_or(rest);
    }
    out + rest
}

/// A secret as it may be written: as it is, and in base64 wherever it begins.
fn shows(text: &str, secret: &str) -> bool {
    use base64::Engine as _;
    let encoded = |before: &str| {
        let whole = base64::engine::general_purpose::STANDARD_NO_PAD.encode(format!("{before}{secret}"));
        // The first and the last letters depend on what is around it.
        whole[before.len().div_ceil(3) * 4..whole.len() - 2].to_owned()
    };
    text.contains(secret) || ["", "x", "xx"].iter().any(|before| text.contains(&encoded(before)))
}

/// The first difference in what was told, or was seen by others than these.
fn difference(one: &Seen, other: &Seen, but: &[&str]) -> Option<String> {
    let lines = |seen: &Seen| {
        let told = seen.told.lines().map(|line| format!("told: {line}"));
        let by = seen.by.iter().filter(|(party, _)| !but.contains(party));
        let by = by.flat_map(|(party, seen)| seen.iter().map(move |line| format!("{party}: {line}")));
        told.chain(by).collect::<Vec<_>>()
    };
    let (one, other) = (lines(one), lines(other));
    let differs = one.iter().zip(&other).find(|(one, other)| one != other);
    let longer = (one.len() != other.len()).then(|| format!("{} and {} lines", one.len(), other.len()));
    differs.map(|(one, other)| format!("{one}\nand {other}")).or(longer)
}

// C2, C5, C7, F5, F6: invariant 14
#[test]
fn nobody_else_sees_a_difference() {
    let parties = Parties::new();
    run(async |rt| {
        let secrets = usual();
        let before = parties.crawl(&rt, &secrets).await;
        assert_eq!(before.by.keys().copied().collect::<Vec<_>>(), ["a", "b", "c", "http proxy", "socks proxy"]);
        assert_eq!(difference(&before, &parties.crawl(&rt, &secrets).await, &[]), None, "the same crawl is the same");
        for (name, owners) in SECRETS {
            let value = secrets[name];
            for owner in owners {
                let text = before.by[owner].concat();
                assert!(shows(&text, value), "{owner} does not get the {name}: {text}");
            }
            let mut other = secrets.clone();
            other.insert(name, "anotherofanotherlength");
            let after = parties.crawl(&rt, &other).await;
            assert_eq!(difference(&before, &after, owners), None, "with another {name}");
            assert!(!shows(&before.told, value), "the {name} is told");
        }
    });
}
