use proptest::prelude::*;

use super::properties::{has_one_verdict, is_good_after_its_last_byte, is_not_harmed_by_more, read};
use super::*;

/// Pieces of answers, so that what is drawn from them comes far into the parser.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let text = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 \r\n",
        "HTTP/1.1 103 x\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 2\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "A: b\r\n",
        "A : b\r\n",
        "\r\n",
        "\n",
        "\r",
        "5\r\n",
        "5;x=y\r\n",
        "hello",
        "0\r\n",
        "0\r\n\r\n",
        ":",
        " ",
    ]);
    prop_oneof![
        8 => text.prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ]
}

fn answers() -> impl Strategy<Value = Vec<u8>> {
    let any_order = proptest::collection::vec(part(), 0..14).prop_map(|parts| parts.concat()).boxed();
    let head_first = any_order.clone().prop_map(|rest| [b"HTTP/1.1 200 OK\r\n", &rest[..]].concat());
    let chunked_first = any_order
        .clone()
        .prop_map(|rest| [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &rest[..]].concat());
    prop_oneof![any_order, head_first, chunked_first, proptest::collection::vec(any::<u8>(), 0..80)]
}

fn cases(most: u32) -> ProptestConfig {
    // `make fuzz` asks for more.
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(most), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Invariant 12: whatever the bytes and wherever they are cut, there is one verdict, and no panic on the way to it.
    #[test]
    fn the_verdict_does_not_depend_on_the_cuts(
        bytes in answers(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
        is_head in any::<bool>(),
        small in any::<bool>(),
    ) {
        let method = if is_head { Method::HEAD } else { Method::GET };
        let mut limits = Limits::discovered();
        if small {
            (limits.head_bytes, limits.headers) = (60, 2);
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        has_one_verdict(&bytes, &cuts, &method, &limits);
    }

    /// Invariant 13: after an answer that leaves its connection good nothing was left unread, and nothing more is taken for part
    /// of it.
    #[test]
    fn a_connection_is_good_only_where_the_answer_ended_with_the_last_byte(bytes in answers(), more in part()) {
        is_good_after_its_last_byte(&bytes, &more, &Method::GET, &Limits::discovered());
    }

    /// Invariant 15: a higher limit never makes an answer fail.
    #[test]
    fn higher_limits_never_harm(bytes in answers(), head_bytes in 0usize..200, headers in 0usize..8) {
        let limits = |more: usize| {
            let mut limits = Limits::discovered();
            (limits.head_bytes, limits.headers) = (head_bytes + more, headers + more);
            limits
        };
        is_not_harmed_by_more(&bytes, &Method::GET, &limits(0), &limits(5));
    }
}

// A6, A8: at the limit and one over it, over all heads together, whole and byte by byte.
#[test]
fn the_head_limit_is_for_all_that_comes_before_the_body() {
    let limits = Limits::discovered();
    let interim = "HTTP/1.1 103 x\r\n\r\n";
    let frame = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: \r\n\r\n";
    for (over, expected) in [(0, Ok(200)), (1, Err(Violation::HeadTooLarge(limits.head_bytes)))] {
        for interims in [0, 3] {
            let padding = limits.head_bytes + over - interims * interim.len() - frame.len();
            let answer = interim.repeat(interims) + &frame.replace("A: ", &format!("A: {}", "x".repeat(padding)));
            let dripped: Vec<_> = (0..answer.len()).collect();
            for cuts in [&[][..], &dripped] {
                let verdict = read(answer.as_bytes(), cuts, &Method::GET, &limits);
                assert_eq!(
                    verdict.map(|(status, ..)| status),
                    expected,
                    "{interims} interim answers, {} cuts",
                    cuts.len()
                );
            }
        }
    }
}

// A8: a head that drips costs little more than one that comes whole.
#[test]
fn a_dripping_head_is_not_parsed_for_each_byte() {
    let mut answer = Answer::to(&Method::GET, true);
    let (limits, mut unread, mut parses) = (Limits::discovered(), Vec::new(), 0);
    let head = format!("HTTP/1.1 200 OK\r\n{}", "A: some value\r\n".repeat(200));
    for byte in head.bytes() {
        let before = answer.parsed;
        unread.push(byte);
        assert!(matches!(answer.head(&unread, &limits), Ok(Progress::Skip(0))));
        parses += u32::from(answer.parsed != before);
    }
    assert!(parses <= head.len().ilog2() + 2, "{parses}");
}

// A11: what is announced is not allocated but as it comes.
#[test]
fn a_length_is_no_size_to_allocate() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n";
    let mut answer = Answer::to(&Method::GET, true);
    assert!(matches!(answer.head(head, &Limits::discovered()), Ok(Progress::Head(_, _, Some(4_000_000_000)))));
    let mut body = Vec::new();
    for (piece, most) in [(1, AHEAD), (MAX_RESERVE, 2 * MAX_RESERVE), (3 * MAX_RESERVE, 4 * MAX_RESERVE + 1)] {
        answer.body(&vec![0; piece], &mut body).expect("in order");
        assert!(body.capacity() <= most, "{} after {}", body.capacity(), body.len());
    }
}

#[test]
fn a_body_takes_no_more_than_its_length() {
    for length in [1, 1000, MAX_RESERVE, MAX_RESERVE + 1, 3 * MAX_RESERVE] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let mut answer = Answer::to(&Method::GET, true);
        answer.head(head.as_bytes(), &Limits::discovered()).expect("in order");
        let mut body = Vec::new();
        for piece in vec![0; length].chunks(1000) {
            answer.body(piece, &mut body).expect("in order");
        }
        assert_eq!((body.len(), body.capacity(), answer.is_reusable()), (length, length, true));
    }
}
