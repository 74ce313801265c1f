//! Parses URLs by the origins that were seen before: most of what a URL costs to parse is its host.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, Hasher as _};

use url::{ParseError, Position, Url};

use crate::hash::KeyedState;

/// Origins that a thread remembers; the last of those that share a place.
const PLACES: usize = 64;

/// A longer origin is not remembered, so that a thread holds 16 KiB of them at most.
const LONGEST: usize = 255;

/// A longer path and query is not put together in what is remembered: 64 KiB more at most.
const LONGEST_REST: usize = 512;

thread_local! {
    static ORIGINS: RefCell<Origins> = const { RefCell::new(Origins { urls: [const { None }; PLACES] }) };
}

/// As [`Url::parse`].
pub(super) fn parse(text: &str) -> Result<Url, ParseError> {
    of_known(text).map_or_else(|| Url::parse(text), Ok)
}

/// As [`Url::join`].
pub(super) fn join(base: &Url, reference: &str) -> Result<Url, ParseError> {
    of_known(reference).map_or_else(|| base.join(reference), Ok)
}

fn of_known(text: &str) -> Option<Url> {
    let (origin, path, query) = split(text)?;
    // A thread that ends has none.
    ORIGINS.try_with(|origins| origins.borrow_mut().join(origin, path, query)).ok().flatten()
}

struct Origins {
    /// With whatever path and query were joined last.
    urls: [Option<Url>; PLACES],
}

impl Origins {
    fn join(&mut self, origin: &str, path: &str, query: Option<&str>) -> Option<Url> {
        let known = self.known(origin)?;
        if path.len() + query.map_or(0, str::len) > LONGEST_REST {
            let mut url = known.clone();
            set(&mut url, path, query);
            return Some(url);
        }
        // A copy has no room to grow, and would be moved to where there is.
        set(known, path, query);
        Some(known.clone())
    }

    /// A URL of this origin, where that is text in canonical form.
    fn known(&mut self, origin: &str) -> Option<&mut Url> {
        let mut hasher = KeyedState::new(0).build_hasher();
        hasher.write(origin.as_bytes());
        let place = hasher.finish() as usize % PLACES;
        let slot = &mut self.urls[place];
        if slot.as_ref().is_none_or(|known| known[..Position::BeforePath] != *origin) {
            let url = Url::parse(origin).ok().filter(|url| url.as_str().strip_suffix('/') == Some(origin))?;
            *slot = Some(url);
        }
        slot.as_mut()
    }
}

fn set(url: &mut Url, path: &str, query: Option<&str>) {
    // First, as the query of another would be moved behind the new path.
    if url.query().is_some() {
        url.set_query(None);
    }
    url.set_path(path);
    if query.is_some() {
        url.set_query(query);
    }
}

/// Where a URL of scheme http or https is origin, path and perhaps query, of characters that the parser neither skips nor takes
/// for others.
fn split(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let after_scheme = ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme))?.len();
    let end = after_scheme + text.as_bytes()[after_scheme..].iter().position(|byte| *byte == b'/')?;
    let (origin, rest) = text.split_at(end);
    if origin.len() > LONGEST {
        return None;
    }
    let mut mark = None;
    for (index, byte) in rest.bytes().enumerate() {
        match byte {
            b'#' | b'\\' => return None,
            b'?' if mark.is_none() => mark = Some(index),
            byte if byte.is_ascii_graphic() => {}
            _ => return None,
        }
    }
    Some(mark.map_or((origin, rest, None), |mark| (origin, &rest[..mark], Some(&rest[mark + 1..]))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_origin_is_remembered_only_in_canonical_form() {
        let mut origins = Origins { urls: [const { None }; PLACES] };
        for (origin, known) in [
            ("http://a.test", true),
            ("http://a.test:8080", true),
            ("https://u:p@a.test", true),
            ("http://[::1]", true),
            ("http://a.test:80", false),
            ("http://A.test", false),
            ("http://0x7f.1", false),
            ("http://a.test?x", false),
            ("http://a.test#x", false),
            ("http://a\\b", false),
            ("http://a b", false),
            ("http://", false),
        ] {
            assert_eq!(origins.known(origin).is_some(), known, "{origin}");
            assert_eq!(origins.known(origin).is_some(), known, "{origin} again");
        }
    }

    #[test]
    fn what_is_skipped_or_means_something_is_not_split_off() {
        for text in ["http://a/\\b", "http://a/\tb", "http://a/b#c", "http://a/b ", "http://a", "ftp://a/", "HTTP://a/"]
        {
            assert_eq!(split(text), None, "{text:?}");
            assert_eq!(parse(text), Url::parse(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_parser_of_urls(
            start in prop::sample::select(vec!["http://", "https://", "http:/", "http:\\\\", " http://", "HTTP://", "file://", "ftp://"]),
            host in prop::sample::select(vec![
                "a.test", "A.test", "a.test:80", "a.test:8080", "u:p@a.test", "u@a.test", "1.2.3.4", "0x7f.1", "[::1]", "[::", "é.test", "xn--9ca.test", "a b", "a?b", "a#b",
                "a\\b", "a\tb", "", ":80", "a.test:", "a.test:x",
            ]),
            path in "(/|\\\\|[/\\\\?#.%\t\n é:@;a-e0-2]{0,12}|[ -~é\t\r\n]{0,16})",
        ) {
            for _ in 0..2 {
                let text = format!("{start}{host}/{path}");
                prop_assert_eq!(parse(&text), Url::parse(&text), "{:?}", text);
                let text = format!("{start}{host}{path}");
                prop_assert_eq!(parse(&text), Url::parse(&text), "{:?}", text);
                for base in ["http://base.test/x/y?z", "https://base.test/"] {
                    let base = Url::parse(base).expect("literal");
                    prop_assert_eq!(join(&base, &text), base.join(&text), "{:?}", text);
                }
            }
        }
    }
}
