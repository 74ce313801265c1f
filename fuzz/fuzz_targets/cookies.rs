//! Set-Cookie fields and the URLs that they come from, to a jar: what is sent is bounded, clean, and goes to its own site alone.
#![no_main]

use std::time::{Duration, SystemTime};

use tidegate::http::CookieJar;
use url::Url;

const URLS: [&str; 8] = [
    "http://a.example.com/",
    "https://a.example.com/x/y",
    "https://b.a.example.com/x",
    "https://example.com/",
    "https://user.github.io/",
    "https://other.github.io/",
    "http://127.0.0.1/",
    "http://[::1]/",
];

/// Each line is a byte that says where it comes from, and a field.
fn set(input: &[u8]) {
    let urls = URLS.map(|url| url.parse::<Url>().expect("a literal"));
    let strangers = ["https://example.org/", "https://com/", "http://127.0.0.2/", "https://third.github.io/"];
    let strangers = strangers.map(|url| url.parse::<Url>().expect("a literal"));
    let (jar, now) = (CookieJar::new(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    for line in input.split(|byte| *byte == b'\n') {
        let [from, field @ ..] = line else { continue };
        jar.set(&urls[usize::from(*from) % urls.len()], field, now);
    }
    for url in &urls {
        for time in [now, now + Duration::from_secs(401 * 86_400)] {
            let Some(value) = jar.header(url, time) else { continue };
            let value = value.as_bytes();
            assert!(!value.is_empty() && value.len() <= 8_190, "{} bytes", value.len());
            assert!(value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'));
        }
    }
    for stranger in &strangers {
        assert_eq!(jar.header(stranger, now), None, "{stranger}");
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| set(input));
