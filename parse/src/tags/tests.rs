use std::cell::RefCell;
use std::collections::BTreeMap;

use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use lol_html::{HtmlRewriter, Settings, element};
use proptest::prelude::*;

use super::*;
use crate::entities::decode_attribute;

/// Names in lower case; of attributes of one name, the first.
type Seen = Vec<(String, BTreeMap<String, String>)>;

fn seen(text: &str) -> Seen {
    Tags::new(text)
        .map(|tag| {
            let mut attributes = BTreeMap::new();
            for (name, value) in tag.attributes() {
                let value = decode_attribute(value).into_owned();
                attributes.entry(name.to_ascii_lowercase()).or_insert(value);
            }
            (tag.name.to_ascii_lowercase(), attributes)
        })
        .collect()
}

fn seen_by_rewriter(text: &str) -> Seen {
    let seen = RefCell::default();
    let settings = Settings::new().with_strict(false).append_element_content_handler(element!("*", |element| {
        let mut attributes = BTreeMap::new();
        for attribute in element.attributes() {
            attributes.entry(attribute.name()).or_insert_with(|| decode_attribute(&attribute.value()).into_owned());
        }
        Seen::push(&mut seen.borrow_mut(), (element.tag_name(), attributes));
        Ok(())
    }));
    let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
    rewriter.write(text.as_bytes()).expect("small");
    rewriter.end().expect("small");
    seen.into_inner()
}

/// Tells the tokenizer what the content of an element is, as the tree construction does in HTML.
#[derive(Default)]
struct Sink {
    seen: RefCell<Seen>,
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        let Token::TagToken(tag) = token else { return TokenSinkResult::Continue };
        if tag.kind == TagKind::EndTag {
            return TokenSinkResult::Continue;
        }
        let attributes = tag.attrs.iter().map(|a| (a.name.local.to_string(), a.value.to_string())).collect();
        self.seen.borrow_mut().push((tag.name.to_string(), attributes));
        match &*tag.name {
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            "style" | "noscript" | "iframe" | "xmp" | "noembed" | "noframes" => {
                TokenSinkResult::RawData(RawKind::Rawtext)
            }
            "plaintext" => TokenSinkResult::Plaintext,
            _ => TokenSinkResult::Continue,
        }
    }
}

fn seen_by_tokenizer(text: &str) -> Seen {
    let tokenizer = Tokenizer::new(Sink::default(), TokenizerOpts { discard_bom: false, ..TokenizerOpts::default() });
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(text));
    while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
    tokenizer.end();
    tokenizer.sink.seen.take()
}

fn names(text: &str) -> String {
    seen(text).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

#[test]
fn only_start_tags_are_tags() {
    for (text, expected) in [
        ("<a></a><B/><h1 >< i><3><é><p", "a b h1"),
        ("</a <i>></ <i>><?x <i>><!x <i>><!doctype html \"><b>", "b"),
        ("<!--<i>--><a><!--><b><!---><c><!--x--!><d><!--x--!-><i>", "a b c d"),
        ("<![CDATA[<i>]]><svg><![CDATA[<i>]]]><a></svg><![CDATA[<i>]]>", "svg a"),
        ("<p title='<i>' x=\"<i>\" y=<b>z</p><p a='>", "p"),
        ("<p a='' b>", "p"),
        ("<title><i></titles></TITLE ><a><textarea/><i></textarea x='>'><b>", "title a textarea b"),
        ("<title x=><i></title><a>", "title a"),
        ("<noscript><i></noscript><style><i></style><a>", "noscript style a"),
        ("<a><plaintext><i></plaintext><i>", "a plaintext"),
        ("<svg><title><a></title><style><b></style></svg><style><i>", "svg title a style b style"),
        ("<svg/><style><i></style><a>", "svg style a"),
        ("<svg><desc/><style><b></style>", "svg desc style b"),
        ("<svg><p><style><i></style><a>", "svg p style a"),
        ("<svg><font><style><a></style><font color=x><style><i>", "svg font style a font style"),
        ("<math><mi><style><i></style></mi><style><a>", "math mi style style a"),
        (
            "<math><annotation-xml encoding=Text/HTML><style><i></style></annotation-xml><style><a>",
            "math annotation-xml style style a",
        ),
        ("<math><annotation-xml><style><a>", "math annotation-xml style a"),
    ] {
        assert_eq!(names(text), expected, "{text}");
    }
}

#[test]
fn scripts_within_scripts_hide_their_end() {
    for (text, expected) in [
        ("<script>'<i>'</script ><a>", "script a"),
        ("<script></scripts><i></script/><a>", "script a"),
        ("<script><!--<script></script><i></script><a>", "script a"),
        ("<script><!--<script>--></script><a>", "script a"),
        ("<script><!--<scripts></script><a>", "script a"),
        ("<script><!--></script><a>", "script a"),
        ("<script><!--<script></script></script><a>", "script a"),
        ("<script><script></script><a>", "script a"),
        ("<script><!--<script></script>", "script"),
    ] {
        assert_eq!(names(text), expected, "{text}");
    }
}

#[test]
fn attributes_are_as_they_were_written() {
    let text = "<A/b = 'c d' B=e f g=h/ =i=\"j\"k='&amp;'l=m'n\n\"=>";
    let tag = Tags::new(text).next().expect("one");
    assert_eq!((tag.name, tag.is("a")), ("A", true));
    let attributes: Vec<_> = tag.attributes().collect();
    let expected =
        [("b", "c d"), ("B", "e"), ("f", ""), ("g", "h/"), ("=i", "j"), ("k", "&amp;"), ("l", "m'n"), ("\"", "")];
    assert_eq!(attributes, expected);
    assert_eq!((tag.attribute("B"), tag.attribute("x")), (Some("c d"), None));
}

/// Parts of markup of which any order is a page; an equals sign never stands right before the end of a tag, where the
/// rewriter forgets what the content of the element is.
const MARKUP: &str = "(<|>|/|\"|'|=x|='|=\"|-|!|--|<!--|-->|</|\\?| |\n|é|a|href|<a |<b>|<p>|</p>|<!doctype |\\[CDATA\\[|\\]\\]>|\
                      <title>|</title>|<textarea |</textarea |<style>|</style>|<script>|</script>|<noscript>|</noscript>|\
                      <SCRIPT|</Script|&amp;){0,24}";

/// The same with what changes the namespace.
const FOREIGN: &str = "(<svg>|</svg>|<math>|</math>|<mi>|</mi>|<desc>|</desc>|<desc/>|<foreignObject>|</foreignobject>|\
                       <annotation-xml encoding=text/html>|<annotation-xml>|</annotation-xml>|<font>|<font size=1>|<a x='>'>|\
                       <!\\[CDATA\\[|\\]\\]>|\\]|<p>|</p>|<br>|</br>|<title>|</title>|<style>|</style>|<script>|</script>|<i>|x){0,24}";

proptest! {
    #[test]
    fn agrees_with_the_tokenizer(text in MARKUP, rest in "[ -~]{0,12}") {
        let text = format!("{text}{rest}");
        prop_assert_eq!(seen(&text), seen_by_tokenizer(&text), "{:?}", text);
    }

    #[test]
    fn agrees_with_the_rewriter(text in MARKUP) {
        prop_assert_eq!(seen(&text), seen_by_rewriter(&text), "{:?}", text);
    }

    #[test]
    fn agrees_with_the_rewriter_about_namespaces(text in FOREIGN) {
        prop_assert_eq!(seen(&text), seen_by_rewriter(&text), "{:?}", text);
    }
}
