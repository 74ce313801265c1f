//! Texts, to the one parser of URLs: what it gives it gives again, and it has a host that is one.
#![no_main]

use tidegate::{Limits, Request, canonical, parse_target};

fn parse(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(url) = parse_target(text) else { return };
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.host_str().is_some_and(|host| !host.is_empty() && !host.contains(['/', '\\', '@', '?', '#'])), "{url}");
    assert!(url.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
    assert_eq!(canonical(url.clone()).ok().as_ref(), Some(&url));
    if url.as_str().len() <= Limits::URL {
        assert_eq!(parse_target(url.as_str()).ok().as_ref(), Some(&url), "{text:?}");
    }
    let request = Request::get(text);
    assert_eq!(request.target().ok(), Some(url));
    // What is its password, and stands nowhere else, is not shown.
    let parsed = url::Url::parse(text);
    if parsed.is_ok_and(|parsed| {
        // By the URL as it is read: a tab within one is skipped.
        parsed.password() == Some("s3cret") && parsed.as_str().matches("s3cret").count() == 1
    }) {
        let shown = format!("{request:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| parse(input));
