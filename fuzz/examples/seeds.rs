//! Writes inputs that the targets begin with: the replies of the differential tests, and a few of each other kind.

#[allow(dead_code, reason = "the verdicts are for the tests")]
#[path = "../../core/tests/http_differential/reply.rs"]
mod reply;

use std::io::{self, Read as _};
use std::{fs, path::PathBuf};

use http::Method;

use self::reply::Reply;

/// Their inputs, as text.
const TEXTS: [(&str, &[&[u8]]); 7] = [
    (
        "handshakes",
        &[
            b"\0\x01HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\nearly",
            b"\x01\x05HTTP/1.0 407 Who\r\n\r\n",
            b"\x02\x01\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x1f\x90early",
            b"\x03\x02\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x1f\x90",
            b"\x04\x03\x00\x5a\x00\x00\x00\x00\x00\x00",
        ],
    ),
    (
        "charset",
        &[
            b"<!-- x --><meta charset=shift_jis>",
            b"<meta http-equiv='Content-Type' content=\"text/html; charset=latin1\">",
            b"<!-->< a='b'>\xe4\xf6",
            b"\xff\xfeh\0i\0",
            b"<\0?\0x\0m\0l\0",
        ],
    ),
    (
        "cookies",
        &[
            b"\x01id=1; Path=/x; Domain=.example.com; Secure\n\x00a=b; Max-Age=-1",
            b"\x01__Host-a=b; Secure; Path=/\n\x04c=d; domain=github.io",
            b"\x03e=f; Expires=Sun, 06 Nov 2094 08:49:37 GMT; max-age=60",
        ],
    ),
    ("retry_after", &[b"120", b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"-1"]),
    (
        "urls",
        &[
            b"http://me:s3cret@a.test:80/x/../y?z#f",
            b"https://xn--bcher-kva.example/%2e%2e/",
            "http://b\u{fc}cher.example/\u{2025}".as_bytes(),
            b"http://0x7f.1/",
            b"http://[::ffff:127.0.0.1]:8080/",
            b"http:\\\\a.test\\b",
        ],
    ),
    (
        "redirects",
        &[b"\0/there", b"\x01//b.test/", b"\x82?x", b"\x83https://me:pw@a.test/", b"\x04mailto:x", b"\x00https://a.test:443/"],
    ),
    (
        "robots",
        &[
            b"/a/b?c\nUser-agent: foobot\nDisallow: /a*b$\nAllow: /a/\nCrawl-delay: 2\nSitemap: http://a.test/s.xml",
            b"/aaaa\nuser-agent: *\ndisallow: /*a*a*a*a\n",
        ],
    ),
];

fn write(target: &str, name: &str, input: &[u8]) -> io::Result<()> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), input)
}

fn main() -> io::Result<()> {
    for reply in Reply::all() {
        let asked = u8::from(reply.method() == Method::HEAD);
        // Cut in two places, as for the most part in its head and in its body.
        write("replies", &reply.name, &[&[asked, 64, 200][..], &reply.bytes()].concat())?;
    }
    for (target, inputs) in TEXTS {
        for (number, input) in inputs.iter().enumerate() {
            write(target, &number.to_string(), input)?;
        }
    }
    let text = b"hello, hello, hello, hello and goodbye".as_slice();
    let (mut gzip, mut zlib, mut brotli) = (Vec::new(), Vec::new(), Vec::new());
    flate2::read::GzEncoder::new(text, flate2::Compression::fast()).read_to_end(&mut gzip)?;
    flate2::read::ZlibEncoder::new(text, flate2::Compression::fast()).read_to_end(&mut zlib)?;
    brotli::CompressorReader::new(text, 4096, 3, 20).read_to_end(&mut brotli)?;
    let zstd = zstd::stream::encode_all(text, 1)?;
    for (coding, body) in [gzip, zlib, brotli, zstd].iter().enumerate() {
        // One layer of this coding, under either limit.
        for limit in [0, 201] {
            let chain = u8::try_from(coding * 4 + 1).map_err(io::Error::other)?;
            write("decoder", &format!("{coding}-{limit}"), &[&[chain, limit][..], body].concat())?;
        }
    }
    Ok(())
}
