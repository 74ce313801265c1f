//! One read buffer a thread, so that a connection that waits owns none.

use std::cell::Cell;

/// One TLS record, and what one read of a socket takes at most.
pub(crate) const SCRATCH: usize = 16 << 10;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends this thread's buffer to `work`. A use inside another one is given a new buffer.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SPARE.take().unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice());
    let result = work(&mut scratch);
    SPARE.set(Some(scratch));
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
}
