//! A parser that follows links and nothing else.

use tidegate::{Accept, Head, Output, Page, ParseError, Parser};

use crate::links;

/// Follows every link of a page and gives no items.
///
/// ```
/// use tidegate::{Page, parse_once};
/// use tidegate_parse::follow_links;
///
/// let page = Page::build("http://a.test/").body("<a href=x>x</a><a href=y rel=nofollow>y</a><link rel=next href=z>");
/// let out = parse_once::<(), _>(&follow_links(), &page)?;
/// assert_eq!(out.found().len(), 2);
/// let out = parse_once::<(), _>(&follow_links().with_nofollow(false).with_rel_next(true), &page)?;
/// assert_eq!(out.found()[1].url(), "http://a.test/z");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
pub fn follow_links() -> LinkParser {
    LinkParser { nofollow: true, rel_next: false }
}

/// Follows links; made by [`follow_links`]. A parser for any type of item, because it gives none.
///
/// It asks for HTML only: another Content-Type settles the URL as skipped, before its body is read. Counters:
/// `links.followed`, `links.dropped` (not http or https, or no URL), `links.nofollow` (left alone).
///
/// ```
/// use tidegate::{Accept, Head, Parser};
/// use tidegate_parse::follow_links;
///
/// let mut head = Head::new("http://a.test/x.pdf".parse()?, http::StatusCode::OK);
/// head.headers.insert("content-type", "application/pdf".parse()?);
/// assert_eq!(Parser::<()>::accept(&follow_links(), &head), Accept::Refuse);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LinkParser {
    nofollow: bool,
    rel_next: bool,
}

impl LinkParser {
    /// Whether links with `rel=nofollow` are followed; yes by default, as the word is about a site's endorsement.
    #[must_use]
    pub fn with_nofollow(mut self, follow: bool) -> Self {
        self.nofollow = follow;
        self
    }

    /// Whether `<link rel=next>` and `<link rel=prev>` are followed; no by default.
    #[must_use]
    pub fn with_rel_next(mut self, follow: bool) -> Self {
        self.rel_next = follow;
        self
    }
}

impl<I> Parser<I> for LinkParser {
    fn accept(&self, head: &Head) -> Accept {
        match Accept::on_success(head) {
            Accept::Body if !may_be_html(head) => Accept::Refuse,
            accept => accept,
        }
    }

    fn parse(&self, page: &Page, out: &mut Output<I>) -> Result<(), ParseError> {
        let links = links(page)?;
        let dropped = links.dropped();
        let (mut followed, mut nofollow) = (0, 0);
        for link in links.into_all() {
            let wanted = link.kind != crate::LinkKind::Rel
                || (self.rel_next && ["next", "prev"].into_iter().any(|word| link.has_rel(word)));
            if !wanted {
                continue;
            }
            if !self.nofollow && link.has_rel("nofollow") {
                nofollow += 1;
                continue;
            }
            out.follow(link);
            followed += 1;
        }
        out.count("links.followed", followed);
        out.count("links.dropped", dropped);
        out.count("links.nofollow", nofollow);
        Ok(())
    }
}

/// HTML by its Content-Type, or without any.
fn may_be_html(head: &Head) -> bool {
    let Some(value) = head.content_type() else { return true };
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.is_empty() || ["text/html", "application/xhtml+xml"].into_iter().any(|html| kind.eq_ignore_ascii_case(html))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tidegate::parse_once;

    use super::*;

    #[test]
    fn counts_what_it_does() {
        let page = Page::build("http://a.test/")
            .body("<a href=1><a href=2 rel=nofollow><a href=tel:3><link rel=canonical href=4>");
        let out = parse_once::<(), _>(&follow_links().with_nofollow(false), &page).expect("small");
        assert_eq!(out.counts(), [("links.followed", 1), ("links.dropped", 1), ("links.nofollow", 1)]);
    }

    // I8
    #[test]
    fn asks_for_html_only() {
        for (kind, accept) in [
            (Some("text/html; charset=utf-8"), Accept::Body),
            (Some("TEXT/HTML"), Accept::Body),
            (Some("application/xhtml+xml"), Accept::Body),
            (Some(""), Accept::Body),
            (None, Accept::Body),
            (Some("image/png"), Accept::Refuse),
            (Some("text/htmlx"), Accept::Refuse),
        ] {
            let mut head = Head::new("http://a.test/".parse().expect("literal"), StatusCode::OK);
            if let Some(kind) = kind {
                head.headers.insert("content-type", kind.parse().expect("a value"));
            }
            assert_eq!(Parser::<()>::accept(&follow_links(), &head), accept, "{kind:?}");
        }
        let head = Head::new("http://a.test/".parse().expect("literal"), StatusCode::NOT_FOUND);
        assert_eq!(Parser::<()>::accept(&follow_links(), &head), Accept::Refuse);
    }
}
