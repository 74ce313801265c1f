//! The replies of `testdata/replies/http1.toml`, as tidegate, hyper and curl read them. Whatever way a reply is cut into reads, the
//! verdict is the same (invariant 12); where they differ, the file says why (invariant 17).
#![cfg(feature = "http")]

#[cfg(unix)]
mod curl;
mod ours;
mod reply;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use tidegate::ErrorKind;

use self::ours::{KEPT, Ours, Wire, cuts, finish, told};
use self::reply::Reply;

/// More than any reply has frames: hyper gives one a poll.
const FRAMES: usize = 1000;

/// What hyper makes of it, in the same words.
fn verdict_of_hyper(method: &Method, pieces: Vec<Vec<u8>>) -> String {
    let wire = Wire::default();
    let is_empty = pieces.iter().all(Vec::is_empty);
    wire.send(pieces);
    let shaking = http1::Builder::new().max_headers(256).max_buf_size(64 << 10).handshake(wire.clone());
    let mut shaking = std::pin::pin!(shaking);
    let (mut sender, driver) = finish(&wire, FRAMES, |task| shaking.as_mut().poll(task)).expect("no I/O yet");
    let mut driver = Some(driver);
    // Dropped when it has ended, so that who waits for an answer is told.
    let mut drive = |task: &mut Context<'_>| drop(driver.take_if(|driver| Pin::new(driver).poll(task).is_ready()));
    let request = http::Request::builder().method(method).uri("/").header("host", "a.test").body(Empty::<Bytes>::new());
    let mut answer = Box::pin(async {
        let response = sender.send_request(request.expect("valid")).await?;
        let status = response.status().as_u16();
        if status == 101 {
            return Ok((status, Bytes::new()));
        }
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    });
    let answered = finish(&wire, FRAMES, |task| {
        drive(task);
        answer.as_mut().poll(task)
    });
    drop(answer);
    match answered {
        Ok((101, _)) => ErrorKind::HttpProtocol.code().to_owned(),
        Ok((status, body)) => {
            let task = &mut Context::from_waker(Waker::noop());
            drive(task);
            let kept = driver.is_some() && sender.is_ready();
            told(status, &body, kept)
        }
        Err(error) if error.is_incomplete_message() && is_empty => ErrorKind::HttpEmptyReply.code().to_owned(),
        Err(error) => kind_of(&error).code().to_owned(),
    }
}

fn kind_of(error: &hyper::Error) -> ErrorKind {
    let text = error.to_string();
    // hyper has no question for these but its words.
    let is = |word: &str| text.contains(word);
    if error.is_parse() {
        match () {
            () if is("too large") => ErrorKind::HttpHeadTooLarge,
            () if is("content-length") || is("transfer-encoding") => ErrorKind::HttpFraming,
            () if is("header") => ErrorKind::HttpHeader,
            () => ErrorKind::HttpStatusLine,
        }
    } else if error.is_incomplete_message() {
        ErrorKind::BodyIncomplete
    } else {
        let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match io.map(io::Error::kind) {
            Some(io::ErrorKind::UnexpectedEof) => ErrorKind::BodyIncomplete,
            _ => ErrorKind::HttpProtocol,
        }
    }
}

#[test]
fn the_corpus_says_why_where_clients_differ() {
    let all = Reply::all();
    assert!(all.len() >= 120, "{}", all.len());
    all.iter().for_each(Reply::check);
}

// A2, A4, A5, A6, A7, A11, A12, A13, A14, A15, A16, A18, A19, A20
#[test]
fn every_reply_has_its_verdict_however_it_is_cut() {
    let mut ours = Ours::new();
    let mut wrong = Vec::new();
    for reply in Reply::all() {
        let bytes = reply.bytes();
        for pieces in cuts(&bytes) {
            let lengths: Vec<_> = pieces.iter().take(3).map(Vec::len).collect();
            let verdict = ours.verdict(&reply.method(), pieces);
            if verdict != reply.ours() {
                wrong.push(format!("{}, cut as {lengths:?}: {verdict}, not {}", reply.name, reply.ours()));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hyper_reads_it_as_the_corpus_says() {
    let mut wrong = Vec::new();
    for reply in Reply::all() {
        let expected = reply.hypers();
        let verdict = verdict_of_hyper(&reply.method(), vec![reply.bytes()]);
        if verdict != expected {
            wrong.push(format!("{}: {verdict}, not {expected}", reply.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[cfg(unix)]
#[test]
fn curl_reads_it_as_the_corpus_says() {
    let curl = curl::Curl::new();
    let mut wrong = Vec::new();
    for reply in Reply::all() {
        let whole = reply.curls();
        for pieces in cuts(&reply.bytes()) {
            let expected = if pieces.len() == 1 { &whole } else { whole.trim_end_matches(KEPT) };
            let lengths: Vec<_> = pieces.iter().take(3).map(Vec::len).collect();
            let verdict = curl.verdict(&reply.method(), pieces);
            if verdict != expected {
                wrong.push(format!("{}, cut as {lengths:?}: {verdict}, not {expected}", reply.name));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
