//! [`Tags`]: the start tags of a page by the tokenizer of the HTML standard (13.2.5), without a document.

mod attributes;

use memchr::{memchr, memchr2};

pub(crate) use self::attributes::Attributes;

/// A start tag; its name and attributes are as they were written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag<'a> {
    pub(crate) name: &'a str,
    text: &'a str,
    /// Where its name ends.
    at: usize,
}

impl<'a> Tag<'a> {
    /// Whether it has this name, in any case.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.text, self.at)
    }

    /// The value of its first attribute of this name, character references and all; empty where it has none.
    pub(crate) fn attribute(&self, name: &str) -> Option<&'a str> {
        self.attributes().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// The vocabulary that elements belong to: it decides what is a tag and what is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Html,
    Svg,
    MathMl,
}

/// What follows a start tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Markup,
    /// Text up to the end tag of the same name.
    Text,
    Script,
    Plaintext,
}

/// Gives the start tags of a page in their order: not those in comments, in elements whose content is text, and in
/// `<noscript>`. A tag that the page ends within is none.
///
/// It knows no open elements but `<svg>`, `<math>` and their integration points, so its time and memory are bounded by the
/// length of the page.
pub(crate) struct Tags<'a> {
    text: &'a str,
    at: usize,
    /// Open namespaces within HTML.
    namespaces: Vec<Namespace>,
}

impl<'a> Tags<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, namespaces: Vec::new() }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn namespace(&self) -> Namespace {
        self.namespaces.last().copied().unwrap_or(Namespace::Html)
    }

    /// The namespace around that of the elements here.
    fn outer_namespace(&self) -> Namespace {
        self.namespaces.iter().rev().nth(1).copied().unwrap_or(Namespace::Html)
    }

    fn end(&mut self) -> Option<Tag<'a>> {
        self.at = self.text.len();
        None
    }

    /// Goes behind the next `>`.
    fn skip_to_close(&mut self) -> Option<()> {
        self.at += memchr(b'>', self.rest())? + 1;
        Some(())
    }

    /// Goes behind the first `>` before which `is_end` holds of what lies between.
    fn skip_to_close_where(&mut self, is_end: impl Fn(&[u8]) -> bool) -> Option<()> {
        let from = self.at;
        loop {
            self.skip_to_close()?;
            if is_end(&self.text.as_bytes()[from..self.at - 1]) {
                return Some(());
            }
        }
    }

    /// What begins with `<!`.
    fn skip_declaration(&mut self) -> Option<()> {
        if self.rest().starts_with(b"<!--") {
            self.at += 4;
            let is_end =
                |inside: &[u8]| matches!(inside, b"" | b"-") || inside.ends_with(b"--") || inside.ends_with(b"--!");
            return self.skip_to_close_where(is_end);
        }
        if self.namespace() != Namespace::Html && self.rest().starts_with(b"<![CDATA[") {
            self.at += 9;
            return self.skip_to_close_where(|inside| inside.ends_with(b"]]"));
        }
        self.skip_to_close()
    }

    /// The tag whose name begins here, up to its end; and whether it closes itself.
    fn tag(&mut self) -> Option<(Tag<'a>, bool)> {
        let rest = self.rest();
        let length = rest.iter().position(|b| is_end_of_name(*b))?;
        let name = &self.text[self.at..self.at + length];
        let tag = Tag { name, text: self.text, at: self.at + length };
        let mut attributes = tag.attributes();
        while attributes.next().is_some() {}
        self.at = attributes.end()?;
        Some((tag, attributes.is_self_closing()))
    }

    /// Behind the end tag of an element whose content was text.
    fn skip_text(&mut self, name: &str) -> Option<()> {
        loop {
            self.at += memchr(b'<', self.rest())?;
            if self.is_end_tag(name) {
                return self.end_tag();
            }
            self.at += 1;
        }
    }

    /// The states of scripts: within `<!--` and `-->`, a script within the script hides its end tag.
    fn skip_script(&mut self) -> Option<()> {
        let (mut is_escaped, mut is_nested) = (false, false);
        loop {
            self.at += if is_escaped { memchr2(b'<', b'>', self.rest())? } else { memchr(b'<', self.rest())? };
            let rest = self.rest();
            if rest[0] == b'>' {
                if self.text.as_bytes()[..self.at].ends_with(b"--") {
                    (is_escaped, is_nested) = (false, false);
                }
            } else if self.is_end_tag("script") {
                if !is_nested {
                    return self.end_tag();
                }
                is_nested = false;
            } else if is_escaped {
                is_nested |= is_name(&rest[1..], "script");
            } else if rest.starts_with(b"<!--") {
                is_escaped = true;
                self.at += 3;
            }
            self.at += 1;
        }
    }

    fn is_end_tag(&self, name: &str) -> bool {
        self.rest().strip_prefix(b"</").is_some_and(|rest| is_name(rest, name))
    }

    /// An end tag, from its `<`.
    fn end_tag(&mut self) -> Option<()> {
        self.at += 2;
        let (tag, _) = self.tag()?;
        let leaves = match self.namespace() {
            Namespace::Html => match self.outer_namespace() {
                Namespace::Html => false,
                Namespace::Svg => is_html_in_svg(&tag),
                Namespace::MathMl => is_text_in_mathml(&tag) || tag.is("annotation-xml"),
            },
            Namespace::Svg => tag.is("svg") || tag.is("p") || tag.is("br"),
            Namespace::MathMl => tag.is("math") || tag.is("p") || tag.is("br"),
        };
        if leaves {
            self.namespaces.pop();
        }
        Some(())
    }

    /// What the tree construction of the standard does about namespaces and content.
    fn content(&mut self, tag: &Tag<'a>, is_self_closing: bool) -> Content {
        let namespace = self.namespace();
        let enters = match () {
            () if tag.is("svg") => Some(Namespace::Svg),
            () if tag.is("math") => Some(Namespace::MathMl),
            () => None,
        };
        if let Some(enters) = enters {
            if !is_self_closing {
                self.namespaces.push(enters);
            }
        } else if namespace == Namespace::Html {
            return content_in_html(tag);
        } else if is_never_foreign(tag) {
            self.namespaces.pop();
        } else if !is_self_closing && is_integration_point(tag, namespace) {
            self.namespaces.push(Namespace::Html);
        }
        Content::Markup
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            let Some(start) = memchr(b'<', self.rest()) else { return self.end() };
            self.at += start;
            let skipped = match self.rest() {
                [_, b'/', b'a'..=b'z' | b'A'..=b'Z', ..] => self.end_tag(),
                [_, b'/' | b'?', ..] => self.skip_to_close(),
                [_, b'!', ..] => self.skip_declaration(),
                [_, b'a'..=b'z' | b'A'..=b'Z', ..] => {
                    self.at += 1;
                    let Some((tag, is_self_closing)) = self.tag() else { return self.end() };
                    let behind = match self.content(&tag, is_self_closing) {
                        Content::Markup => Some(()),
                        Content::Text => self.skip_text(tag.name),
                        Content::Script => self.skip_script(),
                        Content::Plaintext => None,
                    };
                    if behind.is_none() {
                        self.end();
                    }
                    return Some(tag);
                }
                _ => {
                    self.at += 1;
                    continue;
                }
            };
            if skipped.is_none() {
                return self.end();
            }
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r' | b'\x0c')
}

fn is_end_of_name(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b'/' | b'>')
}

/// Whether this name, in any case, stands at the start of `rest` and ends there.
fn is_name(rest: &[u8], name: &str) -> bool {
    rest.get(name.len()).is_some_and(|end| is_end_of_name(*end))
        && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes())
}

fn is_one_of(tag: &Tag<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| tag.is(name))
}

fn content_in_html(tag: &Tag<'_>) -> Content {
    match () {
        () if tag.is("script") => Content::Script,
        () if is_one_of(tag, &["title", "style", "textarea", "noscript", "iframe", "xmp", "noembed", "noframes"]) => {
            Content::Text
        }
        () if tag.is("plaintext") => Content::Plaintext,
        () => Content::Markup,
    }
}

/// Start tags that end foreign content.
fn is_never_foreign(tag: &Tag<'_>) -> bool {
    const NAMES: [&str; 44] = [
        "b",
        "big",
        "blockquote",
        "body",
        "br",
        "center",
        "code",
        "dd",
        "div",
        "dl",
        "dt",
        "em",
        "embed",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "head",
        "hr",
        "i",
        "img",
        "li",
        "listing",
        "menu",
        "meta",
        "nobr",
        "ol",
        "p",
        "pre",
        "ruby",
        "s",
        "small",
        "span",
        "strong",
        "strike",
        "sub",
        "sup",
        "table",
        "tt",
        "u",
        "ul",
        "var",
    ];
    is_one_of(tag, &NAMES)
        || tag.is("font") && ["color", "size", "face"].into_iter().any(|attribute| tag.attribute(attribute).is_some())
}

/// Elements of foreign content whose own content is HTML again.
fn is_integration_point(tag: &Tag<'_>, namespace: Namespace) -> bool {
    match namespace {
        Namespace::Html => false,
        Namespace::Svg => is_html_in_svg(tag),
        Namespace::MathMl => {
            is_text_in_mathml(tag)
                || tag.is("annotation-xml")
                    && tag.attribute("encoding").is_some_and(|encoding| {
                        ["text/html", "application/xhtml+xml"]
                            .into_iter()
                            .any(|html| encoding.eq_ignore_ascii_case(html))
                    })
        }
    }
}

fn is_html_in_svg(tag: &Tag<'_>) -> bool {
    is_one_of(tag, &["desc", "title", "foreignObject"])
}

fn is_text_in_mathml(tag: &Tag<'_>) -> bool {
    is_one_of(tag, &["mi", "mo", "mn", "ms", "mtext"])
}

#[cfg(test)]
mod tests;
