//! JSON answers, and JSON that is embedded in HTML.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate::Page;

use crate::charset::{Charset, CharsetSource, charset, decode};
use crate::scan::{assigned, unwrapped};
use crate::{Document, css};

/// The body of a page as JSON, into any serde type. A byte order mark and other charsets than UTF-8 are no obstacle.
///
/// # Errors
/// Where it is not JSON, or not of this shape. serde_json's limit of 128 levels holds.
///
/// ```
/// use tidegate::Page;
///
/// #[derive(serde::Deserialize)]
/// struct Price { amount: u32 }
///
/// let price: Price = tidegate_parse::json(&Page::build("http://a.test/p").body(r#"{"amount": 3}"#))?;
/// assert_eq!(price.amount, 3);
/// # Ok::<(), tidegate_parse::JsonError>(())
/// ```
pub fn json<T: DeserializeOwned>(page: &Page) -> Result<T, JsonError> {
    let body = page.body();
    // RFC 8259 knows UTF-8 only, so valid UTF-8 is that, whatever the header says.
    let charset = match charset(page) {
        said if said.source() == CharsetSource::Bom => said,
        _ if std::str::from_utf8(body).is_ok() && !body.contains(&0) => Charset::UTF_8,
        said => said,
    };
    read(&decode(body, charset))
}

/// Every JSON-LD object of a document, in its order.
///
/// Lenient: blocks that are broken are left out, arrays and `@graph` are opened, comments and CDATA around a block are
/// removed.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{html, json_ld};
///
/// let body = r#"<script type="application/ld+json">{"@graph": [{"@type": "Product", "name": "Shoe"}]}</script>"#;
/// let doc = html(&Page::build("http://a.test/").body(body))?;
/// assert_eq!(json_ld(&doc)[0]["name"], "Shoe");
/// # Ok::<(), tidegate_parse::HtmlError>(())
/// ```
pub fn json_ld(document: &Document) -> Vec<Value> {
    let mut found = Vec::new();
    for script in document.select(css!("script[type]")) {
        let kind = script.attr("type").unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/ld+json") {
            continue;
        }
        if let Ok(value) = read(unwrapped(&script.raw_text())) {
            open(value, &mut found);
        }
    }
    found
}

/// Depth is bounded: serde_json reads no more than 128 levels.
fn open(value: Value, found: &mut Vec<Value>) {
    match value {
        Value::Array(values) => values.into_iter().for_each(|value| open(value, found)),
        Value::Object(mut object) => {
            let graph = object.remove("@graph");
            // What stands beside the graph is the object's own only if it says more than its context.
            if graph.is_none() || object.keys().any(|key| key != "@context") {
                found.push(Value::Object(object));
            }
            if let Some(graph) = graph {
                open(graph, found);
            }
        }
        _ => {}
    }
}

/// The data that a page carries for its own scripts, into any serde type.
///
/// `name` is the id of a `<script>` that holds JSON (`__NEXT_DATA__`), or what a script assigns it to
/// (`window.__STATE__`, or only `__STATE__`): an object or array, or `JSON.parse("..")` of one. `undefined` becomes null.
/// The value has to be JSON otherwise; scripts are not run.
///
/// # Errors
/// [`JsonError::Missing`] where there is no such thing, else as [`json`].
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{embedded_json, html};
///
/// let doc = html(&Page::build("http://a.test/").body(r#"<script>window.__STATE__ = {"id": 7, "a": undefined};</script>"#))?;
/// let state: serde_json::Value = embedded_json(&doc, "window.__STATE__")?;
/// assert_eq!(state["id"], 7);
/// # Ok::<(), tidegate::ParseError>(())
/// ```
pub fn embedded_json<T: DeserializeOwned>(document: &Document, name: &str) -> Result<T, JsonError> {
    let mut error = None;
    for script in document.select(css!("script")) {
        let text = script.raw_text();
        if script.attr("id") == Some(name) {
            return read(unwrapped(&text));
        }
        for value in assigned(&text, name) {
            match read(&value) {
                Ok(value) => return Ok(value),
                Err(failed) => error = error.or(Some(failed)),
            }
        }
    }
    Err(error.unwrap_or_else(|| JsonError::Missing { name: name.into() }))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    serde_json::from_str(text).map_err(|source| match text.trim_start() {
        "" => JsonError::Empty,
        start if start.starts_with('<') => JsonError::Markup,
        _ if source.is_data() => JsonError::Shape { source },
        _ => JsonError::Syntax { source },
    })
}

/// Why there is no value.
///
/// ```
/// use tidegate::Page;
/// use tidegate_parse::{JsonError, json};
///
/// let page = Page::build("http://a.test/api").body("<html>Please log in");
/// assert!(matches!(json::<Vec<u32>>(&page), Err(JsonError::Markup)));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// There is nothing.
    #[error("expected JSON, but there is nothing")]
    Empty,
    /// It is HTML or XML: usually an error page, a login or a captcha.
    #[error("expected JSON, but it is markup")]
    Markup,
    /// It is not JSON, or ends too early.
    #[error("it is not JSON")]
    Syntax {
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is JSON of another shape than the type asks for.
    #[error("the JSON is not of the expected shape")]
    Shape {
        /// Where and why.
        source: serde_json::Error,
    },
    /// The document has no such script.
    #[error("no script of the page holds or assigns {name:?}")]
    Missing {
        /// What was asked for.
        name: Box<str>,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn doc(body: &str) -> Document {
        Document::parse(body, &"http://a.test/".parse().expect("literal")).expect("small")
    }

    fn of(body: impl Into<Vec<u8>>) -> Result<Value, JsonError> {
        json(&Page::build("http://a.test/").body(body.into()))
    }

    // A23
    #[test]
    fn any_unicode_charset_is_read() {
        let text = "{\"a\":\"grün\"}";
        let utf16 = |bom: &str| format!("{bom}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for body in [text.into(), format!("\u{feff}{text}").into_bytes(), utf16("\u{feff}"), utf16("")] {
            assert_eq!(of(body).expect("JSON")["a"], "grün");
        }
        let latin1 = Page::build("http://a.test/").header("content-type", "application/json; charset=latin1");
        assert_eq!(json::<String>(&latin1.body(&b"\"gr\xfcn\""[..])).expect("JSON"), "grün");
        let wrong = Page::build("http://a.test/").header("content-type", "application/json; charset=latin1");
        assert_eq!(json::<String>(&wrong.body("\"grün\"")).expect("JSON"), "grün");
    }

    #[test]
    fn errors_say_what_came_instead() {
        assert!(matches!(of(" \n"), Err(JsonError::Empty)));
        assert!(matches!(of("<!doctype html>"), Err(JsonError::Markup)));
        assert!(matches!(of("{\"a\":"), Err(JsonError::Syntax { .. })));
        assert!(matches!(json::<u32>(&Page::build("http://a.test/").body("\"x\"")), Err(JsonError::Shape { .. })));
    }

    // I4
    #[test]
    fn deep_nesting_is_an_error() {
        assert!(matches!(of("[".repeat(10_000)), Err(JsonError::Syntax { .. })));
        let deep = format!("<script>x = {}{}</script>", "[".repeat(100_000), "]".repeat(100_000));
        assert!(embedded_json::<Value>(&doc(&deep), "x").is_err());
    }

    #[test]
    fn json_ld_is_lenient() {
        let doc = doc(r#"
            <script type="application/ld+json">{broken</script>
            <script type="Application/LD+JSON; charset=utf-8">[{"n":1},[{"n":2}],3]</script>
            <script type='application/ld+json'>//<![CDATA[
                {"@context":"x","@graph":[{"n":3},{"n":4,"@graph":{"n":5}}]}
            //]]></script>
            <script type="application/ld+json"><!-- {"n":6} --></script>
            <script type="application/ld+json">/* <![CDATA[ */ {"n":7} /* ]]> */</script>
            <script type="application/json">{"n":8}</script>"#);
        let numbers: Vec<_> = json_ld(&doc).into_iter().map(|v| v["n"].as_u64()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7].map(Some));
    }

    #[test]
    fn state_is_found_where_pages_put_it() {
        for (body, name) in [
            (r#"<script id="__NEXT_DATA__" type="application/json">{"n":1}</script>"#, "__NEXT_DATA__"),
            (r#"<script>window.__STATE__={"n":1};(function(){}())</script>"#, "window.__STATE__"),
            (r#"<script>window.__STATE__ = {"n":1}</script>"#, "__STATE__"),
            (r#"<script>window["__STATE__"] = {"n":1}</script>"#, "__STATE__"),
            (r#"<script>if (__STATE__ == {}) x(); var __STATE__ = /* c */ {"n":1}</script>"#, "__STATE__"),
            (r#"<script>my__STATE__ = {"n":2}; __STATE__x = {"n":3}; __STATE__ = {"n":1};</script>"#, "__STATE__"),
            (r#"<script>s = JSON.parse("{\"n\":1,\"t\":\"\u00fc\"}")</script>"#, "s"),
            (
                r"<script>s = JSON.parse( '{\x22n\x22:1,\'t\':0}'.x )</script><script>s=JSON.parse('{\x22n\x22:1}')</script>",
                "s",
            ),
            (r#"<script>s = {"n":1,"a":undefined,"b":"undefined","c":[undefined]};</script>"#, "s"),
            (r#"<script>s = {"t":"}\"{","n":1};</script>"#, "s"),
        ] {
            let value: Value = embedded_json(&doc(body), name).expect(body);
            assert_eq!(value["n"], 1, "{body}");
        }
        assert!(matches!(
            embedded_json::<Value>(&doc("<script>s = f();</script>"), "s"),
            Err(JsonError::Missing { .. })
        ));
        assert!(matches!(
            embedded_json::<Value>(&doc("<script>s = {a:1}</script>"), "s"),
            Err(JsonError::Syntax { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of(bytes);
        }

        #[test]
        fn a_state_is_read_back(text in "\\PC{0,40}", n in any::<i64>()) {
            let value = serde_json::json!({ "text": text, "n": n, "list": [text, { "k": null }] });
            let script = format!("<script>a=1;window.S = {};b()</script>", value.to_string().replace('<', "\\u003c"));
            prop_assert_eq!(embedded_json::<Value>(&doc(&script), "window.S").expect("there"), value);
        }
    }
}
