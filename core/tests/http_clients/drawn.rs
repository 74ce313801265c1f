//! Replies put together of parts: each status line with each framing, with both ends of a line.

use http::Method;

use super::Case;

const STATUS_LINES: [(&str, &str); 6] = [
    ("200", "HTTP/1.1 200 OK"),
    ("200-of-1.0", "HTTP/1.0 200 OK"),
    ("200-bare", "HTTP/1.1 200"),
    ("404", "HTTP/1.1 404 Not Found"),
    ("204", "HTTP/1.1 204 No Content"),
    ("304", "HTTP/1.1 304 Not Modified"),
];

/// Name, fields separated by `|`, and the body.
const FRAMINGS: [(&str, &str, &str); 14] = [
    ("until-close", "", "hello"),
    ("length", "Content-Length: 5", "hello"),
    ("length-and-close", "Content-Length: 5|Connection: close", "hello"),
    ("length-in-blanks", "Content-Length:  \t5 \t", "hello"),
    ("length-with-zeros", "Content-Length: 005", "hello"),
    ("length-too-short", "Content-Length: 3", "hello"),
    ("length-too-long", "Content-Length: 9", "hello"),
    ("length-twice", "Content-Length: 5|Content-Length: 5", "hello"),
    ("length-listed", "Content-Length: 5, 5", "hello"),
    ("length-hexadecimal", "Content-Length: 0x5", "hello"),
    ("chunked", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ("chunked-in-capitals", "transfer-encoding: CHUNKED|connection: keep-alive", "5\r\nhello\r\n0\r\n\r\n"),
    ("chunked-and-length", "Transfer-Encoding: chunked|Content-Length: 5", "5\r\nhello\r\n0\r\n\r\n"),
    ("chunked-and-cut", "Transfer-Encoding: chunked", "5\r\nhello\r\n"),
];

pub(crate) fn cases() -> impl Iterator<Item = Case> {
    STATUS_LINES.into_iter().flat_map(|(status, line)| {
        FRAMINGS.into_iter().flat_map(move |(framing, fields, body)| {
            [("crlf", "\r\n"), ("lf", "\n")].map(|(end_name, end)| {
                let fields: String = fields.split('|').filter(|f| !f.is_empty()).map(|f| format!("{f}{end}")).collect();
                let bytes = format!("{line}{end}{fields}{end}{body}").into_bytes();
                Case { name: format!("{status}/{framing}/{end_name}"), method: Method::GET, bytes }
            })
        })
    })
}
