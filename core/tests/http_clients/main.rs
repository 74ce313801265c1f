//! The replies of the corpus, and replies put together of odd parts, as tidegate, the program curl and Python's aiohttp read them
//! over real sockets. Where the other two agree, tidegate does, but for what `testdata/replies/clients.toml` lists with a reason;
//! where they do not, its answer is that of one of them or an error (invariant 17).
//!
//! Needs `curl`, and an interpreter with aiohttp: `python3 -m venv target/tools/python && target/tools/python/bin/pip install aiohttp`.
//! `cargo test -p tidegate --test http_clients`
#![cfg(feature = "http")]

#[path = "../common/mod.rs"]
mod common;
mod drawn;
#[allow(dead_code, reason = "what the comparison with hyper needs")]
#[path = "../http_differential/ours.rs"]
mod ours;
#[allow(dead_code, reason = "what the comparison with hyper needs")]
#[path = "../http_differential/reply.rs"]
mod reply;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use common::{Server, fetch, run};
use http::Method;
use serde::Deserialize;
use tidegate::Request;
use tidegate::http::HttpFetcher;

use self::ours::{KEPT, Ours, cuts};

/// One reply.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: Method,
    pub(crate) bytes: Vec<u8>,
}

/// What a client makes of a reply. Errors are all alike: every client has words of its own.
#[derive(Clone, PartialEq, Eq)]
enum Verdict {
    Answer(u16, Vec<u8>),
    Fails,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(status, body) => write!(f, "{status} {}", body[..body.len().min(40)].escape_ascii()),
            Self::Fails => f.write_str("fails"),
        }
    }
}

fn cases() -> Vec<Case> {
    let corpus = reply::Reply::all();
    let corpus = corpus.iter().map(|r| Case { name: r.name.clone(), method: r.method(), bytes: r.bytes() });
    corpus.chain(drawn::cases()).collect()
}

/// Serves the reply that a path numbers, whole or a byte at a time, and closes.
fn server(cases: &Arc<Vec<Case>>) -> Server {
    let cases = Arc::clone(cases);
    Server::start(move |peer| {
        let Some(head) = peer.request()? else { return Ok(()) };
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (number, drips) = match path[1..].strip_prefix("drip/") {
            Some(number) => (number, true),
            None => (&path[1..], false),
        };
        let bytes = &cases[number.parse::<usize>().expect("a number")].bytes;
        for piece in bytes.chunks(if drips { 1 } else { bytes.len().max(1) }) {
            // A client that has heard enough need not listen.
            if peer.send(piece).is_err() {
                return Ok(());
            }
        }
        peer.stream.shutdown(std::net::Shutdown::Write)?;
        peer.wait_for_close();
        Ok(())
    })
}

/// The program curl, a process for each reply.
fn of_curl(method: &Method, url: &str) -> Verdict {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--http1.1",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "--write-out",
        "%{stderr}%{http_code}",
    ]);
    if *method == Method::HEAD {
        command.args(["--head", "--output", "/dev/null"]);
    }
    command.arg(url).stdin(Stdio::null());
    let output = command.output().expect("curl is installed");
    let status = String::from_utf8_lossy(&output.stderr).trim().parse();
    match (output.status.success(), status) {
        (true, Ok(status)) => Verdict::Answer(status, output.stdout),
        _ => Verdict::Fails,
    }
}

/// Python's aiohttp, one process for all.
struct Aiohttp {
    child: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Answer { status: u16, body: String },
    Error { error: String },
}

impl Aiohttp {
    fn start() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let python = std::env::var_os("TIDEGATE_PYTHON")
            .map_or_else(|| root.join("target/tools/python/bin/python3"), PathBuf::from);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http_clients/aiohttp_client.py");
        let mut command = Command::new(&python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|e| panic!("no {}: {e}; TIDEGATE_PYTHON names another", python.display()));
        let asked = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, asked, answers }
    }

    fn verdict(&mut self, method: &Method, url: &str) -> Verdict {
        writeln!(self.asked, "{method} {url}").expect("it reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        match serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("aiohttp is not installed, or broken: {e}: {line:?}"))
        {
            Told::Answer { status, body } => {
                let digits = body.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("ASCII"));
                Verdict::Answer(status, digits.map(|two| u8::from_str_radix(two, 16).expect("two digits")).collect())
            }
            Told::Error { error } => {
                // What fails here and is no reply's fault.
                assert!(!error.contains("Timeout") && !error.contains("Connect call failed"), "{url}: {error}");
                Verdict::Fails
            }
        }
    }
}

impl Drop for Aiohttp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Over sockets.
async fn of_ours(rt: &tidegate::rt::Runtime, fetcher: &HttpFetcher, method: &Method, url: &str) -> Verdict {
    match fetch(rt, fetcher, Request::new(method.clone(), url)).await {
        Ok(response) => Verdict::Answer(response.head.status.as_u16(), response.body.to_vec()),
        Err(_) => Verdict::Fails,
    }
}

#[derive(Deserialize)]
struct Listed {
    difference: Vec<Difference>,
}

/// A reply that tidegate reads in another way than the other two, which agree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    name: String,
    ours: String,
    others: String,
    why: String,
}

fn listed() -> BTreeMap<String, Difference> {
    let text = include_str!("../../testdata/replies/clients.toml");
    let listed = toml::from_str::<Listed>(text).expect("it is well formed").difference;
    listed.into_iter().map(|difference| (difference.name.clone(), difference)).collect()
}

// A2, A4, A5, A6, A7, A11, A12, A13, A14, A15, A16, A18, A19, A20
#[test]
fn where_curl_and_aiohttp_agree_tidegate_agrees() {
    let cases = Arc::new(cases());
    assert!(cases.len() >= 300, "{}", cases.len());
    let (server, mut aiohttp) = (server(&cases), Aiohttp::start());
    let (mut listed, mut wrong) = (listed(), Vec::new());
    let verdicts = run(async |rt| {
        let fetcher = HttpFetcher::builder(&rt).pool_max_idle_per_host(0).build().expect("valid");
        let mut verdicts = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            let whole = of_ours(&rt, &fetcher, &case.method, &server.url(&format!("/{number}"))).await;
            if case.bytes.len() < 5_000 {
                let dripped = of_ours(&rt, &fetcher, &case.method, &server.url(&format!("/drip/{number}"))).await;
                assert!(whole == dripped, "{}: {whole}, dripped {dripped}", case.name);
            }
            verdicts.push(whole);
        }
        verdicts
    });
    for ((number, case), ours) in cases.iter().enumerate().zip(verdicts) {
        let url = server.url(&format!("/{number}"));
        let (curl, aiohttp) = (of_curl(&case.method, &url), aiohttp.verdict(&case.method, &url));
        let told = || format!("{}: ours {ours}, curl {curl}, aiohttp {aiohttp}", case.name);
        if curl != aiohttp {
            if ours != Verdict::Fails && ours != curl && ours != aiohttp {
                wrong.push(format!("{}; a reading of our own", told()));
            }
        } else if ours != curl {
            match listed.remove(&case.name) {
                Some(entry) if entry.ours == ours.to_string() && entry.others == curl.to_string() => {
                    assert!(!entry.why.is_empty(), "{} needs a reason", case.name);
                }
                Some(entry) => wrong.push(format!("{}; listed as {} and {}", told(), entry.ours, entry.others)),
                None => wrong.push(format!("{}; not listed", told())),
            }
        }
    }
    wrong.extend(listed.into_keys().map(|name| format!("{name}: listed, and there is no such difference")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_cut_changes_what_is_read() {
    let mut ours = Ours::new();
    for case in cases() {
        let whole = ours.verdict(&case.method, vec![case.bytes.clone()]);
        for pieces in cuts(&case.bytes) {
            let lengths: Vec<_> = pieces.iter().take(3).map(Vec::len).collect();
            let verdict = ours.verdict(&case.method, pieces);
            assert_eq!(
                verdict.trim_end_matches(KEPT),
                whole.trim_end_matches(KEPT),
                "{} cut as {lengths:?}",
                case.name
            );
        }
    }
}
