//! Which cookies are kept, and which are sent where (RFC 6265bis, 5.7 and 5.8). A state machine: the time is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use url::{Host, Url};

use super::set_cookie::{MaxAge, SetCookie};

/// `Set-Cookie` fields that count in one answer.
pub(super) const PER_ANSWER: usize = 50;
/// Cookies of a registrable domain; beyond, the one that was sent the longest ago goes.
const PER_SITE: usize = 180;
/// Registrable domains; beyond, a tenth goes, those that were used the longest ago.
const SITES: usize = 10_000;
/// Cookies and bytes of one `Cookie` field; beyond, the oldest are left out. What servers take, as curl has it.
const SENT: usize = 150;
const SENT_BYTES: usize = 8_190;
/// No cookie is kept for longer.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The cookies of a jar, by registrable domain: a request looks at those of its own alone.
#[derive(Debug, Default)]
pub(super) struct Jar {
    sites: BTreeMap<Box<str>, Site>,
    /// Counts uses and creations, which is all that their order asks for.
    serial: u64,
}

#[derive(Debug, Default)]
struct Site {
    cookies: Vec<Cookie>,
    used: u64,
}

#[derive(Debug)]
struct Cookie {
    name: Box<[u8]>,
    value: Box<[u8]>,
    domain: Box<str>,
    /// No subdomain gets it.
    host_only: bool,
    path: Box<[u8]>,
    secure: bool,
    expires: Option<SystemTime>,
    created: u64,
    used: u64,
}

impl Jar {
    pub(super) fn len(&self) -> usize {
        self.sites.values().map(|site| site.cookies.len()).sum()
    }

    pub(super) fn clear(&mut self) {
        self.sites.clear();
    }

    /// Takes the field of an answer to a request for `url`; whether it was kept, or removed another one.
    pub(super) fn set(&mut self, url: &Url, field: &[u8], now: SystemTime) -> bool {
        let (Some(set), Some(host)) = (SetCookie::parse(field), url.host_str()) else { return false };
        let Some((domain, host_only)) = domain_of(&set, url) else { return false };
        let is_https = url.scheme() == "https";
        let has_path = set.path.is_some_and(|path| path.starts_with(b"/"));
        let path = set.path.filter(|_| has_path).unwrap_or_else(|| default_path(url));
        if (set.secure && !is_https) || !keeps_its_prefix(&set, host_only, path, has_path) {
            return false;
        }
        let last = now.checked_add(LONGEST).unwrap_or(now);
        let expires = match set.max_age {
            Some(MaxAge::Over) => Some(SystemTime::UNIX_EPOCH),
            Some(MaxAge::For(time)) => Some(now.checked_add(time).map_or(last, |at| at.min(last))),
            None => set.expires.map(|at| at.min(last)),
        };
        let is_over = expires.is_some_and(|at| at <= now);
        let key = site_of(host);
        if !self.sites.contains_key(key) {
            if is_over {
                return false;
            }
            self.make_room();
        }
        self.serial += 1;
        let serial = self.serial;
        let site = self.sites.entry(key.into()).or_default();
        site.used = serial;
        site.cookies.retain(|cookie| cookie.expires.is_none_or(|at| at > now));
        // What came over TLS is not overlaid by what did not.
        let overlays = |cookie: &Cookie| {
            cookie.secure
                && cookie.name[..] == *set.name
                && (domain_matches(&cookie.domain, &domain) || domain_matches(&domain, &cookie.domain))
                && path_matches(path, &cookie.path)
        };
        if !is_https && site.cookies.iter().any(overlays) {
            return false;
        }
        let is_same = |cookie: &Cookie| {
            cookie.name[..] == *set.name
                && cookie.domain[..] == *domain
                && cookie.host_only == host_only
                && cookie.path[..] == *path
        };
        let before = site.cookies.iter().position(is_same).map(|at| site.cookies.remove(at));
        if !is_over {
            if site.cookies.len() >= PER_SITE
                && let Some(oldest) = (0..site.cookies.len()).min_by_key(|at| site.cookies[*at].used)
            {
                site.cookies.remove(oldest);
            }
            site.cookies.push(Cookie {
                name: set.name.into(),
                value: set.value.into(),
                domain,
                host_only,
                path: path.into(),
                secure: set.secure,
                expires,
                created: before.as_ref().map_or(serial, |cookie| cookie.created),
                used: serial,
            });
        } else if site.cookies.is_empty() {
            self.sites.remove(key);
        }
        !is_over || before.is_some()
    }

    /// The value of the `Cookie` field of a request for `url`.
    pub(super) fn header(&mut self, url: &Url, now: SystemTime) -> Option<Vec<u8>> {
        let host = url.host_str()?;
        let site = self.sites.get_mut(site_of(host))?;
        let is_https = url.scheme() == "https";
        let path = url.path().as_bytes();
        let mut sent: Vec<&mut Cookie> = site
            .cookies
            .iter_mut()
            .filter(|cookie| {
                (if cookie.host_only { *cookie.domain == *host } else { domain_matches(host, &cookie.domain) })
                    && path_matches(path, &cookie.path)
                    && (is_https || !cookie.secure)
                    && cookie.expires.is_none_or(|at| at > now)
            })
            .collect();
        // The newest that there is room for.
        sent.sort_by_key(|cookie| std::cmp::Reverse(cookie.created));
        let mut room = SENT_BYTES;
        let fits = sent.iter().take(SENT).take_while(|cookie| {
            // With `=` and `; `.
            let bytes = cookie.name.len() + cookie.value.len() + 3;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let fits = fits.count();
        sent.truncate(fits);
        if sent.is_empty() {
            return None;
        }
        sent.sort_by_key(|cookie| (std::cmp::Reverse(cookie.path.len()), cookie.created));
        self.serial += 1;
        let mut field = Vec::new();
        for cookie in sent {
            cookie.used = self.serial;
            if !field.is_empty() {
                field.extend_from_slice(b"; ");
            }
            if !cookie.name.is_empty() {
                field.extend_from_slice(&cookie.name);
                field.push(b'=');
            }
            field.extend_from_slice(&cookie.value);
        }
        site.used = self.serial;
        Some(field)
    }

    /// Makes room for another site.
    fn make_room(&mut self) {
        if self.sites.len() < SITES {
            return;
        }
        let mut uses: Vec<_> = self.sites.values().map(|site| site.used).collect();
        let (_, last, _) = uses.select_nth_unstable(SITES / 10);
        let last = *last;
        self.sites.retain(|_, site| site.used > last);
    }
}

/// What all cookies that a host may see have in common.
fn site_of(host: &str) -> &str {
    if is_address(host) { host } else { psl::domain_str(host).unwrap_or(host) }
}

/// Which hosts a cookie is for, and whether that is one alone; `None` where the host may not say so.
fn domain_of(set: &SetCookie<'_>, url: &Url) -> Option<(Box<str>, bool)> {
    let host = url.host_str()?;
    let Some(domain) = set.domain.filter(|domain| !domain.is_empty()) else { return Some((host.into(), true)) };
    let domain = Host::parse(std::str::from_utf8(domain).ok()?).ok()?.to_string();
    if domain.ends_with('.') || !domain_matches(host, &domain) {
        return None;
    }
    // All who have a name under it would get it.
    let is_public = psl::suffix_str(&domain).is_some_and(|suffix| suffix == domain);
    if is_address(host) || is_public {
        return (domain == host).then(|| (host.into(), true));
    }
    Some((domain.into(), false))
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<IpAddr>().is_ok()
}

/// RFC 6265bis, 5.1.3.
fn domain_matches(host: &str, domain: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')) && !is_address(host)
}

/// RFC 6265bis, 5.1.4.
fn path_matches(path: &[u8], of_cookie: &[u8]) -> bool {
    path.strip_prefix(of_cookie)
        .is_some_and(|rest| rest.is_empty() || of_cookie.ends_with(b"/") || rest.starts_with(b"/"))
}

/// The folder of the page.
fn default_path(url: &Url) -> &[u8] {
    let path = url.path();
    match path.rfind('/') {
        Some(at) if at > 0 => &path.as_bytes()[..at],
        _ => b"/",
    }
}

/// What a name promises is kept (RFC 6265bis, 4.1.3), also where the name is in the value.
fn keeps_its_prefix(set: &SetCookie<'_>, host_only: bool, path: &[u8], has_path: bool) -> bool {
    let begins = |text: &[u8], prefix: &[u8]| text.get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix));
    let (of_host, of_secure) = (b"__host-", b"__secure-");
    if set.name.is_empty() {
        return !begins(set.value, of_host) && !begins(set.value, of_secure);
    }
    if begins(set.name, of_host) {
        return set.secure && host_only && set.domain.is_none() && has_path && path == b"/";
    }
    !begins(set.name, of_secure) || set.secure
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        NOW + Duration::from_secs(1_000_000_000 + seconds)
    }

    fn url(text: &str) -> Url {
        text.parse().expect("a literal of a test")
    }

    fn sent(jar: &mut Jar, to: &str) -> String {
        String::from_utf8(jar.header(&url(to), at(0)).unwrap_or_default()).expect("text")
    }

    /// What is sent to `to` after `from` has set this.
    fn crossed(from: &str, field: &str, to: &str) -> String {
        let mut jar = Jar::default();
        jar.set(&url(from), field.as_bytes(), at(0));
        sent(&mut jar, to)
    }

    // C8
    #[test]
    fn a_cookie_goes_where_it_belongs() {
        for (from, field, to, expected) in [
            ("http://a.test/", "k=v", "http://a.test/", "k=v"),
            ("http://a.test/", "k=v", "http://a.test:81/x?y", "k=v"),
            ("http://a.test/", "k=v", "https://a.test/", "k=v"),
            ("http://a.test/", "k=v", "http://b.a.test/", ""),
            ("http://b.a.example/", "k=v; Domain=a.example", "http://c.a.example/", "k=v"),
            ("http://b.a.example/", "k=v; Domain=.A.EXAMPLE", "http://a.example/", "k=v"),
            ("http://b.a.example/", "k=v; Domain=", "http://b.a.example/", "k=v"),
            ("http://b.a.example/", "k=v; Domain=c.a.example", "http://c.a.example/", ""),
            ("http://a.example/", "k=v; Domain=b.a.example", "http://b.a.example/", ""),
            ("http://xa.example/", "k=v; Domain=a.example", "http://a.example/", ""),
            ("http://a.example/", "k=v; Domain=example", "http://b.example/", ""),
            ("http://a.co.uk/", "k=v; Domain=co.UK", "http://b.co.uk/", ""),
            ("http://a.co.uk/", "k=v; Domain=a.co.uk.", "http://a.co.uk/", ""),
            ("http://a.example./", "k=v; Domain=example.", "http://b.example./", ""),
            ("http://a.github.io/", "k=v; Domain=github.io", "http://b.github.io/", ""),
            ("http://github.io/", "k=v; Domain=github.io", "http://github.io/", "k=v"),
            ("http://github.io/", "k=v; Domain=github.io", "http://b.github.io/", ""),
            ("http://127.0.0.1/", "k=v; Domain=127.0.0.1", "http://127.0.0.1/", "k=v"),
            ("http://127.0.0.1/", "k=v; Domain=0.0.1", "http://127.0.0.1/", ""),
            ("http://[::1]/", "k=v", "http://[::1]/", "k=v"),
            (
                "http://b\u{fc}cher.example/",
                "k=v; Domain=b\u{fc}cher.example",
                "http://www.xn--bcher-kva.example/",
                "k=v",
            ),
            ("http://a.test/x/y", "k=v", "http://a.test/x/z", "k=v"),
            ("http://a.test/x/y", "k=v", "http://a.test/x", "k=v"),
            ("http://a.test/x/y", "k=v", "http://a.test/xy", ""),
            ("http://a.test/", "k=v; Path=/x", "http://a.test/x/y", "k=v"),
            ("http://a.test/", "k=v; Path=/x/", "http://a.test/x", ""),
            ("http://a.test/", "k=v; Path=/x", "http://a.test/", ""),
            ("http://a.test/x/y", "k=v; Path=z", "http://a.test/x/", "k=v"),
            ("https://a.test/", "k=v; Secure", "https://a.test/", "k=v"),
            ("https://a.test/", "k=v; Secure", "http://a.test/", ""),
            ("http://a.test/", "k=v; Secure", "https://a.test/", ""),
            ("https://a.test/", "__Host-k=v; Secure; Path=/", "https://a.test/", "__Host-k=v"),
            ("https://a.test/", "__Host-k=v; Secure", "https://a.test/", ""),
            ("https://a.test/", "__Host-k=v; Path=/", "https://a.test/", ""),
            ("https://b.a.test/", "__host-k=v; Secure; Path=/; Domain=b.a.test", "https://b.a.test/", ""),
            ("https://a.test/", "__Secure-k=v", "https://a.test/", ""),
            ("https://a.test/", "=__Secure-k=v; Secure", "https://a.test/", ""),
            ("https://a.test/", "=v", "https://a.test/", "v"),
        ] {
            assert_eq!(crossed(from, field, to), expected, "{field} of {from} to {to}");
        }
    }

    #[test]
    fn the_longer_path_is_first_and_then_the_older_cookie() {
        let mut jar = Jar::default();
        let page = url("http://a.test/x/y");
        for field in ["c=3; Path=/", "b=2; Path=/x", "a=1; Path=/", "b=9; Path=/x", "c=4; Path=/"] {
            assert!(jar.set(&page, field.as_bytes(), at(0)));
        }
        assert_eq!(sent(&mut jar, "http://a.test/x/"), "b=9; c=4; a=1");
        assert_eq!(jar.len(), 3);
    }

    #[test]
    fn a_cookie_ends_when_it_says_or_is_told_to() {
        let mut jar = Jar::default();
        let page = url("http://a.test/");
        let header =
            |jar: &mut Jar, seconds| jar.header(&page, at(seconds)).map(|f| String::from_utf8(f).expect("text"));
        for field in
            ["a=1; Max-Age=60", "b=2; Expires=Sun, 09 Sep 2001 01:47:00 GMT", "c=3; Max-Age=99999999999", "d=4"]
        {
            assert!(jar.set(&page, field.as_bytes(), at(0)), "{field}");
        }
        // 1,000,000,000 is 01:46:40.
        assert_eq!(header(&mut jar, 19).as_deref(), Some("a=1; b=2; c=3; d=4"));
        assert_eq!(header(&mut jar, 20).as_deref(), Some("a=1; c=3; d=4"));
        assert_eq!(header(&mut jar, 60).as_deref(), Some("c=3; d=4"));
        assert_eq!(header(&mut jar, LONGEST.as_secs()).as_deref(), Some("d=4"));
        assert!(jar.set(&page, b"d=; Max-Age=0", at(61)));
        assert!(!jar.set(&page, b"d=; Max-Age=0", at(61)), "it is gone");
        assert!(!jar.set(&url("http://b.test/"), b"d=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", at(61)));
        assert_eq!((header(&mut jar, 62).as_deref(), jar.len()), (Some("c=3"), 1));
    }

    // C8
    #[test]
    fn plain_http_does_not_overlay_what_came_over_tls() {
        let mut jar = Jar::default();
        assert!(jar.set(&url("https://a.example/"), b"k=safe; Secure; Domain=a.example", at(0)));
        assert!(!jar.set(&url("http://b.a.example/"), b"k=evil", at(0)));
        assert!(!jar.set(&url("http://a.example/x/y"), b"k=evil; Path=/x", at(0)));
        assert!(jar.set(&url("https://a.example/"), b"k=new; Secure; Domain=a.example", at(0)));
        assert_eq!(sent(&mut jar, "https://a.example/"), "k=new");
    }

    // C9
    #[test]
    fn the_oldest_are_left_out_where_there_are_too_many() {
        let mut jar = Jar::default();
        let page = url("http://evil.a.example/");
        assert!(jar.set(&url("http://a.example/"), b"session=mine", at(0)));
        for n in 0..4_000 {
            let field = format!("c{n}={}; Domain=a.example", "x".repeat(4_000));
            jar.set(&page, field.as_bytes(), at(0));
        }
        assert_eq!(jar.len(), PER_SITE);
        let field = sent(&mut jar, "http://a.example/");
        assert!(
            field.len() <= SENT_BYTES && field.starts_with("c3998=") && field.contains("; c3999="),
            "{}",
            field.len()
        );
        let mut small = Jar::default();
        (0..170).for_each(|n| assert!(small.set(&page, format!("c{n}=").as_bytes(), at(0))));
        assert_eq!(sent(&mut small, "http://evil.a.example/").matches('=').count(), SENT);
        for (length, expected) in [(SENT_BYTES - 4_096 - 3 - 3, 2), (SENT_BYTES - 4_096 - 3 - 2, 1)] {
            let mut jar = Jar::default();
            assert!(jar.set(&page, format!("a={}", "x".repeat(4_095)).as_bytes(), at(0)));
            assert!(jar.set(&page, format!("b={}", "x".repeat(length - 1)).as_bytes(), at(0)));
            assert_eq!(sent(&mut jar, "http://evil.a.example/").matches('=').count(), expected);
        }
    }

    #[test]
    fn sites_are_bounded_and_the_least_used_go() {
        let mut jar = Jar::default();
        for n in 0..SITES {
            assert!(jar.set(&url(&format!("http://s{n}.example/")), b"k=v", at(0)));
        }
        assert_eq!(sent(&mut jar, "http://s0.example/"), "k=v");
        assert!(jar.set(&url("http://one-more.example/"), b"k=v", at(0)));
        assert!((SITES * 8 / 10..=SITES).contains(&jar.len()), "{}", jar.len());
        assert_eq!([sent(&mut jar, "http://s0.example/"), sent(&mut jar, "http://s1.example/")], ["k=v", ""]);
    }
}
