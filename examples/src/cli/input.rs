//! The list of `fetch` and `monitor`: arguments, then the lines of a file or of standard input, read by a thread of its
//! own so that a slow pipe never holds up the loop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use tidegate::{Overrides, Request};
use tokio::sync::mpsc;

use super::Failure;
use super::args::{Common, ListArgs};
use super::page::with_headers;
use super::values::{self, Place};

/// Longest line, in bytes: 8 MiB, for bodies of POST requests. A longer one is a bad line.
const MAX_LINE: u64 = 8 << 20;
/// Requests that are read ahead.
const AHEAD: usize = 1024;
/// Label of the requests that stand for bad lines.
const BAD_LINE: &str = "bad-line";

/// A list that was opened.
#[derive(Debug)]
pub(super) struct List {
    urls: Vec<String>,
    source: Option<Source>,
    method: Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    repeat: u64,
}

#[derive(Debug)]
struct Source {
    /// `None`: standard input.
    path: Option<PathBuf>,
    /// The file, opened before the run so that a wrong name is an error of usage; given up to the first round.
    file: Option<File>,
}

impl List {
    /// Opens what the arguments name; `method` is that of requests which name none.
    pub(super) fn open(args: ListArgs, common: &Common, method: Method, repeat: u64) -> Result<Self, Failure> {
        let ListArgs { urls, input } = args;
        if urls.is_empty() && input.is_none() {
            return Err(Failure::usage("nothing to fetch: give URLs, or --input FILE (- for standard input)"));
        }
        let source = input.map(|place| Source::open(place, repeat)).transpose()?;
        Ok(Self { urls, source, method, headers: common.header.clone(), repeat })
    }

    /// All requests at once, for lists that come round again.
    pub(super) fn read_all(self) -> Result<Vec<Request>, Failure> {
        let mut all = Vec::new();
        let name = self.name();
        self.read(&mut |request| {
            all.push(request);
            true
        })
        .map_err(|error| Failure::usage(format!("cannot read {name}: {}", plain(&error))))?;
        Ok(all)
    }

    /// The requests as they are read, and the place where an error that ended the reading early will be.
    pub(super) fn stream(self) -> Result<(impl Stream<Item = Request> + Send + use<>, Fault), Failure> {
        let fault = Fault::default();
        let for_thread = fault.clone();
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let name = self.name();
        std::thread::Builder::new()
            .name("tidegate-input".into())
            .spawn(move || {
                if let Err(error) = self.read(&mut |request| sender.blocking_send(request).is_ok()) {
                    for_thread.set(format!("cannot read {name}: {}", plain(&error)));
                }
            })
            .map_err(|error| Failure::run(format!("cannot start a thread: {error}")))?;
        Ok((futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)), fault))
    }

    fn name(&self) -> String {
        match self.source.as_ref().and_then(|source| source.path.as_ref()) {
            Some(path) => path.display().to_string(),
            None => "standard input".into(),
        }
    }

    /// Gives each request to `take`, until it says no.
    fn read(self, take: &mut dyn FnMut(Request) -> bool) -> io::Result<()> {
        let Self { urls, mut source, method, headers, repeat } = self;
        let mut take = |request| take(with_headers(request, &headers));
        for _ in 0..repeat {
            for url in &urls {
                if !take(Request::new(method.clone(), url.as_str())) {
                    return Ok(());
                }
            }
            let Some(source) = &mut source else { continue };
            if !read_lines(&mut *source.reader()?, &method, &mut take)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Source {
    fn open(place: Place, repeat: u64) -> Result<Self, Failure> {
        let again = "--repeat needs a file that can be read again, not standard input or a pipe";
        let Place::File(path) = place else {
            return if repeat > 1 { Err(Failure::usage(again)) } else { Ok(Self { path: None, file: None }) };
        };
        let cannot = |error: io::Error| Failure::usage(format!("cannot open {}: {}", path.display(), plain(&error)));
        let file = File::open(&path).map_err(cannot)?;
        let kind = file.metadata().map_err(cannot)?.file_type();
        if kind.is_dir() {
            return Err(Failure::usage(format!("cannot read {}: it is a directory", path.display())));
        }
        if repeat > 1 && !kind.is_file() {
            return Err(Failure::usage(again));
        }
        Ok(Self { path: Some(path), file: Some(file) })
    }

    fn reader(&mut self) -> io::Result<Box<dyn BufRead>> {
        let Some(path) = &self.path else { return Ok(Box::new(BufReader::new(io::stdin()))) };
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(path)?,
        };
        Ok(Box::new(BufReader::new(file)))
    }
}

/// Why reading ended early, where it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The text of an I/O error without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Gives a request for each line that is neither blank nor a comment; `false` when `take` said no.
fn read_lines(reader: &mut dyn BufRead, method: &Method, take: &mut dyn FnMut(Request) -> bool) -> io::Result<bool> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if (&mut *reader).take(MAX_LINE + 1).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let too_long = line.len() as u64 > MAX_LINE && line.last() != Some(&b'\n');
        let request = if too_long {
            skip_line(reader)?;
            Some(BadLine::new(number, format!("it is longer than {MAX_LINE} bytes")).request(None))
        } else {
            parse_line(&line, number, method)
        };
        if request.is_some_and(|request| !take(request)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn skip_line(reader: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let part = reader.fill_buf()?;
        let (used, ended) = match part.iter().position(|b| *b == b'\n') {
            Some(end) => (end + 1, true),
            None => (part.len(), part.is_empty()),
        };
        reader.consume(used);
        if ended {
            return Ok(());
        }
    }
}

fn parse_line(line: &[u8], number: u64, method: &Method) -> Option<Request> {
    let line = if number == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
    let Ok(text) = std::str::from_utf8(line) else {
        return Some(BadLine::new(number, "it is not UTF-8").request(None));
    };
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    if !text.starts_with('{') {
        return Some(Request::new(method.clone(), text));
    }
    let line: Line = match serde_json::from_str(text) {
        Ok(line) => line,
        Err(error) => return Some(BadLine::new(number, error.to_string()).request(None)),
    };
    let id = line.id.clone().map(Id::into_text);
    let url = line.url.clone();
    Some(
        line.into_request(method)
            .unwrap_or_else(|why| BadLine { url: Some(url), ..BadLine::new(number, why) }.request(id)),
    )
}

/// A line of JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<Id>,
    url: String,
    method: Option<String>,
    headers: Option<Headers>,
    body: Option<String>,
    timeouts: Option<Timeouts>,
    proxy: Option<Box<str>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(serde_json::Number),
}

impl Id {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Headers {
    Map(BTreeMap<String, String>),
    List(Vec<(String, String)>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeouts {
    connect: Option<String>,
    first_byte: Option<String>,
    idle: Option<String>,
    total: Option<String>,
}

impl Line {
    fn into_request(self, method: &Method) -> Result<Request, String> {
        let Self { id, url, method: named, headers, body, timeouts, proxy } = self;
        let method = match named {
            Some(name) => Method::from_str(&name).map_err(|_| format!("{name:?} is no method"))?,
            None => method.clone(),
        };
        let mut request = Request::new(method, url);
        if let Some(id) = id {
            request = request.with_id(id.into_text());
        }
        let headers = match headers {
            Some(Headers::Map(map)) => map.into_iter().collect(),
            Some(Headers::List(list)) => list,
            None => Vec::new(),
        };
        for (name, value) in headers {
            let field = HeaderName::from_str(&name).map_err(|_| format!("{name:?} is no name of a header"))?;
            let value = HeaderValue::from_str(&value)
                .map_err(|_| format!("header {name} has a value that no header can hold"))?;
            request = request.with_header(field, value);
        }
        if let Some(body) = body {
            request = request.with_body(body);
        }
        if timeouts.is_some() || proxy.is_some() {
            let Timeouts { connect, first_byte, idle, total } = timeouts.unwrap_or_default();
            let time = |name: &str, text: Option<String>| {
                let time = text.map(|text| values::positive_duration(&text)).transpose();
                time.map_err(|why| format!("timeout {name} {why}"))
            };
            let mut overrides = Overrides::default();
            overrides.connect_timeout = time("connect", connect)?;
            overrides.first_byte_timeout = time("first_byte", first_byte)?;
            overrides.idle_timeout = time("idle", idle)?;
            overrides.total_timeout = time("total", total)?;
            overrides.proxy = proxy;
            request = request.with_overrides(overrides);
        }
        Ok(request)
    }
}

/// A line that could not be read, carried as the data of a request that settles with `url.invalid`.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct BadLine {
    line: u64,
    why: String,
    pub(super) url: Option<String>,
}

impl BadLine {
    fn new(line: u64, why: impl Into<String>) -> Self {
        Self { line, why: why.into(), url: None }
    }

    fn request(mut self, id: Option<String>) -> Request {
        // What a request carries is bounded; a line is not.
        self.why = self.why.chars().take(300).collect();
        self.url = self.url.map(|url| url.chars().take(300).collect());
        let request = Request::get(format!("line {}", self.line)).with_label(BAD_LINE);
        let request = match id {
            Some(id) => request.with_id(id),
            None => request,
        };
        request.clone().with_data(&self).unwrap_or(request)
    }

    /// The bad line that a request stands for.
    pub(super) fn of(request: &Request) -> Option<Self> {
        if request.label() == Some(BAD_LINE) { request.data().ok() } else { None }
    }

    pub(super) fn message(&self) -> String {
        format!("read line {} of the input: {}", self.line, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(input: &[u8]) -> Vec<Request> {
        let mut all = Vec::new();
        let ended = read_lines(&mut &*input, &Method::GET, &mut |request| {
            all.push(request);
            true
        });
        assert!(ended.expect("memory"));
        all
    }

    #[test]
    fn lines_are_urls_whatever_stands_around_them() {
        let input = b"\xEF\xBB\xBFhttp://a.test/1\r\n\n# no\r\n   \n  http://a.test/2  \nnot a url\nhttp://a.test/3";
        let urls: Vec<_> = requests(input).iter().map(|r| r.url().to_owned()).collect();
        assert_eq!(urls, ["http://a.test/1", "http://a.test/2", "not a url", "http://a.test/3"]);
    }

    #[test]
    fn lines_of_json_say_more() {
        let input = br#"{"url":"http://a.test/","id":7,"method":"POST","headers":{"x-a":"b"},"body":"hi","timeouts":{"total":"5s"},"proxy":"http://p.test:1"}
{"url":"http://a.test/","headers":[["x-a","1"],["x-a","2"]]}"#;
        let all = requests(input);
        assert_eq!((all[0].id(), all[0].method().as_str(), &all[0].body()[..]), (Some("7"), "POST", &b"hi"[..]));
        let overrides = all[0].overrides().expect("set");
        assert_eq!(overrides.total_timeout, Some(std::time::Duration::from_secs(5)));
        assert_eq!(overrides.proxy.as_deref(), Some("http://p.test:1"));
        assert_eq!(all[1].headers().expect("set").get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn a_bad_line_is_a_request_that_cannot_be_sent() {
        let input = b"{\"url\":\n{\"url\":\"http://a.test/\",\"id\":\"x\",\"method\":\"G T\"}\n{\"url\":\"http://a.test/\",\"verb\":\"GET\"}\n\xff\xfe\nhttp://a.test/ok";
        let all = requests(input);
        let bad: Vec<_> = all.iter().map(|r| BadLine::of(r).map(|bad| bad.message())).collect();
        assert!(bad[0].as_deref().expect("bad").starts_with("read line 1 of the input: EOF while parsing"), "{bad:?}");
        assert_eq!(bad[1].as_deref(), Some("read line 2 of the input: \"G T\" is no method"));
        assert_eq!(all[1].id(), Some("x"));
        assert_eq!(BadLine::of(&all[1]).expect("bad").url.as_deref(), Some("http://a.test/"));
        assert!(bad[2].as_deref().expect("bad").contains("unknown field `verb`"));
        assert_eq!(bad[3].as_deref(), Some("read line 4 of the input: it is not UTF-8"));
        assert_eq!((bad[4].as_deref(), all[4].url()), (None, "http://a.test/ok"));
        for request in &all[..4] {
            assert_eq!(request.target().expect_err("no URL").kind(), tidegate::ErrorKind::UrlInvalid);
        }
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut input = vec![b'x'; MAX_LINE as usize * 2];
        input.extend_from_slice(b"\nhttp://a.test/next");
        let all = requests(&input);
        assert!(BadLine::of(&all[0]).is_some());
        assert_eq!(all[1].url(), "http://a.test/next");
        assert_eq!(all.len(), 2);
    }
}
