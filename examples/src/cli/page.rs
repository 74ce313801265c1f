//! What records tell about a page itself, found where pages are parsed: off the loop.

use base64::Engine as _;
use http::{HeaderName, HeaderValue, Method};
use sha2::{Digest as _, Sha256};
use tidegate::{Accept, Head, Output, Page, ParseError, Parser, Request, Scope};
use tidegate_parse::{Document, Links, links_of, text};
use url::Url;

use super::args::{BodyMode, Common};
use super::values::StatusList;

/// A title begins and ends in this many bytes of text, or is not looked for.
const TITLE_WITHIN: usize = 64 << 10;

/// Attached to the outcome of each page.
#[derive(Debug, Default)]
pub(super) struct PageFacts {
    /// Of the decoded body, in hexadecimal.
    pub(super) sha256: Option<String>,
    /// The decoded body in base64.
    pub(super) body: Option<String>,
    pub(super) title: Option<String>,
    pub(super) links_count: Option<u64>,
    pub(super) links: Option<Vec<String>>,
}

/// The parser of all subcommands: facts about the page, and links to follow for `crawl`.
#[derive(Debug)]
pub(super) struct PageParser {
    body: BodyMode,
    accept: Option<StatusList>,
    head_only: bool,
    follow: Option<Follow>,
}

/// What `crawl` does with links.
#[derive(Debug)]
pub(super) struct Follow {
    /// Write them into the record.
    pub(super) list: bool,
    pub(super) headers: SeedHeaders,
}

impl PageParser {
    pub(super) fn new(common: &Common) -> Self {
        Self { body: common.body, accept: common.accept_status.clone(), head_only: false, follow: None }
    }

    /// Closes after the head.
    pub(super) fn head_only(mut self) -> Self {
        self.head_only = true;
        self
    }

    pub(super) fn following(mut self, follow: Follow) -> Self {
        self.follow = Some(follow);
        self
    }
}

impl Parser<()> for PageParser {
    fn accept(&self, head: &Head) -> Accept {
        match &self.accept {
            Some(list) if !list.contains(head.status) => Accept::Fail,
            _ if self.head_only => Accept::Head,
            _ => Accept::Body,
        }
    }

    fn parse(&self, page: &Page, out: &mut Output<()>) -> Result<(), ParseError> {
        if self.head_only {
            return Ok(());
        }
        let mut facts = PageFacts::default();
        let has_body = *page.request().method() != Method::HEAD;
        if has_body && self.body != BodyMode::None {
            facts.sha256 = Some(hex(&Sha256::digest(page.body())));
        }
        if has_body && self.body == BodyMode::Inline {
            facts.body = Some(base64::engine::general_purpose::STANDARD.encode(page.body()));
        }
        if let Some(follow) = self.follow.as_ref().filter(|_| is_html(page)) {
            let text = text(page);
            facts.title = title_of(&text, page.url());
            // A page that is built to hurt has no links for us; it was fetched all the same.
            if let Ok(links) = links_of(&text, page.url()) {
                facts.links_count = Some(links.iter().count() as u64);
                facts.links = follow.list.then(|| links.iter().map(|link| link.url.clone()).collect());
                follow.all(links, out);
            }
        }
        out.attach(facts);
        Ok(())
    }
}

impl Follow {
    fn all(&self, links: Links, out: &mut Output<()>) {
        for link in links {
            out.follow(self.headers.dress(Request::from(link)));
        }
    }
}

/// Headers that go to the sites of the seeds and nowhere else, and not in the clear where the seed was not.
#[derive(Clone, Debug, Default)]
pub(super) struct SeedHeaders {
    headers: Vec<(HeaderName, HeaderValue)>,
    all: Option<Scope>,
    in_clear: Option<Scope>,
}

impl SeedHeaders {
    pub(super) fn new(headers: &[(HeaderName, HeaderValue)], seeds: &[Url]) -> Self {
        let (mut all, mut in_clear) = (Scope::site(), Scope::site());
        for seed in seeds {
            all.admit(seed);
            if seed.scheme() == "http" {
                in_clear.admit(seed);
            }
        }
        Self { headers: headers.to_vec(), all: Some(all), in_clear: Some(in_clear) }
    }

    /// The request with the headers, where its URL may have them.
    pub(super) fn dress(&self, request: Request) -> Request {
        if self.headers.is_empty() {
            return request;
        }
        let Ok(url) = request.target() else { return request };
        let scope = if url.scheme() == "https" { &self.all } else { &self.in_clear };
        if scope.as_ref().is_some_and(|scope| scope.contains(&url)) {
            with_headers(request, &self.headers)
        } else {
            request
        }
    }
}

/// The request with each header that it has not yet.
pub(super) fn with_headers(request: Request, headers: &[(HeaderName, HeaderValue)]) -> Request {
    let own: Vec<_> = request.headers().map(|own| own.keys().cloned().collect()).unwrap_or_default();
    headers
        .iter()
        .filter(|(name, _)| !own.contains(name))
        .fold(request, |request, (name, value)| request.with_header(name.clone(), value.clone()))
}

fn is_html(page: &Page) -> bool {
    match page.content_type() {
        Some(value) => {
            let kind = value.split(';').next().unwrap_or_default().trim();
            ["text/html", "application/xhtml+xml"].into_iter().any(|html| kind.eq_ignore_ascii_case(html))
        }
        None => page.body().trim_ascii_start().starts_with(b"<"),
    }
}

/// The title, from a document of no more than what stands before its end tag.
fn title_of(text: &str, url: &Url) -> Option<String> {
    const END: &[u8] = b"</title";
    let bytes = &text.as_bytes()[..text.len().min(TITLE_WITHIN)];
    let end = bytes.windows(END.len()).position(|window| window.eq_ignore_ascii_case(END))?;
    // It begins with an ASCII character, so nothing is cut in two.
    Document::parse(&text[..end], url).ok()?.title()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use tidegate::parse_once;

    use super::*;

    fn parser(body: BodyMode, headers: SeedHeaders) -> PageParser {
        PageParser { body, accept: None, head_only: false, follow: Some(Follow { list: true, headers }) }
    }

    fn url(text: &str) -> Url {
        text.parse().expect("literal")
    }

    #[test]
    fn the_facts_of_a_page() {
        let page = Page::build("http://a.test/x/")
            .header("content-type", "text/html")
            .body("<TITLE>Fish &amp; chips</TITLE><a href=y>y</a><a href=mailto:x>x</a>");
        let out = parse_once(&parser(BodyMode::Inline, SeedHeaders::default()), &page).expect("parses");
        let facts: &PageFacts = out.attachment().expect("attached");
        assert_eq!(facts.title.as_deref(), Some("Fish & chips"));
        assert_eq!(facts.links_count, Some(1));
        assert_eq!(facts.links.as_deref(), Some(&["http://a.test/x/y".to_owned()][..]));
        assert_eq!(out.found()[0].url(), "http://a.test/x/y");
        let page = Page::build("http://a.test/x.bin").header("content-type", "application/pdf").body("");
        let out = parse_once(&parser(BodyMode::Hash, SeedHeaders::default()), &page).expect("parses");
        let facts: &PageFacts = out.attachment().expect("attached");
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!((facts.sha256.as_deref(), facts.links_count), (Some(of_nothing), None));
    }

    #[test]
    fn titles_that_are_not_there() {
        let at = url("http://a.test/");
        for text in
            ["", "<title>never ends", "<p>no title</p>", &format!("{}<title>far</title>", "x".repeat(TITLE_WITHIN))]
        {
            assert_eq!(title_of(text, &at), None);
        }
    }

    // C2
    #[test]
    fn headers_go_to_the_seeds_sites_only_and_not_in_the_clear() {
        let secret = (HeaderName::from_static("x-key"), HeaderValue::from_static("s"));
        let headers = SeedHeaders::new(&[secret], &[url("https://www.a.test/"), url("http://b.test/")]);
        for (to, goes) in [
            ("https://a.test/", true),
            ("http://a.test/", false),
            ("http://b.test:8080/", true),
            ("https://c.test/", false),
            ("no url", false),
        ] {
            assert_eq!(headers.dress(Request::get(to)).headers().is_some(), goes, "{to}");
        }
    }

    #[test]
    fn a_request_keeps_its_own_header() {
        let field = |value| (HeaderName::from_static("accept"), HeaderValue::from_static(value));
        let own = Request::get("http://a.test/").with_header(field("own").0, field("own").1);
        let dressed = with_headers(own, &[field("theirs")]);
        let values: Vec<_> = dressed.headers().expect("some").get_all("accept").iter().collect();
        assert_eq!(values, ["own"]);
    }
}
