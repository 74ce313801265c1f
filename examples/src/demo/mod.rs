//! A web site on loopback, computed from a seed: what `tidegate crawl --demo`, the examples and the integration
//! tests crawl.
//!
//! Nothing is stored per page: each answer is a pure function of the seed, the request and a little bounded state
//! (visits to the pages that change, the window of the rate limit), so that every run sees the same site. It runs on
//! its own thread and its own runtime, apart from the crawl that visits it.
//!
//! | path | what it is |
//! |---|---|
//! | `/` | home: links to everything below, relative and absolute |
//! | `/articles/` | a wide tree of text pages, 1 to 60 KB, some gzipped, some with `<base href>` |
//! | `/catalogue/` | 12 categories, paginated listings, products with JSON-LD; some are gone (410), some ask to wait first |
//! | `/catalogue/reviews` | `POST {"sku":..,"page":n}`: one URL for the reviews of all products |
//! | `/slow/<ms>`, `/large/<MiB>` | late answers, big answers |
//! | `/broken/`, `/errors/`, `/flaky/`, `/missing/` | broken HTTP, 500s, 503 first and 200 later, 404 |
//! | `/limited/` | at most so many requests a second, else 429 with `Retry-After: 1` |
//! | `/redirects/` | one hop, chains, loops, relative targets |
//! | `/account/`, `/login` | pages behind a form with a hidden token and a cookie |
//! | `/charsets/` | the same text in several encodings |
//! | `/monitor/<n>` | tiny answers for HEAD and GET; some are down |
//! | `/robots.txt`, `/sitemap.xml`, `/private/`, `/api/` | what they say; robots.txt forbids `/private/` |

mod articles;
mod catalogue;
mod corners;
mod options;
mod routes;
mod server;
mod site;
mod stats;
mod text;

pub use self::catalogue::{ExpectedProduct, ExpectedReview};
pub use self::options::DemoOptions;
pub use self::server::DemoSite;
pub use self::stats::{DemoStats, PathClass};
