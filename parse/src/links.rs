//! The links of a page, found in one pass without building a document.

use std::borrow::Cow;
use std::collections::HashMap;

use tidegate::{Page, Request};
use url::Url;

use crate::address::{absolute, base_of, without_fragment};
use crate::entities::decode_attribute;
use crate::tags::{Tag, Tags};
use crate::{HtmlError, MAX_ATTRIBUTES, text};

/// Links taken from one page; those beyond are only counted. As [`tidegate::Limits::links`].
pub const MAX_LINKS: usize = 100_000;

/// The links of a page: `<a>`, `<area>` and `<link rel>`, absolute, in the order of the page.
///
/// Many times as fast as a document. Content for browsers without scripts (`<noscript>`) is not looked at.
///
/// # Errors
/// Only for a page that is built to hurt: [`HtmlError::TooManyAttributes`] where a tag with a link has more than
/// [`MAX_ATTRIBUTES`].
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
    collect(text, url, Gathered::link)
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
    collect(&text(page), page.url(), Gathered::image)
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

    pub(crate) fn into_all(self) -> Vec<Link> {
        self.found
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

/// A link before it is resolved.
struct Raw<'a> {
    url: Cow<'a, str>,
    kind: LinkKind,
    rel: Option<Box<str>>,
}

/// What the pass over a page gathers. Resolving waits for its end, because `<base>` may stand anywhere.
#[derive(Default)]
struct Gathered<'a> {
    raw: Vec<Raw<'a>>,
    base: Option<Cow<'a, str>>,
    dropped: u64,
}

impl<'a> Gathered<'a> {
    fn push(&mut self, url: Cow<'a, str>, kind: LinkKind, rel: Option<Box<str>>) {
        if self.raw.len() < MAX_LINKS {
            self.raw.push(Raw { url, kind, rel });
        } else {
            self.dropped += 1;
        }
    }

    /// Takes what a visitor could follow.
    fn link(&mut self, tag: &Tag<'a>) -> Result<(), HtmlError> {
        let kind = match () {
            () if tag.is("a") => LinkKind::Anchor,
            () if tag.is("area") => LinkKind::Area,
            () if tag.is("link") => LinkKind::Rel,
            () => return self.base(tag),
        };
        let [href, rel] = attributes(tag, ["href", "rel"])?;
        if let Some(href) = href {
            self.push(decode_attribute(href), kind, rel.map(|rel| decode_attribute(rel).into()));
        }
        Ok(())
    }

    /// Takes what is shown.
    fn image(&mut self, tag: &Tag<'a>) -> Result<(), HtmlError> {
        let is_image = tag.is("img");
        if !is_image && !tag.is("source") {
            return self.base(tag);
        }
        let [src, set] = attributes(tag, ["src", "srcset"])?;
        if let Some(src) = src.filter(|_| is_image) {
            self.push(decode_attribute(src), LinkKind::Image, None);
        }
        match set.map(decode_attribute) {
            Some(Cow::Borrowed(set)) => srcset(set).for_each(|url| self.push(url.into(), LinkKind::Srcset, None)),
            Some(Cow::Owned(set)) => {
                srcset(&set).for_each(|url| self.push(url.to_owned().into(), LinkKind::Srcset, None));
            }
            None => {}
        }
        Ok(())
    }

    fn base(&mut self, tag: &Tag<'a>) -> Result<(), HtmlError> {
        if self.base.is_none() && tag.is("base") {
            let [href] = attributes(tag, ["href"])?;
            self.base = href.map(decode_attribute);
        }
        Ok(())
    }

    fn resolve(self, page: &Url) -> Links {
        let base = base_of(page, self.base.as_deref());
        let mut dropped = self.dropped;
        let mut found = Vec::with_capacity(self.raw.len());
        // Pages repeat their links, above all in that only the fragment differs.
        let mut known: HashMap<&str, Option<String>> = HashMap::new();
        for Raw { url: raw, kind, rel } in &self.raw {
            let url =
                known.entry(without_fragment(raw)).or_insert_with_key(|raw| absolute(&base, raw).map(String::from));
            match url {
                Some(url) => found.push(Link { url: url.clone(), kind: *kind, rel: rel.clone() }),
                None => dropped += 1,
            }
        }
        Links { found, base, dropped }
    }
}

/// The first attributes of these names. A tag is refused for what [`html`](crate::html()) refuses it.
fn attributes<'a, const N: usize>(tag: &Tag<'a>, names: [&str; N]) -> Result<[Option<&'a str>; N], HtmlError> {
    let mut values = [None; N];
    for (n, (name, value)) in tag.attributes().enumerate() {
        if n == MAX_ATTRIBUTES {
            return Err(HtmlError::TooManyAttributes);
        }
        for (wanted, first) in names.iter().zip(&mut values) {
            if first.is_none() && name.eq_ignore_ascii_case(wanted) {
                *first = Some(value);
            }
        }
    }
    Ok(values)
}

fn collect<'a>(
    text: &'a str,
    url: &Url,
    take: fn(&mut Gathered<'a>, &Tag<'a>) -> Result<(), HtmlError>,
) -> Result<Links, HtmlError> {
    let mut gathered = Gathered::default();
    for tag in Tags::new(text) {
        take(&mut gathered, &tag)?;
    }
    Ok(gathered.resolve(url))
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

    // I4
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
