//! Running the program and reading what it says.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

pub(crate) const RUNTIMES: [&str; 2] = ["tokio", "smol"];

/// The keys of every record, in their order.
pub(crate) const KEYS: [&str; 22] = [
    "v",
    "seq",
    "id",
    "url",
    "final_url",
    "outcome",
    "status",
    "version",
    "content_type",
    "bytes",
    "bytes_wire",
    "sha256",
    "body",
    "headers",
    "redirects",
    "error",
    "skipped",
    "attempts",
    "timing_ms",
    "remote",
    "proxy",
    "fetched_at",
];

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A run that has ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) records: Vec<Value>,
    pub(crate) lines: Vec<String>,
    pub(crate) stderr: String,
}

pub(crate) fn run(args: &[&str]) -> Ended {
    ended(command(args).output().expect("the program starts"))
}

pub(crate) fn run_with_input(args: &[&str], input: &[u8]) -> Ended {
    let mut child = command(args).stdin(Stdio::piped()).spawn().expect("the program starts");
    child.stdin.take().expect("piped").write_all(input).expect("the program reads");
    ended(child.wait_with_output().expect("it ends"))
}

fn ended(output: Output) -> Ended {
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let records = lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    Ended { code: output.status.code(), records, lines, stderr }
}

impl Ended {
    /// The record of a URL.
    pub(crate) fn of(&self, url: &str) -> &Value {
        let found = self.records.iter().find(|record| record["url"] == url);
        found.unwrap_or_else(|| panic!("no record of {url}: {:?} {}", self.lines, self.stderr))
    }
}

/// A run that goes on.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(command(args))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdout }
    }

    pub(crate) fn next_record(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("a line of JSON")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it lives");
    }

    /// The records that are left, the exit status and standard error.
    pub(crate) fn finish(mut self) -> Ended {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("UTF-8");
        let mut stderr = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
        let status = self.child.wait().expect("it ends");
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let records = lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        Ended { code: status.code(), records, lines, stderr }
    }
}

/// A folder for the files of a test.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(PathBuf::from(self.path(name))).expect("there");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// The keys of statistics; each URL is counted once.
pub(crate) fn check_stats(stats: &Value) {
    for key in [
        "v",
        "runtime",
        "io_threads",
        "finish_reason",
        "retries",
        "status",
        "errors",
        "elapsed_s",
        "requests_per_second",
        "bytes",
        "in_flight_peak",
        "sockets_peak",
        "lag_ms",
        "gate",
        "parse",
        "rss_bytes",
        "rss_peak_bytes",
        "fds_peak",
        "cpu_user_s",
        "cpu_system_s",
        "cpu_cores",
        "bound_by",
        "littles_law",
        "latency_ms",
    ] {
        assert!(!stats[key].is_null(), "{key}: {stats}");
    }
    let count = |key: &str| stats[key].as_u64().unwrap_or_else(|| panic!("{key}: {stats}"));
    assert_eq!(count("submitted"), count("ok") + count("error") + count("skipped") + count("cancelled"), "{stats}");
}

/// The names in a line of JSON, as they follow each other at the top level.
pub(crate) fn keys_of(line: &str) -> Vec<String> {
    // Maps of `serde_json` are sorted; this one is not.
    struct Keys(Vec<String>);
    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Keys;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = Vec::new();
                    while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }
    serde_json::from_str::<Keys>(line).expect("an object").0
}

/// A port on which nobody listens.
pub(crate) fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound")
}

/// A server that answers by a function of the request's head, and remembers the heads.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<(SocketAddr, String)>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let for_thread = Arc::clone(&seen);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("a connection"));
                let Ok(peer) = stream.get_ref().peer_addr() else { continue };
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|n| n > 0) {}
                for_thread.lock().expect("no panic").push((peer, head.to_ascii_lowercase()));
                let _ = stream.get_mut().write_all(answer(&head).as_bytes());
            }
        });
        Self { addr, seen }
    }

    /// The heads of all requests, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").iter().map(|(_, head)| head.clone()).collect()
    }

    /// Who asked.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.seen.lock().expect("no panic").iter().map(|(peer, _)| *peer).collect()
    }
}

/// An answer after which the connection is closed.
pub(crate) fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{fields}\r\n{body}", body.len())
}
