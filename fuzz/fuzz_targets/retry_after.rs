//! Values of Retry-After.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::http::fuzzing::retry_after_of(input));
