//! Read buffers of a thread, so that a connection that waits owns none.

use std::cell::RefCell;

/// One TLS record, and what one read of a socket takes at most.
pub(crate) const SCRATCH: usize = 16 << 10;

/// Buffers that a thread keeps: a read over TLS uses two, one inside the other.
const SPARES: usize = 2;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of this thread to `work`. A use inside another one is given another buffer.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    let mut scratch = spare.unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice());
    let result = work(&mut scratch);
    SPARE.with_borrow_mut(|spares| {
        if spares.len() < SPARES {
            spares.push(scratch);
        }
    });
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
        assert_eq!(SPARE.with_borrow(Vec::len), SPARES);
    }
}
