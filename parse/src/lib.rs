//! What is in a page: text in its charset, HTML by CSS selectors, links, JSON; and robots.txt.
//!
//! Plain functions of a [`Page`](tidegate::Page), to be called from a parser of your own; [`follow_links`] and
//! [`Robots`] are the pieces that go into a crawl as they are.
//!
//! | you want | use |
//! |---|---|
//! | the text, whatever the charset | [`text`] |
//! | to ask with CSS selectors | [`html()`] and [`css!`] |
//! | to fill in and send a form | [`Document::form`], [`Form`] |
//! | the links, quickly | [`links()`]; [`images`] |
//! | an API's answer | [`json()`] |
//! | the JSON in a page | [`json_ld`], [`embedded_json`] |
//! | to follow all links | [`follow_links`] |
//! | to heed robots.txt | [`Robots`] |
//!
//! # Hostile pages
//! Nothing here panics on what comes from the network, and time and memory are bounded whatever a page is made of: see
//! [`MAX_DEPTH`], [`MAX_NODES`], [`MAX_ATTRIBUTES`], [`MAX_LINKS`]. How large a page may be is
//! [`tidegate::Limits::body_decoded`].
//!
//! # Foreign types
//! The public API names types of `url`, `serde` and `serde_json` beside its own; the parsers underneath are not
//! visible, so that they can be replaced.

mod address;
mod charset;
mod entities;
mod follow;
mod html;
mod json;
mod links;
mod prescan;
mod scan;
mod tags;

pub use self::charset::{Charset, CharsetSource, DETECT_BYTES, charset, charset_of_bytes, decode, text};
pub use self::follow::{LinkParser, follow_links};
#[doc(hidden)]
pub use self::html::{__check_selector, __compile_selector};
pub use self::html::{
    Document, Element, Form, FormError, HtmlError, MAX_ATTRIBUTES, MAX_DEPTH, MAX_NODES, MAX_TAGS_TOO_DEEP, Missing,
    Selector, SelectorError, html,
};
pub use self::json::{JsonError, embedded_json, json, json_ld};
pub use self::links::{Link, LinkKind, Links, MAX_LINKS, images, links, links_of};
pub use tidegate::robots::{Robots, RobotsRules};
