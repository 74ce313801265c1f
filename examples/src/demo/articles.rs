//! The article tree: article 0 is the root, the children of `i` are `8i + 1 ..= 8i + 8`.

use super::routes::{Reply, Req};
use super::site::{Salt, Site};
use super::text::{Html, title_word, word};

const CHILDREN: u32 = 8;
const LARGEST: usize = 60 * 1024;

impl Site {
    /// The last part of an article's path; empty for the root.
    pub(super) fn article_name(&self, article: u32) -> String {
        if article == 0 {
            return String::new();
        }
        let mut rng = self.rng(Salt::Slug, article);
        format!("{article}-{}-{}", word(&mut rng), word(&mut rng))
    }

    pub(super) fn article_title(&self, article: u32) -> String {
        if article == 0 {
            return "All articles".to_owned();
        }
        let mut rng = self.rng(Salt::Slug, article);
        format!("{} and {}", title_word(&mut rng), title_word(&mut rng))
    }

    /// `rest` is what follows `/articles/`.
    pub(super) fn article_page(&self, req: &Req<'_>, rest: &str) -> Reply {
        let number = rest.split('-').next().unwrap_or(rest);
        let article = if rest.is_empty() { Some(0) } else { number.parse().ok().filter(|&n| n > 0) };
        let Some(article) = article.filter(|&n| n < self.articles()) else { return Reply::not_found() };
        let name = self.article_name(article);
        if name != rest {
            return Reply::redirect(301, &format!("/articles/{name}"));
        }
        Reply::html(200, self.article_html(article)).gzip_if(req.gzip && article.is_multiple_of(4))
    }

    fn article_html(&self, article: u32) -> String {
        let mut rng = self.rng(Salt::Article, article);
        // A page that ignores its base makes links that are not there.
        let (mut html, folder) = if article % 11 == 3 {
            (Html::with_head(&self.article_title(article), "<meta charset=\"utf-8\"><base href=\"/\">"), "articles/")
        } else {
            (Html::new(&self.article_title(article)), "")
        };
        let href = |n: u32| match (n, folder) {
            (0, "") => "./".to_owned(),
            (n, folder) => format!("{folder}{}", self.article_name(n)),
        };
        if article > 0 {
            html.link(&href((article - 1) / CHILDREN), "Up");
        }
        let first = article * CHILDREN + 1;
        let children = first.min(self.articles())..(first + CHILDREN).min(self.articles());
        if let Some(child) = children.clone().next() {
            html.link(&format!("{}#notes", href(child)), "Notes of the first one");
        }
        html.links("children", children.map(|n| (href(n), self.article_title(n))));
        let related = (0..3).map(|_| rng.u32(..self.articles())).collect::<Vec<_>>();
        html.links("related", related.into_iter().map(|n| (href(n), self.article_title(n))));
        if self.products() > 0 && article.is_multiple_of(5) {
            let product = rng.u32(..self.products());
            html.link(&format!("{}{}", self.origin(), self.product_path(product)), "From our catalogue");
        }
        // Many small pages and a few big ones: the size doubles with each of six steps.
        let size = (1024usize << rng.u32(0..=5)) + rng.usize(..1024);
        html.fill((size * 15 / 8).min(LARGEST) - 100, &mut rng);
        html.raw("<h2 id=\"notes\">Notes</h2>\n");
        html.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::tests::{get, site};

    #[test]
    fn a_wrong_name_leads_to_the_right_one() {
        let site = site();
        let reply = get(&site, "/articles/5-wrong");
        assert_eq!(reply.status, 301);
        let location = reply.header("location").expect("a redirect");
        assert_eq!(location, format!("/articles/{}", site.article_name(5)));
        assert_eq!(get(&site, location).status, 200);
        assert_eq!(get(&site, "/articles/99999999").status, 404);
        assert_eq!(get(&site, "/articles/x").status, 404);
    }

    #[test]
    fn sizes_are_spread_from_1_to_60_kb() {
        let site = site();
        let sizes: Vec<_> =
            (0..200).map(|n| get(&site, &format!("/articles/{}", site.article_name(n))).body.len()).collect();
        assert!(sizes.iter().all(|s| (1000..=61 * 1024).contains(s)), "{sizes:?}");
        assert!(sizes.iter().any(|&s| s < 4096) && sizes.iter().any(|&s| s > 40_000), "{sizes:?}");
    }
}
