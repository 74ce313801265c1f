//! A page as a document that is asked with CSS selectors.

mod element;
mod form;
mod selector;
mod tree;

use std::fmt;

use scraper::{ElementRef, Html};
use tidegate::{Page, Request};
use url::Url;

pub use self::element::Element;
pub use self::form::{Form, FormError};
pub use self::selector::{__check_selector, __compile_selector, Selector, SelectorError};
pub use self::tree::{MAX_ATTRIBUTES, MAX_DEPTH, MAX_NODES, MAX_TAGS_TOO_DEEP};
use crate::address::base_of;
use crate::{css, text};

/// Parses a page as HTML, as a browser without scripts would, within [`MAX_DEPTH`], [`MAX_NODES`] and
/// [`MAX_ATTRIBUTES`].
///
/// Anything is HTML: a page that is something else gives a document in which nothing is found.
///
/// # Errors
/// Where a bound is passed.
///
/// ```
/// use tidegate::{Output, Page, ParseError, parse_once};
/// use tidegate_parse::{css, html};
///
/// struct Quote { text: String, author: String }
///
/// fn quotes(page: &Page, out: &mut Output<Quote>) -> Result<(), ParseError> {
///     let doc = html(page)?;
///     for q in doc.select(css!(".quote")) {
///         out.item(Quote { text: q.text(css!(".text"))?, author: q.text(css!(".author"))? });
///     }
///     for next in doc.links(css!("li.next > a")) {
///         out.follow(next);
///     }
///     Ok(())
/// }
///
/// let page = Page::build("http://quotes.test/page/1/").body(
///     "<div class=quote><p class=text>So it goes. <small class=author>K. Vonnegut</small></div>
///      <li class=next><a href='/page/2/#top'>Next</a>",
/// );
/// let out = parse_once(&quotes, &page)?;
/// assert_eq!(out.items()[0].author, "K. Vonnegut");
/// assert_eq!(out.items()[0].text, "So it goes. K. Vonnegut");
/// assert_eq!(out.found()[0].url(), "http://quotes.test/page/2/");
/// # Ok::<(), ParseError>(())
/// ```
pub fn html(page: &Page) -> Result<Document, HtmlError> {
    Document::parse(&text(page), page.url())
}

/// A parsed HTML document.
///
/// It can be sent to another thread but not shared: give records away, not documents.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{css, html};
///
/// let page = Page::build("http://a.test/").body("<title> A \n B </title><base href=/x/><a href=y>link</a>");
/// let doc = html(&page)?;
/// assert_eq!(doc.title().as_deref(), Some("A B"));
/// assert_eq!(doc.base().as_str(), "http://a.test/x/");
/// assert_eq!(doc.attr(css!("a"), "href")?, "y");
/// assert_eq!(doc.links(css!("a")).next().expect("one").url(), "http://a.test/x/y");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
pub struct Document {
    tree: Html,
    /// Of the page.
    url: Url,
    base: Url,
}

impl Document {
    /// Parses text; relative links are relative to `url`, or to the first `<base href>`.
    ///
    /// # Errors
    /// As [`html`].
    ///
    /// ```
    /// use tidegate_parse::{Document, css};
    ///
    /// let url = "http://a.test/".parse()?;
    /// assert_eq!(Document::parse("<p>Hi", &url)?.text(css!("p"))?, "Hi");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(text: &str, url: &Url) -> Result<Self, HtmlError> {
        let mut document = Self { tree: tree::parse(text)?, url: url.clone(), base: url.clone() };
        let href = document.first(css!("base[href]")).and_then(|base| base.attr("href")).map(str::to_owned);
        document.base = base_of(url, href.as_deref());
        Ok(document)
    }

    /// The elements that match, in the order of the document.
    pub fn select<'a, 's>(&'a self, selector: &'s Selector) -> impl Iterator<Item = Element<'a>> + use<'a, 's> {
        let root = self.root();
        let itself = root.filter(|root| selector.inner.matches(&root.node));
        itself.into_iter().chain(root.into_iter().flat_map(move |root| root.select(selector)))
    }

    /// The first element that matches.
    pub fn first(&self, selector: &Selector) -> Option<Element<'_>> {
        self.select(selector).next()
    }

    /// The text of the first element that matches, as [`Element::inner_text`].
    ///
    /// # Errors
    /// Where nothing matches.
    pub fn text(&self, selector: &Selector) -> Result<String, Missing> {
        self.first(selector).map(|element| element.inner_text()).ok_or_else(|| Missing::element(selector))
    }

    /// An attribute of the first element that matches.
    ///
    /// # Errors
    /// Where nothing matches, or the first that does has no such attribute.
    pub fn attr(&self, selector: &Selector, name: &str) -> Result<String, Missing> {
        let element = self.first(selector).ok_or_else(|| Missing::element(selector))?;
        element.attr(name).map(str::to_owned).ok_or_else(|| Missing::attribute(selector, name))
    }

    /// The links ([`Element::link`]) of the elements that match.
    pub fn links<'a, 's>(&'a self, selector: &'s Selector) -> impl Iterator<Item = Request> + use<'a, 's> {
        self.select(selector).filter_map(|element| element.link())
    }

    /// The text of the first `<title>` that is not part of a drawing.
    pub fn title(&self) -> Option<String> {
        let title = self.select(css!("title")).find(|title| title.is_html())?;
        Some(title.inner_text())
    }

    /// What relative links are relative to.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The whole document as HTML, as it was understood.
    pub fn to_html(&self) -> String {
        self.tree.html()
    }

    fn root(&self) -> Option<Element<'_>> {
        let node = self.tree.tree.root().children().find_map(ElementRef::wrap)?;
        Some(Element { node, base: &self.base })
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// Why a page was not made into a document. The page is hostile or broken; fetching it again does not help.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{HtmlError, MAX_NODES, html};
///
/// let page = Page::build("http://a.test/").body("<br>".repeat(MAX_NODES + 1));
/// assert!(matches!(html(&page), Err(HtmlError::TooManyNodes)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HtmlError {
    /// More than [`MAX_NODES`].
    #[error("the page has more than {MAX_NODES} nodes")]
    TooManyNodes,
    /// More than [`MAX_TAGS_TOO_DEEP`] tags beyond [`MAX_DEPTH`].
    #[error("the page has more than {MAX_TAGS_TOO_DEEP} tags that are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// An element with more than [`MAX_ATTRIBUTES`].
    #[error("an element of the page has more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
}

/// Something that a parser counts on is not on the page.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{css, html};
///
/// let doc = html(&Page::build("http://a.test/").body("<p>no price"))?;
/// let missing = doc.text(css!(".price")).expect_err("it is not there");
/// assert_eq!(missing.to_string(), "nothing on the page matches \".price\"");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    selector: Box<str>,
    attribute: Option<Box<str>>,
}

impl Missing {
    fn element(selector: &Selector) -> Self {
        Self { selector: selector.as_str().into(), attribute: None }
    }

    fn attribute(selector: &Selector, name: &str) -> Self {
        Self { selector: selector.as_str().into(), attribute: Some(name.into()) }
    }

    /// The selector that was asked for.
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// The attribute that was asked for, where the element is there.
    pub fn missing_attribute(&self) -> Option<&str> {
        self.attribute.as_deref()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attribute {
            None => write!(f, "nothing on the page matches {:?}", self.selector),
            Some(name) => write!(f, "the first element that matches {:?} has no attribute {name:?}", self.selector),
        }
    }
}

impl std::error::Error for Missing {}

#[cfg(test)]
mod tests;
