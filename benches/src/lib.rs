//! What the benches share: a server that costs next to nothing, so that what is measured is the client, and witnesses of
//! what the client does to its thread.

mod clock;
mod cores;
mod curves;
mod load;
mod process;
mod request;
mod ticker;

pub use self::clock::now;
pub use self::cores::{Layout, keep_to_cores, process_cpu_time, spend, thread_cpu_time};
pub use self::curves::{Area, COLOURS, Line, legend, pane};
pub use self::load::{LoadOptions, LoadServer, LoadStats};
pub use self::process::ServerProcess;
pub use self::ticker::{Lateness, Ticker, median};
