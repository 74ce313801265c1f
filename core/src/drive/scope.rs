//! Which of the links that were found belong to the crawl.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use url::{Host, Url};

/// Which discovered URLs are fetched; seeds always are.
///
/// ```
/// use tidegate::Scope;
/// let seed = "https://www.shop.co.uk/".parse().expect("valid");
/// let mut scope = Scope::site();
/// scope.admit(&seed);
/// assert!(scope.contains(&"https://images.shop.co.uk/1".parse().expect("valid")));
/// assert!(!scope.contains(&"https://other.co.uk/".parse().expect("valid")));
/// ```
#[derive(Clone)]
pub struct Scope {
    rule: Rule,
    admitted: BTreeSet<Box<str>>,
    filter: Option<Filter>,
}

type Filter = Arc<dyn Fn(&Url) -> bool + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Site,
    Origin,
    Host,
    Any,
    Prefix(Box<str>),
}

impl Scope {
    fn new(rule: Rule) -> Self {
        Self { rule, admitted: BTreeSet::new(), filter: None }
    }

    /// The registrable domains of the seeds (by the public suffix list), and of where the seeds redirect to. An address
    /// is a site of its own, whatever the port.
    pub fn site() -> Self {
        Self::new(Rule::Site)
    }

    /// The seeds' scheme, host and port.
    pub fn origin() -> Self {
        Self::new(Rule::Origin)
    }

    /// The seeds' hosts, with any scheme and port.
    pub fn host() -> Self {
        Self::new(Rule::Host)
    }

    /// Everything.
    pub fn any() -> Self {
        Self::new(Rule::Any)
    }

    /// URLs that begin with this text.
    pub fn prefix(prefix: impl Into<Box<str>>) -> Self {
        Self::new(Rule::Prefix(prefix.into()))
    }

    /// Of those, only the URLs for which `filter` says yes.
    #[must_use]
    pub fn filtered(mut self, filter: impl Fn(&Url) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Makes the site, origin or host of a seed part of the scope.
    pub fn admit(&mut self, seed: &Url) {
        if let Some(key) = self.key(seed) {
            self.admitted.insert(key);
        }
    }

    /// Whether a discovered URL belongs to the crawl.
    pub fn contains(&self, url: &Url) -> bool {
        let within = match &self.rule {
            Rule::Any => true,
            Rule::Prefix(prefix) => url.as_str().starts_with(&**prefix),
            Rule::Site | Rule::Origin | Rule::Host => self.key(url).is_some_and(|key| self.admitted.contains(&key)),
        };
        within && self.filter.as_ref().is_none_or(|filter| filter(url))
    }

    /// Whether a link found on `parent` belongs to the crawl. A page that is fetched is within the scope, so a link to its
    /// own site, origin or host is too: requests from a stream or a frontier need not be known as seeds.
    pub(crate) fn contains_link(&self, url: &Url, parent: Option<&str>) -> bool {
        if self.contains(url) {
            return true;
        }
        let filtered = self.filter.as_ref().is_some_and(|filter| !filter(url));
        let parent = parent.filter(|_| !filtered).and_then(|parent| Url::parse(parent).ok());
        parent.is_some_and(|parent| self.key(&parent).is_some_and(|key| self.key(url).is_some_and(|own| own == key)))
    }

    fn key(&self, url: &Url) -> Option<Box<str>> {
        match self.rule {
            Rule::Site => match url.host()? {
                Host::Domain(domain) => Some(psl::domain_str(domain).unwrap_or(domain).into()),
                address => Some(address.to_string().into()),
            },
            Rule::Origin => Some(url.origin().ascii_serialization().into()),
            Rule::Host => url.host_str().map(Into::into),
            Rule::Any | Rule::Prefix(_) => None,
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("rule", &self.rule).field("admitted", &self.admitted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a literal of this test")
    }

    #[test]
    fn each_rule_draws_its_own_line() {
        let seed = url("http://a.example.org:8080/x/");
        for (mut scope, inside, outside) in [
            (Scope::site(), "https://b.example.org/", "http://example.net/"),
            (Scope::origin(), "http://a.example.org:8080/y", "http://a.example.org/"),
            (Scope::host(), "https://a.example.org/", "http://b.example.org:8080/"),
            (
                Scope::prefix("http://a.example.org:8080/x/"),
                "http://a.example.org:8080/x/1",
                "http://a.example.org:8080/y",
            ),
        ] {
            scope.admit(&seed);
            assert!(scope.contains(&url(inside)), "{scope:?} {inside}");
            assert!(!scope.contains(&url(outside)), "{scope:?} {outside}");
        }
    }

    #[test]
    fn a_link_within_the_site_of_its_page_belongs_to_the_crawl() {
        let scope = Scope::site().filtered(|url| url.path() != "/no");
        let page = Some("http://www.a.example/");
        assert!(scope.contains_link(&url("http://b.a.example/"), page));
        assert!(!scope.contains_link(&url("http://b.a.example/no"), page));
        assert!(!scope.contains_link(&url("http://other.test/"), page));
        assert!(!scope.contains_link(&url("http://b.a.example/"), None));
    }

    #[test]
    fn a_filter_narrows() {
        let scope = Scope::any().filtered(|url| url.path() != "/no");
        assert!(scope.contains(&url("http://a.test/yes")));
        assert!(!scope.contains(&url("http://a.test/no")));
    }
}
