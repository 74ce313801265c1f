//! What a scenario file says, as `testdata/scenarios/README.md` describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tidegate::{ErrorKind, SkipReason};

/// A scenario: a world, what happens in it, and what must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// A sentence that says what the file shows.
    pub(crate) shows: String,
    /// Which arms run it: all of them where it is not said.
    #[serde(default)]
    pub(crate) arms: Arms,
    /// Why not all arms run it.
    pub(crate) because: Option<String>,
    #[serde(default)]
    pub(crate) crawl: Settings,
    pub(crate) sink: Option<SinkTimes>,
    #[serde(default)]
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) jobs: Vec<Job>,
    #[serde(default)]
    pub(crate) commands: Vec<Timed>,
    /// Each start that must happen, in this order.
    pub(crate) starts: Vec<Start>,
    pub(crate) verdicts: BTreeMap<String, Verdict>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arms {
    /// The bare engine, the simulated runtime, Tokio and smol.
    #[default]
    All,
    /// The bare engine and the simulated runtime: on a real clock it would take too long, or be a race.
    Exact,
    /// The bare engine: a crawl has no such setting or command.
    Engine,
}

/// The rules of the crawl. What adapts by itself is off: no ramp, no jitter, a wide budget of retries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) max_in_flight: u32,
    pub(crate) per_host: Option<u32>,
    pub(crate) per_address: Option<u32>,
    pub(crate) gap: Millis,
    pub(crate) rate: Option<f64>,
    pub(crate) parsers: u32,
    pub(crate) attempts: u32,
    /// The shortest and the longest wait before a retry.
    pub(crate) backoff: Millis,
    pub(crate) retry_budget: f64,
    pub(crate) redirects: u32,
    pub(crate) max_pages: Option<u64>,
    // A crawl fixes what follows; only the bare engine can be told.
    pub(crate) backlog: Option<u32>,
    pub(crate) byte_budget: Option<u64>,
    pub(crate) gate_floor: Option<u32>,
    pub(crate) deliver_permits: Option<u32>,
    pub(crate) prepare_permits: Option<u32>,
    pub(crate) ramp_from: Option<u32>,
    pub(crate) max_hosts: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_in_flight: 100,
            per_host: None,
            per_address: None,
            gap: Millis(0),
            rate: None,
            parsers: 2,
            attempts: 3,
            backoff: Millis(100),
            retry_budget: 100.0,
            redirects: 10,
            max_pages: None,
            backlog: None,
            byte_budget: None,
            gate_floor: None,
            deliver_permits: None,
            prepare_permits: None,
            ramp_from: None,
            max_hosts: None,
        }
    }
}

/// A sink, which takes one item at a time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkTimes {
    pub(crate) takes: Millis,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Host {
    /// How long its answers take.
    pub(crate) latency: Option<Millis>,
    pub(crate) address: Option<std::net::IpAddr>,
    /// Answers to the question for its address, the last one for ever; `ok` where it is not said.
    pub(crate) resolves: Vec<Lookup>,
    /// Answers to the question for its rules, the last one for ever; `ok` where it is not said.
    pub(crate) prepares: Vec<Lookup>,
    /// How long its rules and its address take.
    pub(crate) lookup_latency: Millis,
    pub(crate) crawl_delay: Option<Millis>,
    pub(crate) valid_for: Option<Millis>,
    /// Jobs that its rules disallow.
    pub(crate) disallows: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) host: String,
    /// When it comes.
    #[serde(default)]
    pub(crate) at: Millis,
    #[serde(default)]
    pub(crate) not_before: Option<Millis>,
    #[serde(default)]
    pub(crate) priority: i32,
    /// Tries in all, in place of the crawl's.
    #[serde(default)]
    pub(crate) attempts: Option<u32>,
    /// How long its answers take, in place of the host's.
    #[serde(default)]
    pub(crate) latency: Option<Millis>,
    /// Answers to its starts, the last one for ever; `200` where it is not said.
    #[serde(default)]
    pub(crate) answers: Vec<Answer>,
    /// What becomes of its pages, the last one for ever; `ok` where it is not said.
    #[serde(default)]
    pub(crate) parses: Vec<Parse>,
    #[serde(default)]
    pub(crate) parse_takes: Millis,
    /// Whether it is a POST, which may not be sent twice.
    #[serde(default)]
    pub(crate) post: bool,
    /// Whether the sink rejects its item.
    #[serde(default)]
    pub(crate) rejected: bool,
}

/// A command at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timed {
    pub(crate) at: Millis,
    #[serde(rename = "do")]
    pub(crate) command: Command,
}

/// A time or a duration in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub(crate) struct Millis(pub(crate) u64);

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Self::from_millis(millis.0)
    }
}

/// `200`, `503`, `503 retry-after 2`, `302 host`, or the code of an error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Status { status: u16, retry_after: Option<u64> },
    Redirect { host: String },
    Error(ErrorKind),
}

/// `ok`, or the code of an error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lookup {
    Ok,
    Error(ErrorKind),
}

/// `ok`, `retry`, `retry 50` (after so many ms), `fail`, `panic`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Parse {
    Ok,
    Retry { after: Option<Millis> },
    Fail,
    Panic,
}

/// `pause`, `resume`, `cancel job`, `shutdown 50` (what is in flight has so many ms), `gate closed`, `gate open`, `bytes 100`,
/// `frontier behind`, `frontier even`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Pause,
    Resume,
    Cancel(String),
    Shutdown(Millis),
    Gate { open: bool },
    Bytes(u64),
    FrontierBehind(bool),
}

/// `500 job`, `500 job 2` (the second attempt), `500 job @host` (a hop).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    pub(crate) at: Millis,
    pub(crate) job: String,
    pub(crate) attempt: u32,
    pub(crate) hop: Option<String>,
}

/// `ok`, `error code`, `skipped reason`, `cancelled`, `unvisited` (the frontier still has it); and the attempts where they
/// are not 1 for `ok` and `error`, 0 for the others: `ok 2`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: String,
    pub(crate) attempts: u32,
}

impl Scenario {
    pub(crate) fn job(&self, name: &str) -> &Job {
        self.jobs.iter().find(|job| job.name == name).unwrap_or_else(|| panic!("{name} is a job"))
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        self.hosts.get(name).cloned().unwrap_or_default()
    }

    /// Whether hosts are asked for their rules.
    pub(crate) fn has_rules(&self) -> bool {
        let has = |host: &Host| !host.prepares.is_empty() || host.crawl_delay.is_some() || !host.disallows.is_empty();
        self.hosts.values().any(|host| has(host) || host.valid_for.is_some())
    }

    /// What the answer to a job's start on a host is, and how long it takes.
    pub(crate) fn answer(&self, job: &Job, host: &str, nth: usize) -> (Answer, Duration) {
        let latency = job.latency.or_else(|| self.host(host).latency).unwrap_or_default();
        let plain = Answer::Status { status: 200, retry_after: None };
        (nth_or_last(&job.answers, nth).unwrap_or(plain), latency.into())
    }

    /// A file that contradicts itself shows nothing.
    pub(crate) fn check(&self) {
        assert!(!self.shows.is_empty());
        assert_eq!(self.arms == Arms::All, self.because.is_none(), "say why not all arms run it, where that is so");
        for start in &self.starts {
            self.job(&start.job);
        }
        let named: Vec<_> = self.verdicts.keys().collect();
        let mut jobs: Vec<_> = self.jobs.iter().map(|job| &job.name).collect();
        jobs.sort();
        assert_eq!(named, jobs, "one verdict for each job");
        assert!(self.starts.is_sorted_by_key(|start| start.at), "starts in the order of their times");
        let s = &self.crawl;
        let fixed = [s.backlog, s.gate_floor, s.deliver_permits, s.prepare_permits, s.ramp_from];
        let needs_engine = fixed.iter().any(Option::is_some) || s.byte_budget.is_some() || s.max_hosts.is_some();
        let is_internal =
            |c: &Timed| matches!(c.command, Command::Gate { .. } | Command::Bytes(_) | Command::FrontierBehind(_));
        assert!(self.arms == Arms::Engine || !needs_engine, "a crawl has no such setting");
        assert!(self.arms == Arms::Engine || !self.commands.iter().any(is_internal), "a crawl has no such command");
    }
}

/// The n-th of a list whose last element stands for all that follow.
pub(crate) fn nth_or_last<T: Clone>(list: &[T], nth: usize) -> Option<T> {
    list.get(nth).or_else(|| list.last()).cloned()
}

fn kind(code: &str) -> Option<ErrorKind> {
    ErrorKind::all().iter().copied().find(|kind| kind.code() == code)
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

macro_rules! from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::from_words(&words(&text))
                    .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no {}", stringify!($type))))
            }
        }
    )*};
}

from_text!(Answer, Lookup, Parse, Command, Start, Verdict);

impl Answer {
    fn from_words(words: &[&str]) -> Option<Self> {
        Some(match *words {
            ["302", host] => Self::Redirect { host: host.to_owned() },
            [status, "retry-after", seconds] => {
                Self::Status { status: status.parse().ok()?, retry_after: Some(seconds.parse().ok()?) }
            }
            [word] => match word.parse() {
                Ok(status) => Self::Status { status, retry_after: None },
                Err(_) => Self::Error(kind(word)?),
            },
            _ => return None,
        })
    }
}

impl Lookup {
    fn from_words(words: &[&str]) -> Option<Self> {
        match *words {
            ["ok"] => Some(Self::Ok),
            [code] => Some(Self::Error(kind(code)?)),
            _ => None,
        }
    }
}

impl Parse {
    fn from_words(words: &[&str]) -> Option<Self> {
        Some(match *words {
            ["ok"] => Self::Ok,
            ["retry"] => Self::Retry { after: None },
            ["retry", wait] => Self::Retry { after: Some(Millis(wait.parse().ok()?)) },
            ["fail"] => Self::Fail,
            ["panic"] => Self::Panic,
            _ => return None,
        })
    }
}

impl Command {
    fn from_words(words: &[&str]) -> Option<Self> {
        Some(match *words {
            ["pause"] => Self::Pause,
            ["resume"] => Self::Resume,
            ["cancel", job] => Self::Cancel(job.to_owned()),
            ["shutdown", within] => Self::Shutdown(Millis(within.parse().ok()?)),
            ["gate", "closed"] => Self::Gate { open: false },
            ["gate", "open"] => Self::Gate { open: true },
            ["bytes", bytes] => Self::Bytes(bytes.parse().ok()?),
            ["frontier", "behind"] => Self::FrontierBehind(true),
            ["frontier", "even"] => Self::FrontierBehind(false),
            _ => return None,
        })
    }
}

impl Start {
    fn from_words(words: &[&str]) -> Option<Self> {
        let (at, job, rest) = match *words {
            [at, job, ref rest @ ..] => (Millis(at.parse().ok()?), job.to_owned(), rest),
            _ => return None,
        };
        let (attempt, hop) = match *rest {
            [] => (1, None),
            [attempt] if !attempt.starts_with('@') => (attempt.parse().ok()?, None),
            [hop] => (1, Some(hop)),
            [attempt, hop] => (attempt.parse().ok()?, Some(hop)),
            _ => return None,
        };
        let hop = match hop {
            Some(hop) => Some(hop.strip_prefix('@')?.to_owned()),
            None => None,
        };
        Some(Self { at, job, attempt, hop })
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at.0, self.job)?;
        if self.attempt > 1 {
            write!(f, " {}", self.attempt)?;
        }
        self.hop.iter().try_for_each(|host| write!(f, " @{host}"))
    }
}

impl Verdict {
    fn from_words(words: &[&str]) -> Option<Self> {
        let (attempts, outcome) = match words.split_last()? {
            (last, first) if last.parse::<u32>().is_ok() => (last.parse().ok(), first),
            _ => (None, words),
        };
        let usual = u32::from(matches!(outcome.first(), Some(&"ok" | &"error")));
        let is_known = match *outcome {
            ["ok" | "cancelled" | "unvisited"] => true,
            ["error", code] => kind(code).is_some(),
            ["skipped", reason] => reason == SkipReason::Robots.code(),
            _ => false,
        };
        is_known.then(|| Self { outcome: outcome.join(" "), attempts: attempts.unwrap_or(usual) })
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.outcome, self.attempts)
    }
}
