//! The replies of `testdata/replies/http1.toml`; seeds of the fuzzer as well.

use http::Method;
use serde::Deserialize;

/// What the corpus has for every failure of curl, whose codes are coarser than ours.
pub(crate) const FAILS: &str = "fails";

#[derive(Deserialize)]
struct Corpus {
    reply: Vec<Reply>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    pub(crate) name: String,
    #[serde(default)]
    method: Option<String>,
    bytes: String,
    ours: String,
    #[serde(default)]
    hyper: Option<String>,
    #[serde(default)]
    curl: Option<String>,
    #[serde(default)]
    why: Option<String>,
}

impl Reply {
    pub(crate) fn all() -> Vec<Self> {
        let text = include_str!("../../testdata/replies/http1.toml");
        toml::from_str::<Corpus>(text).expect("the corpus is well formed").reply
    }

    pub(crate) fn method(&self) -> Method {
        self.method.as_deref().map_or(Method::GET, |method| method.parse().expect("a method"))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        unescape(&self.bytes)
    }

    pub(crate) fn ours(&self) -> String {
        told(&self.ours)
    }

    pub(crate) fn hypers(&self) -> String {
        self.hyper.as_deref().map_or_else(|| self.ours(), told)
    }

    pub(crate) fn curls(&self) -> String {
        self.curl.as_deref().map_or_else(|| self.curls_where_we_agree(), told)
    }

    fn curls_where_we_agree(&self) -> String {
        if self.ours.starts_with(|first: char| first.is_ascii_digit()) { self.ours() } else { FAILS.to_owned() }
    }

    /// That there is a reason where clients differ, and only there.
    pub(crate) fn check(&self) {
        assert_eq!(self.hyper.is_some() || self.curl.is_some(), self.why.is_some(), "{}", self.name);
        assert_ne!(self.hyper.as_ref(), Some(&self.ours), "{}", self.name);
        assert_ne!(self.curl, Some(self.curls_where_we_agree()), "{}", self.name);
    }
}

fn told(escaped: &str) -> String {
    String::from_utf8(unescape(escaped)).expect("text")
}

/// `\r`, `\n`, `\t`, `\0`, `\xHH` and `<<3*text>>`, which may be nested.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(repeated) = rest.strip_prefix("<<") {
            let (count, from_text) = repeated.split_once('*').expect("a count");
            let mut depth = 1;
            let mut end = 0;
            while depth > 0 {
                depth += i32::from(from_text[end..].starts_with("<<")) - i32::from(from_text[end..].starts_with(">>"));
                end += if depth == 0 { 0 } else { 1 };
            }
            let unit = unescape(&from_text[..end]);
            out.extend(unit.repeat(count.parse().expect("a number")));
            rest = &from_text[end + 2..];
        } else if let Some(escaped) = rest.strip_prefix('\\') {
            let (byte, length) = match escaped.as_bytes()[0] {
                b'r' => (b'\r', 1),
                b'n' => (b'\n', 1),
                b't' => (b'\t', 1),
                b'0' => (0, 1),
                b'\\' => (b'\\', 1),
                b'x' => (u8::from_str_radix(&escaped[1..3], 16).expect("two digits"), 3),
                other => panic!("an escape that nobody knows: {}", char::from(other)),
            };
            out.push(byte);
            rest = &escaped[length..];
        } else {
            out.extend_from_slice(first.to_string().as_bytes());
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}
