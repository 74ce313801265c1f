//! The least that must be understood of a request: where it ends, and what it asks for.

/// The longest head and body of a request together; a longer one closes its connection.
pub(crate) const LONGEST: usize = 64 * 1024;

/// What is at the start of a connection's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan<'a> {
    /// A whole request of `length` bytes; `last` where the connection should end with its answer.
    Request { length: usize, method: Method, last: bool, target: &'a str },
    /// More bytes are needed.
    Partial,
    /// Not HTTP, or too long.
    Bad,
}

/// What makes a difference to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Connect,
    /// GET, or another that is answered as it is.
    Other,
}

/// Looks for one request at the start of `bytes`.
pub(crate) fn scan(bytes: &[u8]) -> Scan<'_> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() < LONGEST { Scan::Partial } else { Scan::Bad };
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else { return Scan::Bad };
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Scan::Bad;
    };
    let last = header(lines.clone(), "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    // GET and HEAD have no body here.
    let body = match method {
        "GET" | "HEAD" => Some(0),
        _ => header(lines, "content-length").map_or(Some(0), |length| length.parse().ok()),
    };
    match body.and_then(|body| (end + 4).checked_add(body)).filter(|&length| length <= LONGEST) {
        Some(length) if length <= bytes.len() => {
            let method = match method {
                "HEAD" => Method::Head,
                "CONNECT" => Method::Connect,
                _ => Method::Other,
            };
            Scan::Request { length, method, last, target }
        }
        Some(_) => Scan::Partial,
        None => Scan::Bad,
    }
}

fn header<'a>(mut lines: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    lines.find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        found.eq_ignore_ascii_case(name).then(|| value.strip_prefix(':').map(str::trim)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_found_byte_by_byte() {
        let bytes = b"GET /bytes/7 HTTP/1.1\r\nHost: a\r\n\r\nGET /";
        let length = bytes.len() - 5;
        for part in 0..length {
            assert_eq!(scan(&bytes[..part]), Scan::Partial, "{part}");
        }
        let request = Scan::Request { length, method: Method::Other, last: false, target: "/bytes/7" };
        assert_eq!(scan(&bytes[..length]), request);
        assert_eq!(scan(bytes), request);
    }

    #[test]
    fn a_body_belongs_to_its_request() {
        let bytes = b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(scan(&bytes[..bytes.len() - 1]), Scan::Partial);
        assert_eq!(scan(bytes), Scan::Request { length: bytes.len(), method: Method::Other, last: false, target: "/" });
    }

    #[test]
    fn a_request_can_be_the_last() {
        for (text, expected) in
            [("Connection: close", true), ("connection:Close", true), ("Connection: keep-alive", false)]
        {
            let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{text}\r\n\r\n");
            assert!(matches!(scan(bytes.as_bytes()), Scan::Request { last, .. } if last == expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_http_or_too_long_is_refused() {
        assert_eq!(scan(b"hello\r\n\r\n"), Scan::Bad);
        assert_eq!(scan(b"GET / HTTP/1.0\r\n\r\n"), Scan::Bad);
        assert_eq!(scan(b"\xFF\xFF / HTTP/1.1\r\n\r\n"), Scan::Bad);
        assert_eq!(scan(b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), Scan::Bad);
        assert_eq!(scan(b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n"), Scan::Bad);
        assert_eq!(scan(&[b'a'; LONGEST]), Scan::Bad);
    }
}
