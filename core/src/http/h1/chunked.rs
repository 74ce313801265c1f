//! The chunked coding (RFC 9112, 7.1), a byte at a time where it is framing and a slice at a time where it is data.
//!
//! Strict, because a reader who is lenient here and one on the way who is not see different answers: only CR LF ends a line,
//! a size has 1 to 16 digits and at most blanks behind it.

use super::Violation;
use crate::Limits;

/// Digits of a chunk's size at most: those of a `u64`.
const MAX_DIGITS: u8 = 16;

/// Undoes the chunked coding.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    /// Digits of the size that is being read.
    digits: u8,
    /// The size that is being read, and then what is left of the chunk.
    size: u64,
    /// Bytes of extensions so far.
    extensions: u16,
    /// Bytes of the trailer so far.
    trailers: u16,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// Blanks behind the size.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A field of the trailer, or the end.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
}

impl Chunked {
    pub(super) fn has_ended(&self) -> bool {
        self.at == At::End
    }

    /// Appends the data in `bytes` to `out`, and says how many bytes belonged to the body: fewer than there are where it ended.
    pub(super) fn decode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Violation> {
        let mut used = 0;
        while used < bytes.len() && self.at != At::End {
            if self.at == At::Data {
                let rest = &bytes[used..];
                let here = usize::try_from(self.size).map_or(rest.len(), |size| size.min(rest.len()));
                out.extend_from_slice(&rest[..here]);
                self.size -= here as u64;
                used += here;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
            } else {
                self.at = self.step(bytes[used])?;
                used += 1;
            }
        }
        Ok(used)
    }

    /// Takes a byte of the framing.
    fn step(&mut self, byte: u8) -> Result<At, Violation> {
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < MAX_DIGITS => {
                let digit = if byte.is_ascii_digit() { byte - b'0' } else { (byte | 0x20) - b'a' + 10 };
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                Ok(At::Size)
            }
            (At::Size, _) if self.digits == 0 => Err(Violation::ChunkSize),
            (At::Size | At::Blank, b'\r') => Ok(At::SizeLf),
            (At::Size | At::Blank, b';') => self.extend(At::Extension),
            (At::Size | At::Blank, b' ' | b'\t') => self.extend(At::Blank),
            (At::Extension, b'\r') => Ok(At::SizeLf),
            // A lone LF, which others take for the end of the line.
            (At::Extension, b'\n') => Err(Violation::ChunkSize),
            (At::Extension, _) => self.extend(At::Extension),
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.size == 0 { At::Trailer } else { At::Data })
            }
            (At::Size | At::Blank | At::SizeLf, _) => Err(Violation::ChunkSize),
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::Size),
            (At::DataCr | At::DataLf, _) => Err(Violation::ChunkEnd),
            (At::Trailer, b'\r') => Ok(At::EndLf),
            (At::Trailer, _) if is_token(byte) => self.trail(At::TrailerName),
            (At::TrailerName, b':') => self.trail(At::TrailerValue),
            (At::TrailerName, _) if is_token(byte) => self.trail(At::TrailerName),
            (At::TrailerValue, b'\r') => self.trail(At::TrailerLf),
            (At::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => self.trail(At::TrailerValue),
            (At::TrailerLf, b'\n') => self.trail(At::Trailer),
            (At::EndLf, b'\n') => Ok(At::End),
            // Data and the end are not stepped through.
            (_, _) => Err(Violation::Trailers),
        }
    }

    fn extend(&mut self, next: At) -> Result<At, Violation> {
        self.extensions += 1;
        if self.extensions > Limits::TRAILERS { Err(Violation::ChunkExtensions) } else { Ok(next) }
    }

    fn trail(&mut self, next: At) -> Result<At, Violation> {
        self.trailers += 1;
        if self.trailers > Limits::TRAILERS { Err(Violation::Trailers) } else { Ok(next) }
    }
}

/// A character of a field name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Violation> {
        let (mut chunked, mut out, mut used) = (Chunked::default(), Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            used += chunked.decode(piece, &mut out)?;
        }
        Ok((out, used, chunked.has_ended()))
    }

    fn verdict(bytes: &[u8]) -> Result<(Vec<u8>, usize, bool), Violation> {
        let whole = decoded(bytes, bytes.len());
        for piece in 1..bytes.len().min(9) {
            assert_eq!(decoded(bytes, piece), whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn data_and_end_are_told_apart() {
        for (bytes, data, rest, ended) in [
            (&b"5\r\nhello\r\n0\r\n\r\n"[..], &b"hello"[..], 0, true),
            (b"5\r\nhello\r\n0\r\n\r\nHTTP", b"hello", 4, true),
            (b"A \t\r\n0123456789\r\n0\r\n\r\n", b"0123456789", 0, true),
            (b"2;a=\"b\"\r\nhe\r\n0000000000000003\r\n", b"he", 0, false),
            (b"2 ; x\r\nhe\r\n3\r\nllo\r\n000\r\nA: b\r\nC:\r\n\r\n", b"hello", 0, true),
            (b"5\r\nhel", b"hel", 0, false),
        ] {
            assert_eq!(verdict(bytes), Ok((data.to_vec(), bytes.len() - rest, ended)), "{}", bytes.escape_ascii());
        }
    }

    // A14
    #[test]
    fn what_others_may_read_otherwise_is_refused() {
        for (bytes, violation) in [
            (&b"\r\nhello"[..], Violation::ChunkSize),
            (b" 5\r\nhello\r\n", Violation::ChunkSize),
            (b"+5\r\nhello\r\n", Violation::ChunkSize),
            (b"-5\r\nhello\r\n", Violation::ChunkSize),
            (b"0x5\r\nhello\r\n", Violation::ChunkSize),
            (b"5_0\r\nhello\r\n", Violation::ChunkSize),
            (b"5 5\r\nhello\r\n", Violation::ChunkSize),
            (b"5\nhello\n0\n\n", Violation::ChunkSize),
            (b"5\rhello", Violation::ChunkSize),
            (b"5;a\nhello", Violation::ChunkSize),
            (b"5;a\rb\r\nhello", Violation::ChunkSize),
            (b"00000000000000005\r\nhello\r\n", Violation::ChunkSize),
            (b"11111111111111111\r\nx", Violation::ChunkSize),
            (b"5\r\nhelloX\r\n", Violation::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", Violation::ChunkEnd),
            (b"5\r\nhello\rX", Violation::ChunkEnd),
            (b"0\r\n\n", Violation::Trailers),
            (b"0\r\n\rX", Violation::Trailers),
            (b"0\r\nA: b\n\r\n", Violation::Trailers),
            (b"0\r\nno colon\r\n\r\n", Violation::Trailers),
            (b"0\r\n: b\r\n\r\n", Violation::Trailers),
            (b"0\r\n folded: b\r\n\r\n", Violation::Trailers),
            (b"0\r\nA: \0\r\n\r\n", Violation::Trailers),
        ] {
            assert_eq!(verdict(bytes), Err(violation), "{}", bytes.escape_ascii());
        }
    }

    // A14, A15: at the cap and one over it, whole and byte by byte, over all chunks together.
    #[test]
    fn extensions_and_trailers_are_capped() {
        let cap = usize::from(Limits::TRAILERS);
        for (over, extensions, trailers) in
            [(0, Ok(()), Ok(())), (1, Err(Violation::ChunkExtensions), Err(Violation::Trailers))]
        {
            let first = "x".repeat(cap / 2 - 1);
            let second = "x".repeat(cap - cap / 2 - 1 + over);
            let bytes = format!("1;{first}\r\na\r\n1;{second}\r\nb\r\n0\r\n\r\n");
            let field = format!("0\r\nA:{}\r\n\r\n", "x".repeat(cap - 4 + over));
            for piece in [1, 1 << 20] {
                assert_eq!(decoded(bytes.as_bytes(), piece).map(|_| ()), extensions);
                assert_eq!(decoded(field.as_bytes(), piece).map(|_| ()), trailers);
            }
        }
    }
}
