//! Files of robots.txt, to their parser: every path has one answer.
#![no_main]

use tidegate::robots::RobotsRules;

/// The first line is a path; the rest is the file.
fn judge(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (path, file) = (String::from_utf8_lossy(&input[..end]), &input[end..]);
    let rules = RobotsRules::parse(file, "foobot");
    let allowed = rules.allows(&path);
    assert_eq!(RobotsRules::parse(file, "FooBot").allows(&path), allowed, "names have no case");
    assert!(rules.allows("/robots.txt") || file.windows(8).any(|w| w.eq_ignore_ascii_case(b"disallow")));
    let _ = rules.crawl_delay();
    assert!(rules.sitemaps().all(|sitemap| sitemap.len() <= file.len()));
    assert!(RobotsRules::parse(b"", "foobot").allows(&path));
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| judge(input));
