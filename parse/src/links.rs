//! The links of a page, found in one pass without building a document.

use std::cell::{Cell, RefCell};

use lol_html::errors::RewritingError;
use lol_html::html_content::Element as Tag;
use lol_html::{HtmlRewriter, MemorySettings, Settings, element};
use tidegate::{Page, Request};
use url::Url;

use crate::address::{absolute, base_of};
use crate::entities::decode_attribute;
use crate::{Document, HtmlError, css, text};

/// Links taken from one page; those beyond are only counted. As [`tidegate::Limits::links`].
pub const MAX_LINKS: usize = 100_000;

/// Memory that the scanner may use to remember open elements: 4 MiB, some 30,000 of them. A page that is nested more deeply than that is
/// read by [`html`](crate::html()) instead, which has bounds of its own.
pub(crate) const MAX_MEMORY: usize = 4 * 1024 * 1024;

/// The links of a page: `<a>`, `<area>` and `<link rel>`, absolute, in the order of the page.
///
/// Two to four times as fast as a document. Content for browsers without scripts (`<noscript>`) is not looked at.
///
/// # Errors
/// Only for a page that is built to hurt, as [`html`](crate::html()).
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::links;
///
/// let page = Page::build("http://a.test/x/").body("<a href='y?a=1&amp;b=2#top'>y</a> <a href=mailto:me@a.test>me</a>");
/// let urls: Vec<_> = links(&page)?.into_iter().map(|link| link.url).collect();
/// assert_eq!(urls, ["http://a.test/x/y?a=1&b=2"]);
/// # Ok::<(), tidegate_parse::HtmlError>(())
/// ```
pub fn links(page: &Page) -> Result<Links, HtmlError> {
    links_of(&text(page), page.url())
}

/// As [`links`], of text.
///
/// # Errors
/// As [`links`].
///
/// ```
/// let links = tidegate_parse::links_of("<base href=/b/><a href=x>", &"http://a.test/".parse()?)?;
/// assert_eq!(links.iter().next().expect("one").url, "http://a.test/b/x");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn links_of(text: &str, url: &Url) -> Result<Links, HtmlError> {
    collect(text, url, &["a[href]", "area[href]", "link[href]", "base[href]"])
}

/// What a page shows beside its text: images, also those of `srcset`, as links of kind [`LinkKind::Image`] and
/// [`LinkKind::Srcset`].
///
/// # Errors
/// As [`links`].
///
/// ```
/// use tidegate::Page;
/// let page = Page::build("http://a.test/").body("<img src=1.png srcset='2.png 2x, 3.png 3x'>");
/// assert_eq!(tidegate_parse::images(&page)?.iter().count(), 3);
/// # Ok::<(), tidegate_parse::HtmlError>(())
/// ```
pub fn images(page: &Page) -> Result<Links, HtmlError> {
    collect(&text(page), page.url(), &["img", "source[srcset]", "base[href]"])
}

/// The links of one page.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{LinkKind, links};
///
/// let page = Page::build("http://a.test/").body("<link rel=next href=2><a href=3>");
/// let links = links(&page)?;
/// assert_eq!(links.iter().count(), 1);
/// assert_eq!(links.all()[0].kind, LinkKind::Rel);
/// # Ok::<(), tidegate_parse::HtmlError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Links {
    found: Vec<Link>,
    base: Url,
    dropped: u64,
}

impl Links {
    /// The links that a visitor could follow: all but those of `<link>`.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.found.iter().filter(|link| link.kind != LinkKind::Rel)
    }

    /// All links.
    pub fn all(&self) -> &[Link] {
        &self.found
    }

    /// What they were relative to.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Links that are not in this list: not http or https, no URL at all, or beyond [`MAX_LINKS`].
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Gives the links of [`Links::iter`].
impl IntoIterator for Links {
    type Item = Link;
    type IntoIter = std::iter::Filter<std::vec::IntoIter<Link>, fn(&Link) -> bool>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter().filter(|link| link.kind != LinkKind::Rel)
    }
}

/// One link. [`Output::follow`](tidegate::Output::follow) takes it as it is.
///
/// ```
/// let links = tidegate_parse::links_of("<a rel='nofollow ugc' href=/x>", &"http://a.test/".parse()?)?;
/// let link = &links.all()[0];
/// assert!(link.has_rel("NoFollow") && !link.has_rel("next"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Absolute, http or https, without fragment.
    pub url: String,
    /// Where it stands.
    pub kind: LinkKind,
    /// Its `rel` as it was written.
    pub rel: Option<Box<str>>,
}

impl Link {
    /// Whether `rel` has this word, in any case.
    pub fn has_rel(&self, word: &str) -> bool {
        self.rel.as_deref().is_some_and(|rel| rel.split_ascii_whitespace().any(|w| w.eq_ignore_ascii_case(word)))
    }
}

impl From<Link> for Request {
    fn from(link: Link) -> Self {
        Self::get(link.url)
    }
}

impl From<&Link> for Request {
    fn from(link: &Link) -> Self {
        Self::get(link.url.as_str())
    }
}

/// Where a [`Link`] stands.
///
/// ```
/// use tidegate_parse::{LinkKind, links_of};
/// let links = links_of("<map><area href=/x></map>", &"http://a.test/".parse()?)?;
/// assert_eq!(links.all()[0].kind, LinkKind::Area);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// `<a href>`.
    Anchor,
    /// `<area href>`.
    Area,
    /// `<link rel=next href>` and the like, style sheets included; [`Link::rel`] says what it is.
    Rel,
    /// `<img src>`.
    Image,
    /// `srcset` of `<img>` or `<source>`.
    Srcset,
}

/// A link before it is resolved: address, kind, rel.
type Raw = (Box<str>, LinkKind, Option<Box<str>>);

/// What the pass over a page gathers. Resolving waits for its end, because `<base>` may stand anywhere.
#[derive(Default)]
struct Gathered {
    raw: RefCell<Vec<Raw>>,
    base: RefCell<Option<String>>,
    dropped: Cell<u64>,
}

impl Gathered {
    fn push(&self, url: &str, kind: LinkKind, rel: Option<Box<str>>) {
        let mut raw = self.raw.borrow_mut();
        if raw.len() < MAX_LINKS {
            raw.push((url.into(), kind, rel));
        } else {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    fn element(&self, name: &str, attribute: impl Fn(&str) -> Option<String>) {
        let rel = || attribute("rel").map(String::into_boxed_str);
        let href = || attribute("href");
        match name {
            "a" | "area" | "link" => {
                let kind = match name {
                    "a" => LinkKind::Anchor,
                    "area" => LinkKind::Area,
                    _ => LinkKind::Rel,
                };
                if let Some(href) = href() {
                    self.push(&href, kind, rel());
                }
            }
            "base" => {
                let mut base = self.base.borrow_mut();
                if base.is_none() {
                    *base = href();
                }
            }
            _ => {
                if name == "img"
                    && let Some(src) = attribute("src")
                {
                    self.push(&src, LinkKind::Image, None);
                }
                if let Some(set) = attribute("srcset") {
                    srcset(&set).for_each(|url| self.push(url, LinkKind::Srcset, None));
                }
            }
        }
    }

    fn resolve(self, page: &Url) -> Links {
        let base = base_of(page, self.base.into_inner().as_deref());
        let raw = self.raw.into_inner();
        let mut dropped = self.dropped.get();
        let mut found = Vec::with_capacity(raw.len());
        for (url, kind, rel) in raw {
            match absolute(&base, &url) {
                Some(url) => found.push(Link { url: url.into(), kind, rel }),
                None => dropped += 1,
            }
        }
        Links { found, base, dropped }
    }
}

fn collect(text: &str, url: &Url, wanted: &[&str]) -> Result<Links, HtmlError> {
    let gathered = Gathered::default();
    match scan(text, wanted, &gathered) {
        Ok(()) => Ok(gathered.resolve(url)),
        Err(_) => {
            let gathered = Gathered::default();
            for element in Document::parse(text, url)?.select(css!("a, area, link, base, img, source")) {
                if wanted.iter().any(|wanted| wanted.split('[').next() == Some(element.name())) {
                    gathered.element(element.name(), |name| element.attr(name).map(str::to_owned));
                }
            }
            Ok(gathered.resolve(url))
        }
    }
}

fn scan(text: &str, wanted: &[&str], gathered: &Gathered) -> Result<(), RewritingError> {
    let settings = Settings::new()
        .with_strict(false)
        .with_memory_settings(MemorySettings::new().with_max_allowed_memory_usage(MAX_MEMORY));
    let settings = wanted.iter().fold(settings, |settings, selector| {
        settings.append_element_content_handler(element!(selector, |tag: &mut Tag<'_, '_>| {
            gathered.element(&tag.tag_name(), |name| {
                let raw = tag.get_attribute(name)?;
                Some(match decode_attribute(&raw) {
                    std::borrow::Cow::Borrowed(_) => raw,
                    std::borrow::Cow::Owned(decoded) => decoded,
                })
            });
            Ok(())
        }))
    });
    let mut scanner = HtmlRewriter::new(settings, |_: &[u8]| {});
    scanner.write(text.as_bytes())?;
    scanner.end()
}

/// The URLs of a `srcset`, without their descriptors, by the rules of the HTML standard.
fn srcset(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (url, after) = rest.split_at(end);
        let trimmed = url.trim_end_matches(',');
        if trimmed.len() < url.len() {
            rest = after;
            return Some(trimmed);
        }
        // A comma within parentheses belongs to a descriptor.
        let mut inside = false;
        let end = after.find(|c| {
            inside = (inside || c == '(') && c != ')';
            c == ',' && !inside
        });
        rest = &after[end.unwrap_or(after.len())..];
        Some(trimmed)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(body: &str) -> Links {
        links_of(body, &Url::parse("http://a.test/dir/page?q#f").expect("literal")).expect("within the bounds")
    }

    fn urls(body: &str) -> Vec<String> {
        of(body).into_iter().map(|link| link.url).collect()
    }

    #[test]
    fn only_what_can_be_followed() {
        let links = of("<a href=' x\n#f '><a name=y><a href=javascript:x><A HREF=MAILTO:a@b><area href=//b.test><link rel=stylesheet href=c>
            <!-- <a href=no> --><script>'<a href=no>'</script><title><a href=no></title><img src=i>");
        assert_eq!(links.iter().map(|l| l.url.as_str()).collect::<Vec<_>>(), ["http://a.test/dir/x", "http://b.test/"]);
        assert_eq!(links.all().len(), 3);
        assert_eq!(links.all()[2].rel.as_deref(), Some("stylesheet"));
        assert_eq!(links.dropped(), 2);
    }

    #[test]
    fn the_first_base_counts_wherever_it_stands() {
        assert_eq!(
            urls("<a href=x><base><base href=/b/><base href=/c/><a href=y>"),
            ["http://a.test/b/x", "http://a.test/b/y"]
        );
        assert_eq!(urls("<base href='javascript:x'><a href=x>"), ["http://a.test/dir/x"]);
    }

    #[test]
    fn character_references_are_decoded() {
        assert_eq!(urls("<a href='?a&amp;b&copy=1&#x26;c'>"), ["http://a.test/dir/page?a&b&copy=1&c"]);
    }

    // A23
    #[test]
    fn the_charset_is_heeded() {
        let body: Vec<u8> = "\u{feff}<a href=/grün>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let page = Page::build("http://a.test/").body(body);
        assert_eq!(links(&page).expect("small").all()[0].url, "http://a.test/gr%C3%BCn");
        let page = Page::build("http://a.test/")
            .header("content-type", "text/html; charset=shift_jis")
            .body(&b"<a href=/\x93\xfa>"[..]);
        assert_eq!(links(&page).expect("small").all()[0].url, "http://a.test/%E6%97%A5");
    }

    #[test]
    fn the_parts_of_a_srcset() {
        for (set, expected) in [
            ("a.png", &["a.png"][..]),
            ("a.png 1x, b.png 2x", &["a.png", "b.png"]),
            (" , a.png, b.png 100w ,,", &["a.png", "b.png"]),
            ("a,b.png 1x,c.png", &["a,b.png", "c.png"]),
            ("a.png f(1,2) x, b", &["a.png", "b"]),
            ("", &[]),
        ] {
            assert_eq!(srcset(set).collect::<Vec<_>>(), expected, "{set:?}");
        }
    }

    // I6
    #[test]
    fn links_are_bounded() {
        let links = of(&"<a href=x>".repeat(MAX_LINKS + 5));
        assert_eq!((links.all().len(), links.dropped()), (MAX_LINKS, 5));
    }

    // I4: nested too deeply for the scanner, the page is read as a document.
    #[test]
    fn pages_without_end_tags_are_read() {
        let links =
            of(&format!("<base href=/b/><a href=first></a>{}<a href=x rel=last><img src=i>", "<div>".repeat(50_000)));
        let found: Vec<_> = links.iter().map(|l| l.url.as_str()).collect();
        assert_eq!(found, ["http://a.test/b/first", "http://a.test/b/x"]);
        assert!(links.all()[1].has_rel("last"));
    }

    // I5
    #[test]
    fn hostile_pages_end() {
        let attributes: String = (0..200_000).map(|i| format!(" a{i}")).collect();
        let many = links_of(&format!("<a{attributes} href=x>"), &Url::parse("http://a.test/").expect("literal"));
        assert_eq!(many.err(), Some(HtmlError::TooManyAttributes));
        of(&"<ul><li>".repeat(8_000));
        of(&"<div></x>".repeat(15_000));
        of(&format!("{}{}", "<a><b>".repeat(7_000), "</b></a>".repeat(7_000)));
    }

    proptest! {
        #[test]
        fn any_bytes_have_links(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let page = Page::build("http://a.test/").body(bytes);
            prop_assert!(links(&page).is_ok() && images(&page).is_ok());
        }

        #[test]
        fn any_markup_has_links(body in "(<a href=|<base href=|<img srcset=|'|\"|>|/|#|&amp;|http://|,| |x|</a>|<!--|<script>|\\[|\\\\|\t){0,40}") {
            let page = Page::build("http://a.test/").body(body);
            for link in links(&page).expect("small") {
                prop_assert!(link.url.starts_with("http") && !link.url.contains('#'));
            }
            images(&page).expect("small");
        }
    }
}
