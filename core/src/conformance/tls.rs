//! TLS over this runtime's connections.

use std::sync::Arc;
use std::time::Duration;

use super::certificate::Certified;
use super::http::{HELLO, get};
use super::support::on;
use super::{Harness, Script, Step};
use crate::http::HttpFetcher;
use crate::tls::Config;
use crate::{Error, ErrorKind, Limits, Response};

/// Fetches once as `name` from a server that plays `steps` over TLS.
fn fetch<H: Harness>(harness: &Arc<H>, name: &'static str, steps: impl Into<Vec<Step>>) -> Result<Response, Error> {
    let server = Certified::new();
    let config = Config::builder().add_root_pem(server.root_pem()).build().expect("a certificate");
    let mut script = vec![Step::Secure(server)];
    script.extend(steps.into());
    let (runtime, addr) = (harness.runtime(), harness.serve(Script::new(script)).addr);
    on(&**harness, async move {
        let builder = HttpFetcher::builder(&runtime).tls(config).resolve(name, addr.port(), addr);
        let fetcher = builder.build().expect("valid");
        get(&runtime, &fetcher, format!("https://{name}:{}/", addr.port()), Limits::listed()).await
    })
}

/// A server with a certificate for its name, from a root that is trusted, answers.
pub fn a_trusted_server_answers<H: Harness>(harness: &Arc<H>) {
    let response = fetch(harness, Certified::NAME, [Step::ReadHead, Step::write(HELLO), Step::Shutdown]);
    assert_eq!(&response.expect("an answer").body[..], b"hello");
}

/// The same where each byte of the server comes by itself; 100 KB go and come in records.
pub fn many_records<H: Harness>(harness: &Arc<H>) {
    const LEN: usize = 100_000;
    let body: Vec<u8> = (0..LEN).map(|n| (n % 251) as u8).collect();
    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").into_bytes();
    reply.extend_from_slice(&body);
    let response = fetch(harness, Certified::NAME, [Step::ReadHead, Step::write(reply), Step::Shutdown]);
    assert!(response.expect("an answer").body == body);
    let response = fetch(harness, Certified::NAME, [Step::ReadHead, Step::drip(HELLO), Step::Shutdown]);
    assert_eq!(&response.expect("an answer").body[..], b"hello");
}

/// A certificate for another name is refused.
pub fn another_name_is_refused<H: Harness>(harness: &Arc<H>) {
    let result = fetch(harness, "another.test", [Step::ReadHead, Step::write(HELLO)]);
    assert_eq!(result.expect_err("another name").kind(), ErrorKind::TlsCertificate);
}

/// An end without `close_notify` is not the end of a body; one with it is.
pub fn truncated<H: Harness>(harness: &Arc<H>) {
    let reply = || [Step::ReadHead, Step::write("HTTP/1.1 200 OK\r\n\r\nhello")];
    let with = |last| [&reply()[..], &[last]].concat();
    let response = fetch(harness, Certified::NAME, with(Step::Shutdown));
    assert_eq!(&response.expect("an answer").body[..], b"hello");
    let result = fetch(harness, Certified::NAME, with(Step::Close));
    assert_eq!(result.expect_err("cut off").kind(), ErrorKind::BodyIncomplete);
}

/// The `tls` deadline: the server takes the hello and says nothing.
pub fn deadline_of_tls<H: Harness>(harness: &Arc<H>) {
    let runtime = harness.runtime();
    let served = harness.serve(Script::new([Step::ReadToEnd]));
    let addr = served.addr;
    let result = on(&**harness, async move {
        let fetcher = HttpFetcher::builder(&runtime).build().expect("the defaults are valid");
        let mut limits = Limits::listed();
        limits.deadlines.tls = Duration::from_millis(30);
        get(&runtime, &fetcher, format!("https://{addr}/"), limits).await
    });
    assert_eq!(result.expect_err("no handshake").kind(), ErrorKind::TimeoutTls);
    harness.block_on(served.outcome());
}
