//! Answers of HTTP/1.1 servers, to the codec.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::http::fuzzing::replies(input));
