//! What a document answers, and what it costs when the page is built to hurt.

use proptest::prelude::*;
use scraper::Node;

use super::*;

fn doc(body: &str) -> Document {
    Document::parse(body, &Url::parse("http://a.test/dir/page?q#f").expect("literal")).expect("within the bounds")
}

fn texts(doc: &Document, selector: &Selector) -> Vec<String> {
    doc.select(selector).map(|e| e.inner_text()).collect()
}

fn depth(doc: &Document) -> usize {
    let is_element = |node: &Node| matches!(node, Node::Element(_));
    let innermost =
        doc.tree.tree.nodes().filter(|n| is_element(n.value()) && !n.children().any(|c| is_element(c.value())));
    innermost.map(|n| n.ancestors().count()).max().unwrap_or(0)
}

#[test]
fn text_is_normalised() {
    for (body, expected) in [
        ("<p> a\n  b\t</p>", "a b"),
        ("<p>a&nbsp;b", "a b"),
        ("<p>a<b>b</b>c", "abc"),
        ("<p>a <b> b </b> c", "a b c"),
        ("<p>a<br>b", "a b"),
        ("<div><p>a</p><p>b</p></div>", "a b"),
        ("<ul><li>a<li>b</ul>c", "a b c"),
        ("a<script>x()</script>b<style>y{}</style>c<!-- z -->d", "abcd"),
        ("<table><tr><td>a<td>b", "a b"),
        ("", ""),
    ] {
        assert_eq!(doc(body).text(css!("body")).expect("there is always a body"), expected, "{body}");
    }
    assert_eq!(doc("<script>x()</script>").text(css!("script")).expect("it is there"), "x()");
}

#[test]
fn selecting_stays_within_the_element() {
    let doc = doc("<div id=a><p>1</p></div><div id=b><p>2</p><div><p>3</p></div></div>");
    let b = doc.first(css!("#b")).expect("it is there");
    assert_eq!(b.select(css!("p")).map(|p| p.inner_text()).collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(b.select(css!(":scope > p")).count(), 1);
    assert_eq!(b.select(css!("#b")).count(), 0);
    assert_eq!(b.first(css!("#a p")).map(|p| p.inner_text()), None);
}

#[test]
fn the_order_is_that_of_the_document_whatever_the_parser_had_to_move() {
    // The table's stray text and link are moved before it, and `<b>` is opened again in the second paragraph.
    let doc = doc("<p>0<table><tr><td>2</td></tr><a class=x>1</a></table><p><b class=x>3<p>4");
    assert_eq!(texts(&doc, css!(".x, td")), ["1", "2", "3", "4"]);
    assert_eq!(texts(&doc, css!("html")).len(), 1);
}

#[test]
fn missing_things_are_named() {
    let doc = doc("<a>x</a>");
    assert_eq!(doc.text(css!("p")).expect_err("none").selector(), "p");
    let missing = doc.attr(css!("a"), "href").expect_err("none");
    assert_eq!(missing.missing_attribute(), Some("href"));
    assert_eq!(missing.to_string(), "the first element that matches \"a\" has no attribute \"href\"");
}

#[test]
fn links_are_absolute() {
    let doc =
        doc("<base target=x><base href='/b/'><base href=/no/><a href=' x#f '><a href=mailto:x><a><img src=//i.test/i>");
    let urls: Vec<_> = doc.links(css!("a, img")).map(|r| r.url().to_owned()).collect();
    assert_eq!(urls, ["http://a.test/b/x", "http://i.test/i"]);
}

#[test]
fn the_title_is_the_documents() {
    assert_eq!(doc("<svg><title>icon</title></svg><title>\n page </title>").title().as_deref(), Some("page"));
    assert_eq!(doc("<p>x").title(), None);
}

#[test]
fn what_is_for_browsers_without_scripts_is_content() {
    assert_eq!(doc("<body><noscript><a href=x>l</a></noscript>").links(css!("noscript a")).count(), 1);
}

// I4
#[test]
fn a_page_that_is_too_deep_keeps_all_its_elements() {
    let n = 3 * MAX_DEPTH;
    let body = format!("{}<a href=x>deep</a>{}<p>after", "<div>".repeat(n), "</div>".repeat(n));
    let doc = doc(&body);
    assert_eq!(doc.select(css!("div")).count(), n);
    assert_eq!(doc.text(css!("a")).expect("kept"), "deep");
    assert_eq!(doc.text(css!("body > p")).expect("outside of all"), "after");
    assert!(depth(&doc) <= MAX_DEPTH + 2, "{}", depth(&doc));
    assert!(doc.to_html().len() > n);
}

// I4
#[test]
fn a_page_at_the_bound_is_as_it_was_written() {
    let n = MAX_DEPTH - 10;
    let doc = doc(&format!("{}x", "<div>".repeat(n)));
    assert_eq!(depth(&doc), 2 + n);
}

/// What is repeated to make a page, given how often it was before.
type Unit = fn(usize) -> String;

/// Pages that cost html5ever the square of their length.
const HOSTILE: &[(&str, Unit)] = &[
    ("div", |_| "<div>".into()),
    ("ul li", |_| "<ul><li>".into()),
    ("b", |_| "<b>".into()),
    ("a", |_| "<a href=x>".into()),
    ("distinct formatting", |i| format!("<font size={i}>")),
    ("distinct formatting in blocks", |i| format!("<div><font size={i}>")),
    ("no-op end tags", |_| "<div></x>".into()),
    ("alternating", |_| "<div><i></i>".into()),
    ("tables", |_| "<table><tr><td>".into()),
    ("foster parents", |_| "<table><div>".into()),
    ("templates", |_| "<template>".into()),
    ("svg", |_| "<svg><g>".into()),
    ("math", |_| "<math><mi>".into()),
    ("select", |_| "<select><option>".into()),
    ("adoption", |_| "<b><p></b>".into()),
    ("adoption of a", |_| "<a><div>".into()),
    ("stray end tags", |_| "</p></b>".into()),
    ("buttons", |_| "<button><p>".into()),
    ("definitions", |_| "<dl><dd><dt>".into()),
    ("ruby", |_| "<ruby><rt><rp>".into()),
    ("forms", |_| "<form><input>".into()),
    ("framesets", |_| "<frameset>".into()),
    ("entities", |_| "&notit;&#x1;".into()),
    ("unknown", |i| format!("<x{}>", i % 1000)),
    ("late attributes", |i| format!("<body a{i}>")),
];

// I4, I5
#[test]
fn hostile_pages_end_and_stay_shallow() {
    for (name, unit) in HOSTILE {
        let mut body = String::new();
        for i in 0.. {
            if body.len() >= 32 * 1024 {
                break;
            }
            body.push_str(&unit(i));
        }
        match Document::parse(&body, &Url::parse("http://a.test/").expect("literal")) {
            Ok(doc) => assert!(depth(&doc) <= 2 * MAX_DEPTH, "{name}: {}", depth(&doc)),
            Err(error) => assert_eq!(error, HtmlError::TooManyNodes, "{name}"),
        }
    }
}

// I4
#[test]
fn many_nested_elements_do_not_use_the_stack() {
    let body = "<div>".repeat(100_000);
    let small_stack = std::thread::Builder::new().stack_size(128 * 1024);
    let thread = small_stack.spawn(move || {
        let doc = doc(&body);
        (doc.select(css!("div")).count(), doc.text(css!("body")).map(|t| t.len()), doc.to_html().len())
    });
    let (divs, text, html) = thread.expect("a thread").join().expect("no overflow");
    assert_eq!((divs, text), (100_000, Ok(0)));
    assert!(html > 100_000 * 11);
}

// I5
#[test]
fn attributes_are_bounded() {
    let url = Url::parse("http://a.test/").expect("literal");
    let with = |n: usize| -> String { (0..n).map(|i| format!(" a{i}=''")).collect() };
    let parse = |body: String| Document::parse(&body, &url).err();
    assert_eq!(parse(format!("<p{}>", with(MAX_ATTRIBUTES))), None);
    assert_eq!(parse(format!("<p{}>", with(MAX_ATTRIBUTES + 1))), Some(HtmlError::TooManyAttributes));
    // A tag that never ends costs as much.
    for end in ["", " x=\"", " x='", " x=y", " /"] {
        assert_eq!(parse(format!("<p{}{end}", with(100_000))), Some(HtmlError::TooManyAttributes), "{end}");
    }
    // Neither a script nor a comment nor text has attributes.
    for open in ["<script>if (a<b", "<!-- <p", "a < b"] {
        assert_eq!(parse(format!("{open}{}", with(MAX_ATTRIBUTES * 4))), None, "{open}");
    }
}

// I5
#[test]
fn nodes_are_bounded() {
    let body = "<br>".repeat(MAX_NODES * 3);
    let error = Document::parse(&body, &Url::parse("http://a.test/").expect("literal")).expect_err("too many");
    assert_eq!(error, HtmlError::TooManyNodes);
}

// I5
#[test]
fn tags_beyond_the_depth_are_bounded() {
    let tags = |n: usize| Document::parse(&"<b>".repeat(n), &Url::parse("http://a.test/").expect("literal")).err();
    assert_eq!(tags(MAX_DEPTH + 1000), None);
    assert_eq!(tags(MAX_DEPTH + MAX_TAGS_TOO_DEEP), Some(HtmlError::TooDeep));
}

#[test]
fn a_document_can_be_sent() {
    fn sent<T: Send>() {}
    sent::<Document>();
}

proptest! {
    // I8
    #[test]
    fn any_bytes_are_a_document(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let doc = html(&Page::build("http://a.test/").body(bytes)).expect("small");
        doc.select(css!("*")).for_each(|e| { e.inner_text(); });
        doc.links(css!("*")).count();
    }

    // I4
    #[test]
    fn any_soup_of_tags_stays_shallow(
        tags in prop::collection::vec(
            (any::<bool>(), prop::sample::select(vec![
                "div", "p", "b", "i", "a", "table", "tr", "td", "caption", "ul", "li", "svg", "template", "select", "option", "button",
                "body", "html", "form", "font", "br", "script", "title", "math", "foreignObject", "h1", "nobr",
            ]), 1..60usize), 0..40,
        ),
    ) {
        let body: String = tags.iter().map(|(end, name, n)| format!("<{}{name}>", if *end { "/" } else { "" }).repeat(*n)).collect();
        prop_assert!(depth(&doc(&body)) <= 2 * MAX_DEPTH);
    }
}
