//! What a crawl uses where it was told nothing: the one place that names the fetcher and the rules that ship.

use std::sync::Arc;
use std::time::SystemTime;

use crate::rt::Runtime;
use crate::{Error, Fetcher, HostPolicy};

#[cfg(feature = "http")]
pub(crate) fn fetcher(runtime: &Runtime, user_agent: &str) -> Result<Arc<dyn Fetcher>, Error> {
    Ok(Arc::new(crate::http::HttpFetcher::builder(runtime).user_agent(user_agent).build()?))
}

#[cfg(not(feature = "http"))]
pub(crate) fn fetcher(_runtime: &Runtime, _user_agent: &str) -> Result<Arc<dyn Fetcher>, Error> {
    Err(Error::new(crate::ErrorKind::ConfigInvalid, "start the crawl: set fetcher(..), or enable the feature `http`"))
}

pub(crate) fn host_policy() -> Arc<dyn HostPolicy> {
    Arc::new(crate::robots::Robots::new())
}

/// A seed from the clock: no two runs alike unless they are told to be.
pub(crate) fn seed(runtime: &Runtime) -> u64 {
    let since = runtime.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    xxhash_rust::xxh3::xxh3_64(&since.as_nanos().to_le_bytes())
}
