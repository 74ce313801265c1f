//! Answers of proxies to CONNECT, SOCKS4a and SOCKS5, to the machines that open a tunnel.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate::http::fuzzing::handshakes(input));
