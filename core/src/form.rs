//! Bodies of forms: [`Request::with_form`] for `application/x-www-form-urlencoded`, [`Request::with_multipart`] and [`Multipart`] for
//! `multipart/form-data`. What a form of a page holds is read by `tidegate_parse::Form`.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use crate::Request;

impl Request {
    /// Replaces the body by these fields as `application/x-www-form-urlencoded` (WHATWG URL, 5), and says so in Content-Type. The
    /// method stays what it is.
    ///
    /// ```
    /// use tidegate::Request;
    ///
    /// let login = Request::post("https://shop.example/login", "").with_form([("user", "me"), ("password", "p w&d")]);
    /// assert_eq!(&login.body()[..], b"user=me&password=p+w%26d");
    /// assert_eq!(login.headers().expect("one")["content-type"], "application/x-www-form-urlencoded");
    /// ```
    #[must_use]
    pub fn with_form<N: AsRef<str>, V: AsRef<str>>(self, fields: impl IntoIterator<Item = (N, V)>) -> Self {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.with_typed_body(HeaderValue::from_static("application/x-www-form-urlencoded"), body.into())
    }

    /// Replaces the body by these parts as `multipart/form-data` (RFC 7578), and says so in Content-Type. The method stays
    /// what it is.
    ///
    /// ```
    /// use tidegate::Request;
    /// use tidegate::form::{FilePart, Multipart};
    ///
    /// let form = Multipart::new().text("title", "Shoes").file("picture", FilePart::new("shoes.png", &b"\x89PNG"[..]));
    /// let upload = Request::post("https://shop.example/pictures", "").with_multipart(form);
    /// assert!(upload.body().starts_with(b"--"));
    /// ```
    #[must_use]
    pub fn with_multipart(self, form: Multipart) -> Self {
        let (content_type, body) = form.encode();
        self.with_typed_body(content_type, body)
    }

    fn with_typed_body(self, content_type: HeaderValue, body: Bytes) -> Self {
        let mut headers = self.headers().cloned().unwrap_or_default();
        headers.insert(CONTENT_TYPE, content_type);
        self.with_headers(headers).with_body(body)
    }
}

/// The parts of a `multipart/form-data` body, in their order. Whole in memory; what comes of it is at most what the caller put in.
///
/// The boundary is made of what is in the parts, until it is in none of them: nobody who fills in one part can end it, and the same
/// parts are the same bytes, which deduplication goes by. [`random`](Self::random) makes it another one.
///
/// ```
/// use tidegate::form::Multipart;
///
/// let (content_type, body) = Multipart::new().text("a", "1").encode();
/// let (_, boundary) = content_type.to_str()?.split_once("boundary=").expect("it names it");
/// let expected = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--{boundary}--\r\n");
/// assert_eq!(body, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Multipart {
    random: u64,
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    /// All before the body.
    head: String,
    body: Bytes,
}

impl Multipart {
    /// A form without parts.
    ///
    /// ```
    /// let empty = tidegate::form::Multipart::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field. Its line breaks become CRLF, as in a browser (WHATWG HTML, "multipart form data").
    ///
    /// ```
    /// # use tidegate::form::Multipart;
    /// let form = Multipart::new().text("comment", "one\ntwo");
    /// ```
    pub fn text(mut self, name: &str, value: &str) -> Self {
        let head = format!("Content-Disposition: form-data; name=\"{}\"\r\n\r\n", escape(&crlf(name)));
        self.parts.push(Part { head, body: Bytes::from(crlf(value).into_owned()) });
        self
    }

    /// Adds a file. Its bytes stay what they are.
    ///
    /// ```
    /// # use tidegate::form::{FilePart, Multipart};
    /// let form = Multipart::new().file("list", FilePart::new("list.csv", "a,b\n"));
    /// ```
    pub fn file(mut self, name: &str, file: FilePart) -> Self {
        let FilePart { file_name, content_type, bytes } = file;
        let (name, file_name) = (escape(&crlf(name)).into_owned(), escape(&file_name).into_owned());
        let content_type = content_type.to_str().unwrap_or(FilePart::UNKNOWN);
        let head = format!(
            "Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\nContent-Type: {content_type}\r\n\r\n"
        );
        self.parts.push(Part { head, body: bytes });
        self
    }

    /// Makes the boundary depend on this number as well.
    ///
    /// ```
    /// # use tidegate::form::Multipart;
    /// let boundary = |random| Multipart::new().random(random).encode().0;
    /// assert_ne!(boundary(1), boundary(2));
    /// ```
    pub fn random(mut self, random: u64) -> Self {
        self.random = random;
        self
    }

    /// The value of Content-Type, with the boundary, and the body.
    ///
    /// ```
    /// # use tidegate::form::Multipart;
    /// let (content_type, _) = Multipart::new().encode();
    /// assert!(content_type.to_str()?.starts_with("multipart/form-data; boundary="));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn encode(&self) -> (HeaderValue, Bytes) {
        let boundary = self.boundary();
        let size: usize = self.parts.iter().map(|part| part.head.len() + part.body.len() + boundary.len() + 8).sum();
        let mut body = Vec::with_capacity(size + boundary.len() + 8);
        for part in &self.parts {
            for piece in [b"--", boundary.as_bytes(), b"\r\n", part.head.as_bytes(), &part.body, b"\r\n"] {
                body.extend_from_slice(piece);
            }
        }
        for piece in [&b"--"[..], boundary.as_bytes(), b"--\r\n"] {
            body.extend_from_slice(piece);
        }
        let content_type = HeaderValue::try_from(format!("multipart/form-data; boundary={boundary}"));
        (content_type.expect("a boundary is of letters and digits"), body.into())
    }

    /// One that is in no part.
    fn boundary(&self) -> String {
        let mut seed = self.random;
        for part in &self.parts {
            seed = xxhash_rust::xxh3::xxh3_64_with_seed(part.head.as_bytes(), seed);
            seed = xxhash_rust::xxh3::xxh3_64_with_seed(&part.body, seed);
        }
        first_free(seed, |boundary| {
            let is_in = |text: &[u8]| text.windows(boundary.len()).any(|window| window == boundary.as_bytes());
            self.parts.iter().any(|part| is_in(&part.body) || is_in(part.head.as_bytes()))
        })
    }
}

/// The first boundary of those that a seed gives which is not taken.
fn first_free(seed: u64, is_taken: impl Fn(&str) -> bool) -> String {
    let mut boundary = String::new();
    loop {
        let hash = xxhash_rust::xxh3::xxh3_128_with_seed(boundary.as_bytes(), seed);
        boundary = format!("tidegate{hash:032x}");
        if !is_taken(&boundary) {
            return boundary;
        }
    }
}

impl fmt::Debug for Multipart {
    /// Without what the parts hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

/// A file of a [`Multipart`] form.
///
/// ```
/// use http::HeaderValue;
/// use tidegate::form::FilePart;
///
/// let file = FilePart::new("list.csv", "a,b\n").content_type(HeaderValue::from_static("text/csv"));
/// ```
#[derive(Clone)]
#[must_use]
pub struct FilePart {
    file_name: String,
    content_type: HeaderValue,
    bytes: Bytes,
}

impl FilePart {
    const UNKNOWN: &str = "application/octet-stream";

    /// A file of this name, of type `application/octet-stream`.
    ///
    /// ```
    /// let empty = tidegate::form::FilePart::new("", "");
    /// ```
    pub fn new(file_name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let content_type = HeaderValue::from_static(Self::UNKNOWN);
        Self { file_name: file_name.into(), content_type, bytes: bytes.into() }
    }

    /// Replaces the type. One that is not of visible ASCII characters is not sent.
    ///
    /// ```
    /// # use tidegate::form::FilePart;
    /// let picture = FilePart::new("a.png", "").content_type(http::HeaderValue::from_static("image/png"));
    /// ```
    pub fn content_type(mut self, content_type: HeaderValue) -> Self {
        self.content_type = content_type;
        self
    }

    /// The name of the file.
    ///
    /// ```
    /// assert_eq!(tidegate::form::FilePart::new("a.png", "").file_name(), "a.png");
    /// ```
    pub fn file_name(&self) -> &str {
        &self.file_name
    }
}

impl fmt::Debug for FilePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePart")
            .field("file_name", &self.file_name)
            .field("content_type", &self.content_type)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Line breaks of any kind as CRLF.
fn crlf(text: &str) -> Cow<'_, str> {
    if !text.contains(['\r', '\n']) {
        return text.into();
    }
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n").into()
}

/// A name within quotes, as browsers write it (WHATWG HTML, "multipart form data").
fn escape(name: &str) -> Cow<'_, str> {
    if !name.contains(['\r', '\n', '"']) {
        return name.into();
    }
    name.replace('\r', "%0D").replace('\n', "%0A").replace('"', "%22").into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts as a server reads them, each as its head and its body.
    fn read(content_type: &HeaderValue, body: &[u8]) -> Vec<(String, Vec<u8>)> {
        let (_, boundary) = content_type.to_str().expect("text").split_once("boundary=").expect("it is named");
        let delimiter = format!("\r\n--{boundary}");
        let text = [b"\r\n", body].concat();
        let find = |from: usize, what: &[u8]| {
            text[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
        };
        let mut parts = Vec::new();
        let mut at = find(0, delimiter.as_bytes()).expect("the first") + delimiter.len();
        while !text[at..].starts_with(b"--") {
            assert!(text[at..].starts_with(b"\r\n"));
            let end = find(at, delimiter.as_bytes()).expect("the next");
            let blank = find(at, b"\r\n\r\n").expect("a blank line");
            parts.push((String::from_utf8(text[at + 2..blank].to_vec()).expect("text"), text[blank + 4..end].to_vec()));
            at = end + delimiter.len();
        }
        assert_eq!(&text[at..], b"--\r\n");
        parts
    }

    #[test]
    fn the_parts_are_what_browsers_send() {
        let csv = FilePart::new("a \"b\"\r\n.csv", "1\n2").content_type(HeaderValue::from_static("text/csv"));
        let odd =
            FilePart::new("\u{e9}", &b"\0\xff"[..]).content_type(HeaderValue::from_bytes(b"\xff").expect("a value"));
        let form = Multipart::new().text("a\n\"b\"", "1\r2\n3\r\n4").file("f", csv).file("g", odd).text("", "");
        let (content_type, body) = form.encode();
        let expected: [(&str, &[u8]); 4] = [
            ("Content-Disposition: form-data; name=\"a%0D%0A%22b%22\"", b"1\r\n2\r\n3\r\n4"),
            (
                "Content-Disposition: form-data; name=\"f\"; filename=\"a %22b%22%0D%0A.csv\"\r\nContent-Type: text/csv",
                b"1\n2",
            ),
            (
                "Content-Disposition: form-data; name=\"g\"; filename=\"\u{e9}\"\r\nContent-Type: application/octet-stream",
                b"\0\xff",
            ),
            ("Content-Disposition: form-data; name=\"\"", b""),
        ];
        let read = read(&content_type, &body);
        let read: Vec<_> = read.iter().map(|(head, body)| (&head[..], &body[..])).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn a_body_replaces_the_type_that_was_there() {
        let request = Request::post("http://a.test/", "x").with_header(CONTENT_TYPE, HeaderValue::from_static("x/y"));
        let request = request.with_header(http::header::ACCEPT, HeaderValue::from_static("z"));
        for request in [request.clone().with_form([("\u{e9} ", "a=b&c\n")]), request.with_multipart(Multipart::new())] {
            let headers = request.headers().expect("some");
            assert_eq!((headers.get_all(CONTENT_TYPE).iter().count(), headers.len()), (1, 2));
            assert_eq!(request.method(), http::Method::POST);
            let is_form = request.body() == "%C3%A9+=a%3Db%26c%0A";
            assert!(is_form || read(&headers[CONTENT_TYPE], &request.body()).is_empty());
        }
        let none: [(&str, &str); 0] = [];
        assert!(Request::post("http://a.test/", "x").with_form(none).body().is_empty());
    }

    #[test]
    fn a_boundary_that_is_in_a_part_is_not_taken() {
        let first = first_free(1, |_| false);
        let second = first_free(1, |boundary| boundary == first);
        let third = first_free(1, |boundary| boundary == first || boundary == second);
        assert!(first != second && second != third && third != first);
        let form = |body: &str| Multipart {
            random: 1,
            parts: vec![Part { head: String::new(), body: body.to_owned().into() }],
        };
        assert_ne!(form("x").boundary(), form("y").boundary());
        assert_eq!(form("x").boundary(), form("x").boundary());
    }

    proptest! {
        #[test]
        fn what_is_put_in_is_read_back(
            fields in proptest::collection::vec((".{0,9}", proptest::collection::vec(any::<u8>(), 0..40)), 0..5), random: u64,
        ) {
            let mut form = Multipart::new().random(random);
            for (name, bytes) in &fields {
                form = form.file(name, FilePart::new(name.as_str(), bytes.clone()));
            }
            let (content_type, body) = form.encode();
            prop_assert_eq!(form.encode(), (content_type.clone(), body.clone()));
            let read: Vec<_> = read(&content_type, &body).into_iter().map(|(_, body)| body).collect();
            prop_assert_eq!(read, fields.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>());
        }

        #[test]
        fn a_form_is_read_back(fields in proptest::collection::vec((".{0,9}", ".{0,9}"), 0..5)) {
            let request = Request::post("http://a.test/", "").with_form(fields.iter().map(|(name, value)| (name, value)));
            let read: Vec<(String, String)> = url::form_urlencoded::parse(&request.body()).into_owned().collect();
            prop_assert_eq!(read, fields);
        }
    }
}
