//! Character references in attribute values, by the rules of the HTML standard.

use std::borrow::Cow;

use html5ever::data::{C1_REPLACEMENTS, NAMED_ENTITIES};
use memchr::memchr;

/// The longest name of a character reference, its semicolon included.
const LONGEST_NAME: usize = 33;

/// An attribute's value with its character references replaced.
pub(crate) fn decode_attribute(raw: &str) -> Cow<'_, str> {
    let Some(first) = memchr(b'&', raw.as_bytes()) else { return Cow::Borrowed(raw) };
    let mut out = String::with_capacity(raw.len());
    out.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let used = if rest[1..].starts_with('#') { numeric(rest, &mut out) } else { named(rest, &mut out) };
        match used {
            Some(used) => rest = &rest[used..],
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// `&#123;`, `&#x7b;`: how many bytes it took.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let (start, radix) = if matches!(text.as_bytes().get(2), Some(b'x' | b'X')) { (3, 16) } else { (2, 10) };
    let digits = text[start..].bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let end = start + digits;
    let code = text[start..end]
        .bytes()
        .try_fold(0u32, |code, b| code.checked_mul(radix)?.checked_add(char::from(b).to_digit(radix)?));
    let code = code.unwrap_or(u32::MAX);
    out.push(match code {
        0 => char::REPLACEMENT_CHARACTER,
        0x80..=0x9f => C1_REPLACEMENTS[(code - 0x80) as usize].unwrap_or_else(|| char::from(code as u8)),
        _ => char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
    });
    Some(end + usize::from(text.as_bytes().get(end) == Some(&b';')))
}

/// `&amp;`, and `&amp` where nothing follows that could belong to a query (`&copy=1` is a parameter).
fn named(text: &str, out: &mut String) -> Option<usize> {
    let name = &text[1..];
    let mut longest = name.bytes().take(LONGEST_NAME).take_while(u8::is_ascii_alphanumeric).count();
    if longest == 0 {
        return None;
    }
    longest += usize::from(name.as_bytes().get(longest) == Some(&b';'));
    let (length, first, second) = (1..=longest).rev().find_map(|length| {
        let &(first, second) = NAMED_ENTITIES.get(&name[..length])?;
        (first != 0).then_some((length, first, second))
    })?;
    if !name[..length].ends_with(';')
        && name.as_bytes().get(length).is_some_and(|b| *b == b'=' || b.is_ascii_alphanumeric())
    {
        return None;
    }
    out.extend(char::from_u32(first));
    out.extend(char::from_u32(second).filter(|_| second != 0));
    Some(1 + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Document, css};

    #[test]
    fn as_in_the_standard() {
        for (raw, expected) in [
            ("a&amp;b", "a&b"),
            ("?a=1&b=2&copy=3&amp=4", "?a=1&b=2&copy=3&amp=4"),
            ("?a&copy", "?a©"),
            ("&ampx", "&ampx"),
            ("&notit;", "&notit;"),
            ("&not;it", "¬it"),
            ("&#38;&#x26;&#X26&#38x", "&&&&x"),
            ("&#0;&#xd800;&#x110000;&#99999999999;", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("&#x80;&#150;", "€–"),
            ("&;&#;&#x;&&", "&;&#;&#x;&&"),
            ("&NotEqualTilde;", "\u{2242}\u{338}"),
            ("&é", "&é"),
            ("&CounterClockwiseContourIntegral;", "∳"),
        ] {
            assert_eq!(decode_attribute(raw), expected, "{raw}");
        }
    }

    proptest! {
        // Wire invariant 17: the answer is that of html5ever.
        #[test]
        fn agrees_with_the_html_parser(raw in "(&|#|x|;|=|amp|copy|not|in|lt|0|38|80|a|é| ){0,12}") {
            let doc = Document::parse(&format!("<p title=\"{raw}\">"), &"http://a.test/".parse().expect("literal")).expect("small");
            let decoded = decode_attribute(&raw);
            prop_assert_eq!(doc.attr(css!("p"), "title").expect("there"), decoded.as_ref());
        }
    }
}
