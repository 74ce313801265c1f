//! Parses URLs by the origins that were seen before: most of what a URL costs to parse is its host.

use std::cell::RefCell;

use url::{ParseError, Url};

use crate::hash::KeyedState;
use std::hash::BuildHasher;

/// Origins that a thread remembers; the last of those that share a place.
const PLACES: usize = 64;

/// A longer origin is not remembered, so that a thread holds 16 KiB of them at most.
const LONGEST: usize = 255;

thread_local! {
    static ORIGINS: RefCell<Origins> = const { RefCell::new(Origins { urls: [const { None }; PLACES] }) };
}

/// As [`Url::parse`].
pub(super) fn parse(text: &str) -> Result<Url, ParseError> {
    let Some((origin, path)) = split(text) else { return Url::parse(text) };
    // A thread that ends has none.
    ORIGINS
        .try_with(|origins| origins.borrow_mut().known(origin).map(|known| known.join(path)))
        .ok()
        .flatten()
        .unwrap_or_else(|| Url::parse(text))
}

struct Origins {
    /// With the path `/`.
    urls: [Option<Url>; PLACES],
}

impl Origins {
    /// The URL of an origin, where that is text in canonical form.
    fn known(&mut self, origin: &str) -> Option<&Url> {
        let place = KeyedState::new(0).hash_one(origin) as usize % PLACES;
        let slot = &mut self.urls[place];
        if slot.as_ref().is_none_or(|known| known.as_str().strip_suffix('/') != Some(origin)) {
            let url = Url::parse(origin).ok().filter(|url| url.as_str().strip_suffix('/') == Some(origin))?;
            *slot = Some(url);
        }
        slot.as_ref()
    }
}

/// Where a URL of scheme http or https is origin and path, by which no other origin can be meant.
fn split(text: &str) -> Option<(&str, &str)> {
    let after_scheme = ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme))?.len();
    let end = after_scheme + text.as_bytes()[after_scheme..].iter().position(|byte| *byte == b'/')?;
    let (origin, path) = text.split_at(end);
    // Two slashes would begin a host, and the parser takes a backslash for one and leaves out tabs and ends of lines.
    let begins_host = path.as_bytes().get(1).is_some_and(|byte| matches!(byte, b'/' | b'\\' | b'\t' | b'\n' | b'\r'));
    (origin.len() <= LONGEST && !begins_host).then_some((origin, path))
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
    fn what_might_begin_a_host_is_not_split_off() {
        for text in
            ["http://a//b.test/", "http://a/\\b.test/", "http://a/\t/b.test/", "http://a", "ftp://a/", "HTTP://a/"]
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
            path in "(/|\\\\|[/\\\\?#.%\t\n é:@;a-c0-2]{0,12}|[ -~é\t\r\n]{0,16})",
        ) {
            for _ in 0..2 {
                let text = format!("{start}{host}/{path}");
                prop_assert_eq!(parse(&text), Url::parse(&text), "{:?}", text);
                let text = format!("{start}{host}{path}");
                prop_assert_eq!(parse(&text), Url::parse(&text), "{:?}", text);
            }
        }
    }
}
