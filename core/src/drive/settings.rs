//! The three named sets of defaults.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::Limits;

/// A set of defaults, by who chose the URLs and whose servers answer. Every field can be changed; the report prints
/// which set was used.
///
/// ```
/// use tidegate::Profile;
/// assert_eq!(Profile::crawl().per_host.map(|n| n.get()), Some(2));
/// assert_eq!(Profile::own().gap, std::time::Duration::ZERO);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// `crawl`, `list` or `own`.
    pub name: &'static str,
    /// Connections to a host at a time; `None`: no limit of its own.
    pub per_host: Option<NonZeroU32>,
    /// Least time between two starts on a host.
    pub gap: Duration,
    /// Part of the gap by which it varies either way.
    pub gap_jitter: f64,
    /// Ask robots.txt.
    pub robots: bool,
    /// A user agent of one's own must be set.
    pub user_agent_required: bool,
    /// Bounds of each fetch.
    pub limits: Limits,
    /// Tries of a URL in all.
    pub attempts: u32,
    /// Refuse private addresses to which pages of the public network lead, by a link or a redirect.
    pub guard: bool,
    /// How long a graceful end may take.
    pub drain: Duration,
}

impl Profile {
    /// URLs that the crawl discovers on other people's servers: 2 connections a host, 500 ms (half to one and a half)
    /// between starts, robots.txt, a user agent that says who is asking.
    pub fn crawl() -> Self {
        Self {
            name: "crawl",
            per_host: NonZeroU32::new(2),
            gap: Duration::from_millis(500),
            gap_jitter: 0.5,
            robots: true,
            user_agent_required: true,
            limits: Limits::discovered(),
            attempts: 3,
            guard: true,
            drain: Duration::from_secs(30),
        }
    }

    /// URLs that somebody listed: 8 connections a host, no gap, no robots.txt.
    pub fn list() -> Self {
        Self {
            name: "list",
            per_host: NonZeroU32::new(8),
            gap: Duration::ZERO,
            robots: false,
            user_agent_required: false,
            limits: Limits::listed(),
            ..Self::crawl()
        }
    }

    /// One's own servers: nothing is held back.
    pub fn own() -> Self {
        Self { name: "own", per_host: None, guard: false, ..Self::list() }
    }
}
