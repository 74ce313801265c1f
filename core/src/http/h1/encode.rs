//! The head of a request as bytes.

use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Writes the head of a request: its first line, then field by field, then the empty line.
pub(in crate::http) struct HeadWriter<'a>(&'a mut Vec<u8>);

impl<'a> HeadWriter<'a> {
    /// Writes the first line. The target is what `parts` are together; a byte that has no place in a line is percent-encoded.
    pub(in crate::http) fn begin(out: &'a mut Vec<u8>, method: &Method, parts: &[&str]) -> Self {
        out.extend_from_slice(method.as_str().as_bytes());
        out.push(b' ');
        for part in parts {
            escape(out, part);
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        Self(out)
    }

    /// Writes a field whose value is this part of a URL.
    pub(in crate::http) fn part(&mut self, name: &HeaderName, part: &str) {
        self.name(name);
        escape(self.0, part);
        self.0.extend_from_slice(b"\r\n");
    }

    /// Writes a field.
    pub(in crate::http) fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.name(name);
        self.0.extend_from_slice(value.as_bytes());
        self.0.extend_from_slice(b"\r\n");
    }

    /// Writes fields alone, for [`block`](Self::block).
    pub(in crate::http) fn fields(out: &'a mut Vec<u8>, fields: &HeaderMap) {
        let mut writer = Self(out);
        fields.iter().for_each(|(name, value)| writer.field(name, value));
    }

    /// Writes fields that were written before, each with its line end.
    pub(in crate::http) fn block(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    /// Writes the empty line.
    pub(in crate::http) fn end(self) {
        self.0.extend_from_slice(b"\r\n");
    }

    fn name(&mut self, name: &HeaderName) {
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
    }
}

fn escape(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // C10
    #[test]
    fn nothing_ends_a_line_but_its_end() {
        let mut out = Vec::new();
        let mut head = HeadWriter::begin(&mut out, &Method::GET, &["/a b", "\r\nX: y", "ü|{}"]);
        head.part(&http::header::HOST, "a.test:8\n1");
        head.field(&http::header::ACCEPT, &HeaderValue::from_static("a b"));
        head.block(b"dnt: 1\r\n");
        head.end();
        let expected =
            "GET /a%20b%0D%0AX:%20y%C3%BC|{} HTTP/1.1\r\nhost: a.test:8%0A1\r\naccept: a b\r\ndnt: 1\r\n\r\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }
}
