//! What the benches share: a server that costs next to nothing, so that what is measured is the client.

mod load;
mod request;

pub use self::load::{LoadOptions, LoadServer, LoadStats};
