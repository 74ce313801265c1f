//! A page as shops serve them, read with each of the tools.

use tidegate::{Page, parse_once};
use tidegate_parse::{css, embedded_json, follow_links, html, images, json_ld, links, text};

fn product() -> Page {
    let body: &'static [u8] = include_bytes!("../testdata/product.html");
    Page::build("https://bergladen.test/de/schuhe/grat?ref=start").header("content-type", "text/html").body(body)
}

#[test]
fn selectors() {
    let doc = html(&product()).expect("within the bounds");
    assert_eq!(doc.title().as_deref(), Some("Wanderschuh „Grat“ – Bergladen"));
    assert_eq!(doc.text(css!("h1")).as_deref(), Ok("Wanderschuh „Grat“"));
    assert_eq!(doc.text(css!(".price")).as_deref(), Ok("EUR 129,90"));
    assert_eq!(doc.text(css!(".teaser")).as_deref(), Ok("Leicht. Fest."));
    let rows: Vec<Vec<String>> = doc
        .select(css!(".sizes tr"))
        .map(|row| row.select(css!("td")).map(|cell| cell.inner_text()).collect())
        .collect();
    assert_eq!(rows, [["41", "42"], ["3", "—"]]);
    assert_eq!(doc.attr(css!("link[rel=canonical]"), "href").as_deref(), Ok("https://bergladen.test/de/schuhe/grat"));
}

#[test]
fn links_are_those_that_a_visitor_sees() {
    let expected = [
        "https://bergladen.test/de/",
        "https://bergladen.test/de/schuhe?sort=preis&dir=auf",
        "https://hersteller.test/grat",
    ];
    let found: Vec<_> = links(&product()).expect("within the bounds").into_iter().map(|link| link.url).collect();
    assert_eq!(found, expected);
    let doc = html(&product()).expect("within the bounds");
    assert_eq!(doc.links(css!("a[href], area[href]")).map(|r| r.url().to_owned()).collect::<Vec<_>>(), expected);

    let out =
        parse_once::<(), _>(&follow_links().with_nofollow(false).with_rel_next(true), &product()).expect("parses");
    let mut followed: Vec<_> = out.found().iter().map(|r| r.url()).collect();
    followed.sort_unstable();
    assert_eq!(followed, [expected[0], "https://bergladen.test/de/schuhe/pfad", expected[1]]);
    assert_eq!(images(&product()).expect("within the bounds").iter().count(), 3);
}

#[test]
fn data_for_machines() {
    let doc = html(&product()).expect("within the bounds");
    let objects = json_ld(&doc);
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[1]["offers"]["price"], "129.90");
    let state: serde_json::Value = embedded_json(&doc, "window.__PRELOADED_STATE__").expect("it is there");
    assert_eq!(state["product"]["stock"]["41"], 3);
    assert!(state["product"]["rating"].is_null());
}

#[test]
fn the_text_is_borrowed() {
    assert!(matches!(text(&product()), std::borrow::Cow::Borrowed(_)));
}
