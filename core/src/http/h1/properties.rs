//! What holds of every answer, whatever its bytes: for those that tests draw, and those that a fuzzer finds.

use http::Method;

use super::{AHEAD, Answer, Progress, Violation};
use crate::Limits;

/// What became of an answer, and whether its connection is good after it.
pub(super) type Verdict = Result<(u16, Vec<u8>, bool), Violation>;

/// Capacity that a vector has from its first byte on.
const LEAST: usize = 8;

/// Reads an answer as a connection does, in the pieces that `cuts` make, after which the peer closes.
pub(super) fn read(bytes: &[u8], cuts: &[usize], method: &Method, limits: &Limits) -> Verdict {
    let mut answer = Answer::to(method, true);
    let (mut unread, mut body, mut status) = (Vec::new(), Vec::new(), None);
    let ends = cuts.iter().copied().chain([bytes.len()]);
    let mut start = 0;
    for end in ends {
        let piece = &bytes[start..end.max(start)];
        start = end.max(start);
        if status.is_some() {
            answer.body(piece, &mut body)?;
        } else {
            unread.extend_from_slice(piece);
            match answer.head(&unread, limits)? {
                Progress::Skip(skip) => drop(unread.drain(..skip)),
                Progress::Head(end, head, _) => {
                    status = Some(head.status.as_u16());
                    answer.body(&unread[end..], &mut body)?;
                }
            }
        }
        assert!(body.capacity() <= LEAST + (1 + AHEAD) * start, "{} after {start} bytes", body.capacity());
    }
    let Some(status) = status else { return Err(answer.cut_head(&unread, limits)) };
    let is_kept = answer.is_reusable();
    if !answer.has_ended()? {
        answer.close()?;
    }
    Ok((status, body, is_kept))
}

/// Invariant 12: wherever the bytes are cut, there is one verdict, and no panic on the way to it.
pub(super) fn has_one_verdict(bytes: &[u8], cuts: &[usize], method: &Method, limits: &Limits) {
    let whole = read(bytes, &[], method, limits);
    assert_eq!(read(bytes, cuts, method, limits), whole, "cut at {cuts:?}");
    let dripped: Vec<_> = (0..bytes.len()).collect();
    assert_eq!(read(bytes, &dripped, method, limits), whole, "dripped");
}

/// Invariant 13: after an answer that leaves its connection good nothing was left unread, and nothing more is taken for part
/// of it.
pub(super) fn is_good_after_its_last_byte(bytes: &[u8], more: &[u8], method: &Method, limits: &Limits) {
    if let (Ok((status, body, true)), false) = (read(bytes, &[], method, limits), more.is_empty()) {
        let longer = [bytes, more].concat();
        assert_eq!(read(&longer, &[], method, limits), Ok((status, body, false)));
        assert!(read(&bytes[..bytes.len() - 1], &[], method, limits).is_err());
    }
}

/// Invariant 15: a higher limit never makes an answer fail.
pub(super) fn is_not_harmed_by_more(bytes: &[u8], method: &Method, less: &Limits, more: &Limits) {
    if let Ok(read_with_less) = read(bytes, &[], method, less) {
        assert_eq!(read(bytes, &[], method, more), Ok(read_with_less));
    }
}

/// All of them, for a fuzzer. The first byte says what was asked and within which limits, the next two where the answer is
/// cut, in 256ths of its length; the rest is the answer.
///
/// # Panics
/// Where one of them does not hold.
#[cfg(fuzzing)]
pub fn replies(input: &[u8]) {
    let &[how, first, second, ref bytes @ ..] = input else { return };
    let method = if how & 1 == 0 { Method::GET } else { Method::HEAD };
    let usual = Limits::discovered();
    let mut small = usual.clone();
    (small.head_bytes, small.headers) = (60, 2);
    let limits = if how & 2 == 0 { &usual } else { &small };
    let mut cuts = [first, second].map(|cut| usize::from(cut) * (bytes.len() + 1) / 256);
    cuts.sort_unstable();
    has_one_verdict(bytes, &cuts, &method, limits);
    is_good_after_its_last_byte(bytes, b"H", &method, limits);
    is_not_harmed_by_more(bytes, &method, &small, &usual);
}
