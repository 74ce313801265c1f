//! Pages, to the search for a `<meta>` with their charset: what it finds lies in the first 1,024 bytes.
#![no_main]

// Not by way of its crate, whose other dependencies take minutes to build here.
#[path = "../../parse/src/prescan.rs"]
mod prescan;

use self::prescan::{PRESCAN_BYTES, charset_of, prescan};

fn find(input: &[u8]) {
    let found = prescan(input);
    assert_eq!(prescan(&input[..input.len().min(PRESCAN_BYTES)]), found);
    let _ = charset_of(input);
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| find(input));
