//! What a page costs its parser: the links of a listing, the same by its whole tree, a record from it, a JSON answer, and a
//! robots.txt. Pages are made up in the likeness of a shop's.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::{Page, parse_once};
use tidegate_parse::{Document, RobotsRules, css, follow_links, html, json, json_ld, links};

const PRODUCTS: usize = 60;

/// A listing with navigation, cards, an embedded record and scripts: about 40 KB.
fn listing() -> Page {
    let mut page = String::from(
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Shoes &amp; boots | Shop</title>\
         <link rel=stylesheet href=/s.css><link rel=canonical href='https://shop.test/c/shoes'>\
         <script type='application/ld+json'>{\"@type\":\"ItemList\",\"name\":\"Shoes\"}</script></head><body><nav><ul>",
    );
    for n in 0..30 {
        let _ = write!(
            page,
            "<li class='nav__item'><a class=\"nav__link\" href=\"/c/{n}?ref=nav&amp;v=2\">Category {n}</a></li>"
        );
    }
    page.push_str("</ul></nav><main><!-- the grid -->");
    for n in 0..PRODUCTS {
        let _ = write!(
            page,
            "<article class=\"card card--wide\" data-id=\"{n}\" data-track='{{\"pos\":{n},\"list\":\"shoes\"}}'>\
             <a class=card__image href=/p/{n}><img src=\"https://img.test/{n}/400.webp\" loading=lazy alt=\"Shoe {n}\" \
             srcset=\"https://img.test/{n}/400.webp 1x, https://img.test/{n}/800.webp 2x\"></a>\
             <h3><a href=\"https://shop.test/p/{n}?utm_source=list\">Caf&eacute; runner no. {n}</a></h3>\
             <p class=text>Light, dry and made for long ways in the rain; <em>now</em> with a sole that holds.</p>\
             <span class=price>{n}.95&nbsp;&euro;</span>\
             <form action=/cart method=post><input type=hidden name=id value={n}><button>Add</button></form></article>"
        );
    }
    page.push_str("</main><script>window.state = {\"html\": \"<a href='/not-a-link'>\"};");
    for n in 0..100 {
        let _ = write!(page, "push([{n}, 'event', function(a) {{ return a < {n} && a > 0; }}]);");
    }
    page.push_str("</script></body></html>");
    Page::build("https://shop.test/c/shoes").header("content-type", "text/html; charset=utf-8").body(page)
}

/// An answer of an API with as many records: about 10 KB.
fn answer() -> Page {
    let records: Vec<_> = (0..PRODUCTS)
        .map(|n| {
            serde_json::json!({
                "id": n, "name": format!("Café runner no. {n}"), "price": {"amount": n as f64 + 0.95, "currency": "EUR"},
                "sizes": [38, 39, 40, 41, 42], "url": format!("https://shop.test/p/{n}"), "stock": n % 3 == 0,
            })
        })
        .collect();
    let body = serde_json::json!({"items": records, "next": "/api/shoes?page=2"}).to_string();
    Page::build("https://shop.test/api/shoes").header("content-type", "application/json").body(body)
}

/// Rules for two groups, as large as those of a large site.
fn robots() -> String {
    let mut file = String::from("# Be kind\nUser-agent: otherbot\nDisallow: /\n\nUser-agent: *\nCrawl-delay: 1\n");
    for n in 0..200 {
        let _ = write!(file, "Disallow: /private/{n}/*?session=\nAllow: /private/{n}/public$\n");
    }
    file.push_str("Sitemap: https://shop.test/sitemap.xml\n");
    file
}

fn links_by_tree(page: &Page) -> usize {
    let document: Document = html(page).expect("within its bounds");
    document.links(css!("a[href]")).count()
}

fn record(page: &Page) -> (usize, usize) {
    let document = html(page).expect("within its bounds");
    let cards = document.select(css!("article.card"));
    (cards.filter(|card| card.text(css!(".price")).is_ok()).count(), json_ld(&document).len())
}

fn bench(c: &mut Criterion) {
    let (listing, answer, robots) = (listing(), answer(), robots());
    assert_eq!(links_by_tree(&listing), 30 + 2 * PRODUCTS);
    assert_eq!(record(&listing), (PRODUCTS, 1));
    let mut group = c.benchmark_group("parser");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Bytes(listing.body().len() as u64));
    group.bench_function("links", |b| b.iter(|| links(black_box(&listing)).expect("HTML")));
    group.bench_function("follow_links", |b| {
        b.iter(|| parse_once::<(), _>(&follow_links(), black_box(&listing)).expect("HTML"));
    });
    group.bench_function("links by the tree", |b| b.iter(|| links_by_tree(black_box(&listing))));
    group.bench_function("records by the tree", |b| b.iter(|| record(black_box(&listing))));
    group.throughput(Throughput::Bytes(answer.body().len() as u64));
    group.bench_function("json", |b| b.iter(|| json::<serde_json::Value>(black_box(&answer)).expect("JSON")));
    group.throughput(Throughput::Bytes(robots.len() as u64));
    group.bench_function("robots.txt", |b| b.iter(|| RobotsRules::parse(black_box(robots.as_bytes()), "shopbot")));
    let rules = RobotsRules::parse(robots.as_bytes(), "shopbot");
    group.throughput(Throughput::Elements(1));
    group.bench_function("robots.txt: one URL", |b| {
        b.iter(|| rules.allows(black_box("/private/150/a/page?session=1&from=list")));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
