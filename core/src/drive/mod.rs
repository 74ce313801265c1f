//! The thin asynchronous shell around the engine: tasks, queues between them, and the builder that sets them up.
//!
//! One driver task owns the engine; a fetch loop for each I/O thread owns the fetches; a lane owns each sink; one task
//! owns the frontier; a probe measures lag. They talk by messages, so none waits for another.

mod attempt;
mod builder;
mod cell;
mod crawl;
mod driver;
mod fetch_loop;
mod frontier_task;
mod handle;
mod inbox;
mod items;
mod lag_probe;
mod lane;
mod latency;
mod load;
mod parse_stage;
mod record;
mod scope;
mod settings;
mod stall;
mod stats;
mod tally;
mod times;
mod window;

#[cfg(feature = "http")]
pub(crate) use self::attempt::decoded;
pub use self::builder::Builder;
pub use self::crawl::Crawl;
pub use self::handle::Handle;
pub use self::items::{Item, Items};
pub use self::lag_probe::LagSnapshot;
pub use self::latency::{Latencies, Latency, Quantiles};
pub use self::load::LoadSignal;
#[cfg(fuzzing)]
pub use self::record::retry_after_of;
pub use self::scope::Scope;
pub use self::settings::Profile;
pub use self::stats::{BoundShare, FinishReason, HostSnapshot, Report, Snapshot};
pub use self::window::Recent;
