//! The core of tidegate, a library to build scrapers on.

mod defaults;
mod drive;
pub mod engine;
mod error;
mod fetch;
pub mod frontier;
mod hash;
mod host;
#[cfg(feature = "http")]
pub mod http;
mod limits;
mod page;
mod parser;
pub mod redirect;
mod request;
mod response;
pub mod robots;
pub mod rt;
mod settled;
pub mod sink;
mod time;
#[cfg(feature = "tls")]
pub mod tls;

pub use self::drive::{
    Builder, Crawl, FinishReason, Handle, HostSnapshot, Item, Items, LagSnapshot, Profile, Report, Scope, Snapshot,
};
pub use self::engine::Shutdown;
pub use self::error::{Error, ErrorKind, RetryTime};
pub use self::fetch::{Booking, FetchCx, Fetcher, Ledger, Phase, Timings};
pub use self::frontier::{
    Added, Frontier, FrontierError, LeaseId, Leased, MemoryFrontier, Recurring, StreamFrontier, Verdict,
};
pub use self::host::{HostCx, HostPolicy, HostRules};
pub use self::limits::{Deadlines, Limits};
pub use self::page::{Page, PageBuilder};
pub use self::parser::{Accept, Accepting, Output, ParseAction, ParseError, Parser, accepting, parse_once};
pub use self::request::{MAX_DATA, Overrides, Request, canonical, parse_target};
pub use self::response::{Decode, Head, Hop, Response};
pub use self::settled::{Outcome, Settled, SkipReason};
pub use self::sink::{Batch, Close, Delivery, DeliveryId, Sink, SinkAction, SinkError};
