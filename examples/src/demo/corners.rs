//! The corners of the site where answers are late, big, broken, limited, redirected, guarded or oddly encoded.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::routes::{Answer, End, Reply, Req, State, Visit, gzip};
use super::site::{Salt, Site};
use super::text::Html;

const SLOW: [u64; 5] = [300, 500, 800, 1200, 1500];
const LONGEST: u64 = 60_000;
const LARGE: [usize; 4] = [1, 2, 4, 6];
const LIMITED: u32 = 40;
const BROKEN: [&str; 10] =
    ["length", "reset", "reset-body", "status-line", "chunk", "chunk-end", "header", "gzip", "type", "empty"];
const REDIRECTS: [&str; 8] = ["single", "permanent", "chain-3", "loop-a", "self", "article", "relative", "scheme"];
const CHARSETS: [&str; 5] = ["utf-8", "utf-8-unlabelled", "windows-1252", "iso-8859-1-meta", "shift_jis"];
const ACCOUNT: [&str; 3] = ["", "orders", "settings"];
const USER: &str = "reader";
const PASSWORD: &str = "high-water";
/// Entries of the sitemap: a part of the site, so that a crawl which starts there still has to follow links.
const SITEMAP: u32 = 500;

impl Site {
    pub(super) fn home(&self) -> Reply {
        let origin = self.origin();
        let mut html = Html::new("Tidegate demo");
        html.paragraph("A site that is made up from a number, for crawls that must not trouble anybody.");
        html.link(&format!("{origin}/articles/#top"), "All articles");
        html.link("articles/", "Articles again");
        html.link("catalogue/", "Our catalogue");
        html.link("/sitemap.xml", "Sitemap");
        html.link("mailto:nobody@demo.invalid", "Write to us");
        html.link("javascript:void(0)", "Do nothing");
        html.fill(2048, &mut self.rng(Salt::Text, u32::MAX));
        Reply::html(200, html.finish())
    }

    /// Everything that needs neither state nor a module of its own.
    pub(super) fn corner(&self, req: &Req<'_>, folder: &str, rest: &str) -> Reply {
        match (folder, rest) {
            ("corners", "") => Self::corners(),
            ("slow", ms) => match ms.parse() {
                Ok(ms) if ms <= LONGEST => {
                    let mut html = Html::new("Slow");
                    html.paragraph(&format!("This took {ms} ms."));
                    Reply { delay: Duration::from_millis(ms), ..Reply::html(200, html.finish()) }
                }
                _ => Reply::not_found(),
            },
            ("large", mib) => match mib.parse() {
                Ok(mib) if LARGE.contains(&mib) => self.large(mib),
                _ => Reply::not_found(),
            },
            ("errors", n) if !n.is_empty() => {
                let mut html = Html::new("Internal error");
                html.paragraph("It is always like this.");
                Reply::html(500, html.finish())
            }
            ("limited", "") => {
                let mut html = Html::new("Limited");
                html.links("limited", (0..LIMITED).map(|n| (n.to_string(), format!("Limited {n}"))));
                Reply::html(200, html.finish())
            }
            ("limited", n) if n.parse().is_ok_and(|n: u32| n < LIMITED) => Self::plain_page(&format!("Limited {n}")),
            ("redirects", which) => self.redirect(which),
            ("charsets", name) => charset_page(name),
            ("private", _) => Self::plain_page("Private"),
            ("api", "site.json") => {
                let value =
                    json!({ "articles": self.articles(), "products": self.products(), "next": "/api/articles" });
                Reply::json(200, &value)
            }
            ("api", "articles") => self.article_list(req),
            ("robots.txt", "") => {
                let origin = self.origin();
                Reply::text(200, format!("User-agent: *\nDisallow: /private/\n\nSitemap: {origin}/sitemap.xml\n"))
            }
            ("sitemap.xml", "") => self.sitemap(),
            _ => Reply::not_found(),
        }
    }

    fn plain_page(title: &str) -> Reply {
        let mut html = Html::new(title);
        html.paragraph("Nothing more to see.");
        Reply::html(200, html.finish())
    }

    fn corners() -> Reply {
        let mut html = Html::new("Corners");
        let mut list = |class: &str, folder: &str, names: &mut dyn Iterator<Item = String>| {
            html.links(class, names.map(|name| (format!("/{folder}/{name}"), format!("{folder} {name}"))));
        };
        let owned = |names: &'static [&'static str]| names.iter().map(|&name| name.to_owned());
        list("slow", "slow", &mut SLOW.iter().map(u64::to_string));
        list("large", "large", &mut LARGE.iter().map(usize::to_string));
        list("limited", "limited", &mut [String::new()].into_iter());
        list("broken", "broken", &mut owned(&BROKEN));
        list("errors", "errors", &mut (1..=3).map(|n: u32| n.to_string()));
        list("flaky", "flaky", &mut (1..=5).map(|n: u32| n.to_string()));
        list("missing", "missing", &mut (1..=5).map(|n: u32| n.to_string()));
        list("redirects", "redirects", &mut owned(&REDIRECTS));
        list("charsets", "charsets", &mut owned(&CHARSETS));
        list("account", "account", &mut owned(&ACCOUNT));
        list("private", "private", &mut owned(&["ledger", "keys"]));
        list("api", "api", &mut owned(&["site.json", "articles"]));
        list("monitor", "monitor", &mut [String::from("0")].into_iter());
        Reply::html(200, html.finish())
    }

    fn large(&self, mib: usize) -> Reply {
        let mut block = Html::new("Large");
        block.fill(16 * 1024, &mut self.rng(Salt::Text, 0));
        let mut body = block.finish();
        let end = body.split_off(body.len() - "</body>\n</html>\n".len());
        let paragraph_start = body.find("<p>").unwrap_or(0);
        let paragraphs = body[paragraph_start..].to_owned();
        body.reserve_exact((mib << 20) + paragraphs.len() + end.len());
        while body.len() < mib << 20 {
            body.push_str(&paragraphs);
        }
        body.push_str(&end);
        Reply::html(200, body)
    }

    pub(super) fn flaky(&self, state: &mut State, rest: &str) -> Reply {
        match rest.parse() {
            Ok(n @ 1..=5) if state.visit(Visit::Flaky(n)) == 0 => Reply::text(503, "Not just now\n"),
            Ok(1..=5) => Self::plain_page("Here again"),
            _ => Reply::not_found(),
        }
    }

    fn redirect(&self, which: &str) -> Reply {
        let origin = self.origin();
        match which {
            "landed" => Self::plain_page("Landed"),
            "single" => Reply::redirect(302, "/redirects/landed"),
            "permanent" => Reply::redirect(308, &format!("{origin}/redirects/landed")),
            "chain-3" => Reply::redirect(301, "/redirects/chain-2"),
            "chain-2" => Reply::redirect(307, "chain-1"),
            "chain-1" => Reply::redirect(303, "/redirects/landed"),
            "loop-a" => Reply::redirect(302, "/redirects/loop-b"),
            "loop-b" => Reply::redirect(302, "/redirects/loop-a"),
            "self" => Reply::redirect(302, "/redirects/self"),
            "article" => Reply::redirect(301, "/articles/1-moved"),
            "relative" => Reply::redirect(302, "../redirects/./landed#here"),
            "scheme" => Reply::redirect(302, "ftp://demo.invalid/file"),
            _ => Reply::not_found(),
        }
    }

    /// Broken answers; what no HTTP library would write is given as bytes.
    pub(super) fn broken(&self, which: &str) -> Answer {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n";
        let mut html = Html::new("Broken");
        html.fill(4096, &mut self.rng(Salt::Text, 1));
        let page = html.finish();
        let half = &page[..page.len() / 2];
        let length = page.len();
        let (text, end) = match which {
            "length" => (format!("{HEAD}Content-Length: {length}\r\n\r\n{half}"), End::Fin),
            "reset" => (String::new(), End::Reset),
            "reset-body" => (format!("{HEAD}Content-Length: {length}\r\n\r\n{half}"), End::Reset),
            "status-line" => (format!("HTTP/1.1 twohundred OK\r\nContent-Length: {length}\r\n\r\n{page}"), End::Fin),
            "chunk" => (format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\nnothex\r\n"), End::Fin),
            "chunk-end" => {
                let size = half.len();
                (format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{half}\r\n"), End::Fin)
            }
            "header" => (format!("{HEAD}No colon in this line\r\nContent-Length: {length}\r\n\r\n{page}"), End::Fin),
            "empty" => (String::new(), End::Fin),
            "gzip" => {
                let mut packed = gzip(page.as_bytes());
                packed.truncate(packed.len() / 2);
                return Answer::Reply(Reply::html(200, packed).with("content-encoding", "gzip"));
            }
            "type" => return Answer::Reply(Reply::new(200, "image/png", page)),
            _ => return Answer::Reply(Reply::not_found()),
        };
        Answer::Raw(text.into_bytes(), end)
    }

    pub(super) fn account(&self, req: &Req<'_>, folder: &str, rest: &str) -> Reply {
        let session = format!("session={:016x}", self.rng(Salt::Session, 0).u64(..));
        let token = format!("{:016x}", self.rng(Salt::Session, 1).u64(..));
        if folder == "account" {
            if !req.cookie.split(';').any(|cookie| cookie.trim() == session) {
                return Reply::redirect(302, "/login");
            }
            return match rest {
                "" => {
                    let mut html = Html::new("Your account");
                    html.links("account", ACCOUNT[1..].iter().map(|&name| (name.to_owned(), name.to_owned())));
                    Reply::html(200, html.finish())
                }
                "orders" => Self::plain_page("Your orders"),
                "settings" => Self::plain_page("Your settings"),
                _ => Reply::not_found(),
            };
        }
        if req.method != "POST" {
            let mut html = Html::new("Sign in");
            html.raw(&format!(
                "<form id=\"login\" method=\"post\" action=\"/login\"><input type=\"hidden\" name=\"token\" \
                 value=\"{token}\"><input name=\"user\"><input name=\"password\" type=\"password\"></form>\n"
            ));
            return Reply::html(200, html.finish());
        }
        let sent = |name: &str| {
            url::form_urlencoded::parse(req.body).find(|(n, _)| n == name).map(|(_, value)| value.into_owned())
        };
        let right = [("token", token.as_str()), ("user", USER), ("password", PASSWORD)];
        if right.iter().all(|(name, value)| sent(name).as_deref() == Some(*value)) {
            Reply::redirect(303, "/account/").with("set-cookie", format!("{session}; Path=/; HttpOnly"))
        } else {
            Reply::text(403, "Wrong token, user or password\n")
        }
    }

    /// A monitored URL that never answers well.
    pub(super) fn monitor_is_down(n: u32) -> bool {
        n % 97 == 13
    }

    pub(super) fn monitor(&self, state: &mut State, req: &Req<'_>, rest: &str) -> Reply {
        let Some(n) = rest.parse().ok().filter(|&n: &u32| n < self.monitors) else { return Reply::not_found() };
        if Self::monitor_is_down(n) {
            return Reply::text(503, "down\n");
        }
        // Fails every other look: a monitor that looks twice before it calls does not call.
        if n % 501 == 250 && state.visit(Visit::Monitor(n)).is_multiple_of(2) {
            return Reply::text(503, "try again\n");
        }
        if n % 89 == 7 && req.method == "HEAD" {
            return Reply::text(405, "").with("allow", "GET");
        }
        Reply::text(200, format!("up {n}\n"))
    }

    fn article_list(&self, req: &Req<'_>) -> Reply {
        let page = req.query.split('&').find_map(|pair| pair.strip_prefix("page=")).unwrap_or("1");
        let Some(page) = page.parse::<u32>().ok().filter(|&page| page > 0) else { return Reply::not_found() };
        let first = (page - 1).saturating_mul(50).min(self.articles());
        let shown = first..(first + 50).min(self.articles());
        let next = (shown.end < self.articles()).then(|| format!("/api/articles?page={}", page + 1));
        let list: Vec<_> = shown
            .map(|n| json!({ "url": format!("/articles/{}", self.article_name(n)), "title": self.article_title(n) }))
            .collect();
        Reply::json(200, &json!({ "articles": list, "next": next }))
    }

    fn sitemap(&self) -> Reply {
        let origin = self.origin();
        let mut xml = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n",
        );
        let articles = (0..self.articles().min(SITEMAP)).map(|n| format!("/articles/{}", self.article_name(n)));
        let products = (0..self.products().min(SITEMAP)).map(|n| self.product_path(n));
        for path in articles.chain(products) {
            let _ = writeln!(xml, "<url><loc>{origin}{path}</loc></url>");
        }
        xml.push_str("</urlset>\n");
        Reply::new(200, "application/xml", xml)
    }
}

fn charset_page(name: &str) -> Reply {
    const LATIN: &str = "Crème brûlée für Ångström, señor: ½ × 3 £";
    let page = |meta: &str, text: &str| {
        let mut html = Html::with_head("Charsets", meta);
        html.paragraph(text);
        html.finish()
    };
    // All of LATIN has the same numbers in Unicode, ISO-8859-1 and windows-1252; only the euro sign differs.
    let latin1 = |text: &str| -> Vec<u8> {
        text.chars().map(|c| if c == '€' { 0x80 } else { u8::try_from(u32::from(c)).unwrap_or(b'?') }).collect()
    };
    match name {
        "utf-8" => Reply::html(200, page("", &format!("{LATIN} €"))),
        "utf-8-unlabelled" => Reply::new(200, "text/html", page("", &format!("{LATIN} €"))),
        "windows-1252" => Reply::new(200, "text/html; charset=windows-1252", latin1(&page("", &format!("{LATIN} €")))),
        "iso-8859-1-meta" => Reply::new(200, "text/html", latin1(&page("<meta charset=\"iso-8859-1\">", LATIN))),
        "shift_jis" => {
            // The hiragana are one run of numbers in Unicode and another in JIS.
            let mut body = Vec::new();
            for c in page("", "しおのみちひき").chars() {
                match u32::from(c) {
                    code @ 0x3041..=0x3093 => body.extend([0x82, (0x9F + code - 0x3041) as u8]),
                    code => body.push(u8::try_from(code).unwrap_or(b'?')),
                }
            }
            Reply::new(200, "text/html; charset=shift_jis", body)
        }
        _ => Reply::not_found(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::tests::{ask, body, get, get_with, post, reply, site};
    use super::*;

    #[test]
    fn every_broken_answer_is_broken_in_its_own_way() {
        let site = site();
        let mut seen = Vec::new();
        for which in BROKEN {
            match site.broken(which) {
                Answer::Raw(bytes, end) => seen.push((bytes, end)),
                Answer::Reply(reply) => assert_eq!(reply.status, 200, "{which}"),
            }
        }
        assert_eq!(seen.len(), 8);
        for (n, one) in seen.iter().enumerate() {
            assert!(!seen[n + 1..].contains(one));
        }
    }

    #[test]
    fn large_pages_are_as_large_as_they_say() {
        for mib in LARGE {
            let length = get(&site(), &format!("/large/{mib}")).body.len();
            assert!((mib << 20..(mib << 20) + (20 << 10)).contains(&length), "{mib}: {length}");
        }
        assert_eq!(get(&site(), "/large/1000").status, 404);
    }

    #[test]
    fn a_login_needs_the_token_of_the_form() {
        let site = site();
        assert_eq!(get(&site, "/account/orders").header("location"), Some("/login"));
        let form = body(&get(&site, "/login"));
        let token = form.split("value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
        assert_eq!(post(&site, "/login", "user=reader&password=high-water").status, 403);
        let ok = post(&site, "/login", &format!("token={token}&user=reader&password=high-water"));
        assert_eq!((ok.status, ok.header("location")), (303, Some("/account/")));
        let cookie = ok.header("set-cookie").and_then(|c| c.split(';').next()).expect("a cookie");
        let cookies = format!("theme=dark; {cookie}");
        let req = Req { cookie: &cookies, ..ask("GET", "/account/orders") };
        assert_eq!(site.account(&req, "account", "orders").status, 200);
    }

    #[test]
    fn flaky_pages_answer_the_second_time() {
        let mut state = State::default();
        assert_eq!(get_with(&site(), &mut state, "/flaky/1").status, 503);
        assert_eq!(get_with(&site(), &mut state, "/flaky/1").status, 200);
        assert_eq!(get_with(&site(), &mut state, "/flaky/6").status, 404);
    }

    #[test]
    fn monitored_urls_are_up_down_or_refuse_head() {
        let (site, mut state) = (site(), State::default());
        let mut look = |method, path: &str| {
            reply(super::super::routes::respond(
                &site,
                super::super::routes::tests::KNOBS,
                &mut state,
                &ask(method, path),
                Duration::ZERO,
            ))
            .status
        };
        assert_eq!(look("HEAD", "/monitor/0"), 200);
        assert_eq!((look("HEAD", "/monitor/13"), look("GET", "/monitor/13")), (503, 503));
        assert_eq!((look("HEAD", "/monitor/7"), look("GET", "/monitor/7")), (405, 200));
        assert_eq!((look("HEAD", "/monitor/250"), look("HEAD", "/monitor/250")), (503, 200));
        assert_eq!(look("GET", "/monitor/5000"), 404);
    }

    // A23
    #[test]
    fn charsets_differ_in_bytes() {
        let site = site();
        assert!(get(&site, "/charsets/windows-1252").body.windows(4).any(|w| w == b"Cr\xE8m"));
        assert!(get(&site, "/charsets/windows-1252").body.contains(&0x80));
        assert!(body(&get(&site, "/charsets/utf-8-unlabelled")).contains("Crème"));
        assert!(get(&site, "/charsets/shift_jis").body.windows(4).any(|w| w == [0x82, 0xB5, 0x82, 0xA8]));
    }
}
