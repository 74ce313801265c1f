//! [`Element`]: an element of a document, and the questions that are asked of it.

use std::fmt;

use scraper::{ElementRef, Node};
use tidegate::Request;
use url::Url;

use super::{Missing, Selector};
use crate::address::absolute;

/// An element of a [`Document`](super::Document).
///
/// Selecting looks at its descendants only; `:scope` is the element itself.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{css, html};
///
/// let doc = html(&Page::build("http://a.test/").body("<p id=x title=T>one <b>two</b></p><b>three</b>"))?;
/// let p = doc.first(css!("#x")).expect("it is there");
/// assert_eq!(p.attr("title"), Some("T"));
/// assert_eq!(p.inner_text(), "one two");
/// assert_eq!(p.text(css!("b"))?, "two");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Element<'a> {
    pub(super) node: ElementRef<'a>,
    pub(super) base: &'a Url,
}

impl<'a> Element<'a> {
    /// The descendants that match, in the order of the document.
    pub fn select<'s>(&self, selector: &'s Selector) -> impl Iterator<Item = Element<'a>> + use<'a, 's> {
        let base = self.base;
        self.node.select(&selector.inner).map(move |node| Element { node, base })
    }

    /// The first descendant that matches.
    pub fn first(&self, selector: &Selector) -> Option<Self> {
        self.select(selector).next()
    }

    /// The text of the first descendant that matches, as [`inner_text`](Self::inner_text).
    ///
    /// # Errors
    /// Where nothing matches.
    pub fn text(&self, selector: &Selector) -> Result<String, Missing> {
        self.first(selector).map(|element| element.inner_text()).ok_or_else(|| Missing::element(selector))
    }

    /// An attribute of this element; an empty one is `Some("")`.
    pub fn attr(&self, name: &str) -> Option<&'a str> {
        self.node.value().attr(name)
    }

    /// The name, in lower case: `a`, `div`.
    pub fn name(&self) -> &'a str {
        self.node.value().name()
    }

    pub(super) fn is_html(&self) -> bool {
        &*self.node.value().name.ns == "http://www.w3.org/1999/xhtml"
    }

    /// The text of this element and its descendants: white space collapsed, a space where a block or line begins, the
    /// content of scripts and styles left out.
    pub fn inner_text(&self) -> String {
        let mut text = String::new();
        let mut space = false;
        let mut node = *self.node;
        // Down, along and up by hand: the depth of a page must not become depth of our stack.
        loop {
            let mut next = None;
            match node.value() {
                Node::Text(part) => push_collapsed(&mut text, &mut space, part),
                Node::Element(element) => {
                    space |= !is_inline(element.name());
                    if node == *self.node || !is_not_text(element.name()) {
                        next = node.first_child();
                    }
                }
                _ => {}
            }
            while next.is_none() {
                if let Node::Element(element) = node.value() {
                    space |= !is_inline(element.name());
                }
                if node == *self.node {
                    return text;
                }
                next = node.next_sibling();
                if next.is_none() {
                    match node.parent() {
                        Some(parent) => node = parent,
                        None => return text,
                    }
                }
            }
            if let Some(found) = next {
                node = found;
            }
        }
    }

    /// The text of this element and its descendants as it stands on the page, that of a script too.
    pub fn raw_text(&self) -> String {
        self.node.text().collect()
    }

    /// The element as HTML, itself included.
    pub fn html(&self) -> String {
        self.node.html()
    }

    /// The URL in `href` or else `src` of this element: absolute, without fragment, http or https.
    pub fn link(&self) -> Option<Request> {
        let raw = self.attr("href").or_else(|| self.attr("src"))?;
        absolute(self.base, raw).map(Request::from)
    }

    /// The [`link`](Self::link)s of the descendants that match.
    pub fn links<'s>(&self, selector: &'s Selector) -> impl Iterator<Item = Request> + use<'a, 's> {
        self.select(selector).filter_map(|element| element.link())
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.node.value(), f)
    }
}

fn push_collapsed(out: &mut String, space: &mut bool, part: &str) {
    *space |= part.starts_with(char::is_whitespace);
    for (i, word) in part.split_whitespace().enumerate() {
        if (i > 0 || *space) && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        *space = part.ends_with(char::is_whitespace);
    }
}

fn is_not_text(name: &str) -> bool {
    matches!(name, "script" | "style" | "template" | "noscript" | "head")
}

/// Elements that stand within a line: no space is put before or after them.
fn is_inline(name: &str) -> bool {
    matches!(
        name,
        "a" | "abbr"
            | "acronym"
            | "b"
            | "bdi"
            | "bdo"
            | "big"
            | "cite"
            | "code"
            | "data"
            | "del"
            | "dfn"
            | "em"
            | "font"
            | "i"
            | "ins"
            | "kbd"
            | "label"
            | "mark"
            | "nobr"
            | "q"
            | "s"
            | "samp"
            | "script"
            | "small"
            | "span"
            | "strike"
            | "strong"
            | "style"
            | "sub"
            | "sup"
            | "template"
            | "time"
            | "tt"
            | "u"
            | "var"
            | "wbr"
    )
}
