//! What the benches share: a server that costs next to nothing, so that what is measured is the client, and witnesses of
//! what the client does to its thread.

mod cores;
mod load;
mod process;
mod refusals;
mod request;
mod stream;
mod ticker;

pub use self::cores::{Layout, keep_to_cores, process_cpu_time, spend, thread_cpu_time};
pub use self::load::{LoadOptions, LoadServer, LoadStats};
pub use self::process::ServerProcess;
pub use self::ticker::{Lateness, Ticker, median};
