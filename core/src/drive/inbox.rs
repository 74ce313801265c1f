//! The driver's mailbox: every task of a crawl answers here.

use std::any::Any;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use futures::channel::oneshot;

use super::stall::Seen;
use crate::StallCause;
use crate::engine::{Bound, HostId, JobId, Shutdown};
use crate::frontier::{FrontierError, Leased};
use crate::sync::{Mutex, MutexGuard, keep_waker};
use crate::{Booking, Error, HostRules, Page, ParseError, Request, Response, Timings};

/// Links of a page that are passed on in about a microsecond.
const FEW_LINKS: usize = 32;

/// What the driver is told.
///
/// Unbounded as a queue; bounded by what can be under way: each fetch, parse and delivery holds a permit of the engine, or
/// stands in line for one, and answers a few times, and a [`Command`] is a call of the embedder's.
pub(super) enum Message {
    Prepared {
        host: HostId,
        rules: Result<Box<dyn HostRules>, Error>,
    },
    Resolved {
        host: HostId,
        address: Result<Option<IpAddr>, Error>,
    },
    /// The fetch waits for a port or a descriptor.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "only a fetcher that books its sockets stands in line")
    )]
    Waits {
        job: JobId,
    },
    /// It has it, and goes on when it is told to.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "only a fetcher that books its sockets stands in line")
    )]
    Turn {
        job: JobId,
        readmit: oneshot::Sender<()>,
    },
    Fetched {
        job: JobId,
        end: FetchEnd,
    },
    Parsed {
        job: JobId,
        end: ParseEnd,
    },
    Delivered {
        job: JobId,
        items: u64,
        rejected: Option<Error>,
    },
    Closed {
        job: JobId,
    },
    Leased(Leased),
    Added {
        refused: Vec<Request>,
    },
    FrontierFailed(FrontierError),
    SinkFailed {
        of: LaneOf,
        error: Error,
    },
    LaneClosed(Result<(), Error>),
    /// The probe closed the gate or opened it; it says which it is now.
    LagGate,
    /// A signal changed; `bound_open` where none of its kind holds the gate shut.
    Gate {
        signal: Bound,
        name: Arc<str>,
        open: bool,
        bound_open: bool,
    },
    /// Work that may explain a stall. Comes before whatever ends its job.
    Slow {
        cause: StallCause,
        job: Option<u64>,
        began: Instant,
        ended: Instant,
    },
    /// The loop stood still; `by` is what the watchdog saw, where it was that which saw it.
    Stall {
        seen: Seen,
        by: Option<(StallCause, Option<u64>)>,
    },
    /// What the panic said.
    ObserverPanicked(String),
    /// A task that the crawl cannot do without is gone: the runtime has shut down.
    TaskLost,
    Command(Box<Command>),
}

impl Message {
    /// The job that it is about.
    pub(super) fn job(&self) -> Option<JobId> {
        match self {
            Self::Fetched { job, .. }
            | Self::Parsed { job, .. }
            | Self::Delivered { job, .. }
            | Self::Closed { job } => Some(*job),
            _ => None,
        }
    }

    /// Whether it is about a microsecond's work, and calls nobody: neither the filter of a scope nor observers.
    pub(super) fn is_short(&self) -> bool {
        match self {
            Self::Fetched { end: Ok(answer), .. } => !answer.response.head.status.is_redirection(),
            Self::Parsed { end: ParseEnd { result: Ok(parsed), .. }, .. } => {
                parsed.found.len() <= FEW_LINKS && parsed.more.is_none()
            }
            Self::Fetched { .. } | Self::Delivered { .. } | Self::Closed { .. } => true,
            _ => false,
        }
    }
}

/// What a lane delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneOf {
    Items,
    Outcomes,
}

impl LaneOf {
    /// What to say when a job's deliveries are all acknowledged.
    pub(super) fn acknowledged(self, job: JobId, items: u64, rejected: Option<Error>) -> Message {
        match self {
            Self::Items => Message::Delivered { job, items, rejected },
            Self::Outcomes => Message::Closed { job },
        }
    }
}

/// How an attempt ended. Boxed: it is large, and goes through many hands.
pub(super) type FetchEnd = Result<Box<Answer>, Box<NoAnswer>>;

/// What came over the wire.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Of its body; given back when parsing is over.
    pub(super) booking: Option<Booking>,
    pub(super) timings: Timings,
    pub(super) at: SystemTime,
}

/// Why nothing came.
pub(super) struct NoAnswer {
    pub(super) error: Error,
    pub(super) timings: Timings,
    pub(super) at: SystemTime,
}

/// How parsing ended.
pub(super) struct ParseEnd {
    pub(super) result: Result<Parsed, ParseFailure>,
    /// Size of the decoded body.
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

/// What a parser made of a page, with its items out of the driver's sight.
pub(super) struct Parsed {
    pub(super) items: Option<Box<dyn Any + Send>>,
    pub(super) item_count: u64,
    pub(super) found: Vec<Request>,
    pub(super) links: u64,
    /// Boxed, as most pages have none of it.
    pub(super) more: Option<Box<More>>,
    /// The parser wants the crawl to end.
    pub(super) stop: bool,
}

/// What few pages come to.
#[derive(Default)]
pub(super) struct More {
    pub(super) counts: Vec<(&'static str, u64)>,
    pub(super) attachment: Option<Box<dyn Any + Send>>,
    /// The page itself, where it was asked for.
    pub(super) page: Option<Box<Page>>,
}

pub(super) enum ParseFailure {
    /// The body could not be decoded.
    Decode(Error),
    /// The parser refused the page.
    Refused { error: ParseError, page: Box<Page> },
    /// The parser panicked.
    Panicked { message: String, page: Option<Box<Page>> },
}

/// What a [`Handle`](super::Handle) asks of the driver.
pub(super) enum Command {
    Submit(Vec<Request>),
    Fetch { request: Request, reply: super::driver::Reply },
    Pause,
    Resume,
    Shutdown(Shutdown),
    Cancel { which: Box<dyn Fn(&Request) -> bool + Send>, reply: oneshot::Sender<u64> },
    Hosts { top: usize, reply: oneshot::Sender<Vec<super::HostSnapshot>> },
}

#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    waker: Option<Waker>,
    closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, message: Message) {
        self.push_all([message]);
    }

    /// Adds messages with one wake-up for all of them.
    pub(super) fn push_all(&self, messages: impl IntoIterator<Item = Message>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.messages.extend(messages);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the reader without a message: something changed that it asks for when it has found none.
    pub(super) fn nudge(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next message: of those that were taken, or else of all that wait, which then are taken. The waker is kept when there
    /// is none.
    pub(super) fn poll_next(&self, taken: &mut VecDeque<Message>, waker: &Waker) -> Option<Message> {
        if let Some(message) = taken.pop_front() {
            return Some(message);
        }
        let mut state = self.lock();
        std::mem::swap(&mut state.messages, taken);
        let replaced = if taken.is_empty() { keep_waker(&mut state.waker, waker) } else { None };
        drop(state);
        drop(replaced);
        taken.pop_front()
    }

    /// Drops what is waiting and what still comes.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.messages);
        drop(state);
        drop(dropped);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

#[cfg(all(test, tidegate_loom))]
mod loom_tests;
