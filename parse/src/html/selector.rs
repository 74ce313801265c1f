//! CSS selectors: compiled once, checked early, with errors that name the selector.

use std::fmt;
use std::str::FromStr;

/// A compiled CSS selector (a comma-separated list is one).
///
/// For a selector that is written in the program use [`css!`](crate::css), which compiles it once; for one that comes
/// from a configuration use [`Selector::parse`].
///
/// ```
/// use tidegate_parse::Selector;
///
/// let selector = Selector::parse("ul > li.next a[href]")?;
/// assert_eq!(selector.as_str(), "ul > li.next a[href]");
/// assert!(Selector::parse("li..next").is_err());
/// # Ok::<(), tidegate_parse::SelectorError>(())
/// ```
#[derive(Clone)]
pub struct Selector {
    text: Box<str>,
    pub(super) inner: scraper::Selector,
}

impl Selector {
    /// Compiles a selector.
    ///
    /// # Errors
    /// Where it is not a selector, or uses what has no meaning here (pseudo-elements, `:hover`).
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        match scraper::Selector::parse(text) {
            Ok(inner) => Ok(Self { text: text.into(), inner }),
            Err(reason) => Err(SelectorError { text: text.into(), reason: reason.to_string().into() }),
        }
    }

    /// The selector as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.text).finish()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a selector.
///
/// ```
/// let error = tidegate_parse::Selector::parse("a[").expect_err("unfinished");
/// assert!(error.to_string().contains("a["));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text:?} is not a CSS selector: {reason}")]
pub struct SelectorError {
    text: Box<str>,
    reason: Box<str>,
}

/// A selector that is written in the program, as `&'static Selector`: compiled at its first use, then kept.
///
/// What can be seen without a CSS parser is checked when the program is compiled: brackets and quotes that do not
/// match, an empty part, pseudo-elements such as `::text`. Any other mistake panics at the first use and names the
/// selector and its place: in a crawl that fails each page with `parser.panic` and this message, in a test it fails the
/// test. An error value was not chosen because `select` could only answer it with "nothing found".
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{css, html};
///
/// let doc = html(&Page::build("http://a.test/").body("<p class=x>one</p>"))?;
/// assert_eq!(doc.text(css!("p.x"))?, "one");
/// # Ok::<(), tidegate::ParseError>(())
/// ```
///
/// ```compile_fail
/// tidegate_parse::css!("a::text");
/// ```
#[macro_export]
macro_rules! css {
    ($selector:literal) => {{
        const _: () = $crate::__check_selector($selector);
        static SELECTOR: ::std::sync::OnceLock<$crate::Selector> = ::std::sync::OnceLock::new();
        SELECTOR.get_or_init(|| $crate::__compile_selector($selector, file!(), line!()))
    }};
}

#[doc(hidden)]
pub fn __compile_selector(text: &str, file: &str, line: u32) -> Selector {
    match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => panic!("css! at {file}:{line}: {error}"),
    }
}

/// Refuses at compile time what is certainly a mistake.
#[doc(hidden)]
pub const fn __check_selector(text: &str) {
    let bytes = text.as_bytes();
    // The closing brackets that are owed, innermost last; deeper nesting is left to the real parser.
    let mut owed = [0u8; 32];
    let mut depth = 0;
    let mut quote = 0;
    // The last byte that was not a space; a comma stands for the beginning of a selector.
    let mut last = b',';
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        if b == b'\\' {
            i += 2;
            last = b;
            continue;
        }
        if quote != 0 {
            if b == quote {
                quote = 0;
            }
        } else {
            match b {
                b'"' | b'\'' => quote = b,
                b'[' | b'(' => {
                    if depth == owed.len() {
                        return;
                    }
                    owed[depth] = if b == b'[' { b']' } else { b')' };
                    depth += 1;
                }
                b']' | b')' => {
                    assert!(depth > 0 && owed[depth - 1] == b, "css!: a bracket is closed that was not opened");
                    depth -= 1;
                }
                b',' => assert!(last != b',', "css!: a selector of the list is empty"),
                b':' if i + 1 < bytes.len() && bytes[i + 1] == b':' && depth == 0 => {
                    panic!(
                        "css!: pseudo-elements such as ::text and ::attr(..) select nothing here; use .text() or .attr()"
                    )
                }
                _ => {}
            }
        }
        if !b.is_ascii_whitespace() {
            last = b;
        }
        i += 1;
    }
    assert!(quote == 0, "css!: a quote is not closed");
    assert!(depth == 0, "css!: a bracket is not closed");
    assert!(!matches!(last, b',' | b'>' | b'+' | b'~'), "css!: a selector is empty or ends with a combinator");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_compiled_once_for_each_place() {
        fn here() -> &'static Selector {
            css!("a[href='x,(']:not(.b, .c)")
        }
        assert!(std::ptr::eq(here(), here()));
    }

    #[test]
    #[should_panic(expected = "\"li..next\" is not a CSS selector")]
    fn a_wrong_literal_names_itself_at_its_first_use() {
        css!("li..next");
    }

    #[test]
    fn what_is_certainly_a_mistake_does_not_compile() {
        for text in ["", " ", "a,", ",a", "a,,b", "a >", "a[href", "a(]", "a)", "a[x='y]", "a::text", "a::attr(href)"] {
            assert!(std::panic::catch_unwind(|| __check_selector(text)).is_err(), "{text:?}");
        }
        for text in ["a", "a > b", "a,b", "a[x=','] ~ b", ".a\\:\\:b", ":is(a, b) + c:nth-child(2n+1)", "a[x='::']"] {
            __check_selector(text);
            assert!(Selector::parse(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_selector_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Selector>();
    }
}
