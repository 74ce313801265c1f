//! [`ProxySelector`]: which of a fetcher's proxies a request takes, and the selectors that ship.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use url::Url;

use super::Candidates;
use crate::hash::KeyedState;

/// Says which proxy a request takes. It is asked for each hop, and again where the proxy that it named cannot be used.
///
/// A function or closure `Fn(&Url, &Candidates) -> Option<usize>` is a selector.
///
/// # Contract
/// It is quick and never waits: it is called on the loop, and others that pick a proxy wait for it.
///
/// ```
/// use tidegate::http::{Candidates, HttpFetcher};
/// use url::Url;
///
/// /// The first that works for images, none for the site's own API, and the one with the least to do for all else.
/// fn select(target: &Url, candidates: &Candidates<'_>) -> Option<usize> {
///     match target.host_str() {
///         Some("api.shop.test") => None,
///         Some("img.shop.test") => candidates.iter().map(|candidate| candidate.place).next(),
///         _ => candidates.iter().min_by_key(|candidate| candidate.in_flight).map(|candidate| candidate.place),
///     }
/// }
///
/// # fn example(runtime: &tidegate::rt::Runtime) -> Result<HttpFetcher, tidegate::Error> {
/// HttpFetcher::builder(runtime).proxy("http://a.test:3128").proxy("http://b.test:3128").proxy_selector(select).build()
/// # }
/// ```
pub trait ProxySelector: Send + Sync + 'static {
    /// The [`place`](super::Candidate::place) of one of the candidates; `None` for no proxy. A place that none of them has stands for
    /// the first: a request that was to take a proxy never goes without one.
    fn select(&self, target: &Url, candidates: &Candidates<'_>) -> Option<usize>;
}

impl<F: Fn(&Url, &Candidates<'_>) -> Option<usize> + Send + Sync + 'static> ProxySelector for F {
    fn select(&self, target: &Url, candidates: &Candidates<'_>) -> Option<usize> {
        self(target, candidates)
    }
}

/// By turns, request by request: the default.
///
/// ```
/// # use tidegate::http::{HttpFetcherBuilder, RoundRobin};
/// fn by_turns(builder: HttpFetcherBuilder) -> HttpFetcherBuilder {
///     builder.proxy_selector(RoundRobin::default())
/// }
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: AtomicUsize,
}

impl ProxySelector for RoundRobin {
    fn select(&self, _: &Url, candidates: &Candidates<'_>) -> Option<usize> {
        let next = self.next.load(Ordering::Relaxed);
        let place = candidates.iter().map(|c| c.place).find(|place| *place >= next).or_else(|| candidates.first())?;
        self.next.store(place + 1, Ordering::Relaxed);
        Some(place)
    }
}

/// The one with the fewest requests under way; by turns among equals.
///
/// ```
/// # use tidegate::http::{HttpFetcherBuilder, LeastUsed};
/// fn by_load(builder: HttpFetcherBuilder) -> HttpFetcherBuilder {
///     builder.proxy_selector(LeastUsed::default())
/// }
/// ```
#[derive(Debug, Default)]
pub struct LeastUsed {
    turns: RoundRobin,
}

impl ProxySelector for LeastUsed {
    fn select(&self, _: &Url, candidates: &Candidates<'_>) -> Option<usize> {
        let next = self.turns.next.load(Ordering::Relaxed);
        let chosen = candidates.iter().min_by_key(|c| (c.in_flight, c.place < next, c.place))?.place;
        self.turns.next.store(chosen + 1, Ordering::Relaxed);
        Some(chosen)
    }
}

/// The same proxy for all requests to a host, as long as it works; when it does not, the hosts that it had are spread over the others,
/// and those of the others stay (rendezvous hashing).
///
/// ```
/// # use tidegate::http::{HttpFetcherBuilder, StickyPerHost};
/// fn one_address_a_site(builder: HttpFetcherBuilder) -> HttpFetcherBuilder {
///     builder.proxy_selector(StickyPerHost::default())
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StickyPerHost {
    seed: u64,
}

impl StickyPerHost {
    /// Another spread of the hosts: two crawls with the same seed and the same proxies agree on it.
    ///
    /// ```
    /// let selector = tidegate::http::StickyPerHost::with_seed(7);
    /// ```
    pub fn with_seed(seed: u64) -> Self {
        Self { seed }
    }
}

impl ProxySelector for StickyPerHost {
    fn select(&self, target: &Url, candidates: &Candidates<'_>) -> Option<usize> {
        let weight = |proxy: &str| {
            let mut hasher = KeyedState::new(self.seed).build_hasher();
            hasher.write(target.host_str().unwrap_or_default().as_bytes());
            hasher.write(proxy.as_bytes());
            hasher.finish()
        };
        candidates.iter().max_by_key(|c| (weight(c.shown), c.place)).map(|c| c.place)
    }
}

/// Each proxy by its weight, in the order in which they were added: of 3 and 1 the first takes three of four requests. One without a
/// weight has 1, and one of weight 0 is taken only where no other works.
///
/// ```
/// # use tidegate::http::{HttpFetcherBuilder, Weighted};
/// fn mostly_the_first(builder: HttpFetcherBuilder) -> HttpFetcherBuilder {
///     builder.proxy_selector(Weighted::new([3, 1]))
/// }
/// ```
#[derive(Debug)]
pub struct Weighted {
    weights: Vec<u32>,
    turn: AtomicUsize,
}

impl Weighted {
    /// A selector by these weights.
    ///
    /// ```
    /// let selector = tidegate::http::Weighted::new([3, 1]);
    /// ```
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        Self { weights: weights.into_iter().collect(), turn: AtomicUsize::new(0) }
    }

    fn weight(&self, place: usize) -> u64 {
        self.weights.get(place).copied().unwrap_or(1).into()
    }
}

impl ProxySelector for Weighted {
    fn select(&self, _: &Url, candidates: &Candidates<'_>) -> Option<usize> {
        let all: u64 = candidates.iter().map(|c| self.weight(c.place)).sum();
        if all == 0 {
            return candidates.first();
        }
        // The golden ratio of the turns: no proxy is asked several times in a row where it need not be.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u64;
        let spread = u128::from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut at = ((spread * u128::from(all)) >> 64) as u64;
        let mut places = candidates.iter().map(|c| c.place);
        places.find(|place| {
            let weight = self.weight(*place);
            let is_it = at < weight;
            at = at.saturating_sub(weight);
            is_it
        })
    }
}

/// Hosts that are asked without a proxy, before another selector: what `NO_PROXY` is elsewhere. Nothing is read from the environment.
///
/// A name stands for itself and all below it, with or without a dot before it; an address for itself; `*` for all. Case does not
/// count.
///
/// ```
/// # use tidegate::http::{Bypass, HttpFetcherBuilder, RoundRobin};
/// fn but_our_own(builder: HttpFetcherBuilder) -> HttpFetcherBuilder {
///     builder.proxy_selector(Bypass::new("localhost, 127.0.0.1, .corp.test", RoundRobin::default()))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Bypass<S> {
    hosts: Vec<Box<str>>,
    others: S,
}

impl<S: ProxySelector> Bypass<S> {
    /// A selector that asks these hosts, a list with commas, without a proxy, and has `others` select for all else.
    ///
    /// ```
    /// use tidegate::http::{Bypass, StickyPerHost};
    /// let selector = Bypass::new(&std::env::var("NO_PROXY").unwrap_or_default(), StickyPerHost::default());
    /// ```
    pub fn new(hosts: &str, others: S) -> Self {
        let name = |host: &str| host.trim().trim_start_matches('.').to_ascii_lowercase().into_boxed_str();
        let hosts = hosts.split(',').map(name).filter(|host| !host.is_empty()).collect();
        Self { hosts, others }
    }

    fn has(&self, target: &Url) -> bool {
        let Some(host) = target.host_str() else { return false };
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']);
        let is_name = matches!(target.host(), Some(url::Host::Domain(_)));
        self.hosts.iter().any(|known| {
            let below = || host.strip_suffix(&**known).is_some_and(|front| front.ends_with('.'));
            **known == *"*" || **known == *host || (is_name && below())
        })
    }
}

impl<S: ProxySelector> ProxySelector for Bypass<S> {
    fn select(&self, target: &Url, candidates: &Candidates<'_>) -> Option<usize> {
        if self.has(target) { None } else { self.others.select(target, candidates) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fails, proxies};
    use super::*;
    use crate::rt::manual::Manual;

    fn url(host: &str) -> Url {
        Url::parse(&format!("http://{host}/")).expect("literal")
    }

    #[test]
    fn a_host_stays_with_its_proxy_while_that_works() {
        let now = Manual::new().runtime().now();
        let proxies = proxies(5, StickyPerHost::default());
        let hosts: Vec<_> = (0..200).map(|n| url(&format!("h{n}.test"))).collect();
        let place = |host: &Url| proxies.pick(host, now).expect("one of them").place();
        let before: Vec<_> = hosts.iter().map(place).collect();
        assert!((0..5).all(|place| before.iter().filter(|p| **p == place).count() > 20), "{before:?}");
        assert_eq!(hosts.iter().map(place).collect::<Vec<_>>(), before);
        fails(&proxies, 2, now);
        for (host, before) in hosts.iter().zip(before) {
            let after = place(host);
            assert!(after != 2 && (before == 2 || after == before), "{host}: {before}, {after}");
        }
    }

    #[test]
    fn the_one_with_the_least_to_do_is_taken() {
        let now = Manual::new().runtime().now();
        let proxies = proxies(3, LeastUsed::default());
        let target = url("a.test");
        let mut under_way: Vec<_> = (0..3).filter_map(|_| proxies.pick(&target, now)).collect();
        assert_eq!(under_way.iter().map(|taken| taken.place()).collect::<Vec<_>>(), [0, 1, 2]);
        drop(under_way.remove(1));
        assert_eq!(proxies.pick(&target, now).map(|taken| taken.place()), Some(1));
        under_way.clear();
        let turns: Vec<_> = (0..3).filter_map(|_| proxies.pick(&target, now)).map(|taken| taken.place()).collect();
        assert_eq!(turns, [2, 0, 1], "by turns where nobody has anything to do");
    }

    #[test]
    fn weights_are_kept_and_spread() {
        let now = Manual::new().runtime().now();
        let proxies = proxies(4, Weighted::new([6, 3, 0]));
        let target = url("a.test");
        let mut counts = [0; 4];
        (0..1000).filter_map(|_| proxies.pick(&target, now)).for_each(|taken| counts[taken.place()] += 1);
        for (count, expected) in counts.into_iter().zip([600, 300, 0, 100]) {
            assert!(i32::abs(count - expected) <= 2, "{counts:?}");
        }
        [0, 1, 3].into_iter().for_each(|place| fails(&proxies, place, now));
        assert_eq!(proxies.pick(&target, now).map(|taken| taken.place()), Some(2), "no other works");
    }

    #[test]
    fn hosts_that_are_passed_by_take_no_proxy() {
        let now = Manual::new().runtime().now();
        let proxies = proxies(1, Bypass::new("LOCALHOST, .corp.test,127.0.0.1,::1,", RoundRobin::default()));
        for (host, direct) in [
            ("localhost", true),
            ("x.localhost", true),
            ("corp.test", true),
            ("a.b.Corp.test.", true),
            ("127.0.0.1:8080", true),
            ("[::1]", true),
            ("acorp.test", false),
            ("corp.test.evil.test", false),
            ("1.127.0.0.1.test", false),
            ("127.0.0.2", false),
        ] {
            assert_eq!(proxies.pick(&url(host), now).is_none(), direct, "{host}");
        }
        let all = super::super::tests::proxies(1, Bypass::new("*", RoundRobin::default()));
        assert!(all.pick(&url("a.test"), now).is_none());
    }

    // F6
    #[test]
    fn a_place_that_is_none_is_no_way_around_the_proxies() {
        let now = Manual::new().runtime().now();
        let proxies = proxies(2, |_: &Url, _: &Candidates<'_>| Some(7));
        assert_eq!(proxies.pick(&url("a.test"), now).map(|taken| taken.place()), Some(0));
    }
}
