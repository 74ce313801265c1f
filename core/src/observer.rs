//! [`Observer`]: told each event in the life of every URL.

#[cfg(feature = "tracing")]
mod tracing;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{StatusCode, Version};

#[cfg(feature = "tracing")]
pub use self::tracing::Tracing;
use crate::engine::Bound;
use crate::panics::panic_message;
use crate::request::without_userinfo;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{Error, Outcome, Phase, Request, Settled, StallCause};

/// Is told each event in the life of every URL. See [`What`] for the events, and [`Builder::observer`](crate::Builder::observer).
///
/// A function or closure `Fn(&Event<'_>)` is an observer. A crawl without one pays a branch an event.
///
/// # Contract
/// * It is called on the loop and **must not block**: what it takes, everything else waits. Hand lines to a thread.
/// * The events of one URL come one after the other, in the order of [`What`]; those of several URLs come from several
///   threads where the runtime has them.
/// * Each URL is settled exactly once, and that is its last event.
///
/// # Panics
/// A panic is contained: the observer is told nothing more, and the crawl ends and says so.
///
/// ```
/// use tidegate::observer::{Event, What};
///
/// fn slow_connections(event: &Event<'_>) {
///     if let What::Connected { remote, reused: false } = event.what {
///         println!("{:?} job {} has a new connection to {remote}", event.elapsed, event.job);
///     }
/// }
///
/// fn crawl(runtime: tidegate::rt::Runtime) -> tidegate::Builder<String> {
///     tidegate::Crawl::builder(runtime).observer(slow_connections)
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Something that happened. Prints as a line: `1.204331 job 7 attempt 1 connected 127.0.0.1:80 new http://a.test/`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// Since the start of the crawl, by its monotonic clock.
    pub elapsed: Duration,
    /// The number of the URL in its crawl, as in [`Settled::job`]; 0 for what concerns a host or the crawl.
    pub job: u64,
    /// The URL of the current hop, without userinfo; the origin of a host; empty for what concerns the crawl.
    pub url: Cow<'a, str>,
    /// The attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// What it was.
    pub what: What<'a>,
}

/// The events, in the order in which they happen to a URL: leased, queued, and for each attempt and hop dispatched,
/// the phases of the fetch, body, parsing, parsed, delivered; where it goes wrong retried, and in the end settled.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum What<'a> {
    /// The frontier gave it, or [`Handle::fetch`](crate::Handle::fetch) brought it.
    Leased {
        /// Links between it and its seed.
        depth: u32,
    },
    /// It waits for its host to be ready, for a permit and for its turn. One that is out of bounds is settled instead.
    Queued,
    /// The rules of a host are known.
    Prepared,
    /// The address of a host is known, where there is one to know.
    Resolved {
        /// The address.
        address: Option<IpAddr>,
    },
    /// The rules or the address of a host could not be found; it is tried again, or its URLs are settled.
    HostFailed {
        /// Why.
        error: &'a Error,
    },
    /// A fetch begins: an attempt, or another hop of it.
    Dispatched {
        /// Redirects before this one.
        hop: u32,
        /// Since its submission.
        queue: Duration,
    },
    /// The fetch enters a phase.
    Phase(Phase),
    /// The fetch has a connection.
    Connected {
        /// The other end: the server, or a proxy.
        remote: SocketAddr,
        /// It served another request before.
        reused: bool,
    },
    /// The head of an answer has come.
    Headers {
        /// Its status.
        status: StatusCode,
        /// Its version.
        version: Version,
    },
    /// The answer is complete, or as complete as it was wanted.
    Body {
        /// Bytes of it on the wire.
        bytes_wire: u64,
    },
    /// It goes on to another URL.
    Redirected {
        /// The status of the answer.
        status: StatusCode,
        /// Where to, without userinfo.
        to: &'a str,
    },
    /// Its page is given to a parser.
    Parsing,
    /// It was decoded and parsed.
    Parsed {
        /// Bytes of the decoded body.
        bytes: u64,
        /// For how long.
        took: Duration,
    },
    /// The sink took its items, or there were none to take.
    Delivered {
        /// How many.
        items: u64,
    },
    /// An attempt failed, and there will be another.
    Retried {
        /// Why.
        error: &'a Error,
        /// When, from now.
        wait: Duration,
    },
    /// The end: its outcome, and how long each phase of the last attempt took.
    Settled(&'a Settled),
    /// A signal shuts the gate or opens it: while one holds it shut, only a few fetches are kept going.
    Gate {
        /// What kind of signal.
        signal: Bound,
        /// Its name: `lag`, `memory`, or that of a [`LoadSignal`](crate::LoadSignal).
        name: &'a str,
        /// It lets go.
        open: bool,
    },
    /// The loop stood still; the URL is that of what made it, where one is known.
    Stall {
        /// For how long, above what a timer may be late by itself.
        lag: Duration,
        /// What made it.
        cause: StallCause,
    },
}

impl What<'_> {
    /// The stable name: `leased`, `queued`, `phase`, `connected` and so on, in lower case with underscores.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leased { .. } => "leased",
            Self::Queued => "queued",
            Self::Prepared => "prepared",
            Self::Resolved { .. } => "resolved",
            Self::HostFailed { .. } => "host_failed",
            Self::Dispatched { .. } => "dispatched",
            Self::Phase(_) => "phase",
            Self::Connected { .. } => "connected",
            Self::Headers { .. } => "headers",
            Self::Body { .. } => "body",
            Self::Redirected { .. } => "redirected",
            Self::Parsing => "parsing",
            Self::Parsed { .. } => "parsed",
            Self::Delivered { .. } => "delivered",
            Self::Retried { .. } => "retried",
            Self::Settled(_) => "settled",
            Self::Gate { .. } => "gate",
            Self::Stall { .. } => "stall",
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.elapsed.as_secs_f64())?;
        if self.job > 0 {
            write!(f, " job {}", self.job)?;
        }
        if self.attempt > 0 {
            write!(f, " attempt {}", self.attempt)?;
        }
        write!(f, " {}", self.what)?;
        if !self.url.is_empty() {
            write!(f, " {}", OneLine(&self.url))?;
        }
        Ok(())
    }
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Queued | Self::Prepared | Self::Parsing => f.write_str(name),
            Self::Leased { depth } => write!(f, "{name} depth {depth}"),
            Self::Resolved { address: None } => write!(f, "{name} nothing"),
            Self::Resolved { address: Some(address) } => write!(f, "{name} {address}"),
            Self::HostFailed { error } => write!(f, "{name} {}", error.kind().code()),
            Self::Dispatched { hop, queue } => write!(f, "{name} hop {hop} after {}", Ms(*queue)),
            Self::Phase(phase) => write!(f, "{name} {}", phase.name()),
            Self::Connected { remote, reused } => {
                write!(f, "{name} {remote} {}", if *reused { "reused" } else { "new" })
            }
            Self::Headers { status, version } => write!(f, "{name} {version:?} {}", status.as_u16()),
            Self::Body { bytes_wire } => write!(f, "{name} {bytes_wire} bytes"),
            Self::Redirected { status, to } => write!(f, "{name} {} to {}", status.as_u16(), OneLine(to)),
            Self::Parsed { bytes, took } => write!(f, "{name} {bytes} bytes in {}", Ms(*took)),
            Self::Delivered { items } => write!(f, "{name} {items} items"),
            Self::Retried { error, wait } => write!(f, "{name} {} in {}", error.kind().code(), Ms(*wait)),
            Self::Settled(settled) => {
                write!(f, "{name} {}", settled.outcome.name())?;
                match &settled.outcome {
                    Outcome::Error(error) => write!(f, " {}", error.kind().code())?,
                    Outcome::Skipped(reason) => write!(f, " {}", reason.code())?,
                    Outcome::Ok | Outcome::Cancelled => {}
                }
                if let Some(total) = settled.timings.total {
                    write!(f, " fetched in {}", Ms(total))?;
                }
                Ok(())
            }
            Self::Gate { name: signal, open, .. } => {
                write!(f, "{name} {} by {}", if *open { "open" } else { "shut" }, OneLine(signal))
            }
            Self::Stall { lag, cause } => write!(f, "{name} of {} by {}", Ms(*lag), cause.code()),
        }
    }
}

struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// A URL that may be none: what would end the line, or move a terminal's cursor, is escaped.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((at, last)) if last.is_control() => write!(f, "{}{}", &part[..at], last.escape_default())?,
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Takes word that an observer has panicked.
type Alarm = Box<dyn Fn(String) + Send + Sync>;

/// The observers of a crawl. There is none of these where there is no observer.
pub(crate) struct Observers {
    list: Vec<(Box<dyn Observer>, AtomicBool)>,
    started: Instant,
    alarm: Alarm,
}

impl Observers {
    /// `None` for an empty list: then nothing else is made either.
    pub(crate) fn new(list: Vec<Box<dyn Observer>>, started: Instant, alarm: Alarm) -> Option<Arc<Self>> {
        let list: Vec<_> = list.into_iter().map(|observer| (observer, AtomicBool::new(true))).collect();
        (!list.is_empty()).then(|| Arc::new(Self { list, started, alarm }))
    }

    pub(crate) fn tell(&self, now: Instant, job: u64, url: &str, attempt: u32, what: What<'_>) {
        let elapsed = now.saturating_duration_since(self.started);
        let event = Event { elapsed, job, url: without_userinfo(url), attempt, what };
        for (observer, listens) in &self.list {
            if !listens.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| observer.event(&event))) {
                listens.store(false, Ordering::Relaxed);
                (self.alarm)(panic_message(panic));
            }
        }
    }
}

/// What a fetch says of itself, as long as its job has no verdict: what is cancelled may be polled once more.
pub(crate) struct FetchWatch {
    observers: Arc<Observers>,
    request: Arc<Request>,
    /// Locked while the observers are told, so that nothing comes after the end.
    ended: Mutex<bool>,
}

impl FetchWatch {
    pub(crate) fn new(observers: Arc<Observers>, request: Arc<Request>) -> Self {
        Self { observers, request, ended: Mutex::new(false) }
    }

    pub(crate) fn tell(&self, now: Instant, job: u64, attempt: u32, what: What<'_>) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            self.observers.tell(now, job, self.request.url(), attempt, what);
        }
    }

    pub(crate) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;

#[cfg(all(test, not(tidegate_loom)))]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ErrorKind;
    use crate::rt::manual::Manual;

    #[test]
    fn an_event_is_one_line() {
        let error = Error::new(ErrorKind::ConnectReset, "connect");
        let settled = |outcome| Settled::new(7, Arc::new(Request::get("http://a.test/")), outcome);
        let mut ok = settled(Outcome::Ok);
        ok.timings.total = Some(Duration::from_micros(12_345));
        let failed = settled(Outcome::Error(error.replicate()));
        let ms = Duration::from_millis;
        for (what, text) in [
            (What::Leased { depth: 2 }, "leased depth 2"),
            (What::Queued, "queued"),
            (What::Resolved { address: None }, "resolved nothing"),
            (What::Dispatched { hop: 1, queue: ms(5) }, "dispatched hop 1 after 5.000 ms"),
            (What::Phase(Phase::FirstByte), "phase first_byte"),
            (What::Connected { remote: ([1, 1, 1, 1], 80).into(), reused: true }, "connected 1.1.1.1:80 reused"),
            (What::Headers { status: StatusCode::OK, version: Version::HTTP_11 }, "headers HTTP/1.1 200"),
            (What::Redirected { status: StatusCode::FOUND, to: "b\n" }, "redirected 302 to b\\n"),
            (What::Retried { error: &error, wait: ms(1_500) }, "retried connect.reset in 1500.000 ms"),
            (What::Settled(&ok), "settled ok fetched in 12.345 ms"),
            (What::Settled(&failed), "settled error connect.reset"),
            (What::Gate { signal: Bound::Lag, name: "lag", open: false }, "gate shut by lag"),
            (What::Stall { lag: Duration::from_millis(300), cause: StallCause::Sink }, "stall of 300.000 ms by sink"),
        ] {
            assert_eq!(what.to_string(), text);
            assert!(text.starts_with(what.name()));
        }
        let event = Event {
            elapsed: Duration::from_micros(1_204_331),
            job: 7,
            url: "http://a.test/\u{1b}[2J\r".into(),
            attempt: 1,
            what: What::Queued,
        };
        assert_eq!(event.to_string(), "1.204331 job 7 attempt 1 queued http://a.test/\\u{1b}[2J\\r");
        let crawl = Event { elapsed: Duration::ZERO, job: 0, url: "".into(), attempt: 0, what: What::Prepared };
        assert_eq!(crawl.to_string(), "0.000000 prepared");
    }

    #[test]
    fn an_observer_that_panics_hears_nothing_more_and_others_do() {
        let start = Manual::new().runtime().now();
        let (heard, alarms) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (hears, takes) = (Arc::clone(&heard), Arc::clone(&alarms));
        let bad = |event: &Event<'_>| assert_eq!(event.job, 1, "only the first");
        let good = move |event: &Event<'_>| hears.lock().expect("not poisoned").push(event.to_string());
        let list: Vec<Box<dyn Observer>> = vec![Box::new(bad), Box::new(good)];
        let alarm = Box::new(move |message| takes.lock().expect("not poisoned").push(message));
        let observers = Observers::new(list, start, alarm).expect("there are two");
        for job in 1..=3 {
            observers.tell(start + Duration::from_secs(job), job, "http://me:pw@a.test/", 0, What::Queued);
        }
        let heard = heard.lock().expect("not poisoned");
        assert_eq!((heard.len(), &*heard[2]), (3, "3.000000 job 3 queued http://a.test/"));
        let alarms = alarms.lock().expect("not poisoned");
        assert!(alarms.len() == 1 && alarms[0].contains("only the first"), "{alarms:?}");
        assert!(Observers::new(Vec::new(), start, Box::new(|_| ())).is_none());
    }
}
