//! [`CachePolicy`]: what may be kept, for how long, and what a validation changes (RFC 9111). Pure: the time is an argument.

use std::time::{Duration, SystemTime};

use http::header::{
    AGE, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, DATE, ETAG, EXPIRES, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use super::StoredResponse;
use super::control::{CacheControl, directives, seconds};
use crate::{Accept, Head, Request, Response};

/// Fields that Vary may name; an answer that depends on more is not kept.
const MOST_VARY: usize = 32;

/// The rules of a private cache (RFC 9111).
///
/// Statuses that are kept: 200, 203, 204, 300, 301, 308, 404, 405, 410 and 414; 302 and 307 where they say how long they are fresh. A status
/// that asks for another try (429, 503 and their like) never is. How long an answer is fresh (RFC 9111, 4.2) says `max-age`, or else
/// Expires; where there is neither, it is a tenth of its age at Last-Modified, at most [`max_heuristic`](Self::max_heuristic).
/// `s-maxage` and `private` are for shared caches; `must-revalidate` is what this one does anyway.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tidegate::cache::{CachePolicy, Judgement};
/// use tidegate::{Head, Request, Response};
///
/// let (policy, now) = (CachePolicy::default(), SystemTime::UNIX_EPOCH);
/// let request = Request::get("http://a.test/");
/// let mut head = Head::new(request.target()?, http::StatusCode::OK);
/// head.headers.insert("cache-control", "max-age=60".parse()?);
/// let stored = policy.keep(&request, &Response::new(head, "hello"), now, now).expect("it may be kept");
/// assert!(matches!(policy.judge(&request, &stored, now + Duration::from_secs(59)), Judgement::Fresh));
/// assert!(matches!(policy.judge(&request, &stored, now + Duration::from_secs(60)), Judgement::Stale(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachePolicy {
    /// Whether answers to requests with Authorization are kept; no.
    pub authorized: bool,
    /// The longest that an answer is fresh which does not say for how long: a day.
    pub max_heuristic: Duration,
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self { authorized: false, max_heuristic: Duration::from_secs(24 * 60 * 60) }
    }
}

/// What an answer that is kept is worth for a request.
///
/// ```
/// # use tidegate::cache::Judgement;
/// fn costs_a_body(judgement: &Judgement) -> bool {
///     !matches!(judgement, Judgement::Fresh)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Judgement {
    /// It is the answer.
    Fresh,
    /// It is, where the server says so when it is asked with these fields: If-None-Match and If-Modified-Since. Where there are none, it is of no
    /// use.
    Stale(HeaderMap),
    /// It is the answer to another request for this URL.
    Other,
}

impl CachePolicy {
    /// The URL under which the answer to this request may be looked up and kept; `None` for one that passes the cache by.
    ///
    /// ```
    /// # use tidegate::cache::CachePolicy;
    /// use tidegate::Request;
    /// let policy = CachePolicy::default();
    /// assert_eq!(policy.key(&Request::get("http://A.test/x#y")).as_deref(), Some("http://a.test/x"));
    /// assert_eq!(policy.key(&Request::post("http://a.test/", "x=1")), None);
    /// ```
    pub fn key(&self, request: &Request) -> Option<String> {
        const BY: [HeaderName; 6] = [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
        if *request.method() != Method::GET
            || !request.body().is_empty()
            || request.overrides().is_some_and(|overrides| overrides.save_to.is_some())
        {
            return None;
        }
        if let Some(own) = request.headers()
            && (BY.iter().any(|name| own.contains_key(name))
                || (!self.authorized && own.contains_key(AUTHORIZATION))
                || CacheControl::of(own).no_store)
        {
            return None;
        }
        // Userinfo is sent as credentials by the fetcher.
        let url = request.target().ok().filter(|url| url.username().is_empty() && url.password().is_none())?;
        Some(url.into())
    }

    /// What `stored`, which is kept for the URL of the request, is worth at this time.
    ///
    /// ```
    /// # use tidegate::cache::{CachePolicy, Judgement, StoredResponse};
    /// # fn example(policy: CachePolicy, request: &tidegate::Request, stored: &StoredResponse, now: std::time::SystemTime) {
    /// if let Judgement::Stale(conditions) = policy.judge(request, stored, now) {
    ///     println!("ask with {conditions:?}");
    /// }
    /// # }
    /// ```
    pub fn judge(&self, request: &Request, stored: &StoredResponse, now: SystemTime) -> Judgement {
        if stored.vary.iter().any(|(name, hash)| hash_of(request, name) != *hash) {
            return Judgement::Other;
        }
        let asked = CacheControl::of_request(request.headers());
        let says = CacheControl::of(&stored.head.headers);
        let lifetime = self.lifetime(stored);
        let is_fresh = !asked.no_cache
            && !says.no_cache
            && age(stored, now).is_some_and(|age| {
                asked.max_age.is_none_or(|most| age <= most)
                    && lifetime > age.saturating_add(asked.min_fresh.unwrap_or_default())
            });
        if is_fresh { Judgement::Fresh } else { Judgement::Stale(conditions(&stored.head)) }
    }

    /// What is to be kept of an answer to a request that was sent at `requested_at` and complete at `received_at`; `None` where nothing is.
    ///
    /// ```
    /// # use tidegate::cache::CachePolicy;
    /// # use tidegate::{Head, Request, Response};
    /// # let now = std::time::SystemTime::UNIX_EPOCH;
    /// let request = Request::get("http://a.test/");
    /// let head = Head::new(request.target()?, http::StatusCode::INTERNAL_SERVER_ERROR);
    /// assert!(CachePolicy::default().keep(&request, &Response::new(head, ""), now, now).is_none());
    /// # Ok::<(), tidegate::Error>(())
    /// ```
    pub fn keep(
        &self,
        request: &Request,
        response: &Response,
        requested_at: SystemTime,
        received_at: SystemTime,
    ) -> Option<StoredResponse> {
        let head = &response.head;
        let key = self.key(request)?;
        // A body that was not wanted is not there.
        if response.accepted != Accept::Body || !response.redirects.is_empty() || head.url.as_str() != key {
            return None;
        }
        let vary = vary(request, &head.headers)?;
        let stored = StoredResponse {
            head: Head { headers: end_to_end(&head.headers), ..Head::clone(head) }.into(),
            body: response.body.clone(),
            decoder: response.decoder.clone(),
            remote: response.remote,
            proxy: response.proxy.clone(),
            requested_at,
            received_at,
            vary,
        };
        self.is_worth_keeping(&stored).then_some(stored)
    }

    /// What becomes of `stored` by a 304 (RFC 9111, 3.2 and 4.3.4); `None` where that is about another answer, and nothing is known of this
    /// one. What comes of it may be kept only where [`is_worth_keeping`](Self::is_worth_keeping) says so.
    ///
    /// ```
    /// # use tidegate::Head;
    /// # use tidegate::cache::{CachePolicy, StoredResponse};
    /// # let now = std::time::SystemTime::UNIX_EPOCH;
    /// # let url: url::Url = "http://a.test/".parse()?;
    /// let stored = StoredResponse::new(Head::new(url.clone(), http::StatusCode::OK), "hello", now, now);
    /// let mut head = Head::new(url, http::StatusCode::NOT_MODIFIED);
    /// head.headers.insert("expires", "Thu, 01 Jan 2026 00:00:00 GMT".parse()?);
    /// let renewed = CachePolicy::default().renew(&stored, &head, now, now).expect("nothing speaks against it");
    /// assert!(renewed.head.status == 200 && renewed.head.headers.contains_key("expires"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renew(
        &self,
        stored: &StoredResponse,
        head: &Head,
        requested_at: SystemTime,
        received_at: SystemTime,
    ) -> Option<StoredResponse> {
        let is_same = match (head.headers.get(ETAG), stored.head.headers.get(ETAG)) {
            (Some(new), Some(old)) => opaque(new) == opaque(old),
            (new, _) => new.is_none(),
        };
        if head.status != StatusCode::NOT_MODIFIED || head.url != stored.head.url || !is_same {
            return None;
        }
        // They say how the body is to be read, and it is the one that is there.
        let of_body = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE];
        let new = end_to_end(&head.headers);
        let mut headers = stored.head.headers.clone();
        // That of the earlier answer says nothing of this one.
        headers.remove(AGE);
        for name in new.keys().filter(|name| !of_body.contains(name)) {
            headers.remove(name);
            for value in new.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let head = Head { headers, ..Head::clone(&stored.head) }.into();
        Some(StoredResponse { head, requested_at, received_at, ..stored.clone() })
    }

    /// Whether it may be kept and will be of use: its status and `no-store`, and that it is fresh for some time or can be validated.
    ///
    /// ```
    /// # use tidegate::cache::{CachePolicy, StoredResponse};
    /// # fn example(policy: CachePolicy, stored: &StoredResponse) {
    /// let keep = policy.is_worth_keeping(stored);
    /// # }
    /// ```
    pub fn is_worth_keeping(&self, stored: &StoredResponse) -> bool {
        let head = &stored.head;
        let status = head.status.as_u16();
        let may_be_kept = is_heuristic(head.status) || (matches!(status, 302 | 307) && says_how_long(&head.headers));
        may_be_kept
            && !CacheControl::of(&head.headers).no_store
            && (!self.lifetime(stored).is_zero() || !conditions(head).is_empty())
    }

    /// The URLs whose answers are worth nothing after this answer to an unsafe method (RFC 9111, 4.4).
    ///
    /// ```
    /// # use tidegate::cache::CachePolicy;
    /// # use tidegate::{Head, Request};
    /// let request = Request::post("http://a.test/carts", "item=1");
    /// let mut head = Head::new(request.target()?, http::StatusCode::CREATED);
    /// head.headers.insert("location", "/carts/7".parse()?);
    /// let gone = CachePolicy::default().invalidated(&request, &head);
    /// assert_eq!(gone, ["http://a.test/carts", "http://a.test/carts/7"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn invalidated(&self, request: &Request, head: &Head) -> Vec<String> {
        if request.method().is_safe() || !(head.status.is_success() || head.status.is_redirection()) {
            return Vec::new();
        }
        let Ok(mut target) = request.target() else { return Vec::new() };
        // Both fail only for URLs without a host, which are refused before.
        let _ = target.set_username("");
        let _ = target.set_password(None);
        let named = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| {
            let text = std::str::from_utf8(head.headers.get(name)?.as_bytes()).ok()?;
            crate::request::resolve(&head.url, text)
        });
        let within = |url: &Url| url.origin() == target.origin();
        let mut urls: Vec<String> = Vec::new();
        for url in [target.clone(), head.url.clone()].into_iter().chain(named).filter(within) {
            if !urls.iter().any(|known| known == url.as_str()) {
                urls.push(url.into());
            }
        }
        urls
    }

    /// For how long it is fresh from its date on (RFC 9111, 4.2.1 and 4.2.2).
    fn lifetime(&self, stored: &StoredResponse) -> Duration {
        let headers = &stored.head.headers;
        if let Some(max_age) = CacheControl::of(headers).max_age {
            return max_age;
        }
        let from = date(headers, &DATE).unwrap_or(stored.received_at);
        let since = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
        if headers.contains_key(EXPIRES) {
            // One that is no date is in the past.
            return date(headers, &EXPIRES).map_or(Duration::ZERO, |at| since(at, from));
        }
        match date(headers, &LAST_MODIFIED) {
            Some(at) if is_heuristic(stored.head.status) => (since(from, at) / 10).min(self.max_heuristic),
            _ => Duration::ZERO,
        }
    }
}

/// RFC 9110, 15.1, without what is an answer for the moment.
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414)
}

fn says_how_long(headers: &HeaderMap) -> bool {
    CacheControl::of(headers).max_age.is_some() || headers.contains_key(EXPIRES)
}

/// The first of this name, as a date.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok()
}

/// RFC 9111, 4.2.3; `None` where the clock was set back since.
fn age(stored: &StoredResponse, now: SystemTime) -> Option<Duration> {
    let headers = &stored.head.headers;
    let resident = now.duration_since(stored.received_at).ok()?;
    let since_date =
        date(headers, &DATE).map_or(Duration::ZERO, |at| stored.received_at.duration_since(at).unwrap_or_default());
    // The first counts, and one that is no number does not.
    let said = headers.get(AGE).and_then(|age| seconds(age.as_bytes().trim_ascii())).unwrap_or_default();
    let delay = stored.received_at.duration_since(stored.requested_at).unwrap_or_default();
    Some(since_date.max(said.saturating_add(delay)).saturating_add(resident))
}

/// The fields that ask whether it has changed.
fn conditions(head: &Head) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    for (validator, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
        if let Some(value) = head.headers.get(validator).filter(|value| !value.is_empty()) {
            conditions.insert(condition, value.clone());
        }
    }
    conditions
}

/// Of an entity tag what the weak comparison looks at (RFC 9110, 8.8.3.2).
fn opaque(tag: &HeaderValue) -> &[u8] {
    tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes())
}

/// The fields without those that are of one connection alone (RFC 9111, 3.1).
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for field in headers.get_all(CONNECTION) {
        directives(field.as_bytes(), |name, _| {
            if let Ok(name) = HeaderName::from_bytes(name) {
                kept.remove(name);
            }
        });
    }
    for name in [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION] {
        kept.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authentication-info"] {
        kept.remove(name);
    }
    kept
}

/// What the answer depends on; `None` where that is more than a request says.
fn vary(request: &Request, headers: &HeaderMap) -> Option<Vec<(HeaderName, Option<u128>)>> {
    let mut names = vec![AUTHORIZATION, COOKIE];
    let mut is_known = true;
    for field in headers.get_all(VARY) {
        directives(field.as_bytes(), |name, _| match HeaderName::from_bytes(name) {
            Ok(name) if name == "*" => is_known = false,
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(_) => is_known = false,
        });
    }
    if !is_known || names.len() > MOST_VARY {
        return None;
    }
    Some(names.into_iter().map(|name| (name.clone(), hash_of(request, &name))).collect())
}

fn hash_of(request: &Request, name: &HeaderName) -> Option<u128> {
    let mut values = request.headers()?.get_all(name).iter().peekable();
    values.peek()?;
    // A newline is in no value.
    let text = values.map(|value| value.as_bytes().trim_ascii()).collect::<Vec<_>>().join(&b'\n');
    Some(xxhash_rust::xxh3::xxh3_128(&text))
}

#[cfg(test)]
mod tests;
