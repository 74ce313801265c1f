//! From bytes to text: which charset a page is in, and its text. Never fails.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use tidegate::Page;
use url::{Host, Url};

use crate::prescan::{charset_of, prescan};

/// Bytes that the detector looks at: 64 KiB. It decides on the first few hundred that are not ASCII.
pub const DETECT_BYTES: usize = 64 * 1024;

/// The text of a page in its charset, without byte order mark; borrowed where the bytes are the text.
///
/// Bytes that are not text in that charset become U+FFFD, so there is no error.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::text;
///
/// let page = Page::build("http://a.test/").header("content-type", "text/html; charset=latin1").body(&b"caf\xe9"[..]);
/// assert_eq!(text(&page), "café");
/// ```
pub fn text(page: &Page) -> Cow<'_, str> {
    decode(page.body(), charset(page))
}

/// The charset of a page, and where it is said.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{CharsetSource, charset};
///
/// let page = Page::build("http://a.test/").body("<meta charset=shift_jis>");
/// assert_eq!(charset(&page).name(), "Shift_JIS");
/// assert_eq!(charset(&page).source(), CharsetSource::Meta);
/// ```
pub fn charset(page: &Page) -> Charset {
    charset_of_bytes(page.body(), page.content_type(), Some(page.url()))
}

/// As [`charset`], of bytes that are not a page.
///
/// In this order: byte order mark, Content-Type, `<meta>` in the first 1,024 bytes, what the bytes look like (valid
/// UTF-8, UTF-16 by its zeros, else by letter statistics with the top-level domain as a hint), windows-1252.
///
/// ```
/// use tidegate_parse::charset_of_bytes;
/// assert_eq!(charset_of_bytes("grün".as_bytes(), Some("text/html"), None).name(), "UTF-8");
/// ```
pub fn charset_of_bytes(body: &[u8], content_type: Option<&str>, url: Option<&Url>) -> Charset {
    if let Some((encoding, _)) = Encoding::for_bom(body) {
        return Charset { encoding, source: CharsetSource::Bom };
    }
    if let Some(encoding) = content_type.and_then(|value| charset_of(value.as_bytes())) {
        return Charset { encoding, source: CharsetSource::ContentType };
    }
    if let Some(encoding) = prescan(body) {
        return Charset { encoding, source: CharsetSource::Meta };
    }
    match detect(body, url) {
        Some(encoding) => Charset { encoding, source: CharsetSource::Detected },
        None => Charset { encoding: WINDOWS_1252, source: CharsetSource::Fallback },
    }
}

/// The text of bytes in a charset, without byte order mark.
///
/// ```
/// use tidegate_parse::{charset_of_bytes, decode};
///
/// let bytes = b"\xff\xfeh\0i\0";
/// assert_eq!(decode(bytes, charset_of_bytes(bytes, None, None)), "hi");
/// ```
pub fn decode(body: &[u8], charset: Charset) -> Cow<'_, str> {
    charset.encoding.decode_with_bom_removal(body).0
}

/// A charset, and where it was said.
///
/// ```
/// let charset = tidegate_parse::charset_of_bytes(b"\xef\xbb\xbfx", None, None);
/// assert_eq!(charset.name(), "UTF-8");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset {
    encoding: &'static Encoding,
    source: CharsetSource,
}

impl Charset {
    pub(crate) const UTF_8: Self = Self { encoding: UTF_8, source: CharsetSource::Detected };

    /// Its name in the WHATWG Encoding standard, as `UTF-8` or `windows-1252`.
    pub fn name(self) -> &'static str {
        self.encoding.name()
    }

    /// Where it was said.
    pub fn source(self) -> CharsetSource {
        self.source
    }
}

/// Where a [`Charset`] was found.
///
/// ```
/// use tidegate_parse::{CharsetSource, charset_of_bytes};
/// assert_eq!(charset_of_bytes(b"", Some("text/plain; charset=utf-8"), None).source(), CharsetSource::ContentType);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CharsetSource {
    /// A byte order mark.
    Bom,
    /// The Content-Type field.
    ContentType,
    /// A `<meta>` in the first 1,024 bytes.
    Meta,
    /// The bytes themselves.
    Detected,
    /// Nothing said or showed it.
    Fallback,
}

fn detect(body: &[u8], url: Option<&Url>) -> Option<&'static Encoding> {
    if let Some(encoding) = utf16_by_zeros(body) {
        return Some(encoding);
    }
    if std::str::from_utf8(body).is_ok() {
        return Some(UTF_8);
    }
    let sample = &body[..body.len().min(DETECT_BYTES)];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    // UTF-8 with a damaged byte later on is still UTF-8: the sample decides, and its end may cut a character.
    let is_last = sample.len() == body.len();
    if !detector.feed(sample, is_last) {
        return None;
    }
    Some(detector.guess(top_level_domain(url).as_deref().map(str::as_bytes), Utf8Detection::Allow))
}

/// UTF-16 without a byte order mark: markup has a zero in nearly every second byte.
fn utf16_by_zeros(body: &[u8]) -> Option<&'static Encoding> {
    let sample = &body[..body.len().min(1024)];
    let pairs = sample.len() / 2;
    if pairs < 4 {
        return None;
    }
    let zeros = |offset: usize| sample.iter().skip(offset).step_by(2).take(pairs).filter(|b| **b == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    match () {
        () if odd * 2 > pairs && even * 16 < pairs => Some(UTF_16LE),
        () if even * 2 > pairs && odd * 16 < pairs => Some(UTF_16BE),
        () => None,
    }
}

/// The last label of the host; the detector panics on anything but lower-case ASCII without dots.
fn top_level_domain(url: Option<&Url>) -> Option<String> {
    let Some(Host::Domain(domain)) = url?.host() else { return None };
    let label = domain.trim_end_matches('.').rsplit('.').next()?;
    let fits = !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    fits.then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(body: &[u8], content_type: Option<&str>) -> &'static str {
        charset_of_bytes(body, content_type, None).name()
    }

    // A23
    #[test]
    fn the_order_is_bom_then_header_then_meta_then_bytes() {
        let meta = b"<meta charset=big5>";
        let with_bom = [b"\xef\xbb\xbf".as_slice(), meta].concat();
        assert_eq!(name(&with_bom, Some("text/html; charset=koi8-r")), "UTF-8");
        assert_eq!(name(meta, Some("text/html; charset=koi8-r")), "KOI8-R");
        assert_eq!(name(meta, Some("text/html; charset=nonsense")), "Big5");
        assert_eq!(name(meta, Some("text/html")), "Big5");
        assert_eq!(name("日本".as_bytes(), None), "UTF-8");
        assert_eq!(name(b"", None), "UTF-8");
        assert_eq!(name(b"plain", Some("text/html; CHARSET=\"ISO-8859-1\"")), "windows-1252");
    }

    // I8
    #[test]
    fn text_without_any_declaration_is_detected() {
        let russian = encoding_rs::WINDOWS_1251.encode("Съешь же ещё этих мягких французских булок, да выпей чаю").0;
        assert_eq!(name(&russian, None), "windows-1251");
        let japanese = encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。ウェブページの文字コードを調べます。").0;
        assert_eq!(name(&japanese, None), "Shift_JIS");
    }

    // I8
    #[test]
    fn utf_16_without_a_mark_is_read() {
        let le: Vec<u8> = "<p>grün</p>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = "<p>grün</p>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in [le, be] {
            assert_eq!(decode(&bytes, charset_of_bytes(&bytes, None, None)), "<p>grün</p>");
        }
    }

    #[test]
    fn the_text_is_borrowed_where_it_can_be() {
        for body in ["grün", "plain"] {
            assert!(matches!(decode(body.as_bytes(), charset_of_bytes(body.as_bytes(), None, None)), Cow::Borrowed(_)));
        }
        let with_bom = Page::build("http://a.test/").body(&b"\xef\xbb\xbfx"[..]);
        assert!(matches!(text(&with_bom), Cow::Borrowed("x")));
    }

    // I8
    #[test]
    fn broken_bytes_become_replacement_characters() {
        let page =
            Page::build("http://a.test/").header("content-type", "text/html; charset=utf-8").body(&b"a\xffb"[..]);
        assert_eq!(text(&page), "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_text(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            content_type in proptest::option::of("text/html; ?charset=[ -~]{0,12}"),
            url in prop::sample::select(vec!["http://a.test/", "http://[::1]/", "http://1.2.3.4/", "http://a.RU./", "http://x.xn--p1ai/", "http://a_b.j_p/"]),
        ) {
            let url = Url::parse(url).expect("literal");
            let charset = charset_of_bytes(&bytes, content_type.as_deref(), Some(&url));
            decode(&bytes, charset);
        }

        #[test]
        fn utf_8_stays_as_it_is(body in "[^\u{feff}\0]\\PC{0,60}") {
            let page = Page::build("http://a.test/").header("content-type", "text/html; charset=utf-8").body(body.clone());
            prop_assert_eq!(text(&page), body);
        }
    }
}
