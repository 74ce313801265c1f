//! Descriptors: a bench with many sockets wants all that the system allows.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one; gives the limit in force, `None` where there is none.
///
/// # Errors
/// Where the system refuses.
///
/// ```
/// let limit = tidegate_benches::raise_descriptor_limit()?;
/// assert!(limit.is_none_or(|limit| limit > 0));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}
