//! Encoded bodies, to the decoder: whatever they are, it ends, and gives no more than its limits say.
#![no_main]

use http::{HeaderValue, StatusCode};
use tidegate::http::ContentDecoder;
use tidegate::{Decode, Head, Limits};

const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

/// The first two bytes say which encodings and which limits; the rest is the body.
fn decode(input: &[u8]) {
    let &[chain, limit, ref body @ ..] = input else { return };
    let mut head = Head::new("http://a.test/".parse().expect("a literal"), StatusCode::OK);
    let (mut left, layers) = (usize::from(chain / 4), usize::from(chain % 4));
    for _ in 0..layers {
        head.headers.append("content-encoding", HeaderValue::from_static(CODINGS[left % CODINGS.len()]));
        left /= CODINGS.len();
    }
    let mut limits = Limits::discovered();
    // Above and below the size from which the ratio is judged.
    limits.body_decoded = if limit & 1 == 0 { 64 << 10 } else { 4 << 20 };
    limits.ratio = u64::from(limit) + 1;
    let decoded = ContentDecoder::new().decode(&head, body.to_vec().into(), &limits);
    if let (Ok(decoded), true) = (&decoded, layers > 0) {
        let length = decoded.len() as u64;
        assert!(length <= limits.body_decoded, "{length} of {}", limits.body_decoded);
        assert!(length <= Limits::RATIO_FROM.max(body.len() as u64 * limits.ratio), "{length} of {}", body.len());
    }
    // A higher limit never makes one fail.
    let mut more = limits.clone();
    (more.body_decoded, more.ratio) = (8 << 20, u64::MAX);
    if let Ok(decoded) = decoded {
        let again = ContentDecoder::new().decode(&head, body.to_vec().into(), &more);
        assert!(again.is_ok_and(|again| again == decoded), "it was decoded under lower limits");
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| decode(input));
