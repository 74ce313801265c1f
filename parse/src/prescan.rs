//! The encoding that a page declares about itself: the WHATWG prescan of its first bytes for `<meta>`.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};

/// Bytes at the start of a page that are searched for a `<meta>` with a charset: the 1,024 of the WHATWG standard.
pub(crate) const PRESCAN_BYTES: usize = 1024;

/// The encoding that the first bytes declare.
pub(crate) fn prescan(body: &[u8]) -> Option<&'static Encoding> {
    if body.starts_with(b"<\0?\0x\0") {
        return Some(UTF_16LE);
    }
    if body.starts_with(b"\0<\0?\0x") {
        return Some(UTF_16BE);
    }
    Scanner { bytes: &body[..body.len().min(PRESCAN_BYTES)], at: 0 }.run()
}

/// The label behind `charset=` in a Content-Type or in the `content` of a `<meta>`.
pub(crate) fn charset_of(text: &[u8]) -> Option<&'static Encoding> {
    let mut rest = text;
    loop {
        let found = rest.windows(7).position(|w| w.eq_ignore_ascii_case(b"charset"))?;
        rest = rest[found + 7..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b"=") else { continue };
        let value = value.trim_ascii_start();
        let label = match value.first()? {
            quote @ (b'"' | b'\'') => {
                let inner = &value[1..];
                &inner[..inner.iter().position(|b| b == quote)?]
            }
            _ => {
                let end = value.iter().position(|b| b.is_ascii_whitespace() || *b == b';');
                &value[..end.unwrap_or(value.len())]
            }
        };
        return Encoding::for_label_no_replacement(label);
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Where bytes run out the algorithm ends without an answer, which `?` on `peek` expresses.
impl Scanner<'_> {
    fn run(mut self) -> Option<&'static Encoding> {
        loop {
            let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
            if rest.starts_with(b"<!--") {
                // The dashes of the start may be those of the end: `<!-->` is a whole comment.
                let end = rest[2..].windows(3).position(|w| w == b"-->")?;
                self.at += 2 + end + 3;
            } else if rest.len() > 5
                && rest[..5].eq_ignore_ascii_case(b"<meta")
                && (rest[5].is_ascii_whitespace() || rest[5] == b'/')
            {
                self.at += 6;
                if let Some(encoding) = self.meta()? {
                    return Some(encoding);
                }
            } else if is_tag(rest) {
                let name = rest.iter().position(|b| b.is_ascii_whitespace() || *b == b'>')?;
                self.at += name;
                while self.attribute()?.is_some() {}
                self.at += 1;
            } else if matches!(rest, [b'<', b'!' | b'/' | b'?', ..]) {
                self.at += rest.iter().position(|b| *b == b'>')? + 1;
            } else {
                self.at += 1;
            }
        }
    }

    fn meta(&mut self) -> Option<Option<&'static Encoding>> {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut got_pragma = false;
        let mut need_pragma = None;
        let mut charset = None;
        while let Some((name, value)) = self.attribute()? {
            if seen.contains(&name) {
                continue;
            }
            match name.as_slice() {
                b"http-equiv" => got_pragma = value == b"content-type",
                b"content" if charset.is_none() => {
                    if let Some(encoding) = charset_of(&value) {
                        charset = Some(Some(encoding));
                        need_pragma = Some(true);
                    }
                }
                b"charset" => {
                    charset = Some(Encoding::for_label_no_replacement(&value));
                    need_pragma = Some(false);
                }
                _ => {}
            }
            seen.push(name);
        }
        self.at += 1;
        let wanted = match need_pragma {
            None => false,
            Some(need) => !need || got_pragma,
        };
        let found = charset.flatten().filter(|_| wanted);
        // Text that could be read as ASCII is not UTF-16, whatever it says.
        Some(found.map(|encoding| match encoding {
            e if e == UTF_16LE || e == UTF_16BE => UTF_8,
            e if e == X_USER_DEFINED => WINDOWS_1252,
            e => e,
        }))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, skipped: impl Fn(u8) -> bool) -> Option<u8> {
        loop {
            let byte = self.peek()?;
            if !skipped(byte) {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// The next attribute, name and value in lower case; `Some(None)` at the end of the tag, `None` at the end of input.
    #[expect(clippy::option_option, reason = "the end of the tag and the end of the input are different things")]
    fn attribute(&mut self) -> Option<Option<(Vec<u8>, Vec<u8>)>> {
        if self.skip(|b| b.is_ascii_whitespace() || b == b'/')? == b'>' {
            return Some(None);
        }
        let mut name = Vec::new();
        let has_value = loop {
            match self.peek()? {
                b'=' if !name.is_empty() => break true,
                b'/' | b'>' => return Some(Some((name, Vec::new()))),
                b if b.is_ascii_whitespace() => break self.skip(|b| b.is_ascii_whitespace())? == b'=',
                b => name.push(b.to_ascii_lowercase()),
            }
            self.at += 1;
        };
        if !has_value {
            return Some(Some((name, Vec::new())));
        }
        self.at += 1;
        let mut value = Vec::new();
        match self.skip(|b| b.is_ascii_whitespace())? {
            quote @ (b'"' | b'\'') => {
                self.at += 1;
                while self.peek()? != quote {
                    value.push(self.peek()?.to_ascii_lowercase());
                    self.at += 1;
                }
                self.at += 1;
            }
            _ => {
                while !matches!(self.peek()?, b'>') && !self.peek()?.is_ascii_whitespace() {
                    value.push(self.peek()?.to_ascii_lowercase());
                    self.at += 1;
                }
            }
        }
        Some(Some((name, value)))
    }
}

fn is_tag(rest: &[u8]) -> bool {
    let name = rest.strip_prefix(b"</").or_else(|| rest.strip_prefix(b"<"));
    name.and_then(<[u8]>::first).is_some_and(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(html: &str) -> Option<&'static str> {
        prescan(html.as_bytes()).map(Encoding::name)
    }

    // A23
    #[test]
    fn finds_what_browsers_find() {
        for (html, expected) in [
            ("<meta charset=windows-1251>", Some("windows-1251")),
            ("<META CharSet='EUC-JP' >", Some("EUC-JP")),
            ("<meta charset = \"shift_jis\"/>", Some("Shift_JIS")),
            ("<meta/charset=koi8-r>", Some("KOI8-R")),
            ("<meta http-equiv=Content-Type content='text/html; charset=gb2312'>", Some("GBK")),
            ("<meta content='text/html; charset=\"big5\"' http-equiv=\"content-type\">", Some("Big5")),
            ("<meta content='text/html; charset=big5'>", None),
            ("<meta http-equiv=refresh content='text/html; charset=big5'>", None),
            ("<meta http-equiv=content-type content='x; charset charset = utf-8;'>", Some("UTF-8")),
            ("<!-- <meta charset=big5> --><meta charset=utf-8>", Some("UTF-8")),
            ("<!--><meta charset=utf-8>", Some("UTF-8")),
            ("<p title='<meta charset=big5>'><meta charset=utf-8>", Some("UTF-8")),
            ("<!doctype html><?x <meta charset=big5>?><meta charset=utf-8>", Some("UTF-8")),
            ("</p <meta charset=big5><meta charset=utf-8>", Some("UTF-8")),
            ("<meta charset=utf-16>", Some("UTF-8")),
            ("<meta charset=x-user-defined>", Some("windows-1252")),
            ("<meta charset=nonsense><meta charset=utf-8>", Some("UTF-8")),
            ("<meta charset=nonsense charset=big5>", None),
            ("<meta charset=iso-2022-kr>", None),
            ("<metal charset=big5>", None),
            ("<meta charset=big5", None),
            ("", None),
        ] {
            assert_eq!(name(html), expected, "{html}");
        }
    }

    #[test]
    fn looks_at_the_first_bytes_only() {
        let meta = "<meta charset=big5>";
        let at = |n: usize| format!("{}{meta}", " ".repeat(n));
        assert_eq!(name(&at(PRESCAN_BYTES - meta.len())), Some("Big5"));
        assert_eq!(name(&at(PRESCAN_BYTES - meta.len() + 1)), None);
    }

    #[test]
    fn an_xml_declaration_in_utf_16_is_seen() {
        assert_eq!(prescan(b"<\0?\0x\0m\0l\0"), Some(UTF_16LE));
        assert_eq!(prescan(b"\0<\0?\0x\0m\0l"), Some(UTF_16BE));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            prescan(&bytes);
            charset_of(&bytes);
        }

        #[test]
        fn any_markup_ends(text in "(<meta |</|<!--|-->|charset|content|=|'|\"|/|>|http-equiv|[a-z ]){0,40}") {
            prescan(text.as_bytes());
            charset_of(text.as_bytes());
        }
    }
}
