//! What a crawl uses where it was told nothing: the one place that names the fetcher and the rules that ship.

use std::sync::Arc;
use std::time::SystemTime;

use crate::rt::Runtime;
use crate::{Error, Fetcher, HostPolicy};

/// Descriptors kept free for files, pipes and name servers.
const RESERVE: u64 = 64;

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

/// Sockets that may be open at a time: three quarters of the descriptors, at most 15,000.
#[cfg(unix)]
pub(crate) fn socket_cap() -> u32 {
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let cap = (soft / 4 * 3).min(soft.saturating_sub(RESERVE)).min(15_000);
    u32::try_from(cap).unwrap_or(u32::MAX).max(1)
}

#[cfg(not(unix))]
pub(crate) fn socket_cap() -> u32 {
    15_000
}
