//! [`Outgoing`]: what is still to be written of an answer, so that bodies of any length come from one piece of memory.

use bytes::{Buf as _, Bytes};

/// Some bytes, then so many more made of a piece again and again.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    first: Bytes,
    rest: u64,
    /// Where in the piece the rest goes on.
    at: usize,
}

impl Outgoing {
    pub(crate) fn new(first: Bytes, rest: u64) -> Self {
        Self { first, rest, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest == 0
    }

    /// The next bytes, in two parts.
    pub(crate) fn parts<'a>(&'a self, piece: &'a [u8]) -> [&'a [u8]; 2] {
        let piece = &piece[self.at..];
        let rest = piece.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
        [&self.first, &piece[..rest]]
    }

    /// `count` of the [`parts`](Self::parts) have been written.
    pub(crate) fn advance(&mut self, count: usize, piece: &[u8]) {
        let of_first = count.min(self.first.len());
        self.first.advance(of_first);
        let of_rest = count - of_first;
        self.rest -= of_rest as u64;
        self.at += of_rest;
        if self.at == piece.len() {
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_however_it_is_cut() {
        let piece = b"abc";
        for step in 1..8 {
            let mut outgoing = Outgoing::new(Bytes::from_static(b"HEAD"), 8);
            let mut written = Vec::new();
            while !outgoing.is_empty() {
                let next = outgoing.parts(piece).concat();
                let next = &next[..next.len().min(step)];
                written.extend_from_slice(next);
                outgoing.advance(next.len(), piece);
            }
            assert_eq!(written, b"HEADabcabcab", "{step}");
        }
    }
}
