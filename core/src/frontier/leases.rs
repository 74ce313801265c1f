//! [`Leases`]: the requests that are out, in case one is given back.

use slab::Slab;

use super::LeaseId;
use crate::Request;

/// In a slab and not a table: a request is large, and a table touches all of its places and is copied when it grows.
#[derive(Debug, Default)]
pub(super) struct Leases {
    out: Slab<(LeaseId, Request)>,
    /// Leases so far: the upper half of a name, so that a place that is used again is not named by who had it before.
    given: u32,
}

impl Leases {
    /// Keeps a request, under the name of its lease.
    pub(super) fn give(&mut self, request: Request) -> LeaseId {
        self.given = self.given.wrapping_add(1);
        let place = self.out.vacant_entry();
        let index = u32::try_from(place.key()).expect("fewer than 2^32 leases");
        let lease = LeaseId(u64::from(self.given) << 32 | u64::from(index));
        place.insert((lease, request));
        lease
    }

    /// Ends a lease, where it is out.
    pub(super) fn end(&mut self, lease: LeaseId) -> Option<Request> {
        let index = (lease.0 & u64::from(u32::MAX)) as usize;
        self.out.get(index).filter(|(of, _)| *of == lease)?;
        Some(self.out.remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_once_and_names_no_later_one() {
        let mut leases = Leases::default();
        let mut give = |url| leases.give(Request::get(url));
        let (a, b) = (give("http://a.test/"), give("http://b.test/"));
        assert_ne!(a, b);
        assert_eq!(leases.end(a).as_ref().map(Request::url), Some("http://a.test/"));
        let c = leases.give(Request::get("http://c.test/"));
        assert!(leases.end(a).is_none(), "its place is another's now");
        assert_eq!(leases.end(c).as_ref().map(Request::url), Some("http://c.test/"));
        assert!(leases.end(LeaseId(u64::MAX)).is_none());
        assert_eq!(leases.end(b).as_ref().map(Request::url), Some("http://b.test/"));
    }
}
