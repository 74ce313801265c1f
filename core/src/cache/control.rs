//! The directives of Cache-Control (RFC 9111, 5.2) that a private cache heeds.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

/// Of a request or of an answer; what is not there restricts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheControl {
    pub(super) no_store: bool,
    /// Also where it is for some fields alone, which RFC 9111, 5.2.2.4 allows.
    pub(super) no_cache: bool,
    /// The smallest; one that is no number is 0, so that what has it is stale (RFC 9111, 4.2.1).
    pub(super) max_age: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
}

impl CacheControl {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for field in headers.get_all(CACHE_CONTROL) {
            directives(field.as_bytes(), |name, value| control.heed(name, value));
        }
        control
    }

    /// As [`of`](Self::of), where a request without Cache-Control may have the older Pragma (RFC 9111, 5.4).
    pub(super) fn of_request(headers: Option<&HeaderMap>) -> Self {
        let Some(headers) = headers else { return Self::default() };
        let mut control = Self::of(headers);
        if !headers.contains_key(CACHE_CONTROL) {
            for field in headers.get_all(PRAGMA) {
                directives(field.as_bytes(), |name, _| control.no_cache |= name.eq_ignore_ascii_case(b"no-cache"));
            }
        }
        control
    }

    fn heed(&mut self, name: &[u8], value: &[u8]) {
        let least = |slot: &mut Option<Duration>| {
            let time = seconds(value).unwrap_or_default();
            *slot = Some(slot.map_or(time, |before| before.min(time)));
        };
        match &name.to_ascii_lowercase()[..] {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"max-age" => least(&mut self.max_age),
            b"min-fresh" => least(&mut self.min_fresh),
            _ => {}
        }
    }
}

/// The parts of a comma-separated list, quoted strings whole, each as name and value.
pub(super) fn directives<'a>(field: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8])) {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = field.split(|byte| {
        let ends = *byte == b',' && !is_quoted;
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        ends
    });
    for part in parts {
        let (name, value) = match part.iter().position(|byte| *byte == b'=') {
            Some(at) => (&part[..at], &part[at + 1..]),
            None => (part, &b""[..]),
        };
        let value = value.trim_ascii();
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        if !name.trim_ascii().is_empty() {
            each(name.trim_ascii(), unquoted);
        }
    }
}

/// Delta-seconds (RFC 9111, 1.2.2); a number that is too large is the largest.
pub(super) fn seconds(text: &[u8]) -> Option<Duration> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = text.iter().fold(0_u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(Duration::from_secs(seconds.min(1 << 31)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(fields: &[&str]) -> CacheControl {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CACHE_CONTROL, field.parse().expect("a value"));
        }
        CacheControl::of(&headers)
    }

    #[test]
    fn directives_are_read_however_they_are_written() {
        let nothing = CacheControl::default();
        let max_age = |n| CacheControl { max_age: Some(Duration::from_secs(n)), ..nothing };
        let no_cache = CacheControl { no_cache: true, ..nothing };
        for (fields, expected) in [
            (&[][..], nothing),
            (&[""], nothing),
            (&[" , ,public,s-maxage=9,, x=\"no-store\""], nothing),
            (&["No-Store"], CacheControl { no_store: true, ..nothing }),
            (&["no-cache"], no_cache),
            (&["no-cache=\"set-cookie, x\""], no_cache),
            (&["x=\"a\\\", no-store, \", no-cache"], no_cache),
            (&["x=\"unclosed, no-store"], nothing),
            (&["max-age=60"], max_age(60)),
            (&["MAX-AGE = \"60\""], max_age(60)),
            (&["max-age=60", "max-age=5, max-age=7"], max_age(5)),
            (&["max-age=99999999999999999999"], max_age(1 << 31)),
            (&["max-age=-1"], max_age(0)),
            (&["max-age=1.5"], max_age(0)),
            (&["max-age"], max_age(0)),
            (&["max-age=60, max-age=x"], max_age(0)),
            (&["min-fresh=3"], CacheControl { min_fresh: Some(Duration::from_secs(3)), ..nothing }),
        ] {
            assert_eq!(read(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn pragma_counts_where_there_is_nothing_newer() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, "No-Cache".parse().expect("a value"));
        assert!(CacheControl::of_request(Some(&headers)).no_cache);
        headers.insert(CACHE_CONTROL, "max-age=1".parse().expect("a value"));
        assert!(!CacheControl::of_request(Some(&headers)).no_cache);
        assert_eq!(CacheControl::of_request(None), CacheControl::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(field in proptest::collection::vec(any::<u8>(), 0..60)) {
            directives(&field, |name, value| {
                let _ = seconds(value);
                assert!(!name.is_empty());
            });
        }
    }
}
