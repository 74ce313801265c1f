//! Where a body ends, and whether the connection may be used again (RFC 9112, 6.3 and 9.3).

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, StatusCode, Version};

use super::{Chunked, Violation};

/// Where the body ends.
#[derive(Debug)]
pub(super) enum Body {
    /// After so many bytes more.
    Length(u64),
    /// After the last chunk.
    Chunked(Chunked),
    /// With the connection.
    UntilClose,
}

/// What the fields of a head say about its body and its connection.
#[derive(Debug, Default)]
pub(super) struct Fields {
    length: Option<Result<u64, Violation>>,
    transfer: Option<Transfer>,
    close: bool,
    keep_alive: bool,
}

/// The transfer codings so far, over all lines.
#[derive(Debug, Default)]
struct Transfer {
    last_is_chunked: bool,
    /// Something is done to the body that we do not undo, or the list is broken.
    is_foreign: bool,
    has_gap: bool,
}

impl Fields {
    /// Looks at a field.
    pub(super) fn see(&mut self, name: &HeaderName, value: &[u8]) {
        if *name == CONTENT_LENGTH {
            let length = list(value).map(number).reduce(agreeing).unwrap_or(Err(Violation::ContentLength));
            self.length = Some(self.length.map_or(length, |before| agreeing(before, length)));
        } else if *name == TRANSFER_ENCODING {
            let transfer = self.transfer.get_or_insert_default();
            list(value).for_each(|coding| transfer.see(coding));
        } else if *name == CONNECTION {
            for option in list(value) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }

    /// The framing of the body of an answer, and whether its connection may be used again after it.
    pub(super) fn judge(&self, version: Version, status: StatusCode, is_head: bool) -> Result<(Body, bool), Violation> {
        let is_old = version == Version::HTTP_10;
        let stays = !self.close && (!is_old || self.keep_alive);
        if is_head || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
            return Ok((Body::Length(0), stays));
        }
        match (&self.transfer, self.length) {
            // A server of HTTP/1.0 does not know the field: somebody on the way may have gone by something else.
            (Some(_), _) if is_old => Err(Violation::TransferEncoding),
            (Some(Transfer { has_gap: true, .. }), _) => Err(Violation::TransferEncoding),
            (Some(Transfer { last_is_chunked: true, is_foreign: true, .. }), _) => Err(Violation::TransferEncoding),
            // A length that is none is refused whatever else there is, as others do.
            (Some(_), Some(Err(violation))) => Err(violation),
            // The length of what is done to the body, or of what it was before: nobody else takes it for either.
            (Some(Transfer { last_is_chunked: false, is_foreign: true, .. }), Some(_)) => {
                Err(Violation::TransferEncoding)
            }
            // Chunked wins, but somebody on the way may have gone by the length.
            (Some(Transfer { last_is_chunked: true, .. }), length) => {
                Ok((Body::Chunked(Chunked::default()), stays && length.is_none()))
            }
            (Some(_), _) | (None, None) => Ok((Body::UntilClose, false)),
            (None, Some(length)) => Ok((Body::Length(length?), stays)),
        }
    }
}

impl Transfer {
    fn see(&mut self, coding: &[u8]) {
        self.has_gap |= coding.is_empty();
        // Chunked is the last coding, and once.
        self.is_foreign |= self.last_is_chunked;
        self.last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        self.is_foreign |= !self.last_is_chunked && !coding.eq_ignore_ascii_case(b"identity");
    }
}

/// The elements of a list, without the white space around them; an empty one is one too.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    value.split(|byte| *byte == b',').map(move |element| {
        let start = element.iter().position(|byte| !blank(byte)).unwrap_or(element.len());
        let end = element.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        &element[start..end]
    })
}

fn number(digits: &[u8]) -> Result<u64, Violation> {
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    });
    value.filter(|_| !digits.is_empty()).ok_or(Violation::ContentLength)
}

fn agreeing(a: Result<u64, Violation>, b: Result<u64, Violation>) -> Result<u64, Violation> {
    if a == b { a } else { Err(Violation::ContentLength) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(version: Version, status: u16, is_head: bool, fields: &[(&'static str, &str)]) -> String {
        let mut seen = Fields::default();
        for (name, value) in fields {
            seen.see(&HeaderName::from_static(name), value.as_bytes());
        }
        let status = StatusCode::from_u16(status).expect("valid");
        match seen.judge(version, status, is_head) {
            Ok((Body::Length(length), stays)) => format!("{length} {stays}"),
            Ok((Body::Chunked(_), stays)) => format!("chunked {stays}"),
            Ok((Body::UntilClose, stays)) => format!("close {stays}"),
            Err(violation) => format!("{violation:?}"),
        }
    }

    // A11, A12, A13
    #[test]
    fn the_framing_is_that_of_rfc_9112() {
        let (cl, te) = ("content-length", "transfer-encoding");
        for (fields, expected) in [
            (&[][..], "close false"),
            (&[(cl, "5")], "5 true"),
            (&[(cl, "0005")], "5 true"),
            (&[(cl, "5, 5"), (cl, "5")], "5 true"),
            (&[(cl, "5,6")], "ContentLength"),
            (&[(cl, "5"), (te, "xchunked")], "TransferEncoding"),
            (&[(te, "xchunked")], "close false"),
            (&[(cl, "5"), (cl, "6")], "ContentLength"),
            (&[(cl, "")], "ContentLength"),
            (&[(cl, "5,")], "ContentLength"),
            (&[(cl, "+5")], "ContentLength"),
            (&[(cl, "0x5")], "ContentLength"),
            (&[(cl, "5 5")], "ContentLength"),
            (&[(cl, "18446744073709551615")], "18446744073709551615 true"),
            (&[(cl, "18446744073709551616")], "ContentLength"),
            (&[(te, "chunked")], "chunked true"),
            (&[(te, "CHUNKED")], "chunked true"),
            (&[(te, "identity, chunked")], "chunked true"),
            (&[(te, "identity"), (te, "chunked")], "chunked true"),
            (&[(te, "chunked"), (cl, "5")], "chunked false"),
            (&[(te, "chunked"), (cl, "x")], "ContentLength"),
            (&[(te, "chunked, chunked")], "TransferEncoding"),
            (&[(te, "chunked"), (te, "chunked")], "TransferEncoding"),
            (&[(te, "gzip, chunked")], "TransferEncoding"),
            (&[(te, "chunked,")], "TransferEncoding"),
            (&[(te, "")], "TransferEncoding"),
            (&[(te, "chunked;q=1")], "close false"),
            (&[(te, "gzip"), (cl, "5")], "TransferEncoding"),
            (&[(te, "chunked, identity")], "close false"),
        ] {
            assert_eq!(judged(Version::HTTP_11, 200, false, fields), expected, "{fields:?}");
        }
        assert_eq!(judged(Version::HTTP_10, 200, false, &[(te, "chunked")]), "TransferEncoding");
    }

    // A19
    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        let fields = [("content-length", "x"), ("transfer-encoding", "chunked")];
        for (status, is_head) in [(204, false), (304, false), (200, true), (404, true)] {
            assert_eq!(judged(Version::HTTP_11, status, is_head, &fields), "0 true");
        }
    }

    #[test]
    fn a_connection_stays_as_rfc_9112_says() {
        for (version, connection, stays) in [
            (Version::HTTP_11, "", true),
            (Version::HTTP_11, "Close", false),
            (Version::HTTP_11, "keep-alive, close", false),
            (Version::HTTP_11, "closed", true),
            (Version::HTTP_10, "", false),
            (Version::HTTP_10, "Keep-Alive", true),
            (Version::HTTP_10, "keep-alive,close", false),
        ] {
            let fields = [("content-length", "1"), ("connection", connection)];
            assert_eq!(judged(version, 200, false, &fields), format!("1 {stays}"), "{version:?} {connection}");
        }
        let lines = [("connection", "upgrade"), ("connection", "close"), ("content-length", "1")];
        assert_eq!(judged(Version::HTTP_11, 200, false, &lines), "1 false");
    }
}
