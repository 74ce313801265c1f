//! What the demo site has seen: counters by kind of path, and what its rate limit observed.

use std::time::Duration;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {
        /// The kinds of paths that are counted apart.
        ///
        /// ```
        /// use tidegate_examples::demo::PathClass;
        /// assert_eq!(PathClass::of("/limited/3"), PathClass::Limited);
        /// assert_eq!(PathClass::of("/nowhere"), PathClass::Other);
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum PathClass { $($(#[$doc])* $name,)* }

        impl PathClass {
            /// Every class, in the order in which prefixes are tried.
            pub fn all() -> &'static [Self] { &[$(Self::$name,)*] }

            /// The class of a path.
            pub fn of(path: &str) -> Self {
                if path == "/" {
                    return Self::Home;
                }
                $(if path.starts_with($prefix) && Self::$name != Self::Home { return Self::$name; })*
                Self::Other
            }
        }
    };
}

classes! {
    /// `/articles/`.
    Articles = "/articles/";
    /// `POST /catalogue/reviews`.
    Reviews = "/catalogue/reviews";
    /// A product page, `/catalogue/p/<id>`.
    Products = "/catalogue/p/";
    /// The rest of `/catalogue/`.
    Catalogue = "/catalogue/";
    /// `/slow/`.
    Slow = "/slow/";
    /// `/large/`.
    Large = "/large/";
    /// `/broken/`.
    Broken = "/broken/";
    /// `/limited/`.
    Limited = "/limited/";
    /// `/redirects/`.
    Redirects = "/redirects/";
    /// `/account/`.
    Account = "/account/";
    /// `/login`.
    Login = "/login";
    /// `/monitor/`.
    Monitor = "/monitor/";
    /// `/robots.txt`.
    Robots = "/robots.txt";
    /// `/private/`, which robots.txt forbids.
    Private = "/private/";
    /// Everything that is not listed.
    Other = "/?";
    /// `/`.
    Home = "/";
}

/// A picture of what the site has seen until now.
///
/// ```
/// use tidegate_examples::demo::{DemoStats, PathClass};
///
/// let stats = DemoStats::default();
/// assert_eq!((stats.total(), stats.requests(PathClass::Limited), stats.violations), (0, 0, 0));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DemoStats {
    requests: [u64; CLASSES],
    /// 429 answers given.
    pub too_many: u64,
    /// Requests that came to `/limited/` during the wait that a 429 had asked for, later than the grace.
    pub violations: u64,
    /// When the first request to `/limited/` came, since the start of the site.
    pub limited_first: Option<Duration>,
    /// When the last request to `/limited/` came.
    pub limited_last: Option<Duration>,
    /// Pages that asked to wait.
    pub soft_blocks: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// The most connections that were open at once.
    pub connections_peak: u64,
    /// Times since the start of the site and kinds of the first requests, as many as
    /// [`DemoOptions::starts_log`](super::DemoOptions::starts_log) allows.
    pub starts: Vec<(Duration, PathClass)>,
}

const CLASSES: usize = PathClass::Home as usize + 1;

impl DemoStats {
    /// Requests to paths of this class.
    pub fn requests(&self, class: PathClass) -> u64 {
        self.requests[class as usize]
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.requests.iter().sum()
    }

    pub(super) fn count(&mut self, class: PathClass) {
        self.requests[class as usize] += 1;
    }

    pub(super) fn opened(&mut self) {
        self.connections += 1;
        self.connections_open += 1;
        self.connections_peak = self.connections_peak.max(self.connections_open);
    }

    pub(super) fn closed(&mut self) {
        self.connections_open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_class() {
        assert_eq!(PathClass::of("/"), PathClass::Home);
        assert_eq!(PathClass::of("/catalogue/p/1"), PathClass::Products);
        assert_eq!(PathClass::of("/catalogue/lamps/"), PathClass::Catalogue);
        assert_eq!(PathClass::of("/corners/"), PathClass::Other);
        assert_eq!(PathClass::all().len(), CLASSES);
    }
}
