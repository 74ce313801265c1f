//! Writes the replies of the differential tests as inputs of the target `replies`.

#[allow(dead_code, reason = "the verdicts are for the tests")]
#[path = "../../core/tests/http_differential/reply.rs"]
mod reply;

use std::{fs, io};

use http::Method;

use self::reply::Reply;

fn main() -> io::Result<()> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/replies");
    fs::create_dir_all(dir)?;
    for reply in Reply::all() {
        let asked = u8::from(reply.method() == Method::HEAD);
        // Cut in two places, as for the most part in its head and in its body.
        let input = [&[asked, 64, 200][..], &reply.bytes()].concat();
        fs::write(format!("{dir}/{}", reply.name), input)?;
    }
    Ok(())
}
