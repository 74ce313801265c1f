//! From text to tree within bounds: html5ever, with a guard between its tokenizer and its tree builder.
//!
//! html5ever looks through all open elements for nearly every tag, so that a page of nothing but opened elements costs
//! the square of its length. A tree sink cannot prevent that, because the list of open elements is the builder's; the
//! guard can, by closing an element before the list becomes too long.

use std::borrow::Cow;
use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;

use html5ever::buffer_queue::BufferQueue;
use html5ever::interface::Tracer;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use html5ever::tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeBuilder, TreeBuilderOpts, TreeSink};
use html5ever::{Attribute, LocalName, QualName, TokenizerResult};
use lol_html::{HtmlRewriter, MemorySettings, Settings, element};
use scraper::{Html, HtmlTreeSink};

use super::HtmlError;

/// Elements that may be open at once: 512, as in browsers. Formatting elements that HTML would open again count too.
///
/// Elements beyond become siblings of the one at the bound instead of its children; none is lost.
pub const MAX_DEPTH: usize = 512;

/// Nodes of one document: 500,000, about 100 MB of memory. The largest real pages have a tenth of that.
pub const MAX_NODES: usize = 500_000;

/// Attributes of one element: 512. html5ever compares each with all before it.
pub const MAX_ATTRIBUTES: usize = 512;

/// Tags of one document that may stand beyond [`MAX_DEPTH`]: 200,000. Each costs a look through all open elements.
pub const MAX_TAGS_TOO_DEEP: usize = 200_000;

/// Memory that the scanner may use to remember open elements: 4 MiB, some 30,000 of them.
const MAX_MEMORY: usize = 4 * 1024 * 1024;

/// Where closing the innermost element did not help (a page built to resist it), start tags beyond this are dropped.
const MAX_OPEN: usize = 4 * MAX_DEPTH;

/// Text that is given to the tokenizer at once, in bytes; between two pieces the node count is judged.
const PIECE: usize = 64 * 1024;

pub(super) type NodeId = <HtmlTreeSink as TreeSink>::Handle;

/// Parses a document.
pub(super) fn parse(text: &str) -> Result<Html, HtmlError> {
    if may_have_too_many_attributes(text) && has_too_many_attributes(text) {
        return Err(HtmlError::TooManyAttributes);
    }
    // No script runs here, so what a page has for browsers without scripts is content.
    let options = TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() };
    let guard = Guard {
        builder: TreeBuilder::new(Sink::new(), options),
        moved_up: RefCell::default(),
        newest: RefCell::default(),
        open_at_most: Cell::new(0),
        elements_then: Cell::new(0),
        tags_at_bound: Cell::new(0),
    };
    let tokenizer = Tokenizer::new(guard, TokenizerOpts { discard_bom: false, ..TokenizerOpts::default() });
    let input = BufferQueue::default();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (PIECE..rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        input.push_back(StrTendril::from_slice(piece));
        while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
        tokenizer.sink.judge()?;
    }
    tokenizer.end();
    tokenizer.sink.judge()?;
    Ok(tokenizer.sink.builder.sink.finish())
}

/// A cheap look for anything that could be a tag with too many attributes. It does not know scripts and comments, so
/// what it finds has to be looked at again.
fn may_have_too_many_attributes(text: &str) -> bool {
    text.len() > MAX_ATTRIBUTES * 2
        && text.split('>').any(|part| {
            part.len() > MAX_ATTRIBUTES * 2
                && part.bytes().filter(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'"' | b'\'')).count()
                    >= MAX_ATTRIBUTES
        })
}

fn has_too_many_attributes(text: &str) -> bool {
    let settings = Settings::new()
        .with_strict(false)
        .with_memory_settings(MemorySettings::new().with_max_allowed_memory_usage(MAX_MEMORY))
        .append_element_content_handler(element!("*", |element| {
            if element.attributes().len() > MAX_ATTRIBUTES {
                return Err("seen enough".into());
            }
            Ok(())
        }));
    let mut scanner = HtmlRewriter::new(settings, |_: &[u8]| {});
    // A tag that is not finished has attributes too: this ends it, in whatever kind of quotes it is.
    let ended = scanner.write(text.as_bytes()).and_then(|()| scanner.write(b"\">'>")).and_then(|()| scanner.end());
    // Any other error is a page that is suspect and also too nested for the scanner's memory: no doubt is left.
    ended.is_err()
}

/// Stands between tokenizer and tree builder.
struct Guard {
    builder: TreeBuilder<NodeId, Sink>,
    /// Elements that were closed early, by name: so many end tags of the name are to be ignored.
    moved_up: RefCell<HashMap<LocalName, u32>>,
    /// The name of the last element that was opened: the innermost, as far as the guard can know.
    newest: RefCell<Option<LocalName>>,
    /// Elements that were open when they were last counted, and the elements that had been created by then.
    open_at_most: Cell<usize>,
    elements_then: Cell<usize>,
    tags_at_bound: Cell<usize>,
}

impl Guard {
    fn judge(&self) -> Result<(), HtmlError> {
        if self.builder.sink.nodes.get() > MAX_NODES {
            return Err(HtmlError::TooManyNodes);
        }
        if self.tags_at_bound.get() > MAX_TAGS_TOO_DEEP {
            return Err(HtmlError::TooDeep);
        }
        Ok(())
    }

    /// Whether `MAX_DEPTH` is reached. Counts only when it could be: no element is opened without being created.
    fn is_at_bound(&self) -> bool {
        let created = self.builder.sink.elements.get();
        if self.moved_up.borrow().is_empty() && self.open_at_most.get() + created - self.elements_then.get() < MAX_DEPTH
        {
            return false;
        }
        let open = self.count_open();
        self.open_at_most.set(open);
        self.elements_then.set(created);
        if open < MAX_DEPTH {
            self.moved_up.borrow_mut().clear();
            return false;
        }
        self.tags_at_bound.set(self.tags_at_bound.get() + 1);
        true
    }

    fn count_open(&self) -> usize {
        let counter = Counter { seen: Cell::new(0) };
        self.builder.trace_handles(&counter);
        counter.seen.get()
    }

    fn start_tag(&self, tag: Tag, line: u64) -> TokenSinkResult<NodeId> {
        if is_void(&tag.name) {
            return self.builder.process_token(Token::TagToken(tag), line);
        }
        if self.is_at_bound() {
            if self.open_at_most.get() >= MAX_OPEN {
                return TokenSinkResult::Continue;
            }
            if let Some(name) = self.newest.borrow_mut().take() {
                *self.moved_up.borrow_mut().entry(name.clone()).or_default() += 1;
                let end = Tag {
                    kind: TagKind::EndTag,
                    name,
                    self_closing: false,
                    attrs: Vec::new(),
                    had_duplicate_attributes: false,
                };
                // Never a script: its text ends with its own end tag, before any start tag.
                let _ = self.builder.process_token(Token::TagToken(end), line);
            }
        }
        *self.newest.borrow_mut() = (!tag.self_closing).then(|| tag.name.clone());
        self.builder.process_token(Token::TagToken(tag), line)
    }

    fn end_tag(&self, tag: Tag, line: u64) -> TokenSinkResult<NodeId> {
        if !self.moved_up.borrow().is_empty() && self.is_at_bound() {
            let mut moved_up = self.moved_up.borrow_mut();
            if let Some(count) = moved_up.get_mut(&tag.name) {
                *count -= 1;
                if *count == 0 {
                    moved_up.remove(&tag.name);
                }
                return TokenSinkResult::Continue;
            }
        }
        let mut newest = self.newest.borrow_mut();
        if newest.as_ref() == Some(&tag.name) {
            *newest = None;
        }
        drop(newest);
        self.builder.process_token(Token::TagToken(tag), line)
    }
}

impl TokenSink for Guard {
    type Handle = NodeId;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<NodeId> {
        // Once a bound is passed the rest of the piece is only skipped.
        if self.judge().is_err() {
            return TokenSinkResult::Continue;
        }
        match token {
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => self.start_tag(tag, line),
            Token::TagToken(tag) => self.end_tag(tag, line),
            token => self.builder.process_token(token, line),
        }
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

fn is_void(name: &str) -> bool {
    matches!(
        name,
        "area"
            | "base"
            | "basefont"
            | "bgsound"
            | "br"
            | "col"
            | "embed"
            | "frame"
            | "hr"
            | "image"
            | "img"
            | "input"
            | "keygen"
            | "link"
            | "meta"
            | "param"
            | "source"
            | "track"
            | "wbr"
    )
}

struct Counter {
    seen: Cell<usize>,
}

impl Tracer for Counter {
    type Handle = NodeId;

    fn trace_handle(&self, _: &NodeId) {
        self.seen.set(self.seen.get() + 1);
    }
}

/// scraper's sink, which counts, and forgets parse errors: a hostile page has one for each byte.
struct Sink {
    inner: HtmlTreeSink,
    nodes: Cell<usize>,
    elements: Cell<usize>,
    /// Attributes that came with a second `<html>` or `<body>`.
    late_attributes: Cell<usize>,
}

impl Sink {
    fn new() -> Self {
        Self {
            inner: HtmlTreeSink::new(Html::new_document()),
            nodes: Cell::new(0),
            elements: Cell::new(0),
            late_attributes: Cell::new(0),
        }
    }

    fn count(&self) {
        self.nodes.set(self.nodes.get() + 1);
    }

    /// Text may become a node; counting each piece of it is an upper bound that is near enough.
    fn count_text(&self, child: &NodeOrText<NodeId>) {
        if matches!(child, NodeOrText::AppendText(_)) {
            self.count();
        }
    }
}

impl TreeSink for Sink {
    type Handle = NodeId;
    type Output = Html;
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) -> Html {
        self.inner.finish()
    }

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> NodeId {
        self.inner.get_document()
    }

    fn elem_name<'a>(&'a self, target: &'a NodeId) -> Ref<'a, QualName> {
        self.inner.elem_name(target)
    }

    fn create_element(&self, name: QualName, attrs: Vec<Attribute>, flags: ElementFlags) -> NodeId {
        self.count();
        self.elements.set(self.elements.get() + 1);
        self.inner.create_element(name, attrs, flags)
    }

    fn create_comment(&self, text: StrTendril) -> NodeId {
        self.count();
        self.inner.create_comment(text)
    }

    fn create_pi(&self, target: StrTendril, data: StrTendril) -> NodeId {
        self.count();
        self.inner.create_pi(target, data)
    }

    fn append(&self, parent: &NodeId, child: NodeOrText<NodeId>) {
        self.count_text(&child);
        self.inner.append(parent, child);
    }

    fn append_based_on_parent_node(&self, element: &NodeId, previous: &NodeId, child: NodeOrText<NodeId>) {
        self.count_text(&child);
        self.inner.append_based_on_parent_node(element, previous, child);
    }

    fn append_doctype_to_document(&self, name: StrTendril, public_id: StrTendril, system_id: StrTendril) {
        self.count();
        self.inner.append_doctype_to_document(name, public_id, system_id);
    }

    fn get_template_contents(&self, target: &NodeId) -> NodeId {
        self.inner.get_template_contents(target)
    }

    fn same_node(&self, x: &NodeId, y: &NodeId) -> bool {
        self.inner.same_node(x, y)
    }

    fn set_quirks_mode(&self, mode: QuirksMode) {
        self.inner.set_quirks_mode(mode);
    }

    fn append_before_sibling(&self, sibling: &NodeId, child: NodeOrText<NodeId>) {
        self.count_text(&child);
        self.inner.append_before_sibling(sibling, child);
    }

    fn add_attrs_if_missing(&self, target: &NodeId, attrs: Vec<Attribute>) {
        let late = self.late_attributes.get() + attrs.len();
        self.late_attributes.set(late);
        if late <= MAX_ATTRIBUTES {
            self.inner.add_attrs_if_missing(target, attrs);
        }
    }

    fn remove_from_parent(&self, target: &NodeId) {
        self.inner.remove_from_parent(target);
    }

    fn reparent_children(&self, node: &NodeId, new_parent: &NodeId) {
        self.inner.reparent_children(node, new_parent);
    }
}
