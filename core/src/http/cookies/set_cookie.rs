//! A `Set-Cookie` field as user agents read it (RFC 6265bis, 5.6), and its dates (RFC 6265, 5.1.1).

use std::time::{Duration, SystemTime};

/// Name and value together, and the value of an attribute (RFC 6265bis, 5.6).
const MAX_PAIR: usize = 4_096;
const MAX_ATTRIBUTE: usize = 1_024;

/// What a field says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetCookie<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// The last of each attribute counts.
    pub(super) expires: Option<SystemTime>,
    pub(super) max_age: Option<MaxAge>,
    /// Without the dot that it may begin with.
    pub(super) domain: Option<&'a [u8]>,
    pub(super) path: Option<&'a [u8]>,
    pub(super) secure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaxAge {
    Over,
    For(Duration),
}

impl<'a> SetCookie<'a> {
    /// `None` for what is to be left out.
    pub(super) fn parse(field: &'a [u8]) -> Option<Self> {
        if field.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return None;
        }
        let mut parts = field.split(|byte| *byte == b';');
        let (name, value) = match halves(parts.next()?) {
            (pair, None) => (&b""[..], pair),
            (name, Some(value)) => (name, value),
        };
        if (name.is_empty() && value.is_empty()) || name.len() + value.len() > MAX_PAIR {
            return None;
        }
        let mut cookie = Self { name, value, expires: None, max_age: None, domain: None, path: None, secure: false };
        for part in parts {
            let (attribute, value) = halves(part);
            let value = value.unwrap_or_default();
            if value.len() > MAX_ATTRIBUTE {
                continue;
            }
            match &attribute.to_ascii_lowercase()[..] {
                b"expires" => cookie.expires = date(value).or(cookie.expires),
                b"max-age" => cookie.max_age = max_age(value).or(cookie.max_age),
                b"domain" => cookie.domain = Some(value.strip_prefix(b".").unwrap_or(value)),
                b"path" => cookie.path = Some(value),
                b"secure" => cookie.secure = true,
                _ => {}
            }
        }
        Some(cookie)
    }
}

/// What is before the first `=`, and what after it, without the white space around them.
fn halves(part: &[u8]) -> (&[u8], Option<&[u8]>) {
    match part.iter().position(|byte| *byte == b'=') {
        Some(at) => (part[..at].trim_ascii(), Some(part[at + 1..].trim_ascii())),
        None => (part.trim_ascii(), None),
    }
}

fn max_age(value: &[u8]) -> Option<MaxAge> {
    let (negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().fold(0_u64, |n, digit| n.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(if negative || seconds == 0 { MaxAge::Over } else { MaxAge::For(Duration::from_secs(seconds)) })
}

/// RFC 6265, 5.1.1: whatever order the parts have.
fn date(text: &[u8]) -> Option<SystemTime> {
    let is_delimiter = |byte: &u8| matches!(byte, 0x09 | 0x20..=0x2f | 0x3b..=0x40 | 0x5b..=0x60 | 0x7b..=0x7e);
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        if time.is_none()
            && let Some(found) = time_of(token)
        {
            time = Some(found);
        } else if day.is_none()
            && let Some(found) = number(token, 1, 2)
        {
            day = Some(found);
        } else if month.is_none()
            && let Some(found) = month_of(token)
        {
            month = Some(found);
        } else if year.is_none()
            && let Some(found) = number(token, 2, 4)
        {
            year = Some(found);
        }
    }
    let ([hour, minute, second], day, month, year) = (time?, day?, month?, year?);
    let year = match year {
        0..=69 => year + 2_000,
        70..=99 => year + 1_900,
        _ => year,
    };
    if !(1..=31).contains(&day) || year < 1_601 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = (days_since_epoch(year, month, day) * 24 + hour) * 3_600 + minute * 60 + second;
    // All that is before the epoch is over.
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// So many digits at the beginning, and no further one.
fn number(token: &[u8], least: usize, most: usize) -> Option<i64> {
    let digits = token.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = token[..digits].iter().take(most).fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    (least..=most).contains(&digits).then_some(value)
}

fn time_of(token: &[u8]) -> Option<[i64; 3]> {
    let mut fields = token.splitn(3, |byte| *byte == b':');
    let mut exact = || fields.next().filter(|field| field.iter().all(u8::is_ascii_digit)).and_then(|f| number(f, 1, 2));
    let (hour, minute) = (exact()?, exact()?);
    Some([hour, minute, number(fields.next()?, 1, 2)?])
}

fn month_of(token: &[u8]) -> Option<i64> {
    const NAMES: [&[u8; 3]; 12] =
        [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let name = token.get(..3)?.to_ascii_lowercase();
    NAMES.iter().position(|known| known[..] == name[..]).and_then(|at| i64::try_from(at + 1).ok())
}

/// Of the Gregorian calendar, counted in years that begin in March.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let months = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * months + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        date(text.as_bytes()).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs())
    }

    #[test]
    fn dates_are_read_however_servers_write_them() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "6 november 1994 8:49:37",
            "08:49:37x 94 nov", // The first number is the day: none of this month.
        ] {
            let expected = if text.contains('x') { None } else { Some(784_111_777) };
            assert_eq!(seconds(text), expected, "{text}");
        }
        for (text, expected) in [
            ("Thu, 01-Jan-1970 00:00:00 GMT", Some(0)),
            ("Mon, 01-Jan-1900 00:00:00 GMT", Some(0)),
            ("1 Mar 2000 00:00:00", Some(951_868_800)),
            ("29 Feb 2024 23:59:59", Some(1_709_251_199)),
            ("31 Dec 9999 23:59:59", Some(253_402_300_799)),
            ("1 Jan 69 00:00:00", Some(3_124_224_000)),
            ("1 Jan 1600 00:00:00", None),
            ("32 Jan 2000 00:00:00", None),
            ("1 Jan 2000 24:00:00", None),
            ("1 Jan 2000", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_field_is_read_as_the_standard_says() {
        let read = |field: &'static str| SetCookie::parse(field.as_bytes());
        let plain = read("a=b").expect("a cookie");
        assert_eq!((plain.name, plain.value), (&b"a"[..], &b"b"[..]));
        let all = read(" a = \"b c\" ; PATH=/x; domain=.A.test; Secure ;HttpOnly; Max-Age=60; SameSite=Lax; max-age=x")
            .expect("one");
        let max_age = Some(MaxAge::For(Duration::from_secs(60)));
        let expected = SetCookie {
            name: b"a",
            value: b"\"b c\"",
            expires: None,
            max_age,
            domain: Some(b"A.test"),
            path: Some(b"/x"),
            secure: true,
        };
        assert_eq!(all, expected);
        for (field, name, value) in [("b", "", "b"), ("=b", "", "b"), ("a=", "a", ""), ("a=b=c", "a", "b=c")] {
            let cookie = read(field).expect("a cookie");
            assert_eq!((cookie.name, cookie.value), (name.as_bytes(), value.as_bytes()), "{field}");
        }
        for field in ["", "=", " ; Path=/", "a=\0", "a=b\r\nX: y", "a=\x7f"] {
            assert_eq!(read(field), None, "{field:?}");
        }
        assert!(read("a=b\tc").is_some());
        let long = |length: usize| format!("a={}", "x".repeat(length - 1));
        assert!(SetCookie::parse(long(MAX_PAIR).as_bytes()).is_some());
        assert_eq!(SetCookie::parse(long(MAX_PAIR + 1).as_bytes()), None);
        let path = format!("a=b; path=/{}", "x".repeat(MAX_ATTRIBUTE));
        assert_eq!(SetCookie::parse(path.as_bytes()).expect("a cookie").path, None);
        for (text, expected) in [
            ("0", MaxAge::Over),
            ("-5", MaxAge::Over),
            ("99999999999999999999", MaxAge::For(Duration::from_secs(u64::MAX))),
        ] {
            let field = format!("a=b; max-age={text}");
            assert_eq!(SetCookie::parse(field.as_bytes()).expect("a cookie").max_age, Some(expected));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_left(field in proptest::collection::vec(any::<u8>(), 0..200), date_of in ".{0,60}") {
            let _ = SetCookie::parse(&field);
            let _ = date(date_of.as_bytes());
        }

        #[test]
        fn a_date_that_is_written_is_read(at in 0_u64..253_402_300_800) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            prop_assert_eq!(date(httpdate::fmt_http_date(time).as_bytes()), Some(time));
        }
    }
}
