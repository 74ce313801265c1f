//! The head of an answer: status line and header fields, by httparse, into the types of `http`.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};

use super::Violation;
use super::framing::Fields;

/// Fields that are parsed without an allocation; more are parsed once more, up to the limit.
const USUAL_FIELDS: usize = 48;

/// What every answer begins with.
const START: &[u8] = b"HTTP/1.";

/// A status line with its fields.
#[derive(Debug)]
pub(in crate::http) struct Head {
    pub(in crate::http) status: StatusCode,
    pub(in crate::http) version: Version,
    pub(in crate::http) headers: HeaderMap,
}

/// Parses the head at the start of `bytes`, and gives its length; `None` where it does not end there.
///
/// A head with an error in it has that error however much of it is there, so that the verdict does not depend on how it was cut.
pub(super) fn parse(bytes: &[u8], most_fields: usize) -> Result<Option<(Head, Fields, usize)>, Violation> {
    let known = bytes.len().min(START.len());
    // httparse skips empty lines before it, which no other client of note does.
    if bytes[..known] != START[..known] {
        return Err(Violation::StatusLine);
    }
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut all = Vec::new();
    let room = most_fields.min(USUAL_FIELDS);
    let mut parsed = parse_into(bytes, &mut usual[..room]);
    if most_fields > room && matches!(parsed, Err(httparse::Error::TooManyHeaders)) {
        // The shortest field has three bytes.
        all.resize(most_fields.min(bytes.len() / 3 + 1), MaybeUninit::uninit());
        parsed = parse_into(bytes, &mut all);
    }
    let parsed = parsed.map_err(|e| match e {
        httparse::Error::Status | httparse::Error::Version => Violation::StatusLine,
        httparse::Error::TooManyHeaders => Violation::TooManyFields(most_fields),
        _ => Violation::Field,
    })?;
    parsed.map(|parsed| build(bytes, &parsed)).transpose()
}

/// What httparse found, with the length of the head.
struct Parsed<'h, 'b> {
    length: usize,
    version: Version,
    code: u16,
    fields: &'h [Header<'b>],
}

fn parse_into<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut [MaybeUninit<Header<'b>>],
) -> Result<Option<Parsed<'h, 'b>>, httparse::Error> {
    let mut response = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room)?;
    let (Status::Complete(length), Some(minor), Some(code)) = (status, response.version, response.code) else {
        return Ok(None);
    };
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    Ok(Some(Parsed { length, version, code, fields: response.headers }))
}

fn build(bytes: &[u8], parsed: &Parsed<'_, '_>) -> Result<(Head, Fields, usize), Violation> {
    let &Parsed { length, version, code, fields } = parsed;
    let status = StatusCode::from_u16(code).map_err(|_| Violation::StatusLine)?;
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut framing = Fields::default();
    // One copy of the head, which all values share.
    let copy = Bytes::copy_from_slice(&bytes[..length]);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Violation::Field)?;
        framing.see(&name, field.value);
        let mut value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let start = field.value.as_ptr().addr() - bytes.as_ptr().addr();
            HeaderValue::from_maybe_shared(copy.slice(start..start + field.value.len()))
                .map_err(|_| Violation::Field)?
        };
        // A session's key, which no log is to have.
        value.set_sensitive(name == http::header::SET_COOKIE);
        headers.append(name, value);
    }
    Ok((Head { status, version, headers }, framing, length))
}
