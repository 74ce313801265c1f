//! Buffers of a thread, so that a connection that waits owns none: for what is read, and for the head that is written.

use std::cell::Cell;

/// What one read of a socket takes at most: 64 KiB. Less makes more system calls of a long body; more than the usual receive
/// buffer is never filled.
pub(crate) const SCRATCH: usize = 64 << 10;

/// One TLS record, which is what rustls takes at a time: what a read below it takes at most.
#[cfg(feature = "tls")]
pub(crate) const RECORD: usize = 16 << 10;

/// Where a page begins: the copy out of the kernel is dearer to an address that is a little off.
const PAGE: usize = 4 << 10;

/// Read buffers that a thread keeps: a read over TLS uses two, one inside the other.
const SPARES: usize = 2;

thread_local! {
    static SPARE: [Cell<Option<Box<[u8]>>>; SPARES] = const { [const { Cell::new(None) }; SPARES] };
    static HEAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends a buffer of this thread to `work`. A use inside another one is given another buffer.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SPARE.with(|[first, second]| {
        let spare = first.take().or_else(|| second.take());
        let mut scratch = spare.unwrap_or_else(|| vec![0; SCRATCH + PAGE].into_boxed_slice());
        let start = scratch.as_ptr().align_offset(PAGE).min(PAGE);
        let result = work(&mut scratch[start..start + SCRATCH]);
        if let Some(before) = first.replace(Some(scratch)) {
            second.set(Some(before));
        }
        result
    })
}

/// Lends an empty buffer of this thread for what is to be written.
pub(super) fn with_head<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut head = HEAD.take();
    let result = work(&mut head);
    if head.capacity() <= SCRATCH {
        head.clear();
        HEAD.set(head);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_uses_do_not_share() {
        with_scratch(|outer| {
            outer[0] = 1;
            with_scratch(|inner| inner[0] = 2);
            assert_eq!((outer[0], outer.len()), (1, SCRATCH));
            assert_eq!(outer.as_ptr().align_offset(PAGE), 0);
        });
    }

    #[test]
    fn two_that_are_nested_are_kept() {
        let nested = |mark: u8| {
            with_scratch(|outer| {
                let outer = std::mem::replace(&mut outer[0], mark);
                with_scratch(|inner| [outer, std::mem::replace(&mut inner[0], mark)])
            })
        };
        // A new buffer is full of zeros.
        assert_eq!([nested(1), nested(2), nested(3)], [[0, 0], [1, 1], [2, 2]]);
        with_scratch(|_| with_scratch(|_| with_scratch(|third| assert_eq!(third[0], 0))));
        assert!(SPARE.with(|spares| spares.iter().all(|spare| spare.take().is_some())));
    }

    #[test]
    fn a_long_head_is_not_kept() {
        for (length, kept) in [(100, true), (SCRATCH + 1, false)] {
            with_head(|head| head.resize(length, b'x'));
            with_head(|head| assert_eq!((head.is_empty(), head.capacity() > 0), (true, kept)));
        }
    }
}
