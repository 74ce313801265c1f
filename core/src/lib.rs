//! The core of tidegate: build scrapers that hold tens of thousands of sockets on one thread, and keep that thread free.
//!
//! # Should I use this?
//! Yes, where a crawl is large enough that one thread a request is too many and parsing on the event loop shows: a
//! thousand pages and more. For fewer, `reqwest` and `buffer_unordered` are enough. For pages that need a browser, or
//! servers that look at fingerprints, other tools exist.
//!
//! This crate knows no executor. Take an adapter with it, `tidegate-tokio` or `tidegate-smol`, and usually
//! `tidegate-parse`.
//!
//! # Quick start
//! ```
//! use tidegate::{Crawl, Output, Page, ParseError};
//!
//! fn lines(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
//!     for line in page.utf8().lines() {
//!         out.item(line.to_owned());
//!     }
//!     Ok(())
//! }
//!
//! async fn run(runtime: tidegate::rt::Runtime) -> Result<(), tidegate::Error> {
//!     let report = Crawl::builder(runtime)
//!         .user_agent("lines-bot/0.1 (+mailto:me@example.org)")
//!         .seed("https://example.org/robots.txt")
//!         .parse_with(lines)
//!         .sink(tidegate::sink::jsonl_stdout())
//!         .run()
//!         .await?; // an error only where the run itself could not go on
//!     eprintln!("{report}");
//!     Ok(())
//! }
//! ```
//!
//! # Map
//! | you want to | look at |
//! |---|---|
//! | describe and run a crawl | [`Crawl`], [`Builder`], [`Profile`], [`Scope`], [`Handle`], [`Report`] |
//! | ask for a URL | [`Request`], [`Overrides`], [`Limits`], [`Deadlines`]; bodies of forms: [`form`] |
//! | bring it by other means than HTTP | [`Fetcher`], [`FetchCx`], [`Response`], [`Head`] |
//! | put something between crawl and fetcher: credentials, fields, a trace | [`layer`]; a cache of answers: [`cache`]; logins: [`session`] |
//! | make something of it | [`Parser`], [`Page`], [`Output`], [`ParseError`], [`parse_once`] |
//! | keep it | [`Sink`], [`Batch`], [`Delivery`], [`sink`]; every URL's end: [`Settled`] |
//! | say what there is to fetch | [`Frontier`], [`MemoryFrontier`], [`StreamFrontier`], [`Recurring`] |
//! | watch it | [`Snapshot`], [`Observer`] and its [events](observer::What) |
//! | obey a host | [`HostPolicy`], [`robots`] |
//! | fetch over HTTP without a crawl | [`http`] |
//! | bring an executor | [`rt`]; and prove that it fits: `conformance` |
//! | understand the rules | [`engine`]: pure, with time as an argument |
//!
//! # How it works
//! An [`engine`] decides, without I/O and without a clock: which job is leased, queued, started, retried, settled. A driver
//! task feeds it. One fetch loop for each I/O thread owns all fetches of that thread in one task: it polls those that are
//! ready for 500 us, then gives the thread back until I/O and timers were looked at, so that a thousand answers at once
//! delay nobody's timer. Parsing runs on threads of its own. A heartbeat measures how late the loop is; above 50 ms
//! only 16 fetches are kept going until it recovers. What is slow fills its own stage and then stops the stage before it: sink, parser,
//! fetches.
//!
//! # Cancel safety
//! Dropping [`Crawl`] stops it now: leases return to the frontier. Every future of this crate says in its documentation
//! what happens when it is dropped; where it says nothing, nothing is lost.
//!
//! # Features
//! | feature | default | gives |
//! |---|---|---|
//! | `http` | yes | [`http::HttpFetcher`](crate::http): HTTP/1.1, pool, redirects, decoding, proxies |
//! | `tls` | yes | https by rustls with ring and the Mozilla roots, HTTP/2 by hyper |
//! | `sim` | no | the module `sim`: a simulated runtime and network, for tests |
//! | `serde` | no | `serde::Serialize` for [`Snapshot`] and what it holds |
//! | `tracing` | no | `observer::Tracing`: events for subscribers of `tracing` |
//! | `tower` | no | [`layer::tower`](crate::layer): a service of tower as a fetcher, and a fetcher as a service |
//! | `native-roots` | no | the system's certificate store beside them |
//! | `conformance` | no | the module `conformance`: the suite that every runtime passes, for the tests of adapters |
//!
//! # Foreign types
//! The public API names types of `bytes`, `http`, `url`, `serde` and `serde_json` (`RawValue`), `futures` (`Stream`) and
//! `hyper::rt`; with the feature `tower` also of `tower_service` and `http_body_util`. A major version of one of them is a major version of this crate.
#![cfg_attr(not(feature = "http"), allow(rustdoc::broken_intra_doc_links, reason = "the map names the HTTP fetcher"))]

pub mod cache;
mod capacity;
#[cfg(feature = "conformance")]
pub mod conformance;
mod defaults;
mod drive;
pub mod engine;
mod error;
mod fetch;
pub mod form;
pub mod frontier;
mod guard;
mod hash;
mod host;
#[cfg(feature = "http")]
pub mod http;
pub mod layer;
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "what is booked is booked by the fetcher and its TLS"))]
mod ledger;
mod limits;
mod machine;
pub mod observer;
mod page;
mod panics;
mod parser;
pub mod redirect;
mod request;
mod response;
pub mod robots;
pub mod rt;
#[cfg(feature = "http")]
pub mod session;
mod settled;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sink;
mod stall;
mod sync;
mod time;
#[cfg(feature = "tls")]
pub mod tls;

pub use self::capacity::{BYTES_PER_CONNECTION, BYTES_PER_TLS_CONNECTION, Capacity, Demand, Lack};
pub use self::drive::{
    BoundShare, Builder, Crawl, FinishReason, Handle, HostSnapshot, Item, Items, LagSnapshot, Latencies, Latency,
    LoadSignal, Profile, Quantiles, Recent, Report, Scope, Snapshot,
};
pub use self::engine::Shutdown;
pub use self::error::{Error, ErrorKind, RetryTime};
pub use self::fetch::{FetchCx, Fetcher, Phase, Timings};
pub use self::frontier::{
    Added, Frontier, FrontierError, LeaseId, Leased, MemoryFrontier, Recurring, StreamFrontier, Verdict,
};
pub use self::host::{HostCx, HostPolicy, HostRules};
use self::ledger::{BodyBytes, Booking};
pub use self::ledger::{Booked, Ledger, LedgerLimits, LedgerUsage, Share};
pub use self::limits::{Deadlines, Limits};
pub use self::machine::{Machine, raise_descriptor_limit};
pub use self::observer::Observer;
pub use self::page::{Page, PageBuilder};
pub use self::parser::{Accept, Accepting, Output, ParseAction, ParseError, Parser, accepting, parse_once};
pub use self::request::{MAX_DATA, Overrides, Request, canonical, parse_target};
pub use self::response::{Decode, Head, Hop, Response};
pub use self::settled::{Outcome, Settled, SkipReason};
pub use self::sink::{Batch, Close, Delivery, DeliveryId, Sink, SinkAction, SinkError};
pub use self::stall::{GateEvent, Stall, StallCause};
