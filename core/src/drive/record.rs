//! What the driver keeps of a job: its request, its hops, and the facts for its [`Settled`].

use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use http::{Method, StatusCode};

use super::inbox::{Answer, ParseFailure};
use crate::engine::{Blame, JobId, JobVerdict};
use crate::frontier::{LeaseId, Verdict};
use crate::observer::FetchWatch;
use crate::request::without_userinfo;
use crate::{Error, ErrorKind, Head, Hop, Limits, Outcome, Page, Request, Response, Settled};

pub(super) struct Record {
    pub(super) id: JobId,
    /// In the order of submission, from 1.
    pub(super) number: u64,
    pub(super) request: Arc<Request>,
    pub(super) lease: Option<LeaseId>,
    pub(super) limits: Arc<Limits>,
    pub(super) submitted: Instant,
    /// The request of the hop that is to be fetched, where it is not the first.
    pub(super) hop: Option<Arc<Request>>,
    /// The answer between fetch and parse.
    pub(super) answer: Option<Box<Answer>>,
    pub(super) items: Option<Box<dyn std::any::Any + Send>>,
    pub(super) error: Option<Error>,
    /// Who waits for the page itself.
    pub(super) reply: Option<super::driver::Reply>,
    pub(super) page: Option<Box<Page>>,
    /// Which fetch loop has it.
    pub(super) in_loop: usize,
    pub(super) closing: Option<Verdict>,
    /// The embedder cancelled it: it is not given back to the frontier, from where it would come again.
    pub(super) unwanted: bool,
    /// A page of the public network led to the hop that is to be fetched.
    pub(super) guarded: bool,
    /// Tells the fetch, which has stood in line, that it has its permit again.
    pub(super) readmit: Option<oneshot::Sender<()>>,
    /// Where the crawl has observers: what the fetch tells them.
    pub(super) watch: Option<Arc<FetchWatch>>,
    /// What is known of it; most records wait in a queue, and have none.
    facts: Option<Box<Settled>>,
}

impl Record {
    pub(super) fn new(id: JobId, number: u64, request: Arc<Request>, limits: Arc<Limits>, submitted: Instant) -> Self {
        Self {
            id,
            number,
            lease: None,
            limits,
            submitted,
            hop: None,
            answer: None,
            items: None,
            error: None,
            reply: None,
            page: None,
            in_loop: 0,
            closing: None,
            unwanted: false,
            guarded: request.is_guarded(),
            readmit: None,
            watch: None,
            facts: None,
            request,
        }
    }

    /// What is known of it so far.
    pub(super) fn facts(&mut self) -> &mut Settled {
        let Self { facts, number, request, .. } = self;
        facts.get_or_insert_with(|| Box::new(Settled::new(*number, Arc::clone(request), Outcome::Cancelled)))
    }

    /// The same, where anything is.
    pub(super) fn known(&self) -> Option<&Settled> {
        self.facts.as_deref()
    }

    /// The request of the hop that is to be fetched.
    pub(super) fn current(&self) -> &Arc<Request> {
        self.hop.as_ref().unwrap_or(&self.request)
    }

    /// Methods that may be sent again although the first may have arrived (RFC 9110, 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        let method = self.current().method();
        method.is_idempotent() || *method == Method::GET
    }

    /// Forgets the answer of the attempt before.
    pub(super) fn clear(&mut self) {
        let s = self.facts();
        s.head = None;
        s.bytes = 0;
        s.bytes_wire = 0;
        s.remote = None;
        s.proxy = None;
        s.from_cache = None;
        s.page = None;
    }

    pub(super) fn note_response(&mut self, response: &Response) {
        self.guarded |= response.remote.is_some_and(|remote| crate::guard::is_public(remote.ip()));
        let s = self.facts();
        s.head = Some(Arc::clone(&response.head));
        s.answered.clone_from(&s.head);
        s.remote = response.remote;
        s.proxy.clone_from(&response.proxy);
        s.from_cache = response.from_cache;
        s.bytes_wire = response.bytes_wire;
        s.certificate_expiry = response.certificate_expiry;
        s.redirects.extend(response.redirects.iter().cloned());
    }

    pub(super) fn note_hop(&mut self, head: &Head) {
        self.facts().redirects.push(Hop::new(without_userinfo(head.url.as_str()), head.status));
    }

    pub(super) fn hops(&self) -> u32 {
        self.known().map_or(0, |facts| u32::try_from(facts.redirects.len()).unwrap_or(u32::MAX))
    }

    /// The error of a page that could not be parsed.
    pub(super) fn note_parse_failure(&mut self, failure: ParseFailure) -> Error {
        use crate::ParseAction;
        match failure {
            ParseFailure::Decode(error) => error,
            ParseFailure::Panicked { message, page } => {
                self.facts().page = page;
                Error::new(ErrorKind::ParserPanic, message)
            }
            ParseFailure::Refused { error, page } => {
                self.facts().page = Some(page);
                let kind = match error.action() {
                    ParseAction::Retry => ErrorKind::ParserRetry,
                    ParseAction::Blocked => ErrorKind::ParserBlocked,
                    ParseAction::Expired => ErrorKind::ParserExpired,
                    ParseAction::Broken => ErrorKind::ParserBroken,
                    ParseAction::Fail | ParseAction::Stop => ErrorKind::ParserFailed,
                };
                let wait = error.retry_after();
                let error = Error::new(kind, format!("parse the page: {error}")).with_source(error.into_source());
                match wait {
                    Some(wait) => error.with_retry_after(wait),
                    None => error,
                }
            }
        }
    }

    /// The final record. The record itself stays until the job is closed.
    pub(super) fn settle(&mut self, verdict: JobVerdict, attempts: u32, host_error: Option<Error>) -> Box<Settled> {
        let settled = self.facts.take();
        let new = || Box::new(Settled::new(self.number, Arc::clone(&self.request), Outcome::Cancelled));
        let mut settled = settled.unwrap_or_else(new);
        settled.attempts = attempts;
        settled.outcome = match verdict {
            JobVerdict::Ok => Outcome::Ok,
            JobVerdict::Skipped(reason) => Outcome::Skipped(reason),
            JobVerdict::Cancelled => Outcome::Cancelled,
            JobVerdict::Error | JobVerdict::HostError => {
                let host_error = host_error.filter(|_| verdict == JobVerdict::HostError);
                let error = host_error.or_else(|| self.error.take());
                let error = error.unwrap_or_else(|| match verdict {
                    JobVerdict::HostError => {
                        Error::new(ErrorKind::HostUnavailable, "ask a host that has failed for too long")
                    }
                    _ => Error::new(ErrorKind::Other, "find out why the URL failed"),
                });
                Outcome::Error(if error.url().is_some() { error } else { error.with_url(settled.request.url()) })
            }
        };
        self.closing =
            Some(if verdict == JobVerdict::Cancelled && !self.unwanted { Verdict::Return } else { Verdict::Done });
        settled
    }
}

/// Whether nothing of the request was on the wire when it failed like this, so that any method may be tried again.
pub(super) fn was_not_sent(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(
        kind,
        K::DnsNotFound
            | K::DnsFailed
            | K::TimeoutDns
            | K::ConnectRefused
            | K::ConnectUnreachable
            | K::TimeoutConnect
            | K::LocalDescriptors
            | K::LocalPorts
            | K::LocalResource
            | K::ProxyConnect
            | K::ProxyRefused
            | K::TimeoutProxy
            | K::TimeoutTls
    )
}

/// Whom a fetch that failed like this is to be laid to.
pub(super) fn blame(kind: ErrorKind) -> Blame {
    use ErrorKind as K;
    match kind {
        K::ConnectRefused
        | K::ConnectReset
        | K::ConnectUnreachable
        | K::ConnectFailed
        | K::TimeoutConnect
        | K::TimeoutTls
        | K::TimeoutWrite
        | K::TimeoutFirstByte
        | K::TimeoutHead
        | K::TimeoutIdle
        | K::TimeoutTotal
        | K::TlsCertificate
        | K::TlsNotTls
        | K::TlsHandshake
        | K::HttpEmptyReply => Blame::Host,
        // It has answered, if badly.
        K::HttpStatusLine
        | K::HttpProtocol
        | K::BodyIncomplete
        | K::HttpHeader
        | K::HttpHeadTooLarge
        | K::HttpFraming
        | K::HttpStatus
        | K::BodyTooLarge
        | K::BodyEncoding
        | K::RedirectInvalid
        | K::RedirectTooMany => Blame::Url,
        K::LocalPorts => Blame::Ports,
        _ => Blame::Nobody,
    }
}

/// The same for an answer that is not wanted. A 500 is a page that is broken, a 502 a host that is.
pub(super) fn blame_of_status(status: StatusCode) -> Blame {
    match status.as_u16() {
        429 | 503 => Blame::Throttled,
        502 | 504 | 520..=524 => Blame::Host,
        _ => Blame::Url,
    }
}

/// Statuses that say "not now": retried as transport errors are.
pub(super) fn is_retry_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=524)
}

/// `Retry-After` in seconds or as a date, from now (RFC 9110, 10.2.3). A date in the past is no wait; garbage is none.
pub(super) fn retry_after(head: &Head, now: std::time::SystemTime) -> Option<std::time::Duration> {
    let text = head.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than can be counted is very long, and not garbage.
        return Some(std::time::Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// For a fuzzer: any value is a wait or none, and one that says a number says that number.
///
/// # Panics
/// Where it does not.
#[cfg(fuzzing)]
pub fn retry_after_of(input: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(input) else { return };
    let number = value.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok().filter(|_| !text.contains('+')));
    let mut head = Head::new("http://a.test/".parse().expect("literal"), StatusCode::TOO_MANY_REQUESTS);
    head.headers.insert(http::header::RETRY_AFTER, value);
    let wait = retry_after(&head, std::time::SystemTime::UNIX_EPOCH);
    if let Some(seconds) = number {
        assert_eq!(wait, Some(std::time::Duration::from_secs(seconds.into())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::engine::{Config, Engine, JobSpec};
    use crate::rt::manual::Manual;

    // C12
    #[test]
    fn retry_after_is_read_or_ignored() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, wait) in [
            ("2", Some(2)),
            (" 99999999 ", Some(99_999_999)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
        ] {
            let mut head = Head::new("http://a.test/".parse().expect("literal"), StatusCode::TOO_MANY_REQUESTS);
            head.headers.insert("retry-after", text.parse().expect("literal"));
            assert_eq!(retry_after(&head, now), wait.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn what_is_known_of_an_answer_is_in_the_record_until_the_next_attempt() {
        let now = Manual::new().runtime().now();
        let mut engine = Engine::new(Config::default());
        let host = engine.host("https://a.test");
        let job = engine.submit(now, host, JobSpec::default());
        let request = Arc::new(Request::get("https://a.test/"));
        let mut record = Record::new(job, 1, request, Arc::default(), now);
        let head = Head::new("https://me:pw@a.test/".parse().expect("literal"), StatusCode::OK);
        let mut response = Response::new(head, "body");
        response.certificate_expiry = Some(SystemTime::UNIX_EPOCH);
        response.bytes_wire = 4;
        response.remote = Some(([1, 1, 1, 1], 443).into());
        record.note_response(&response);
        let s = record.known().expect("it was answered");
        assert_eq!(s.final_url().as_deref(), Some("https://a.test/"));
        assert_eq!((s.certificate_expiry, s.bytes_wire, s.remote), (Some(SystemTime::UNIX_EPOCH), 4, response.remote));
        assert!(record.guarded, "a public page leads on");
        record.clear();
        let s = record.known().expect("it was answered");
        assert_eq!((s.status(), s.bytes_wire, s.remote), (None, 0, None));
        assert_eq!(s.final_url().as_deref(), Some("https://a.test/"), "it has answered, whatever comes of the next");
    }
}
