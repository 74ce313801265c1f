//! Finds JSON in the text of scripts: one pass, no recursion, never further than the text.

use std::borrow::Cow;

/// Assignments that are looked at in one script; a page that has more is playing with us.
const MAX_ASSIGNMENTS: usize = 64;

/// Length of a comment between a name and its value, in bytes.
const MAX_COMMENT: usize = 1024;

/// The text without the comments and CDATA marks that old pages put around it.
pub(crate) fn unwrapped(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let before = text;
        for start in ["<!--", "<![CDATA[", "//", "/*", "*/"] {
            text = text.strip_prefix(start).unwrap_or(text).trim_start();
        }
        for end in ["-->", "]]>", "//", "*/", "/*"] {
            text = text.strip_suffix(end).unwrap_or(text).trim_end();
        }
        if text.len() == before.len() {
            return text;
        }
    }
}

/// The values that a script assigns to `name`, as JSON as far as a scanner can make it that.
pub(crate) fn assigned<'a>(script: &'a str, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
    script
        .match_indices(name)
        .filter(move |(at, _)| !name.is_empty() && !script[..*at].ends_with(is_word))
        .filter_map(move |(at, _)| value_start(&script[at + name.len()..]))
        .take(MAX_ASSIGNMENTS)
        .filter_map(value)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

/// What stands behind `=`, where it could be a value.
fn value_start(text: &str) -> Option<&str> {
    // `window["name"] =`
    let text = text.strip_prefix(['"', '\'']).map_or(text, |rest| rest.trim_start().strip_prefix(']').unwrap_or(text));
    let text = blank(text).strip_prefix('=').map(blank)?;
    text.starts_with(['{', '[', 'J']).then_some(text)
}

fn value(text: &str) -> Option<Cow<'_, str>> {
    if text.starts_with(['{', '[']) {
        return balanced(text).map(without_undefined);
    }
    let text = blank(text.strip_prefix("JSON.parse")?);
    string(blank(text.strip_prefix('(')?)).map(Cow::Owned)
}

/// What follows white space and comments.
fn blank(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        let Some(comment) = text.strip_prefix("/*") else { return text };
        let near = &comment.as_bytes()[..comment.len().min(MAX_COMMENT)];
        let Some(end) = near.windows(2).position(|w| w == b"*/") else { return "" };
        text = &comment[end + 2..];
    }
}

/// The object or array at the start of `text`, to its closing bracket. Brackets within strings are text.
fn balanced(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    let mut quote = None;
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if b == b'\\' => escaped = true,
            Some(open) => {
                if b == open {
                    quote = None;
                }
            }
            None => match b {
                b'"' | b'\'' | b'`' => quote = Some(b),
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(&text[..=i]);
                    }
                }
                _ => {}
            },
        }
    }
    None
}

/// `undefined` outside of strings becomes `null`: serialisers of page state write it.
fn without_undefined(text: &str) -> Cow<'_, str> {
    const UNDEFINED: &str = "undefined";
    if !text.contains(UNDEFINED) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut quoted = false;
    let mut escaped = false;
    let mut from = 0;
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'u' if !quoted && i >= from && text[i..].starts_with(UNDEFINED) => {
                out.push_str(&text[from..i]);
                out.push_str("null");
                from = i + UNDEFINED.len();
            }
            _ => {}
        }
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// The JavaScript string at the start of `text`, its escapes replaced.
fn string(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))?;
    let mut out = String::new();
    let mut chars = text[1..].chars();
    loop {
        let c = chars.next()?;
        if c == quote {
            return Some(out);
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            '0' => out.push('\0'),
            '\n' => {}
            'x' => out.push(char::from_u32(hex(&mut chars, 2)?)?),
            'u' => out.push(unicode(&mut chars)?),
            other => out.push(other),
        }
    }
}

fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0, |code, _| Some(code * 16 + chars.next()?.to_digit(16)?))
}

/// `\u00fc`, a pair of surrogates, or `\u{fc}`; a surrogate alone is a replacement character.
fn unicode(chars: &mut std::str::Chars<'_>) -> Option<char> {
    if let Some(rest) = chars.as_str().strip_prefix('{') {
        let end = rest.find('}').filter(|end| *end <= 6)?;
        *chars = rest[end + 1..].chars();
        return char::from_u32(u32::from_str_radix(&rest[..end], 16).ok()?);
    }
    let high = hex(chars, 4)?;
    if (0xd800..0xdc00).contains(&high)
        && let Some(rest) = chars.as_str().strip_prefix("\\u")
    {
        let mut ahead = rest.chars();
        if let Some(low) = hex(&mut ahead, 4).filter(|low| (0xdc00..0xe000).contains(low)) {
            *chars = ahead;
            return char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
        }
    }
    Some(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_ends_at_its_bracket() {
        for (text, expected) in [
            (r#"{"a":"}"}, b"#, Some(r#"{"a":"}"}"#)),
            (r#"[[1],{"]":"\"]"}]]"#, Some(r#"[[1],{"]":"\"]"}]"#)),
            ("{'a':'}'}", Some("{'a':'}'}")),
            ("{", None),
            (r#"{"a":"}"#, None),
            (r#"{"a\"#, None),
        ] {
            assert_eq!(balanced(text), expected, "{text}");
        }
    }

    #[test]
    fn strings_are_unescaped() {
        for (text, expected) in [
            (r#""a\"b" rest"#, Some("a\"b")),
            (r"'\x41\u00fc\u{1f600}\ud83d\ude00\n\/'", Some("Aü😀😀\n/")),
            (r"'\ud83d'", Some("\u{fffd}")),
            (r"'\ud83dx'", Some("\u{fffd}x")),
            (r"'\u{110000}'", None),
            (r"'\u{}'", None),
            (r"'\xg0'", None),
            (r"'\u12", None),
            ("'", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(string(text).as_deref(), expected, "{text}");
        }
    }

    // I5: a text in which every place looks like a beginning.
    #[test]
    fn a_hostile_script_is_looked_at_a_bounded_number_of_times() {
        let script = "s={".repeat(30_000);
        assert_eq!(assigned(&script, "s").count(), 0);
        assert_eq!(assigned(&"s/*".repeat(30_000), "s").count(), 0);
        let script = "s={}".repeat(1000);
        assert_eq!(assigned(&script, "s").count(), MAX_ASSIGNMENTS);
    }

    proptest! {
        #[test]
        fn any_script_ends(script in "(s|=|\\{|\\}|\\[|\\]|\"|'|\\\\|JSON.parse|\\(|/\\*|\\*/|u|x|0|undefined|é| ){0,60}", name in "(s|é|=|){0,2}") {
            assigned(&script, &name).for_each(drop);
            unwrapped(&script);
        }
    }
}
