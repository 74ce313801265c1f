//! Undoes content encodings (gzip, deflate, br, zstd and chains of them) under caps on output, ratio and layers.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::header::CONTENT_ENCODING;

use crate::{Decode, Error, ErrorKind, Head, Limits};

/// Bytes that each layer decodes at a time.
const PIECE: usize = 16 << 10;

/// The largest window that a zstd frame may ask for, as a power of two: 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;

/// Decodes by what Content-Encoding says, over all its lines: `gzip`, `x-gzip`, `deflate` (zlib or raw), `br`, `zstd`,
/// `identity`, in any case of letters.
///
/// The output of each layer is capped by [`Limits::body_decoded`], the whole by [`Limits::ratio`] too. Bytes after the
/// end of a gzip, deflate or br stream are ignored, as browsers do; further gzip members and zstd frames are decoded.
/// An empty body is empty whatever its encoding.
///
/// ```
/// use tidegate::{Decode, Head, Limits, http::ContentDecoder};
///
/// let mut head = Head::new("http://a.test/".parse()?, http::StatusCode::OK);
/// head.headers.insert("content-encoding", "identity".parse()?);
/// let body = ContentDecoder::new().decode(&head, "hello".into(), &Limits::default())?;
/// assert_eq!(&body[..], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ContentDecoder;

impl ContentDecoder {
    /// A decoder; it has no state.
    pub fn new() -> Self {
        Self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Decode for ContentDecoder {
    fn decode(&self, head: &Head, wire: Bytes, limits: &Limits) -> Result<Bytes, Error> {
        let failed = |kind, attempted: String| Error::new(kind, attempted).with_url(head.url.as_str());
        let codings = codings(head, limits.encodings).map_err(|why| failed(ErrorKind::BodyEncoding, why))?;
        if codings.is_empty() || wire.is_empty() {
            return Ok(wire);
        }
        let wire_len = wire.len() as u64;
        let mut layer: Box<dyn Read> = Box::new(Cursor::new(wire));
        // The one applied last is undone first.
        for coding in codings.iter().rev() {
            let input = BufReader::with_capacity(PIECE, layer);
            let decoded: io::Result<Box<dyn Read>> = match coding {
                Coding::Gzip => Ok(Box::new(Gzip { member: Some(GzDecoder::new(input)), ended: false })),
                Coding::Deflate => deflate(input),
                Coding::Brotli => Ok(Box::new(Brotli::new(input))),
                Coding::Zstd => zstd(input),
            };
            let decoded = decoded.map_err(|e| judge(e, &failed))?;
            layer = Box::new(Capped { inner: decoded, left: limits.body_decoded });
        }
        let mut out = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let read = layer.read(&mut piece).map_err(|e| judge(e, &failed))?;
            if read == 0 {
                return Ok(out.into());
            }
            out.extend_from_slice(&piece[..read]);
            let decoded = out.len() as u64;
            if decoded > Limits::RATIO_FROM && decoded > wire_len.saturating_mul(limits.ratio) {
                let attempted = format!("decode {wire_len} bytes into more than {} times as many", limits.ratio);
                return Err(failed(ErrorKind::BodyTooLarge, attempted));
            }
        }
    }
}

/// The codings in the order they were applied; the words of an error where there are too many or one is unknown.
fn codings(head: &Head, most: usize) -> Result<Vec<Coding>, String> {
    let mut codings = Vec::new();
    for line in head.headers.get_all(CONTENT_ENCODING) {
        for token in line.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            let coding = match token.to_ascii_lowercase().as_slice() {
                b"" | b"identity" => continue,
                b"gzip" | b"x-gzip" => Coding::Gzip,
                b"deflate" => Coding::Deflate,
                b"br" => Coding::Brotli,
                b"zstd" => Coding::Zstd,
                _ => return Err(format!("decode the unknown content encoding {:?}", token.escape_ascii().to_string())),
            };
            if codings.len() == most {
                return Err(format!("decode more than {most} content encodings"));
            }
            codings.push(coding);
        }
    }
    Ok(codings)
}

fn judge(error: io::Error, failed: &dyn Fn(ErrorKind, String) -> Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<OverCap>()) {
        return failed(ErrorKind::BodyTooLarge, "decode a body within the decoded limit".into());
    }
    let (kind, what) = match error.kind() {
        io::ErrorKind::UnexpectedEof => (ErrorKind::BodyIncomplete, "decode a truncated body"),
        _ => (ErrorKind::BodyEncoding, "decode a corrupt body"),
    };
    failed(kind, what.into()).with_source(error)
}

#[derive(Debug, thiserror::Error)]
#[error("the decoded body is over its limit")]
struct OverCap;

/// Fails once a layer gave more than its cap, so that a bomb inside a bomb is bounded too.
struct Capped {
    inner: Box<dyn Read>,
    left: u64,
}

impl Read for Capped {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(OverCap))?;
        Ok(read)
    }
}

/// One gzip member after the other; what is no member after the first is ignored.
struct Gzip<R> {
    member: Option<GzDecoder<R>>,
    ended: bool,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            let Some(member) = self.member.as_mut() else { break };
            let read = member.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            let mut rest = self.member.take().expect("there was one above").into_inner();
            self.ended = rest.fill_buf()?.first() != Some(&0x1f);
            self.member = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}

/// zlib where the first two bytes are a zlib header, raw deflate otherwise: servers send both under one name.
fn deflate(mut input: BufReader<Box<dyn Read>>) -> io::Result<Box<dyn Read>> {
    let mut start = Vec::with_capacity(2);
    input.by_ref().take(2).read_to_end(&mut start)?;
    let is_zlib = matches!(start[..], [cmf, flags]
        if cmf & 0x0f == 8 && cmf >> 4 <= 7 && (u16::from(cmf) << 8 | u16::from(flags)) % 31 == 0);
    let whole = Cursor::new(start).chain(input);
    Ok(if is_zlib { Box::new(ZlibDecoder::new(whole)) } else { Box::new(DeflateDecoder::new(whole)) })
}

fn zstd(input: BufReader<Box<dyn Read>>) -> io::Result<Box<dyn Read>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(Box::new(decoder))
}

struct Brotli<R> {
    input: R,
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    ended: bool,
}

impl<R> Brotli<R> {
    fn new(input: R) -> Self {
        let alloc = StandardAlloc::default;
        Self { input, state: Box::new(BrotliState::new(alloc(), alloc(), alloc())), ended: false }
    }
}

impl<R: BufRead> Read for Brotli<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buf.is_empty() {
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            let (mut in_len, mut consumed, mut out_len, mut written) = (input.len(), 0, buf.len(), 0);
            let result = BrotliDecompressStream(
                &mut in_len,
                &mut consumed,
                input,
                &mut out_len,
                &mut written,
                buf,
                &mut 0,
                &mut self.state,
            );
            self.input.consume(consumed);
            match result {
                BrotliResult::ResultFailure => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "corrupt brotli stream"));
                }
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::NeedsMoreInput if at_end && written == 0 => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete brotli stream"));
                }
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn encode(coding: &str, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            "gzip" => flate2::GzBuilder::new().read(data, Compression::fast()).read_to_end(&mut out).map(drop),
            "deflate" => flate2::read::ZlibEncoder::new(data, Compression::fast()).read_to_end(&mut out).map(drop),
            "raw" => flate2::read::DeflateEncoder::new(data, Compression::fast()).read_to_end(&mut out).map(drop),
            "br" => brotli::CompressorReader::new(data, 4096, 3, 20).read_to_end(&mut out).map(drop),
            "zstd" => zstd::stream::copy_encode(data, &mut out, 1),
            _ => unreachable!("a coding of this test"),
        }
        .expect("encoding into memory");
        out
    }

    fn head(codings: &[&str]) -> Head {
        let mut head = Head::new("http://a.test/".parse().expect("literal"), http::StatusCode::OK);
        for coding in codings {
            let coding = if *coding == "raw" { "deflate" } else { coding };
            head.headers.append(CONTENT_ENCODING, HeaderValue::from_str(coding).expect("literal"));
        }
        head
    }

    fn decode(codings: &[&str], wire: impl Into<Bytes>) -> Result<Bytes, ErrorKind> {
        ContentDecoder.decode(&head(codings), wire.into(), &Limits::discovered()).map_err(|e| e.kind())
    }

    const ALL: [&str; 5] = ["gzip", "deflate", "raw", "br", "zstd"];

    // B1
    #[test]
    fn bombs_stop_at_the_cap() {
        let mut limits = Limits::discovered();
        limits.ratio = u64::MAX;
        let data = vec![0; 9 << 20];
        for coding in ALL {
            let wire = encode(coding, &data);
            let error = ContentDecoder.decode(&head(&[coding]), wire.clone().into(), &limits).expect_err("too large");
            assert_eq!(error.kind(), ErrorKind::BodyTooLarge, "{coding}");
            assert_eq!(decode(&[coding], wire), Err(ErrorKind::BodyTooLarge), "{coding}");
        }
        for (size, fits) in [((8 << 20) - 1, true), (8 << 20, true), ((8 << 20) + 1, false)] {
            let wire = encode("gzip", &data[..size]);
            assert_eq!(ContentDecoder.decode(&head(&["gzip"]), wire.into(), &limits).is_ok(), fits, "{size}");
        }
    }

    // B1
    #[test]
    fn the_ratio_is_judged_above_a_megabyte() {
        let mut limits = Limits::discovered();
        limits.ratio = 2;
        let small = encode("gzip", &vec![0; 1 << 20]);
        assert!(ContentDecoder.decode(&head(&["gzip"]), small.into(), &limits).is_ok());
        let large = encode("gzip", &vec![0; (1 << 20) + 1]);
        let error = ContentDecoder.decode(&head(&["gzip"]), large.into(), &limits).expect_err("ratio");
        assert_eq!(error.kind(), ErrorKind::BodyTooLarge);
    }

    // B1: a frame that asks for a window of 128 MiB.
    #[test]
    fn a_large_zstd_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("encoder");
        encoder.window_log(27).expect("valid");
        encoder.write_all(&[7; 100]).expect("memory");
        encoder.flush().expect("memory");
        let wire = encoder.finish().expect("memory");
        assert_eq!(decode(&["zstd"], wire), Err(ErrorKind::BodyEncoding));
    }

    // B1: endless empty members inside a gzip give no output, and still end.
    #[test]
    fn a_bomb_of_empty_members_stops_at_the_cap() {
        let member = encode("gzip", b"");
        let inner = member.repeat((9 << 20) / member.len());
        assert_eq!(decode(&["gzip", "gzip"], encode("gzip", &inner)), Err(ErrorKind::BodyTooLarge));
    }

    // B2
    #[test]
    fn layers_are_counted_over_all_lines() {
        let wire = ["gzip", "br", "zstd"].iter().fold(b"x".to_vec(), |data, coding| encode(coding, &data));
        assert_eq!(decode(&["gzip, identity", "br,zstd"], wire).as_deref(), Ok(&b"x"[..]));
        assert_eq!(decode(&["gzip, gzip", "gzip, gzip"], "x"), Err(ErrorKind::BodyEncoding));
        let many = vec!["gzip"; 5000];
        assert_eq!(decode(&many, "x"), Err(ErrorKind::BodyEncoding));
    }

    // B3
    #[test]
    fn truncated_streams_are_incomplete_at_every_cut() {
        let data: Vec<u8> = (0..600_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for coding in ALL {
            let wire = encode(coding, &data);
            for cut in 1..wire.len() {
                let result = decode(&[coding], wire[..cut].to_vec());
                assert_eq!(result, Err(ErrorKind::BodyIncomplete), "{coding} cut at {cut} of {}", wire.len());
            }
        }
    }

    // B3
    #[test]
    fn checksums_members_and_garbage() {
        let good = encode("gzip", b"hello");
        for at in [good.len() - 1, good.len() - 5] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&["gzip"], bad), Err(ErrorKind::BodyEncoding));
        }
        assert_eq!(decode(&["gzip"], [&good[..], &good].concat()).as_deref(), Ok(&b"hellohello"[..]));
        for coding in ["gzip", "deflate", "raw", "br"] {
            let wire = [&encode(coding, b"hello")[..], b"\0\0garbage"].concat();
            assert_eq!(decode(&[coding], wire).as_deref(), Ok(&b"hello"[..]), "{coding}");
        }
        assert_eq!(
            decode(&["zstd"], [&encode("zstd", b"hello")[..], b"garbage"].concat()),
            Err(ErrorKind::BodyEncoding)
        );
        for coding in ALL {
            assert_eq!(decode(&[coding], "").as_deref(), Ok(&b""[..]));
        }
    }

    // B4
    #[test]
    fn names_of_encodings() {
        let gzip = encode("gzip", b"x");
        for name in ["x-gzip", "GZIP", " gzip ,", "X-GZip, identity"] {
            assert_eq!(decode(&[name], gzip.clone()).as_deref(), Ok(&b"x"[..]), "{name}");
        }
        assert_eq!(decode(&["Identity"], "x").as_deref(), Ok(&b"x"[..]));
        assert_eq!(decode(&["sdch"], "x"), Err(ErrorKind::BodyEncoding));
        assert_eq!(decode(&["gzip"], "plain text"), Err(ErrorKind::BodyEncoding));
    }

    proptest! {
        #[test]
        fn any_chain_round_trips(data in proptest::collection::vec(any::<u8>(), 0..5000),
                                 chain in proptest::collection::vec(proptest::sample::select(&ALL[..]), 1..=3)) {
            let wire = chain.iter().fold(data.clone(), |data, coding| encode(coding, &data));
            let decoded = decode(&chain, wire);
            prop_assert_eq!(decoded.as_deref(), Ok(&data[..]));
        }

        #[test]
        fn any_bytes_end(data in proptest::collection::vec(any::<u8>(), 0..300),
                         chain in proptest::collection::vec(proptest::sample::select(&ALL[..]), 1..=3)) {
            let _ = decode(&chain, data);
        }
    }
}
