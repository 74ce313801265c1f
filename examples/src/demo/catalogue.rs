//! The shop: categories, listings, products, their reviews, and the truth that an extraction is compared with.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::routes::{Reply, Req, State, Visit};
use super::site::{CATEGORIES, Salt, Site};
use super::text::{Html, escape, sentence, title_word};

const PER_LISTING: u32 = 20;
const REVIEWS_A_PAGE: usize = 3;
const NAMES: [&str; CATEGORIES as usize] = [
    "Anchors",
    "Bags",
    "Boots",
    "Charts",
    "Clocks",
    "Compasses",
    "Jackets",
    "Lamps",
    "Ropes",
    "Sails",
    "Tools",
    "Toys",
];
const CURRENCIES: [&str; 3] = ["EUR", "USD", "GBP"];
const AUTHORS: [&str; 6] = ["Ada", "Björn", "Chloë", "Daniyar", "Esra", "Finn"];

/// A product as it really is.
///
/// ```
/// use tidegate_examples::demo::{DemoOptions, DemoSite};
///
/// let site = DemoSite::start(DemoOptions::default())?;
/// let truth = site.catalogue();
/// assert_eq!(truth.len(), 600);
/// assert!(truth.iter().any(|p| p.discontinued) && truth.iter().any(|p| p.reviews.len() > 3));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExpectedProduct {
    /// The path of its page.
    pub path: String,
    /// The stock keeping unit, unique in the shop.
    pub sku: String,
    /// The name, as text.
    pub name: String,
    /// The price with two decimals.
    pub price: String,
    /// The ISO code of the price's currency.
    pub currency: String,
    /// The name of the category.
    pub category: String,
    /// The description, as text; not shown for one that is discontinued.
    pub description: String,
    /// The page says 410 Gone and names the sku, nothing else.
    pub discontinued: bool,
    /// All reviews in order; none for one that is discontinued.
    pub reviews: Vec<ExpectedReview>,
}

/// A review as `POST /catalogue/reviews` gives it.
///
/// ```
/// use tidegate_examples::demo::ExpectedReview;
///
/// let review: ExpectedReview =
///     serde_json::from_str(r#"{"id":"R-1-0","author":"Ada","rating":5,"text":"Good."}"#).expect("a review");
/// assert_eq!(review.rating, 5);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExpectedReview {
    /// Unique in the shop.
    pub id: String,
    /// First name of who wrote it.
    pub author: String,
    /// 1 to 5.
    pub rating: u8,
    /// What it says.
    pub text: String,
}

#[derive(Deserialize)]
struct ReviewsQuery {
    sku: String,
    #[serde(default = "first_page")]
    page: usize,
}

fn first_page() -> usize {
    1
}

fn category_path(category: u32) -> String {
    format!("/catalogue/{}/", NAMES[category as usize].to_ascii_lowercase())
}

impl Site {
    pub(super) fn listing_pages(&self) -> u32 {
        (self.products() / CATEGORIES).div_ceil(PER_LISTING).max(1)
    }

    pub(super) fn is_gone(&self, product: u32) -> bool {
        product % 20 == 7
    }

    fn asks_to_wait(&self, product: u32) -> bool {
        product % 33 == 16 && !self.is_gone(product)
    }

    fn product_id(product: u32) -> u32 {
        10_000 + product * 37
    }

    pub(super) fn product_path(&self, product: u32) -> String {
        format!("/catalogue/p/{}", Self::product_id(product))
    }

    fn sku(&self, product: u32) -> String {
        format!("TG-{product:04}-{:03X}", self.rng(Salt::Product, product).u32(..0x1000))
    }

    /// The truth about one product.
    pub(super) fn product(&self, product: u32) -> ExpectedProduct {
        let sku = self.sku(product);
        let mut rng = self.rng(Salt::Text, product);
        let mut name = format!("{} {} {}", title_word(&mut rng), title_word(&mut rng), rng.u32(100..1000));
        if product % 10 == 3 {
            name.push_str(" \"Salt & Spray\" <S>");
        }
        let cents = rng.u32(199..50_000);
        let mut description = String::new();
        for _ in 0..rng.u32(2..6) {
            sentence(&mut description, &mut rng);
        }
        let discontinued = self.is_gone(product);
        let category = product % CATEGORIES;
        ExpectedProduct {
            path: self.product_path(product),
            sku,
            name,
            price: format!("{}.{:02}", cents / 100, cents % 100),
            currency: CURRENCIES[(category % 3) as usize].to_owned(),
            category: NAMES[category as usize].to_owned(),
            description: description.trim_end().to_owned(),
            discontinued,
            reviews: if discontinued { Vec::new() } else { self.reviews(product) },
        }
    }

    fn reviews(&self, product: u32) -> Vec<ExpectedReview> {
        let mut rng = self.rng(Salt::Review, product);
        let count = rng.u32(0..=7);
        let review = |n| {
            let mut text = String::new();
            sentence(&mut text, &mut rng);
            ExpectedReview {
                id: format!("R-{product}-{n}"),
                author: AUTHORS[rng.usize(..AUTHORS.len())].to_owned(),
                rating: rng.u8(1..=5),
                text: text.trim_end().to_owned(),
            }
        };
        (0..count).map(review).collect()
    }

    pub(super) fn catalogue(&self) -> Vec<ExpectedProduct> {
        (0..self.products()).map(|product| self.product(product)).collect()
    }

    /// `rest` is what follows `/catalogue/`.
    pub(super) fn catalogue_page(&self, state: &mut State, req: &Req<'_>, rest: &str) -> Reply {
        if rest.is_empty() {
            return self.catalogue_home();
        }
        if rest == "reviews" {
            return self.reviews_reply(req);
        }
        if let Some(id) = rest.strip_prefix("p/") {
            return self.product_page(state, id);
        }
        let category = (0..CATEGORIES).find(|&c| category_path(c)["/catalogue/".len()..] == *rest);
        let page = match req.query.split('&').find_map(|pair| pair.strip_prefix("page=")) {
            Some(page) => page.parse().unwrap_or(0),
            None => 1,
        };
        match category {
            Some(category) if (1..=self.listing_pages()).contains(&page) => {
                Reply::html(200, self.listing(category, page)).gzip_if(req.gzip && category % 2 == 0)
            }
            _ => Reply::not_found(),
        }
    }

    fn catalogue_home(&self) -> Reply {
        let mut html = Html::new("Catalogue");
        // Relative to this page, with and without a dot.
        let links = (0..CATEGORIES).map(|c| {
            let name = &category_path(c)["/catalogue/".len()..];
            let href = if c % 2 == 0 { format!("./{name}") } else { name.to_owned() };
            (href, NAMES[c as usize].to_owned())
        });
        html.links("categories", links);
        Reply::html(200, html.finish())
    }

    fn listing(&self, category: u32, page: u32) -> String {
        let mut html = Html::new(NAMES[category as usize]);
        let per_category = self.products() / CATEGORIES;
        let shown = ((page - 1) * PER_LISTING)..(page * PER_LISTING).min(per_category);
        html.raw("<ol class=\"products\">\n");
        for row in shown {
            let product = self.product(row * CATEGORIES + category);
            let href = format!("../p/{}", Self::product_id(row * CATEGORIES + category));
            html.raw(&format!(
                "<li class=\"product\"><a href=\"{href}\">{}</a> <span class=\"price\" data-currency=\"{}\">{}</span></li>\n",
                escape(&product.name),
                product.currency,
                product.price
            ));
        }
        html.raw("</ol>\n");
        if page > 1 {
            let href = if page == 2 { "./".to_owned() } else { format!("?page={}", page - 1) };
            html.raw(&format!("<a class=\"previous\" rel=\"prev\" href=\"{href}\">Previous</a>\n"));
        }
        if page < self.listing_pages() {
            html.raw(&format!("<a class=\"next\" rel=\"next\" href=\"?page={}\">Next</a>\n", page + 1));
        }
        html.finish()
    }

    fn product_page(&self, state: &mut State, id: &str) -> Reply {
        let offset = id.parse::<u32>().ok().and_then(|id| id.checked_sub(10_000)).filter(|offset| offset % 37 == 0);
        let Some(product) = offset.map(|offset| offset / 37).filter(|&p| p < self.products()) else {
            return Reply::not_found();
        };
        if self.is_gone(product) {
            let mut html = Html::new("Discontinued");
            html.raw(&format!("<p class=\"gone\" data-sku=\"{}\">We no longer sell this.</p>\n", self.sku(product)));
            return Reply::html(410, html.finish());
        }
        if self.asks_to_wait(product) && state.visit(Visit::Product(product)) == 0 {
            state.stats.soft_blocks += 1;
            let mut html = Html::new("Please wait");
            html.raw("<form id=\"challenge\"><p>We check that you are human.</p><input name=\"answer\"></form>\n");
            return Reply::html(200, html.finish()).with("cache-control", "no-store");
        }
        Reply::html(200, self.product_html(product))
    }

    fn product_html(&self, product: u32) -> String {
        let truth = self.product(product);
        let ExpectedProduct { sku, name, price, currency, category, description, reviews, .. } = &truth;
        let mut html = Html::new(name);
        let home = category_path(product % CATEGORIES);
        html.raw("<p class=\"breadcrumbs\">");
        html.link("/catalogue/", "Catalogue");
        html.link(&home, category);
        html.raw("</p>\n");
        html.raw(&format!(
            "<p>Article <span class=\"sku\">{sku}</span></p>\n\
             <p><span class=\"price\" data-currency=\"{currency}\">{price}</span> {currency}</p>\n\
             <div class=\"description\">{}</div>\n",
            escape(description)
        ));
        let ld = json!({
            "@context": "https://schema.org", "@type": "Product", "name": name, "sku": sku, "description": description,
            "category": category,
            "offers": { "@type": "Offer", "price": price, "priceCurrency": currency },
        });
        let page_state = json!({
            "product": { "sku": sku, "reviews": { "count": reviews.len(), "endpoint": "/catalogue/reviews" } },
        });
        // `<` would end the script where the text has a tag.
        let script = |value: serde_json::Value| value.to_string().replace('<', "\\u003c");
        html.raw(&format!("<script type=\"application/ld+json\">{}</script>\n", script(ld)));
        html.raw(&format!("<script id=\"state\" type=\"application/json\">{}</script>\n", script(page_state)));
        let next = (product + CATEGORIES) % self.products();
        html.link(&Self::product_id(next).to_string(), "Others also bought");
        html.finish()
    }

    fn reviews_reply(&self, req: &Req<'_>) -> Reply {
        if req.method != "POST" {
            return Reply::text(405, "POST a sku\n").with("allow", "POST");
        }
        let Ok(query) = serde_json::from_slice::<ReviewsQuery>(req.body) else {
            return Reply::json(400, &json!({ "error": "expected {\"sku\":..,\"page\":n}" }));
        };
        let product = query.sku.split('-').nth(1).and_then(|number| number.parse().ok());
        let Some(product) = product.filter(|&p| p < self.products() && self.sku(p) == query.sku) else {
            return Reply::json(404, &json!({ "error": "no such sku" }));
        };
        let all = self.product(product).reviews;
        let page = query.page.max(1);
        let start = (page - 1).saturating_mul(REVIEWS_A_PAGE).min(all.len());
        let end = (start + REVIEWS_A_PAGE).min(all.len());
        let next = (end < all.len()).then_some(page + 1);
        Reply::json(200, &json!({ "sku": query.sku, "page": page, "reviews": &all[start..end], "next": next }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::tests::{body, get, get_with, post, site};
    use super::*;

    #[test]
    fn the_catalogue_is_the_same_each_time_and_another_with_another_seed() {
        assert_eq!(site().catalogue(), site().catalogue());
        let other = Site::new(&super::super::DemoOptions { seed: 2, ..Default::default() }, String::new());
        assert_ne!(site().catalogue(), other.catalogue());
        let mut skus: Vec<_> = site().catalogue().into_iter().map(|p| p.sku).collect();
        skus.sort();
        skus.dedup();
        assert_eq!(skus.len(), 600);
    }

    #[test]
    fn a_product_page_tells_the_truth_in_its_markup_and_its_json() {
        let site = site();
        let truth = site.product(3);
        assert!(truth.name.contains('<'), "the awkward name is part of the test");
        let page = body(&get(&site, &truth.path));
        assert!(page.contains(&escape(&truth.name)) && page.contains(&truth.sku) && page.contains(&truth.price));
        let ld = page.split("ld+json\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("JSON-LD");
        let ld: serde_json::Value = serde_json::from_str(ld).expect("JSON");
        assert_eq!(ld["name"], truth.name.as_str());
        assert_eq!(ld["offers"]["price"], truth.price.as_str());
    }

    #[test]
    fn a_product_that_is_gone_names_its_sku_only() {
        let site = site();
        let reply = get(&site, &site.product_path(7));
        assert_eq!(reply.status, 410);
        assert!(body(&reply).contains(&site.sku(7)));
    }

    #[test]
    fn a_soft_block_goes_away_on_the_second_visit() {
        let site = site();
        let mut state = State::default();
        let path = site.product_path(16);
        assert!(body(&get_with(&site, &mut state, &path)).contains("challenge"));
        assert!(body(&get_with(&site, &mut state, &path)).contains(&site.sku(16)));
        assert_eq!(state.stats.soft_blocks, 1);
        assert_eq!((0..600).filter(|&p| site.asks_to_wait(p)).count(), 17);
    }

    #[test]
    fn the_pages_of_reviews_together_are_all_reviews() {
        let site = site();
        for product in 0..50 {
            let truth = site.product(product);
            let mut found = Vec::new();
            let mut page = Some(1);
            while let Some(n) = page {
                let reply = post(&site, "/catalogue/reviews", &json!({ "sku": truth.sku, "page": n }).to_string());
                let value: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
                found.extend(serde_json::from_value::<Vec<ExpectedReview>>(value["reviews"].clone()).expect("reviews"));
                page = value["next"].as_u64();
            }
            assert_eq!(found, truth.reviews);
        }
        assert_eq!(post(&site, "/catalogue/reviews", "{").status, 400);
        assert_eq!(post(&site, "/catalogue/reviews", r#"{"sku":"TG-9999-000"}"#).status, 404);
        assert_eq!(
            post(&site, "/catalogue/reviews", r#"{"sku":"TG-0000-XYZ","page":18446744073709551615}"#).status,
            404
        );
        assert_eq!(get(&site, "/catalogue/reviews").status, 405);
    }
}
