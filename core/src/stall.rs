//! Stalls: times in which the loop stood still, who made them, and what the gate did.

use std::time::{Duration, SystemTime};

use crate::engine::Bound;

/// What kept the loop from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum StallCause {
    /// A poll of a fetch: the fetcher, or the answer that it worked on.
    Fetch,
    /// A parser that runs inline.
    InlineParse,
    /// The sink of items or outcomes.
    Sink,
    /// A function that is called on the loop and should be quick: [`Parser::accept`](crate::Parser::accept), the rules of a
    /// host.
    Hook,
    /// The frontier.
    Frontier,
    /// The crawl's own bookkeeping, with the scope's filter.
    Driver,
    /// Nothing of the crawl: another task on the executor, or the machine was busy with something else.
    ForeignTask,
    /// The container had used up its share of the processors. The gate stays open.
    Throttled,
}

impl StallCause {
    /// All of them, in the order of this page.
    pub const ALL: [Self; 8] = [
        Self::Fetch,
        Self::InlineParse,
        Self::Sink,
        Self::Hook,
        Self::Frontier,
        Self::Driver,
        Self::ForeignTask,
        Self::Throttled,
    ];

    /// The stable name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::InlineParse => "inline_parse",
            Self::Sink => "sink",
            Self::Hook => "hook",
            Self::Frontier => "frontier",
            Self::Driver => "driver",
            Self::ForeignTask => "foreign_task",
            Self::Throttled => "throttled",
        }
    }

    /// The one with this number.
    pub(crate) fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::ForeignTask)
    }
}

/// One time in which the loop stood still for longer than the limit of lag.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stall {
    /// For how long, above what a timer may be late by itself.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::time::seconds"))]
    pub lag: Duration,
    /// Who was found to have made it: what took at least half of the time.
    pub cause: StallCause,
    /// The URL that it was about, where it was about one: that of the first delivery for a sink.
    pub url: Option<String>,
    /// When it was over.
    pub at: SystemTime,
}

/// The gate was shut, or is open again as far as one signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GateEvent {
    /// What kind of signal.
    pub signal: Bound,
    /// Its name: `lag`, `memory`, or what a [`LoadSignal`](crate::LoadSignal) of your own says.
    pub name: String,
    /// Whether it opened.
    pub open: bool,
    /// When.
    pub at: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_causes() {
        for (number, cause) in (0..).zip(StallCause::ALL) {
            assert_eq!((cause as u8, StallCause::of(number)), (number, cause), "{}", cause.code());
        }
    }
}
