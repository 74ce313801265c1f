//! robots.txt as text: RFC 9309, parsed for one crawler and matched in linear time, within a budget.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::robots::{MAX_BYTES, MAX_CRAWL_DELAY, MAX_MATCH_BYTES, MAX_RULES};

/// What a robots.txt says to one crawler.
///
/// ```
/// use tidegate::robots::RobotsRules;
///
/// let rules = RobotsRules::parse(b"User-agent: foobot\nDisallow: /private\nAllow: /private/*.html$", "foobot");
/// assert!(!rules.allows("/private/x"));
/// assert!(rules.allows("/private/x.html"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RobotsRules {
    /// The one that wins first.
    rules: Vec<Rule>,
    crawl_delay: Option<Duration>,
    sitemaps: Vec<Box<str>>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// The parts between `*`, in the form that [`normalised`] gives.
    parts: Box<[Box<str>]>,
    /// Pairs of bytes that a path must contain.
    needs: [Option<u16>; 4],
    to_the_end: bool,
    allow: bool,
    length: usize,
}

impl RobotsRules {
    /// Rules that allow everything.
    ///
    /// ```
    /// assert!(tidegate::robots::RobotsRules::allow_all().allows("/"));
    /// ```
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// Reads the groups for `token` (in any case), or those for `*` where there are none. Lines that are no rules are
    /// skipped; what comes after the first 512 KiB, or after [`MAX_RULES`] different rules, is not read.
    ///
    /// A file that begins like markup is an error page with a wrong status and says nothing.
    pub fn parse(file: &[u8], token: &str) -> Self {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        if file.trim_ascii_start().starts_with(b"<") {
            return Self::allow_all();
        }
        let file = match file.get(..=MAX_BYTES) {
            // A rule that is cut would be a shorter rule, which says more.
            Some(start) => &start[..start.iter().rposition(|b| matches!(b, b'\n' | b'\r')).unwrap_or(0)],
            None => file,
        };
        let lines = || file.split(|b| matches!(b, b'\n' | b'\r' | b'\0')).filter_map(line);
        let is_ours = |value: &[u8]| !token.is_empty() && product(value).eq_ignore_ascii_case(token.as_bytes());
        let has_own_group = lines().any(|(field, value)| field == Field::UserAgent && is_ours(value));
        let applies = |value: &[u8]| if has_own_group { is_ours(value) } else { value.first() == Some(&b'*') };

        let mut found = Self::default();
        let mut kept = BTreeSet::new();
        let mut in_group = false;
        let mut after_agent = false;
        for (field, value) in lines() {
            if field == Field::UserAgent {
                // Groups for the same crawler are one group, and several names in a row share one.
                in_group = applies(value) || (after_agent && in_group);
                after_agent = true;
                continue;
            }
            if field == Field::Sitemap {
                if let Ok(url) = std::str::from_utf8(value) {
                    found.sitemaps.push(url.into());
                }
                continue;
            }
            after_agent = false;
            match field {
                _ if !in_group => {}
                Field::CrawlDelay => found.crawl_delay = found.crawl_delay.max(delay(value)),
                _ if value.is_empty() => {}
                _ if found.rules.len() == MAX_RULES => {}
                field if kept.insert((field == Field::Allow, value)) => {
                    found.rules.push(Rule::new(value, field == Field::Allow));
                }
                _ => {}
            }
        }
        found.rules.sort_by_key(|rule| (std::cmp::Reverse(rule.length), !rule.allow));
        found
    }

    /// Whether this path with its query may be fetched: the longest rule that matches decides, `Allow` where two are
    /// equally long. `/robots.txt` itself always may.
    ///
    /// A path for which the wildcards of the file need more than [`MAX_MATCH_BYTES`] of searching may not be fetched:
    /// no file of good faith comes near it, and the loop is not a host's to stop.
    pub fn allows(&self, path_and_query: &str) -> bool {
        let path = normalised(path_and_query.as_bytes(), false);
        if path == "/robots.txt" {
            return true;
        }
        let mut search = Search { left: MAX_MATCH_BYTES, pairs: None };
        for rule in &self.rules {
            match rule.matches(&path, &mut search) {
                Some(false) => {}
                Some(true) => return rule.allow,
                None => return false,
            }
        }
        true
    }

    /// The pause between two fetches that the file asks for, at most [`MAX_CRAWL_DELAY`]; the longest where there are
    /// several.
    pub fn crawl_delay(&self) -> Option<Duration> {
        self.crawl_delay
    }

    /// The sitemaps that the file names, as they are written. They belong to no crawler.
    pub fn sitemaps(&self) -> impl Iterator<Item = &str> {
        self.sitemaps.iter().map(|url| &**url)
    }
}

impl Rule {
    fn new(value: &[u8], allow: bool) -> Self {
        let (value, to_the_end) = value.strip_suffix(b"$").map_or((value, false), |value| (value, true));
        let pattern = normalised(value, true);
        let length = pattern.len() + usize::from(to_the_end);
        let mut parts: Vec<&str> = pattern.split('*').collect();
        let last = parts.len() - 1;
        let mut at = 0;
        // `**` is `*`.
        parts.retain(|part| {
            at += 1;
            at == 1 || at == last + 1 || !part.is_empty()
        });
        let mut needs = [None; 4];
        if let Some(longest) = parts.iter().skip(1).max_by_key(|part| part.len()) {
            needs.iter_mut().zip(longest.as_bytes().windows(2)).for_each(|(need, two)| *need = Some(pair(two)));
            if let [single] = longest.as_bytes() {
                needs[0] = Some(u16::from(*single));
            }
        }
        Self { parts: parts.into_iter().map(Box::from).collect(), needs, to_the_end, allow, length }
    }

    /// Each part is taken where it occurs first, which leaves the most for those behind it: linear, no way back. `None`
    /// where `search` is exhausted.
    fn matches(&self, path: &str, search: &mut Search) -> Option<bool> {
        let Some((first, more)) = self.parts.split_first() else { return Some(false) };
        let Some(mut rest) = path.strip_prefix(&**first) else { return Some(false) };
        let Some((last, middle)) = more.split_last() else { return Some(!self.to_the_end || rest.is_empty()) };
        if !search.may_contain(path, &self.needs) {
            return Some(false);
        }
        for part in middle {
            match search.find(rest, part)? {
                Some(at) => rest = &rest[at + part.len()..],
                None => return Some(false),
            }
        }
        if self.to_the_end { Some(rest.ends_with(&**last)) } else { search.find(rest, last).map(|at| at.is_some()) }
    }
}

/// The work that one path may make.
struct Search {
    left: usize,
    /// Bits of the pairs of bytes, and of the bytes, that the path contains: they refuse most rules without a search.
    pairs: Option<Box<[u64; 1024]>>,
}

fn pair(two: &[u8]) -> u16 {
    two.iter().fold(0, |pair, byte| pair << 8 | u16::from(*byte))
}

impl Search {
    /// What a search costs at least, in bytes.
    const START: usize = 32;

    fn may_contain(&mut self, path: &str, needs: &[Option<u16>]) -> bool {
        let bits = self.pairs.get_or_insert_with(|| {
            let mut bits = Box::new([0; 1024]);
            let singles = path.bytes().map(u16::from);
            path.as_bytes()
                .windows(2)
                .map(pair)
                .chain(singles)
                .for_each(|n| bits[usize::from(n >> 6)] |= 1 << (n & 63));
            bits
        });
        needs.iter().flatten().all(|n| bits[usize::from(n >> 6)] & 1 << (n & 63) != 0)
    }

    fn find(&mut self, text: &str, part: &str) -> Option<Option<usize>> {
        let found = text.find(part);
        let read = found.map_or(text.len(), |at| at + part.len());
        self.left = self.left.checked_sub(read + Self::START)?;
        Some(found)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    UserAgent,
    Allow,
    Disallow,
    CrawlDelay,
    Sitemap,
}

/// `field: value # comment`; names are read as generously as the big crawlers do.
fn line(line: &[u8]) -> Option<(Field, &[u8])> {
    let line = &line[..line.iter().position(|b| *b == b'#').unwrap_or(line.len())];
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
    const NAMES: &[(&str, Field)] = &[
        ("user-agent", Field::UserAgent),
        ("user agent", Field::UserAgent),
        ("useragent", Field::UserAgent),
        ("allow", Field::Allow),
        ("disallow", Field::Disallow),
        ("dissallow", Field::Disallow),
        ("dissalow", Field::Disallow),
        ("disalow", Field::Disallow),
        ("crawl-delay", Field::CrawlDelay),
        ("crawl delay", Field::CrawlDelay),
        ("crawldelay", Field::CrawlDelay),
        ("sitemap", Field::Sitemap),
    ];
    let (_, field) = NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))?;
    Some((*field, value))
}

/// The product token at the start of a user agent: `foobot` of `foobot/2.1`.
fn product(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|b| !b.is_ascii_alphanumeric() && !matches!(b, b'-' | b'_' | b'.'));
    &value[..end.unwrap_or(value.len())]
}

/// The product token that a crawler with this User-Agent field goes by; of those that begin as a browser does, the name
/// behind `compatible;`.
pub(super) fn token_of(user_agent: &str) -> &str {
    let own = match user_agent.split_once("compatible;") {
        Some((start, own)) if start.starts_with("Mozilla/") => own.trim_start(),
        _ => user_agent,
    };
    std::str::from_utf8(product(own.as_bytes())).unwrap_or_default()
}

fn delay(value: &[u8]) -> Option<Duration> {
    let seconds: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    if seconds.is_nan() || seconds <= 0.0 {
        return None;
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(MAX_CRAWL_DELAY).min(MAX_CRAWL_DELAY))
}

/// One form for what may be written in several (RFC 9309, 2.2.2): unreserved characters are plain, all that URLs write
/// either way is encoded, in upper case. In a pattern `*` stays; in a path it is a character like any other, and so
/// becomes `%2A`, which is how a pattern names it.
fn normalised(text: &[u8], is_pattern: bool) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let mut out = String::with_capacity(text.len() + 1);
    if text.first() != Some(&b'/') {
        out.push('/');
    }
    let mut i = 0;
    while let Some(&byte) = text.get(i) {
        i += 1;
        let (byte, was_encoded) = match (byte, hex(text.get(i)), hex(text.get(i + 1))) {
            (b'%', Some(high), Some(low)) => {
                i += 2;
                (high * 16 + low, true)
            }
            _ => (byte, false),
        };
        let is_plain = match byte {
            b'-' | b'.' | b'_' | b'~' => true,
            b'*' => is_pattern && !was_encoded,
            b'%' => !was_encoded,
            b'/' | b'?' | b'&' | b'=' | b'+' | b',' | b';' | b':' | b'@' | b'!' | b'\'' | b'(' | b')' => !was_encoded,
            b => b.is_ascii_alphanumeric(),
        };
        if is_plain {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend(
                [byte >> 4, byte & 15].map(|d| char::from_digit(u32::from(d), 16).unwrap_or('0').to_ascii_uppercase()),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(file: &str, path: &str) -> bool {
        RobotsRules::parse(file.as_bytes(), "foobot").allows(path)
    }

    fn matches(pattern: &str, path: &str) -> bool {
        !allows(&format!("user-agent: *\ndisallow: {pattern}"), path)
    }

    #[test]
    fn the_longest_rule_decides_and_allow_wins_ties() {
        let file = "User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /a/b/c\nAllow: /x\nDisallow: /x";
        for (path, expected) in [("/a", false), ("/a/b", true), ("/a/b/c", false), ("/x", true), ("/", true)] {
            assert_eq!(allows(file, path), expected, "{path}");
        }
        // The examples of RFC 9309, 5.2.
        let file = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif";
        assert!(!allows(file, "/example/page/disallowed.gif"));
    }

    #[test]
    fn groups_are_merged_and_tokens_matched_in_any_case() {
        let file = "User-agent: a\nUser-agent: FooBot/2.1 (x)\nSitemap: http://s/\nDisallow: /1\n\nUser-agent: *\nDisallow: /\n
            user-agent: foobot # again\nDisallow: /2\nUser-agent: foobotx\nDisallow: /3";
        for (path, expected) in [("/1", false), ("/2", false), ("/3", true), ("/4", true)] {
            assert_eq!(allows(file, path), expected, "{path}");
        }
        assert_eq!(RobotsRules::parse(file.as_bytes(), "foobot").sitemaps().collect::<Vec<_>>(), ["http://s/"]);
        assert!(!RobotsRules::parse(file.as_bytes(), "other").allows("/4"));
        assert!(!RobotsRules::parse(file.as_bytes(), "").allows("/4"));
    }

    #[test]
    fn an_empty_disallow_allows() {
        assert!(allows("User-agent: foobot\nDisallow:\n\nUser-agent: *\nDisallow: /", "/x"));
        assert!(allows("Disallow: /", "/x"));
    }

    #[test]
    fn patterns() {
        for (pattern, path, expected) in [
            ("/fish", "/fishheads/x", true),
            ("/fish", "/Fish", false),
            ("/fish*", "/fish", true),
            ("/fish/", "/fish", false),
            ("/*.php", "/x/y.php?z", true),
            ("/*.php$", "/y.php", true),
            ("/*.php$", "/y.php?z", false),
            ("/$", "/", true),
            ("/$", "/x", false),
            ("*.gif", "/x.gif", true),
            ("private", "/private", true),
            ("/a$b", "/a$b/c", true),
            ("/*ab*ab$", "/abab", true),
            ("/*aba*ba$", "/abab", false),
            ("/?q=*&x", "/?q=1&x", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    // The table of RFC 9309, 2.2.2, and the literal `*` and `$` of 2.2.3.
    #[test]
    fn encodings_are_compared_in_one_form() {
        for (pattern, path, expected) in [
            ("/foo/bar?baz=quz", "/foo/bar?baz=quz", true),
            ("/foo/bar/ツ", "/foo/bar/%E3%83%84", true),
            ("/foo/bar/%E3%83%84", "/foo/bar/%e3%83%84", true),
            ("/foo/bar/%62%61%7A", "/foo/bar/baz", true),
            ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html", true),
            ("/path/file-with-a-%2A.html", "/path/file-with-a-x.html", false),
            ("/path/foo-%24", "/path/foo-$", true),
            ("/path/foo-%24", "/path/foo-", false),
            ("/a%2Fb", "/a/b", false),
            ("/a%2fb", "/a%2Fb", true),
            ("/a b|{}", "/a%20b|%7B%7D", true),
            ("/100%", "/100%", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    // C13
    #[test]
    fn matching_does_not_go_back() {
        let pattern = "*a".repeat(3_000);
        let path = format!("/{}", "a".repeat(16_000));
        assert!(matches(&pattern, &path));
        assert!(!matches(&format!("{pattern}*/$"), &path));
    }

    // C13: work is counted, not timed.
    #[test]
    fn a_hostile_file_costs_a_bounded_search() {
        let file = format!("User-agent: *\n{}", "Allow:/*ab*\n".repeat(43_000));
        assert_eq!(RobotsRules::parse(file.as_bytes(), "foobot").rules.len(), 1, "the same rule is kept once");

        let lines: String = (0..40_000).map(|n| format!("Allow:/*ab{n}*\n")).collect();
        let rules = RobotsRules::parse(format!("User-agent: *\n{lines}").as_bytes(), "foobot");
        assert_eq!(rules.rules.len(), MAX_RULES);
        // All pairs that the rules ask for, but no match: each rule is searched for until the budget ends.
        let digits: String = (0..100).map(|n| format!("{n:02}b{}", n % 10)).collect();
        let path = format!("/{}", format!("{digits}aab-").repeat(30));
        assert!(!rules.allows(&path), "what it costs more is the host's loss");
        assert!(rules.allows("/ordinary/path?with=query"));
        assert!(rules.allows(&format!("/{}", "x".repeat(16_000))), "no rule can match: nothing is searched");
        let many = "*".repeat(400_000);
        assert_eq!(
            RobotsRules::parse(format!("User-agent: *\nDisallow: /{many}").as_bytes(), "x").rules[0].parts.len(),
            2
        );
    }

    #[test]
    fn odd_files() {
        // A page with the wrong status.
        assert!(allows("\u{feff} <!doctype html><pre>\nUser-agent: *\nDisallow: /\n</pre>", "/x"));
        assert!(!allows("\u{feff}User-agent: *\nDisallow: /", "/x"));
        assert!(!allows("User-agent: *\r\rDisallow: /", "/x"));
        assert!(!allows("USER AGENT : *\nDissallow : /", "/x"));
        assert!(allows("User-agent: *\nDisallow /x\nNoindex: /\n: /", "/x"));
        assert!(allows("User-agent: *\nDisallow: /", "/robots.txt"));
        assert!(allows("", "/x"));
    }

    #[test]
    fn a_rule_that_is_cut_at_the_limit_does_not_count() {
        let head = "User-agent: *\nDisallow: /x\n";
        let file = |fill: usize| format!("{head}{}\nDisallow: /abc", "#".repeat(fill));
        let fits = MAX_BYTES - head.len() - "\nDisallow: /abc".len();
        assert!(!allows(&file(fits), "/abc"));
        for more in 1..="\nDisallow: /abc".len() + 1 {
            assert!(allows(&file(fits + more), "/abc"), "{more}");
            assert!(!allows(&file(fits + more), "/x"), "{more}");
        }
    }

    #[test]
    fn the_delay_is_bounded() {
        let delay = |value: &str| {
            RobotsRules::parse(format!("User-agent: *\nCrawl-delay: {value}\nDisallow: /x").as_bytes(), "foobot")
                .crawl_delay()
        };
        assert_eq!(delay("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(delay("60"), Some(MAX_CRAWL_DELAY));
        assert_eq!(delay("61"), Some(MAX_CRAWL_DELAY));
        for over in ["1e300", "inf"] {
            assert_eq!(delay(over), Some(MAX_CRAWL_DELAY));
        }
        for none in ["", "0", "-1", "NaN", "soon", "-inf"] {
            assert_eq!(delay(none), None, "{none}");
        }
    }

    #[test]
    fn the_token_of_a_user_agent() {
        for (user_agent, token) in [
            ("quotes-bot/0.1 (+mailto:me@example.org)", "quotes-bot"),
            ("Mozilla/5.0 (compatible; foobot/2.0; +http://foo.test)", "foobot"),
            ("Mozilla/5.0 (X11)", "Mozilla"),
            ("foo_bot", "foo_bot"),
            ("", ""),
            ("é", ""),
        ] {
            assert_eq!(token_of(user_agent), token);
        }
    }

    /// A matcher that tries everything.
    fn slow(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => true,
            [b'$'] => path.is_empty(),
            [b'*', rest @ ..] => (0..=path.len()).any(|i| slow(rest, &path[i..])),
            [b, rest @ ..] => path.first() == Some(b) && slow(rest, &path[1..]),
        }
    }

    proptest! {
        // Wire invariant 17
        #[test]
        fn agrees_with_a_matcher_that_tries_everything(pattern in "/[ab/*]{0,8}\\$?", path in "/[ab/]{0,10}") {
            prop_assert_eq!(matches(&pattern, &path), path != "/robots.txt" && slow(pattern.as_bytes(), path.as_bytes()));
        }

        #[test]
        fn any_file_is_read(file in prop::collection::vec(any::<u8>(), 0..300), path in "\\PC{0,30}") {
            RobotsRules::parse(&file, "foobot").allows(&path);
        }

        #[test]
        fn any_lines_are_read(file in "(user-agent:|disallow:|allow:|crawl-delay:|\\*|foobot|\n|\r|/|\\$|%2|a|#| ){0,40}", path in "(/|a|%|2|\\*){0,8}") {
            RobotsRules::parse(file.as_bytes(), "foobot").allows(&path);
        }
    }
}
