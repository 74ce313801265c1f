//! From an attribute to an absolute URL.

use memchr::memchr;
use tidegate::Limits;
use url::Url;

/// The URL that `raw` means on a page with this base: without fragment, http or https only.
///
/// Spaces around it and line breaks within it are removed by the URL parser, as WHATWG demands.
pub(crate) fn absolute(base: &Url, raw: &str) -> Option<Url> {
    if raw.len() > Limits::URL {
        return None;
    }
    let mut url = base.join(raw).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    url.set_fragment(None);
    Some(url)
}

/// What there is of `raw` to resolve: the same address, as links have no fragment.
pub(crate) fn without_fragment(raw: &str) -> &str {
    let before = memchr(b'#', raw.as_bytes()).map_or(raw, |at| &raw[..at]);
    // White space at the end of a reference is not a part of it, before a fragment it is.
    if raw.len() <= Limits::URL && !before.ends_with(|c| c <= ' ') { before } else { raw }
}

/// The base of a page's links: the first `<base href>`, itself relative to the page, where it can be one.
pub(crate) fn base_of(page: &Url, href: Option<&str>) -> Url {
    href.and_then(|href| absolute(page, href)).unwrap_or_else(|| page.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_web_address_is_dropped() {
        let base = Url::parse("https://a.test/x/y?z#f").expect("literal");
        let of = |raw: &str| absolute(&base, raw).map(String::from);
        for raw in ["javascript:void(0)", "mailto:a@b", "tel:1", "data:,x", "ftp://a/", "http://[", "http://a b/"] {
            assert_eq!(of(raw), None, "{raw}");
        }
        assert_eq!(of(" \n p\ta/ \r\n").as_deref(), Some("https://a.test/x/pa/"));
        assert_eq!(of("#top").as_deref(), Some("https://a.test/x/y?z"));
        assert_eq!(of("").as_deref(), Some("https://a.test/x/y?z"));
        assert_eq!(of("//b.test").as_deref(), Some("https://b.test/"));
        assert_eq!(of("?q").as_deref(), Some("https://a.test/x/y?q"));
        // C11
        assert_eq!(of(&"x".repeat(Limits::URL + 1)), None);
    }

    #[test]
    fn a_base_that_is_none_is_ignored() {
        let page = Url::parse("https://a.test/x/").expect("literal");
        assert_eq!(base_of(&page, Some("../y/")).as_str(), "https://a.test/y/");
        assert_eq!(base_of(&page, Some("data:,x")), page);
        assert_eq!(base_of(&page, Some("http://[")), page);
        assert_eq!(base_of(&page, None), page);
    }

    proptest! {
        #[test]
        fn a_fragment_does_not_matter(
            raw in "(a|/|\\?|#|:|http:|//|javascript:|mailto:|file:|\\[|%| |\t|\n|\0|é|\\.\\.){0,8}",
            base in prop::sample::select(vec!["http://a.test/x/y?q#f", "https://a.test", "data:x", "file:///x"]),
        ) {
            let base = Url::parse(base).expect("literal");
            prop_assert_eq!(absolute(&base, without_fragment(&raw)), absolute(&base, &raw));
        }
    }
}
