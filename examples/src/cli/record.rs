//! The record of a URL: what became of it, as one line of JSON with every key always there.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::net::SocketAddr;

use http::{HeaderMap, Method, Version};
use serde::Serialize;
use tidegate::{Delivery, Error, Outcome, Settled, Timings};

use super::input::BadLine;
use super::page::PageFacts;
use super::time::{millis, rfc3339};

/// Which of the optional parts a record shows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    pub(super) headers: bool,
}

/// The keys that all subcommands share, in their order, and those of one.
#[derive(Debug, Serialize)]
pub(super) struct Record<'a, E> {
    v: u8,
    seq: u64,
    id: Option<&'a str>,
    url: Option<String>,
    final_url: Option<Cow<'a, str>>,
    outcome: &'static str,
    status: Option<u16>,
    version: Option<&'static str>,
    content_type: Option<String>,
    bytes: Option<u64>,
    bytes_wire: Option<u64>,
    sha256: Option<&'a str>,
    body: Option<&'a str>,
    headers: Option<Vec<(&'a str, String)>>,
    redirects: Vec<Redirect<'a>>,
    error: Option<Failure>,
    skipped: Option<&'static str>,
    attempts: u32,
    timing_ms: TimingMs,
    remote: Option<SocketAddr>,
    proxy: Option<&'a str>,
    fetched_at: Option<String>,
    #[serde(flatten)]
    more: E,
}

/// No further keys.
#[derive(Debug, Serialize)]
pub(super) struct NoMore {}

/// The further keys of `crawl`.
#[derive(Debug, Serialize)]
pub(super) struct CrawlKeys<'a> {
    depth: u32,
    found_on: Option<&'a str>,
    title: Option<&'a str>,
    links_count: Option<u64>,
    links: Option<&'a [String]>,
}

impl<'a> CrawlKeys<'a> {
    pub(super) fn of(settled: &'a Settled) -> Self {
        let facts = settled.attachment::<PageFacts>();
        Self {
            depth: settled.request.depth(),
            found_on: settled.request.parent(),
            title: facts.and_then(|facts| facts.title.as_deref()),
            links_count: facts.and_then(|facts| facts.links_count),
            links: facts.and_then(|facts| facts.links.as_deref()),
        }
    }
}

/// The further keys of `monitor`.
#[derive(Debug, Serialize)]
pub(super) struct MonitorKeys {
    /// `up`, `suspect` after one bad look, `down` after two in a row; nothing before the first look.
    pub(super) state: Option<&'static str>,
    pub(super) certificate_expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Redirect<'a> {
    url: &'a str,
    status: u16,
}

#[derive(Debug, Serialize)]
struct Failure {
    kind: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct TimingMs {
    queue: Option<f64>,
    local: Option<f64>,
    dns: Option<f64>,
    connect: Option<f64>,
    tls: Option<f64>,
    first_byte: Option<f64>,
    body: Option<f64>,
    total: Option<f64>,
}

impl From<Timings> for TimingMs {
    fn from(timings: Timings) -> Self {
        let Timings { queue, local, dns, connect, tls, first_byte, body, total, .. } = timings;
        Self {
            queue: queue.map(millis),
            local: local.map(millis),
            dns: dns.map(millis),
            connect: connect.map(millis),
            tls: tls.map(millis),
            first_byte: first_byte.map(millis),
            body: body.map(millis),
            total: total.map(millis),
        }
    }
}

impl<'a, E: Serialize> Record<'a, E> {
    pub(super) fn new(delivery: &'a Delivery<Settled>, shape: Shape, more: E) -> Self {
        let settled = &delivery.item;
        let facts = settled.attachment::<PageFacts>();
        let bad_line = BadLine::of(&settled.request);
        let is_ok = matches!(settled.outcome, Outcome::Ok);
        let has_body = settled.status().is_some() && *settled.request.method() != Method::HEAD;
        Self {
            v: 1,
            seq: settled.job,
            id: settled.request.id(),
            url: match &bad_line {
                Some(bad) => bad.url.as_deref().map(without_passwords),
                None => Some(settled.url().into_owned()),
            },
            final_url: settled.final_url(),
            outcome: settled.outcome.name(),
            status: settled.status().map(|status| status.as_u16()),
            version: settled.version().and_then(version_name),
            content_type: text_of(settled.headers(), "content-type"),
            bytes: (has_body && (is_ok || settled.bytes > 0)).then_some(settled.bytes),
            bytes_wire: settled.status().map(|_| settled.bytes_wire),
            sha256: facts.and_then(|facts| facts.sha256.as_deref()),
            body: facts.and_then(|facts| facts.body.as_deref()),
            headers: settled.headers().filter(|_| shape.headers).map(all_of),
            redirects: settled
                .redirects
                .iter()
                .map(|hop| Redirect { url: &hop.url, status: hop.status.as_u16() })
                .collect(),
            error: match (&settled.outcome, bad_line) {
                (Outcome::Error(error), bad) => Some(Failure {
                    kind: error.kind().code(),
                    message: bad.map_or_else(|| message(error), |bad| without_passwords(&bad.message())),
                }),
                _ => None,
            },
            skipped: match &settled.outcome {
                Outcome::Skipped(reason) => Some(reason.code()),
                _ => None,
            },
            attempts: settled.attempts,
            timing_ms: settled.timings.into(),
            remote: settled.remote,
            proxy: settled.proxy.as_deref(),
            fetched_at: settled.fetched_at.map(rfc3339),
            more,
        }
    }
}

/// What was attempted, and the chain of causes; without the kind, which has a key of its own.
pub(super) fn message(error: &Error) -> String {
    let shown = error.to_string();
    let mut text =
        shown.strip_prefix(error.kind().code()).and_then(|t| t.strip_prefix(": ")).unwrap_or(&shown).to_owned();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many libraries repeat their cause in their own words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    without_passwords(&text)
}

/// `text` with the userinfo of every URL in it removed.
pub(super) fn without_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("//").map(|at| at + 2) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end =
            rest.find(|c: char| c.is_whitespace() || matches!(c, '/' | '\\' | '?' | '#' | '"')).unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@') {
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    out
}

fn version_name(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("HTTP/0.9"),
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        Version::HTTP_2 => Some("HTTP/2"),
        Version::HTTP_3 => Some("HTTP/3"),
        _ => None,
    }
}

fn text_of(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    headers?.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn all_of(headers: &HeaderMap) -> Vec<(&str, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use tidegate::ErrorKind;

    use super::*;

    #[test]
    fn a_message_has_its_causes_and_no_password() {
        let cause = std::io::Error::other("the proxy http://me:hunter2@p.test:8080/ said no");
        let error =
            Error::new(ErrorKind::ProxyRefused, "open a tunnel").with_url("http://u:pw@a.test/x").with_source(cause);
        assert_eq!(message(&error), "open a tunnel (http://a.test/x): the proxy http://p.test:8080/ said no");
    }

    #[test]
    fn passwords_are_removed_and_nothing_else() {
        for (text, clean) in [
            ("http://a:b@c/ and https://d:e@f", "http://c/ and https://f"),
            ("mail me@a.test or //x", "mail me@a.test or //x"),
            ("http://a/b@c", "http://a/b@c"),
            ("\"http://u:p@ss@h\"", "\"http://h\""),
            ("//", "//"),
            ("", ""),
        ] {
            assert_eq!(without_passwords(text), clean);
        }
    }
}
