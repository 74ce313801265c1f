//! Pages, to the search for their charset: what a `<meta>` says lies in the first 1,024 bytes, and every page has a text.
#![no_main]

use tidegate_parse::{CharsetSource, charset_of_bytes, decode};

fn find(input: &[u8]) {
    let found = charset_of_bytes(input, None, None);
    let text = decode(input, found);
    assert!(text.len() <= 3 * input.len() + 3);
    if found.source() == CharsetSource::Meta {
        let start = charset_of_bytes(&input[..input.len().min(1024)], None, None);
        assert_eq!(start, found);
    }
    if let Ok(field) = std::str::from_utf8(input) {
        charset_of_bytes(b"hello", Some(field), None);
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| find(input));
