//! [`Runner`]: runs a client as a process of its own against servers of its own, and looks at both from outside.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_benches::{Layout, ServerProcess, keep_to_cores, median, now};

use crate::Failure;
use crate::case::{Case, Watch};
use crate::client::Client;
use crate::measured::Measured;
use crate::meter::BEGIN;
use crate::process::{Process, kernel_socket_kb};
use crate::scenario::SITE;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a client may take to begin, and to come to the gate with all it has.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long it may take for its work: the slowest of crawlers takes minutes on a busy machine.
const LONGEST: Duration = Duration::from_secs(900);
/// What sockets and their timers do right after they were opened is no waiting.
const SETTLED: Duration = Duration::from_millis(1500);

/// Programs that `install.sh` builds.
const GO: &str = "go-client";
const SPIDER: &str = "spider/release/tidegate-spider-client";

/// Where clients and servers run.
pub(crate) struct Runner {
    layout: Layout,
    /// Programs of clients in other languages, and what they need.
    peers: PathBuf,
    certificates: TempDir,
    /// The folder with the documentation of Rust.
    site: PathBuf,
}

/// The servers of a case, one for each client at a time.
pub(crate) struct Servers(Vec<(ServerProcess, Option<PathBuf>)>);

/// A client that is ended with this.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Runner {
    /// Keeps this process, and all clients that it starts, to the first core.
    pub(crate) fn new(site: Option<PathBuf>) -> Result<Self, Failure> {
        let layout = Layout::new(1, &[])?;
        keep_to_cores(layout.client.clone())?;
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let site = site.map_or_else(documentation, Ok)?;
        Ok(Self { layout, peers, certificates: tempfile::tempdir()?, site })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn start_servers(&self, case: &Case) -> Result<Servers, Failure> {
        let mut servers = Vec::new();
        for n in 0..case.processes {
            let addresses = case.work.addresses.to_string();
            let ours = ["--cores", &self.layout.server, "--addresses", &addresses];
            let theirs =
                case.server.iter().map(|word| if word == SITE { self.site.as_os_str() } else { word.as_ref() });
            let server = ServerProcess::start(ours.into_iter().map(OsStr::new).chain(theirs))?;
            let certificate =
                (!server.certificate().is_empty()).then(|| self.certificates.path().join(format!("{n}.pem")));
            if let Some(file) = &certificate {
                std::fs::write(file, server.certificate())?;
            }
            servers.push((server, certificate));
        }
        Ok(Servers(servers))
    }

    /// One run of a client, or of as many at once as there are servers.
    pub(crate) fn run(&self, case: &Case, client: Client, servers: &mut Servers) -> Result<Measured, Failure> {
        let together = Arc::new(Barrier::new(servers.0.len()));
        let runs = std::thread::scope(|scope| {
            let runs = servers.0.iter_mut().map(|(server, certificate)| {
                let together = Arc::clone(&together);
                let certificate = certificate.clone();
                scope.spawn(move || self.run_one(case, client, server, certificate, &together))
            });
            let runs: Vec<_> = runs.collect();
            let joined = runs.into_iter().map(|run| run.join().map_err(|_| "a watcher panicked".into()).flatten());
            joined.collect::<Result<Vec<_>, Failure>>()
        })?;
        Ok(Measured::together(runs))
    }

    fn run_one(
        &self,
        case: &Case,
        client: Client,
        server: &mut ServerProcess,
        certificate: Option<PathBuf>,
        together: &Barrier,
    ) -> Result<Measured, Failure> {
        let mut work = case.work.clone();
        work.port = server.addr().port();
        work.certificate = certificate;
        let before = server.stats()?;
        let mut command = self.command(client)?;
        let running = Running::start(command.args(work.arguments()))?;
        let process = Process::of(running.child.id());
        let begun = running.begun()?;
        let mut seen = Seen::default();
        let gate = match case.watch {
            Watch::Memory => None,
            Watch::Gate(hold) => {
                let wanted = work.concurrency as usize;
                let opened = running.wait_at_gate(server, wanted, begun);
                // Whoever failed lets the others go on.
                together.wait();
                opened.and_then(|()| seen.hold(&process, begun, hold))?;
                together.wait();
                server.release()?;
                Some(())
            }
        };
        let mut measured = loop {
            match running.lines.recv_timeout(LOOK) {
                Ok(line) if line.starts_with('{') => break serde_json::from_str::<Measured>(&line)?,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if now().saturating_duration_since(begun) < LONGEST => {
                    if gate.is_none() {
                        seen.look(&process);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err("it did not end".into()),
                Err(RecvTimeoutError::Disconnected) => return Err("it ended without a word".into()),
            }
        };
        let after = server.stats()?;
        let sum = &mut measured.seen;
        sum.insert("server_cpu_seconds".into(), after.cpu.saturating_sub(before.cpu).as_secs_f64());
        sum.insert("connections".into(), (after.connections - before.connections) as f64);
        let before_kb = measured.rss_before_kb as f64;
        if !seen.rss_kb.is_empty() {
            sum.insert("waiting_kb".into(), (median(seen.rss_kb) - before_kb).max(0.0));
        }
        if !seen.kernel_kb.is_empty() {
            sum.insert("kernel_kb".into(), median(seen.kernel_kb) / f64::from(case.work.concurrency * case.processes));
        }
        if let Some((share, opened)) = seen.held {
            sum.insert("waiting_cpu_share".into(), share * 100.0);
            sum.insert("open_seconds".into(), opened.as_secs_f64());
        }
        Ok(measured)
    }

    /// The program of a client, without its work.
    fn command(&self, client: Client) -> Result<Command, Failure> {
        let installed = self.installed();
        let python = installed.join("venv/bin/python");
        let (program, script) = match client {
            Client::Aiohttp => (python, Some("aiohttp_client.py")),
            Client::Scrapy => (python, Some("scrapy_client.py")),
            Client::Wget2 => ("python3".into(), Some("wget2_client.py")),
            Client::Undici => ("node".into(), Some("undici_client.mjs")),
            Client::Crawlee => ("node".into(), Some("crawlee_client.mjs")),
            Client::Go => (installed.join(GO), None),
            Client::Spider => (installed.join(SPIDER), None),
            ours => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["client", &ours.name()]);
                return Ok(command);
            }
        };
        let mut command = Command::new(program);
        command.args(script.map(|script| self.peers.join(script)));
        // Beside its scripts Python would leave what it compiled.
        command.env("NODE_PATH", installed.join("node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    }

    /// Whether a client can take part here.
    pub(crate) fn is_there(&self, client: Client) -> bool {
        let installed = self.installed();
        match client {
            Client::Aiohttp => installed.join("venv/bin/python").exists(),
            Client::Scrapy => installed.join("venv/bin/scrapy").exists(),
            Client::Undici => installed.join("node_modules/undici").exists(),
            Client::Crawlee => installed.join("node_modules/@crawlee/cheerio").exists(),
            Client::Go => installed.join(GO).exists(),
            Client::Spider => installed.join(SPIDER).exists(),
            Client::Wget2 => Command::new("wget2").arg("--version").output().is_ok(),
            _ => true,
        }
    }

    /// Where `install.sh` puts things.
    fn installed(&self) -> PathBuf {
        self.peers.join("../../target/peers")
    }
}

/// Where rustup keeps the documentation of Rust.
fn documentation() -> Result<PathBuf, Failure> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?.stdout;
    Ok(Path::new(String::from_utf8(sysroot)?.trim()).join("share/doc/rust/html"))
}

/// What was seen of a process while it ran.
#[derive(Default)]
struct Seen {
    rss_kb: Vec<f64>,
    kernel_kb: Vec<f64>,
    /// CPU time while it waited, of the time it did, and how long it had taken to open all.
    held: Option<(f64, Duration)>,
}

impl Seen {
    /// A process that has just ended is not seen.
    fn look(&mut self, process: &Process) {
        if let (Ok(memory), Ok(kernel)) = (process.memory(), kernel_socket_kb()) {
            self.rss_kb.push(memory.now_kb as f64);
            self.kernel_kb.push(kernel as f64);
        }
    }

    fn hold(&mut self, process: &Process, begun: Instant, hold: Duration) -> Result<(), Failure> {
        let opened = now().saturating_duration_since(begun);
        std::thread::park_timeout(SETTLED);
        let (since, cpu) = (now(), process.cpu_time()?);
        std::thread::park_timeout(hold);
        let cpu = process.cpu_time()?.saturating_sub(cpu);
        let share = cpu.as_secs_f64() / now().saturating_duration_since(since).as_secs_f64();
        self.held = Some((share, opened));
        self.look(process);
        Ok(())
    }
}

impl Running {
    fn start(command: &mut Command) -> Result<Self, Failure> {
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("start {command:?}: {e}"))?;
        let out = child.stdout.take().ok_or("no output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// When it said that it begins.
    fn begun(&self) -> Result<Instant, Failure> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) if line == BEGIN => Ok(now()),
            other => Err(format!("instead of beginning: {other:?}").into()),
        }
    }

    fn wait_at_gate(&self, server: &mut ServerProcess, wanted: usize, begun: Instant) -> Result<(), Failure> {
        loop {
            let there = server.stats()?.at_gate;
            if there >= wanted {
                return Ok(());
            }
            if now().saturating_duration_since(begun) > PATIENCE {
                return Err(format!("{there} of {wanted} came to the gate").into());
            }
            match self.lines.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                other => return Err(format!("with {there} of {wanted} at the gate: {other:?}").into()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
