//! Which of several proxies a request takes: a selector says, among those that work before those that do not.

mod select;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

pub use self::select::{Bypass, LeastUsed, ProxySelector, RoundRobin, StickyPerHost, Weighted};
use super::proxy::Proxy;
use crate::time::later;
use crate::{Error, ErrorKind};

/// How long a proxy that failed is left out, doubled each time that it fails again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Proxies that an attempt tries at most.
const MOST_TRIES: usize = 3;

/// The proxies of a fetcher.
pub(super) struct Proxies {
    list: Vec<Arc<Proxy>>,
    selector: Arc<dyn ProxySelector>,
    states: Mutex<Vec<State>>,
}

/// A proxy that a request takes, and that counts it until this is dropped.
pub(super) struct Taken<'a> {
    proxy: Arc<Proxy>,
    /// `None` for one of the request's own.
    of: Option<(&'a Proxies, usize)>,
}

impl Taken<'_> {
    /// One that is none of the fetcher's.
    pub(super) fn own(proxy: Proxy) -> Self {
        Self { proxy: Arc::new(proxy), of: None }
    }

    pub(super) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// What became of a request by way of it; whether that failed, was the proxy's fault, and another may be tried.
    pub(super) fn ended(&self, failure: Option<&Error>, now: Instant) -> bool {
        self.of.is_some_and(|(proxies, place)| proxies.ended(place, failure, now))
    }

    #[cfg(test)]
    fn place(&self) -> usize {
        self.of.expect("one of the fetcher's").1
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some((proxies, place)) = self.of
            && let Some(state) = proxies.states().get_mut(place)
        {
            state.in_flight -= 1;
        }
    }
}

/// The proxies that may be taken now: those that work, or all of them where none does.
///
/// ```
/// use tidegate::http::Candidates;
///
/// fn first(candidates: &Candidates<'_>) -> Option<usize> {
///     candidates.iter().map(|candidate| candidate.place).next()
/// }
/// ```
pub struct Candidates<'a> {
    list: &'a [Arc<Proxy>],
    states: &'a [State],
    now: Instant,
    any_works: bool,
}

/// A proxy that may be taken.
///
/// ```
/// # fn example(candidates: &tidegate::http::Candidates<'_>) {
/// for candidate in candidates.iter() {
///     println!("{}: {} under way", candidate.shown, candidate.in_flight);
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its place in the order in which the proxies were added, from 0.
    pub place: usize,
    /// Its URL without credentials.
    pub shown: &'a str,
    /// Requests that take it now, to the last byte of their answers.
    pub in_flight: u32,
}

impl<'a> Candidates<'a> {
    /// They, in the order in which they were added; at least one.
    ///
    /// ```
    /// # fn example(candidates: &tidegate::http::Candidates<'_>) {
    /// println!("{} proxies work", candidates.iter().count());
    /// # }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Candidate<'a>> + use<'a> {
        let (now, any_works) = (self.now, self.any_works);
        let all = self.list.iter().zip(self.states).enumerate();
        all.filter(move |(_, (_, state))| !any_works || state.works(now)).map(|(place, (proxy, state))| Candidate {
            place,
            shown: proxy.shown(),
            in_flight: state.in_flight,
        })
    }

    fn first(&self) -> Option<usize> {
        self.iter().map(|candidate| candidate.place).next()
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Proxies {
    pub(super) fn new(list: Vec<Arc<Proxy>>, selector: Arc<dyn ProxySelector>) -> Self {
        let states = Mutex::new(vec![State::default(); list.len()]);
        Self { list, selector, states }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The one for this target; `None` where it takes none.
    pub(super) fn pick(&self, target: &Url, now: Instant) -> Option<Taken<'_>> {
        let mut states = self.states();
        let any_works = states.iter().any(|state| state.works(now));
        let candidates = Candidates { list: &self.list, states: &states, now, any_works };
        let place = self.selector.select(target, &candidates)?;
        let is_one = candidates.iter().any(|candidate| candidate.place == place);
        let place = if is_one { place } else { candidates.first()? };
        let (proxy, state) = (self.list.get(place)?, states.get_mut(place)?);
        state.in_flight += 1;
        if state.until.is_some() {
            // The others leave it out until this one has told.
            (state.is_tried, state.until) = (true, Some(later(now, pause(state.failures))));
        }
        Some(Taken { proxy: Arc::clone(proxy), of: Some((self, place)) })
    }

    fn ended(&self, place: usize, failure: Option<&Error>, now: Instant) -> bool {
        let mut states = self.states();
        let Some(state) = states.get_mut(place) else { return false };
        match failure {
            Some(error) if is_its_fault(error.kind()) => {
                state.failed(now);
                return true;
            }
            // It says nothing about the proxy.
            Some(error) if error.is_local() => {}
            _ => state.worked(),
        }
        false
    }

    /// Proxies that an attempt may try, one after the other: nothing went to the target yet.
    pub(super) fn tries(&self) -> usize {
        self.list.len().min(MOST_TRIES)
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That it refuses a target is about the target.
fn is_its_fault(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(kind, K::ProxyConnect | K::ProxyTls | K::ProxyAuth | K::ProxyReply | K::TimeoutProxy)
}

/// How a proxy does. One that failed is left out for a while, and then tried by one request.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    in_flight: u32,
    failures: u32,
    /// It is left out before.
    until: Option<Instant>,
    /// Whether a request tries it again. What was under way when it broke tells nothing new.
    is_tried: bool,
}

impl State {
    fn works(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    fn failed(&mut self, now: Instant) {
        if self.until.is_none() || self.is_tried {
            self.failures = self.failures.saturating_add(1);
            (self.until, self.is_tried) = (Some(later(now, pause(self.failures))), false);
        }
    }

    fn worked(&mut self) {
        *self = Self { in_flight: self.in_flight, ..Self::default() };
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::manual::Manual;

    const SECOND: Duration = Duration::from_secs(1);

    pub(super) fn proxies(count: usize, selector: impl ProxySelector) -> Proxies {
        let proxy = |n| Arc::new(Proxy::parse(&format!("http://p{n}.test")).expect("valid"));
        Proxies::new((0..count).map(proxy).collect(), Arc::new(selector))
    }

    pub(super) fn fails(proxies: &Proxies, place: usize, now: Instant) {
        assert!(proxies.ended(place, Some(&Error::new(ErrorKind::ProxyConnect, "connect")), now));
    }

    fn next(proxies: &Proxies, now: Instant, times: usize) -> Vec<usize> {
        let target = Url::parse("http://a.test/").expect("literal");
        (0..times).map(|_| proxies.pick(&target, now).expect("there are some").place()).collect()
    }

    // F1
    #[test]
    fn one_that_fails_is_left_out_and_tried_by_one_request_after_a_while() {
        let start = Manual::new().runtime().now();
        let proxies = proxies(3, RoundRobin::default());
        assert_eq!(next(&proxies, start, 4), [0, 1, 2, 0]);
        // Two were under way, which is one failure.
        fails(&proxies, 1, start);
        fails(&proxies, 1, start);
        assert_eq!(next(&proxies, start, 4), [2, 0, 2, 0]);
        let again = start + SECOND;
        assert_eq!(next(&proxies, again, 4), [1, 2, 0, 2]);
        fails(&proxies, 1, again);
        let later = again + 2 * SECOND;
        assert!(!next(&proxies, later - Duration::from_nanos(1), 6).contains(&1), "twice as long");
        assert_eq!(next(&proxies, later, 6).iter().filter(|place| **place == 1).count(), 1);
        proxies.ended(1, None, later);
        assert_eq!(next(&proxies, later, 6).iter().filter(|place| **place == 1).count(), 2);
    }

    // F9
    #[test]
    fn where_none_works_they_take_turns_and_any_of_them_may_come_back() {
        let start = Manual::new().runtime().now();
        let proxies = proxies(2, RoundRobin::default());
        for place in next(&proxies, start, 100) {
            fails(&proxies, place, start);
        }
        let picked = next(&proxies, start, 10);
        assert_eq!((picked.iter().filter(|place| **place == 0).count(), picked.len()), (5, 10));
        proxies.ended(0, None, start);
        assert_eq!(next(&proxies, start, 3), [0, 0, 0]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_a_target_does_is_not_held_against_the_proxy() {
        let start = Manual::new().runtime().now();
        let proxies = proxies(2, RoundRobin::default());
        for kind in [ErrorKind::ProxyRefused, ErrorKind::TimeoutTotal, ErrorKind::HttpEmptyReply, ErrorKind::LocalPorts]
        {
            assert!(!proxies.ended(0, Some(&Error::new(kind, "fetch")), start));
            assert_eq!(next(&proxies, start, 2), [0, 1], "{kind:?}");
        }
        fails(&proxies, 0, start);
        assert_eq!(next(&proxies, start, 2), [1, 1]);
        proxies.ended(0, None, start);
        assert_eq!(next(&proxies, start, 2), [0, 1]);
    }
}
