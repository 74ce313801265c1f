//! The site as a function: `respond(site, state, request, now)`. No sockets and no clock, so that each rule has a
//! plain test.

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::site::Site;
use super::stats::{DemoStats, PathClass};
use super::text::Html;

/// What of a request matters here.
#[derive(Clone, Copy)]
pub(super) struct Req<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Without the question mark; empty where there is none.
    pub(super) query: &'a str,
    pub(super) cookie: &'a str,
    /// The client takes gzip.
    pub(super) gzip: bool,
    pub(super) body: &'a [u8],
}

/// A well-formed answer, and how long it is held back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    pub(super) delay: Duration,
}

/// How a broken answer ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

/// An answer, or bytes that no HTTP library would write.
#[derive(Debug)]
pub(super) enum Answer {
    Reply(Reply),
    Raw(Vec<u8>, End),
}

/// Paths that answer differently the next time; few, so that counting them is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Visit {
    Product(u32),
    Flaky(u32),
    Monitor(u32),
}

/// All that changes while the site runs.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) stats: DemoStats,
    visits: HashMap<Visit, u32>,
    /// Start times of the requests that `/limited/` let through in the last second.
    window: VecDeque<Duration>,
    /// When the last 429 was given.
    refused_at: Option<Duration>,
}

impl State {
    /// Counts a visit; gives how many there were before.
    pub(super) fn visit(&mut self, visit: Visit) -> u32 {
        let count = self.visits.entry(visit).or_insert(0);
        *count += 1;
        *count - 1
    }

    /// Whether `/limited/` answers a request at `now`: at most `limit` in any one second.
    fn admit_limited(&mut self, limit: u32, grace: Duration, now: Duration) -> bool {
        const WAIT: Duration = Duration::from_secs(1);
        self.stats.limited_first.get_or_insert(now);
        self.stats.limited_last = Some(now);
        if let Some(refused) = self.refused_at
            && now > refused + grace
            && now < refused + WAIT
        {
            self.stats.violations += 1;
        }
        while self.window.front().is_some_and(|&at| now >= at + WAIT) {
            self.window.pop_front();
        }
        let room = self.window.len() < limit as usize;
        if room {
            self.window.push_back(now);
        } else {
            self.refused_at = Some(now);
            self.stats.too_many += 1;
        }
        room
    }
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, body: body.into(), delay: Duration::ZERO }
    }

    pub(super) fn html(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    pub(super) fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    pub(super) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    pub(super) fn redirect(status: u16, location: &str) -> Self {
        Self::text(status, "").with("location", location)
    }

    pub(super) fn not_found() -> Self {
        let mut html = Html::new("Not found");
        html.paragraph("There is no such page.");
        Self::html(404, html.finish())
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Compresses the body where the client takes it.
    pub(super) fn gzip_if(self, wanted: bool) -> Self {
        if !wanted {
            return self;
        }
        let body = gzip(&self.body);
        Self { body: body.into(), ..self }.with("content-encoding", "gzip").with("vary", "accept-encoding")
    }

    #[cfg(test)]
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes all bytes");
    encoder.finish().expect("a Vec takes all bytes")
}

/// What the rate limit and the log need to know beside the site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knobs {
    pub(super) limited_per_second: u32,
    pub(super) limited_grace: Duration,
    pub(super) starts_log: usize,
}

/// Answers one request; `now` counts from the start of the site.
pub(super) fn respond(site: &Site, knobs: Knobs, state: &mut State, req: &Req<'_>, now: Duration) -> Answer {
    let class = PathClass::of(req.path);
    state.stats.count(class);
    if state.stats.starts.len() < knobs.starts_log {
        state.stats.starts.push((now, class));
    }
    let path = req.path.strip_prefix('/').unwrap_or(req.path);
    let (folder, rest) = path.split_once('/').unwrap_or((path, ""));
    let reply = match folder {
        "" => site.home(),
        "articles" => site.article_page(req, rest),
        "catalogue" => site.catalogue_page(state, req, rest),
        "broken" => match site.broken(rest) {
            Answer::Reply(reply) => reply,
            raw @ Answer::Raw(..) => return raw,
        },
        "limited" if !state.admit_limited(knobs.limited_per_second, knobs.limited_grace, now) => {
            Reply::text(429, "Too many requests\n").with("retry-after", "1")
        }
        "flaky" => site.flaky(state, rest),
        "monitor" => site.monitor(state, req, rest),
        "account" | "login" => site.account(req, folder, rest),
        _ => site.corner(req, folder, rest),
    };
    Answer::Reply(reply)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, HashSet};

    use url::Url;

    use super::super::DemoOptions;
    use super::*;

    pub(in super::super) const KNOBS: Knobs =
        Knobs { limited_per_second: 20, limited_grace: Duration::from_millis(50), starts_log: 0 };

    pub(in super::super) fn site() -> Site {
        Site::new(&DemoOptions::default(), "http://127.0.0.1:1".to_owned())
    }

    pub(in super::super) fn ask<'a>(method: &'a str, target: &'a str) -> Req<'a> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Req { method, path, query, cookie: "", gzip: false, body: b"" }
    }

    pub(in super::super) fn reply(answer: Answer) -> Reply {
        match answer {
            Answer::Reply(reply) => reply,
            Answer::Raw(..) => panic!("raw bytes where a reply was expected"),
        }
    }

    pub(in super::super) fn get_with(site: &Site, state: &mut State, target: &str) -> Reply {
        reply(respond(site, KNOBS, state, &ask("GET", target), Duration::ZERO))
    }

    pub(in super::super) fn get(site: &Site, target: &str) -> Reply {
        get_with(site, &mut State::default(), target)
    }

    pub(in super::super) fn post(site: &Site, target: &str, body: &str) -> Reply {
        let req = Req { body: body.as_bytes(), ..ask("POST", target) };
        reply(respond(site, KNOBS, &mut State::default(), &req, Duration::ZERO))
    }

    pub(in super::super) fn body(reply: &Reply) -> String {
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    /// Targets of all links of a page; a hand-made scan is enough for our own markup.
    fn links(base: &Url, html: &str) -> Vec<Url> {
        let base = match html.split("<base href=\"").nth(1).and_then(|rest| rest.split('"').next()) {
            Some(href) => base.join(href).expect("a valid base"),
            None => base.clone(),
        };
        let hrefs = html.split("<a ").skip(1).filter_map(|tag| tag.split("href=\"").nth(1)?.split('"').next());
        hrefs.map(|href| base.join(&href.replace("&amp;", "&")).expect("a valid link")).collect()
    }

    /// Follows all links and redirects from home, tries twice, and counts answers by status.
    fn walk(site: &Site) -> (u32, BTreeMap<u16, u32>, u32) {
        let mut state = State::default();
        let mut seen = HashSet::new();
        let mut todo: VecDeque<_> = [(Url::parse("http://127.0.0.1:1/").expect("valid"), 0)].into();
        let (mut html, mut statuses, mut deepest) = (0, BTreeMap::new(), 0);
        let mut now = Duration::ZERO;
        while let Some((mut url, depth)) = todo.pop_front() {
            url.set_fragment(None);
            if url.scheme() != "http" || url.path().starts_with("/private/") || !seen.insert(url.to_string()) {
                continue;
            }
            now += Duration::from_millis(100);
            let target = url[url::Position::BeforePath..].to_owned();
            respond(site, KNOBS, &mut state, &ask("GET", &target), now);
            let Answer::Reply(reply) = respond(site, KNOBS, &mut state, &ask("GET", &target), now) else { continue };
            *statuses.entry(reply.status).or_insert(0) += 1;
            if let Some(location) = reply.header("location") {
                todo.extend(url.join(location).ok().map(|url| (url, depth)));
            }
            let is_html = reply.header("content-type").is_some_and(|t| t.starts_with("text/html"));
            if reply.status == 200 && is_html {
                html += 1;
                deepest = deepest.max(depth);
                todo.extend(links(&url, &body(&reply)).into_iter().map(|url| (url, depth + 1)));
            }
        }
        (html, statuses, deepest)
    }

    #[test]
    fn a_patient_visitor_finds_as_many_pages_as_asked_for() {
        let (html, statuses, deepest) = walk(&site());
        assert_eq!(html, 3_000, "{statuses:?}");
        assert!((4..=8).contains(&deepest), "{deepest}");
        // Gone products, missing pages, errors that stay: each is there and nothing else is broken.
        assert_eq!(statuses.get(&410), Some(&30));
        assert_eq!(statuses.get(&404), Some(&5), "{statuses:?}");
        assert_eq!(statuses.get(&500), Some(&3));
        assert_eq!(statuses.get(&429), None);
    }

    #[test]
    fn a_small_site_is_complete_too() {
        let options = DemoOptions { pages: 400, ..Default::default() };
        assert_eq!(walk(&Site::new(&options, "http://127.0.0.1:1".to_owned())).0, 400);
    }

    #[test]
    fn the_same_request_gives_the_same_bytes() {
        let (site, other) = (site(), site());
        for path in
            ["/", "/articles/", "/catalogue/ropes/?page=2", "/corners/", "/sitemap.xml", "/charsets/windows-1252"]
        {
            assert_eq!(get(&site, path).body, get(&other, path).body, "{path}");
        }
    }

    #[test]
    fn gzip_is_given_to_those_who_take_it() {
        let site = site();
        let plain = get(&site, "/articles/");
        assert_eq!(plain.header("content-encoding"), None);
        let req = Req { gzip: true, ..ask("GET", "/articles/") };
        let packed = reply(respond(&site, KNOBS, &mut State::default(), &req, Duration::ZERO));
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut out).expect("gzip");
        assert_eq!(out, plain.body);
    }

    #[test]
    fn at_most_so_many_a_second_and_the_wait_is_watched() {
        let mut state = State::default();
        let ms = Duration::from_millis;
        let grace = ms(50);
        assert!((0..20).all(|n| state.admit_limited(20, grace, ms(n))));
        assert!(!state.admit_limited(20, grace, ms(999)));
        // One tick later the first one has left the window; within the grace it is no violation.
        assert!(state.admit_limited(20, grace, ms(1000)));
        assert_eq!((state.stats.too_many, state.stats.violations), (1, 0));
        assert!(state.admit_limited(20, grace, ms(1050)));
        assert_eq!(state.stats.violations, 1);
        assert!(state.admit_limited(20, grace, ms(1999)));
        assert_eq!(state.stats.violations, 1, "the wait of one second is over");
        assert_eq!(state.stats.limited_first, Some(ms(0)));
        assert_eq!(state.stats.limited_last, Some(ms(1999)));
    }

    #[test]
    fn strange_targets_are_answered() {
        let site = site();
        for target in ["*", "", "//", "/catalogue/p/", "/catalogue/p/99999999999999999999", "/slow/x", "/large/", "é"]
        {
            assert!(get(&site, target).status >= 200, "{target}");
        }
    }
}
