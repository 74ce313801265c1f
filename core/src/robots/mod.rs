//! robots.txt (RFC 9309) as a policy of hosts.

mod rules;

use std::time::Duration;

use crate::{Error, ErrorKind, HostCx, HostPolicy, HostRules, Request};
use async_trait::async_trait;
use url::{Position, Url};

pub use self::rules::RobotsRules;

/// Bytes of a robots.txt that are read: 512 KiB; the RFC asks for 500 at least.
pub const MAX_BYTES: usize = 512 * 1024;

/// Different rules for one crawler that are kept: 10,000, the first of the file. Real files have a few hundred.
pub const MAX_RULES: usize = 10_000;

/// Bytes that the wildcards of a file may search for one path: 128 KiB, some 100 µs, and most rules are refused without a
/// search. A path that needs more may not be fetched.
pub const MAX_MATCH_BYTES: usize = 128 * 1024;

/// The longest crawl-delay that is honoured: 60 s. A longer one is most often a mistake, or a trap.
pub const MAX_CRAWL_DELAY: Duration = Duration::from_secs(60);

/// Heeds the robots.txt of every origin.
///
/// | answer | what is allowed |
/// |---|---|
/// | 2xx | what the file says; a page of HTML says nothing |
/// | 429, 5xx, no answer | nothing for now: it is asked again |
/// | a file above 8 MiB, or that cannot be decoded | nothing for now, as for no answer: it may forbid anything |
/// | any other, too many redirects | everything |
///
/// ```
/// use tidegate::robots::Robots;
///
/// // Goes by the product token of the crawl's User-Agent, `foobot` of `foobot/1.0`, or by a name of your choice.
/// let robots = Robots::new();
/// let robots = Robots::new().with_token("foobot");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Robots {
    token: Option<Box<str>>,
}

impl Robots {
    /// The product token is taken from the crawl's User-Agent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the product token, the name by which files address this crawler.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<Box<str>>) -> Self {
        self.token = Some(token.into());
        self
    }
}

#[async_trait]
impl HostPolicy for Robots {
    async fn prepare(&self, target: &Url, cx: &HostCx) -> Result<Box<dyn HostRules>, Error> {
        let url = format!("{}/robots.txt", &target[..Position::BeforePath]);
        let page = match cx.fetch(Request::get(url.as_str())).await {
            Ok(page) => page,
            // RFC 9309, 2.3.1.2: such a file may be taken for one that is not there.
            Err(error) if error.kind() == ErrorKind::RedirectTooMany => {
                return Ok(Box::new(RobotsRules::allow_all()));
            }
            Err(error) if matches!(error.kind(), ErrorKind::BodyTooLarge | ErrorKind::BodyEncoding) => {
                let attempted = "read the rules of the host, whose robots.txt cannot be read";
                return Err(Error::new(ErrorKind::RobotsUnavailable, attempted).with_url(&url).with_source(error));
            }
            Err(error) => return Err(error),
        };
        let status = page.status();
        if status.is_server_error() || status.as_u16() == 429 {
            let attempted = format!("read the rules of the host, whose robots.txt answers {}", status.as_u16());
            return Err(Error::new(ErrorKind::RobotsUnavailable, attempted).with_url(&url));
        }
        if !status.is_success() {
            return Ok(Box::new(RobotsRules::allow_all()));
        }
        let token = self.token.as_deref().unwrap_or_else(|| rules::token_of(cx.user_agent()));
        Ok(Box::new(RobotsRules::parse(page.body(), token)))
    }
}

impl HostRules for RobotsRules {
    fn allows(&self, target: &Url) -> bool {
        Self::allows(self, &target[Position::BeforePath..Position::AfterQuery])
    }

    fn crawl_delay(&self) -> Option<Duration> {
        Self::crawl_delay(self)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    use crate::Page;

    use super::*;

    /// The rules after a fetch that gives `answer`, and the URL that was fetched.
    fn prepare(
        robots: &Robots,
        target: &str,
        answer: impl Fn(&str) -> Result<Page, Error> + Send + Sync + 'static,
    ) -> (Result<Box<dyn HostRules>, Error>, String) {
        let asked = Arc::new(Mutex::new(String::new()));
        let seen = asked.clone();
        let cx = HostCx::new("foobot/1.0 (+mailto:me@a.test)", move |request| {
            *seen.lock().expect("one thread") = request.url().to_owned();
            let answer = answer(request.url());
            Box::pin(async move { answer })
        });
        let target = Url::parse(target).expect("literal");
        let mut prepare = pin!(robots.prepare(&target, &cx));
        let Poll::Ready(rules) = prepare.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("nothing to wait for")
        };
        let asked = asked.lock().expect("one thread").clone();
        (rules, asked)
    }

    fn status(status: u16) -> Result<Box<dyn HostRules>, Error> {
        let file = "User-agent: foobot\nDisallow: /no\nCrawl-delay: 2";
        prepare(&Robots::new(), "http://a.test/", move |url| Ok(Page::build(url).status(status).body(file))).0
    }

    #[test]
    fn asks_the_origin() {
        let ok = |url: &str| Ok(Page::build(url).body(""));
        assert_eq!(prepare(&Robots::new(), "https://a.test:8443/x?y#z", ok).1, "https://a.test:8443/robots.txt");
        assert_eq!(prepare(&Robots::new(), "http://a.test/robots.txt", ok).1, "http://a.test/robots.txt");
        assert_eq!(prepare(&Robots::new(), "http://[::1]/", ok).1, "http://[::1]/robots.txt");
    }

    #[test]
    fn the_status_decides_what_the_file_means() {
        let url = Url::parse("http://a.test/no?x").expect("literal");
        for code in [200, 203] {
            let rules = status(code).expect("a file");
            assert!(!rules.allows(&url));
            assert_eq!(rules.crawl_delay(), Some(Duration::from_secs(2)));
        }
        for code in [304, 400, 401, 403, 404, 410, 451] {
            assert!(status(code).expect("no file").allows(&url), "{code}");
        }
        for code in [429, 500, 502, 503, 599] {
            assert_eq!(status(code).err().expect("no rules").kind(), ErrorKind::RobotsUnavailable, "{code}");
        }
    }

    #[test]
    fn without_an_answer_the_reason_is_kept() {
        let failing = |kind| prepare(&Robots::new(), "http://a.test/", move |_| Err(Error::new(kind, "test"))).0;
        assert_eq!(failing(ErrorKind::ConnectRefused).err().expect("no rules").kind(), ErrorKind::ConnectRefused);
        assert!(failing(ErrorKind::RedirectTooMany).is_ok());
        // Such a file may forbid anything, and may be another one tomorrow.
        for kind in [ErrorKind::BodyTooLarge, ErrorKind::BodyEncoding] {
            assert_eq!(failing(kind).err().expect("no rules").kind(), ErrorKind::RobotsUnavailable);
        }
    }

    #[test]
    fn another_token_may_be_used() {
        let file = |url: &str| Ok(Page::build(url).body("User-agent: foobot\nDisallow: /"));
        let url = Url::parse("http://a.test/").expect("literal");
        assert!(!prepare(&Robots::new(), "http://a.test/", file).0.expect("a file").allows(&url));
        assert!(prepare(&Robots::new().with_token("barbot"), "http://a.test/", file).0.expect("a file").allows(&url));
    }
}
