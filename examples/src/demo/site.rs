//! The shape of the demo site: how many of what, and the numbers that the seed gives to each page.

use fastrand::Rng;

use super::DemoOptions;

/// Pages that are there whatever the options say: home, corners, listings and the like. A test counts them.
const FIXED_PAGES: u32 = 66;
pub(super) const CATEGORIES: u32 = 12;
const LARGEST_CATALOGUE: u32 = 600;

/// What a number is for, so that a page's price does not follow from its title.
#[derive(Clone, Copy)]
pub(super) enum Salt {
    Article = 1,
    Slug,
    Product,
    Review,
    Text,
    Session,
}

#[derive(Clone, Debug)]
pub(super) struct Site {
    seed: u64,
    /// `http://127.0.0.1:PORT`, for absolute links.
    origin: String,
    articles: u32,
    products: u32,
    pub(super) monitors: u32,
}

impl Site {
    pub(super) fn new(options: &DemoOptions, origin: String) -> Self {
        let pages = options.pages.max(200);
        let products = (pages / 5).min(LARGEST_CATALOGUE) / CATEGORIES * CATEGORIES;
        let mut site = Self { seed: options.seed, origin, articles: 1, products, monitors: options.monitors };
        // The listings and the products that are gone follow from the catalogue; articles fill the rest.
        let listings = CATEGORIES * site.listing_pages();
        let alive = (0..products).filter(|&p| !site.is_gone(p)).count() as u32;
        site.articles = pages.saturating_sub(FIXED_PAGES + listings + alive).max(1);
        site
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn articles(&self) -> u32 {
        self.articles
    }

    pub(super) fn products(&self) -> u32 {
        self.products
    }

    /// The numbers of one thing of one kind.
    pub(super) fn rng(&self, salt: Salt, id: u32) -> Rng {
        // One round of splitmix64, so that neighbouring ids and seeds have nothing in common.
        let mut x = self.seed.wrapping_add((u64::from(id) << 8 | salt as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Rng::with_seed(x ^ (x >> 31))
    }
}
