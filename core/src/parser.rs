//! [`Parser`]: a page in, items and links out; and what it may say about the page.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::KeyedState;
use crate::{Head, Page, Request};

/// Links of a page that are known when they come again; the last of those that share a place.
const RECENT: usize = 256;

/// Turns a page into items and links. Not async on purpose: it is CPU work and runs where the crawl puts it, by
/// default on threads of its own.
///
/// A function or closure `Fn(&Page, &mut Output<I>) -> Result<(), ParseError>` is a parser.
///
/// # Contract
/// All or nothing: what was put into the output counts only when `Ok` is returned.
///
/// # Panics
/// A panic fails its URL with `parser.panic` and nothing else.
///
/// ```
/// use tidegate::{Output, Page, ParseError, parse_once};
///
/// fn title(page: &Page, out: &mut Output<String>) -> Result<(), ParseError> {
///     out.item(page.utf8().trim().to_owned());
///     out.follow("/next");
///     Ok(())
/// }
///
/// let out = parse_once(&title, &Page::build("http://a.test/x/").body(" hello "))?;
/// assert_eq!(out.items(), ["hello"]);
/// assert_eq!(out.found()[0].url(), "http://a.test/next");
/// # Ok::<(), ParseError>(())
/// ```
pub trait Parser<I>: Send + Sync + 'static {
    /// Called on the loop as soon as the head is there: is the body wanted? Must return at once.
    fn accept(&self, head: &Head) -> Accept {
        Accept::on_success(head)
    }

    /// Parses one page.
    ///
    /// # Errors
    /// Any error fails the URL with `parser.failed`; the constructors of [`ParseError`] ask for something else.
    fn parse(&self, page: &Page, out: &mut Output<I>) -> Result<(), ParseError>;
}

impl<I, F> Parser<I> for F
where
    F: Fn(&Page, &mut Output<I>) -> Result<(), ParseError> + Send + Sync + 'static,
{
    fn parse(&self, page: &Page, out: &mut Output<I>) -> Result<(), ParseError> {
        self(page, out)
    }
}

/// A parser with another rule for which answers it wants; made by [`accepting`].
#[derive(Clone, Copy, Debug)]
pub struct Accepting<P, A> {
    parser: P,
    accept: A,
}

/// Gives `parser` the rule `accept`, for example to see error pages too.
///
/// ```
/// use tidegate::{Accept, Head, Output, Page, ParseError, Parser, accepting};
///
/// fn parse(_: &Page, _: &mut Output<()>) -> Result<(), ParseError> { Ok(()) }
/// let parser = accepting(parse, |head: &Head| if head.status == 410 { Accept::Body } else { Accept::on_success(head) });
/// # let head = Head::new("http://a.test/".parse().expect("valid"), http::StatusCode::GONE);
/// assert_eq!(parser.accept(&head), Accept::Body);
/// ```
pub fn accepting<P, A: Fn(&Head) -> Accept>(parser: P, accept: A) -> Accepting<P, A> {
    Accepting { parser, accept }
}

impl<I, P, A> Parser<I> for Accepting<P, A>
where
    P: Parser<I>,
    A: Fn(&Head) -> Accept + Send + Sync + 'static,
{
    fn accept(&self, head: &Head) -> Accept {
        (self.accept)(head)
    }

    fn parse(&self, page: &Page, out: &mut Output<I>) -> Result<(), ParseError> {
        self.parser.parse(page, out)
    }
}

/// What is wanted of an answer whose head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accept {
    /// Read the body and parse the page.
    Body,
    /// The head is all that is needed: the parser is given a page with an empty body.
    Head,
    /// Not a page for this parser: the URL settles with `http.status` for an error status, else as skipped for its type.
    Refuse,
    /// Not an answer, whatever its status: the URL settles with `http.status`, after retries where the status asks for
    /// them.
    Fail,
}

impl Accept {
    /// The default rule: the body of a 2xx answer, nothing else.
    pub fn on_success(head: &Head) -> Self {
        if head.status.is_success() { Self::Body } else { Self::Refuse }
    }
}

/// What a parser makes of one page.
pub struct Output<I> {
    items: Vec<I>,
    found: Vec<Request>,
    counts: Vec<(&'static str, u64)>,
    attachment: Option<Box<dyn Any + Send>>,
    /// Of the page: its URL is the base.
    head: Arc<Head>,
    /// Places in `found` by the hash of the URL, as pages repeat their links; empty until there is one.
    recent: Vec<usize>,
    max_links: usize,
    refused_links: u64,
}

impl<I> Output<I> {
    /// An empty output for `page`, which takes at most `max_links` links.
    pub fn new(page: &Page, max_links: usize) -> Self {
        Self {
            items: Vec::new(),
            found: Vec::new(),
            counts: Vec::new(),
            attachment: None,
            head: page.shared_head(),
            recent: Vec::new(),
            max_links,
            refused_links: 0,
        }
    }

    /// Gives an item to the sink.
    pub fn item(&mut self, item: I) {
        self.items.push(item);
    }

    /// Asks for another URL, which may be relative to the page. One that cannot be parsed, is not http or https, or
    /// exceeds [`Limits::links`](crate::Limits::links) is counted as refused and otherwise ignored.
    pub fn follow(&mut self, request: impl Into<Request>) {
        let request = request.into();
        let found = if self.found.len() < self.max_links { self.canonical(request) } else { None };
        match found {
            Some(request) => self.found.push(request),
            None => self.refused_links += 1,
        }
    }

    fn canonical(&mut self, request: Request) -> Option<Request> {
        let place = KeyedState::new(0).hash_one(request.url()) as usize % RECENT;
        // What was found is in canonical form, which means itself.
        let known = self.recent.get(place).and_then(|at| self.found.get(*at)).map(Request::url);
        if let Some(url) = known.filter(|url| *url == request.url()) {
            return Some(request.with_canonical(url));
        }
        let url = crate::request::resolve(&self.head.url, request.url())?;
        if url.as_str() == request.url() {
            self.recent.resize(RECENT, usize::MAX);
            self.recent[place] = self.found.len();
        }
        Some(request.with_canonical(url.as_str()))
    }

    /// Adds to a counter of the crawl's report.
    pub fn count(&mut self, name: &'static str, n: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += n,
            None => self.counts.push((name, n)),
        }
    }

    /// Attaches a value of the caller's own type to the URL's [`Settled`](crate::Settled); a second one replaces it.
    pub fn attach(&mut self, value: impl Any + Send) {
        self.attachment = Some(Box::new(value));
    }

    /// The items so far.
    pub fn items(&self) -> &[I] {
        &self.items
    }

    /// The links so far, absolute and canonical.
    pub fn found(&self) -> &[Request] {
        &self.found
    }

    /// The counters so far.
    pub fn counts(&self) -> &[(&'static str, u64)] {
        &self.counts
    }

    /// Links that were refused.
    pub fn refused_links(&self) -> u64 {
        self.refused_links
    }

    /// The attached value, where it is of this type.
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        self.attachment.as_deref()?.downcast_ref()
    }

    pub(crate) fn into_parts(self) -> Parts<I> {
        Parts { items: self.items, found: self.found, counts: self.counts, attachment: self.attachment }
    }
}

pub(crate) struct Parts<I> {
    pub(crate) items: Vec<I>,
    pub(crate) found: Vec<Request>,
    pub(crate) counts: Vec<(&'static str, u64)>,
    pub(crate) attachment: Option<Box<dyn Any + Send>>,
}

impl<I: fmt::Debug> fmt::Debug for Output<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("items", &self.items)
            .field("found", &self.found)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

/// Runs a parser on a page, without a crawl: for tests.
///
/// # Errors
/// What the parser returns.
pub fn parse_once<I, P: Parser<I> + ?Sized>(parser: &P, page: &Page) -> Result<Output<I>, ParseError> {
    let mut out = Output::new(page, crate::Limits::default().links);
    parser.parse(page, &mut out)?;
    Ok(out)
}

/// Why a page could not be parsed, and what is to be done about it.
///
/// Every `std::error::Error` converts into one with [`ParseAction::Fail`], so that `?` works in a parser.
///
/// ```
/// use tidegate::{ParseAction, ParseError};
///
/// let error = ParseError::blocked("captcha");
/// assert_eq!(error.action(), ParseAction::Blocked);
/// let error: ParseError = "x".parse::<u32>().expect_err("not a number").into();
/// assert_eq!(error.action(), ParseAction::Fail);
/// ```
pub struct ParseError {
    action: ParseAction,
    retry_after: Option<Duration>,
    source: Box<dyn StdError + Send + Sync + 'static>,
}

/// What a [`ParseError`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseAction {
    /// The URL fails: the page is not what the parser expects.
    Fail,
    /// Fetch the page again, as after a transport error.
    Retry,
    /// A soft block: fetch it again, and count it against the host or session.
    Blocked,
    /// The session ended: open another one, then fetch it again.
    Expired,
    /// The page is damaged for good.
    Broken,
    /// The URL is done and its output counts; end the whole crawl gracefully.
    Stop,
}

impl ParseError {
    /// An error that asks for `action`.
    pub fn new(action: ParseAction, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        Self { action, retry_after: None, source: source.into() }
    }

    /// The page itself says that another fetch may help.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::new(ParseAction::Retry, why.into())
    }

    /// The page is a soft block: a captcha, an empty shell.
    pub fn blocked(why: impl Into<String>) -> Self {
        Self::new(ParseAction::Blocked, why.into())
    }

    /// The page is a login form where content was expected.
    pub fn expired(why: impl Into<String>) -> Self {
        Self::new(ParseAction::Expired, why.into())
    }

    /// The page is damaged and no retry will help.
    pub fn broken(why: impl Into<String>) -> Self {
        Self::new(ParseAction::Broken, why.into())
    }

    /// The crawl has what it wants: what is in the output counts, then it ends.
    pub fn stop(why: impl Into<String>) -> Self {
        Self::new(ParseAction::Stop, why.into())
    }

    /// Not before this long from now, where a retry is asked for.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What is asked for.
    pub fn action(&self) -> ParseAction {
        self.action
    }

    /// The wait that was asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn into_source(self) -> Box<dyn StdError + Send + Sync + 'static> {
        self.source
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for ParseError {
    fn from(source: E) -> Self {
        Self::new(ParseAction::Fail, source)
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl fmt::Debug for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.action, self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(max_links: usize, links: impl IntoIterator<Item = Request>) -> Output<()> {
        let mut out = Output::new(&Page::build("http://a.test/x/").body(""), max_links);
        links.into_iter().for_each(|link| out.follow(link));
        out
    }

    #[test]
    fn a_link_that_comes_again_is_what_it_was() {
        let texts =
            ["y", "/x/y", "http://a.test/x/y", "http://a.test/x/y", "http://a.test/x/%79", "HTTP://A.test/x/y#z"];
        let out = followed(9, texts.map(Request::get));
        assert!(out.found().iter().all(|link| link.url() == "http://a.test/x/y"));
        assert_eq!((out.found().len(), out.refused_links()), (texts.len(), 0));
        let again = Request::head("http://a.test/x/y").with_label("l");
        let out = followed(9, [Request::get("http://a.test/x/y"), again]);
        assert_eq!((out.found()[1].method(), out.found()[1].label()), (&http::Method::HEAD, Some("l")));
    }

    #[test]
    fn more_links_than_are_remembered_are_all_found() {
        let urls: Vec<_> = (0..RECENT * 4).map(|n| format!("http://a.test/{n}")).collect();
        let out = followed(usize::MAX, urls.iter().chain(&urls).map(Request::from));
        assert!(out.found().iter().map(Request::url).eq(urls.iter().chain(&urls)));
    }

    #[test]
    fn links_beyond_the_limit_and_what_is_no_url_are_refused() {
        let out = followed(2, ["http://[", "mailto:a@b", "y", "z", "y"].map(Request::get));
        assert_eq!((out.found().len(), out.refused_links()), (2, 3));
    }
}
