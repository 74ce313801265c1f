//! Which controls of a page belong to which form, and are not disabled.

use std::collections::{HashMap, HashSet};

use scraper::ElementRef;

use super::super::tree::NodeId;
use super::super::{Document, Element};
use crate::css;

/// The controls of a document that are not disabled, by the form that they belong to.
pub(super) struct Controls<'a> {
    pub(super) by_form: HashMap<NodeId, Vec<Element<'a>>>,
    by_id: HashMap<&'a str, NodeId>,
    /// Forms that are open, and those that were opened in a table that is, with the table.
    open: Vec<NodeId>,
    loose: Vec<(NodeId, NodeId)>,
    tables: Vec<NodeId>,
    /// Fieldsets that disable what is in them, and datalists.
    disabled: usize,
    /// Fieldsets whose first legend was met, and the first legends that are open: what is in them is not disabled.
    met: HashSet<NodeId>,
    excepted: Vec<NodeId>,
}

impl<'a> Controls<'a> {
    /// In one walk over the tree, by hand: the depth of a page must not become depth of our stack.
    pub(super) fn of(document: &'a Document) -> Self {
        let mut by_id = HashMap::new();
        for form in document.select(css!("form[id]")) {
            by_id.entry(form.attr("id").unwrap_or_default()).or_insert_with(|| form.node.id());
        }
        let mut walk = Self {
            by_form: HashMap::new(),
            by_id,
            open: Vec::new(),
            loose: Vec::new(),
            tables: Vec::new(),
            disabled: 0,
            met: HashSet::new(),
            excepted: Vec::new(),
        };
        let Some(root) = document.root() else { return walk };
        let mut node = *root.node;
        loop {
            let element = ElementRef::wrap(node).map(|node| Element { node, base: root.base });
            if let Some(element) = element {
                walk.enter(element);
            }
            if let Some(child) = node.first_child() {
                node = child;
                continue;
            }
            loop {
                if let Some(node) = ElementRef::wrap(node) {
                    walk.leave(Element { node, base: root.base });
                }
                if node == *root.node {
                    return walk;
                }
                if let Some(next) = node.next_sibling() {
                    node = next;
                    break;
                }
                match node.parent() {
                    Some(parent) => node = parent,
                    None => return walk,
                }
            }
        }
    }

    fn enter(&mut self, element: Element<'a>) {
        let id = element.node.id();
        match element.name() {
            "form" => {
                let parent = element.node.parent().and_then(ElementRef::wrap).map(|parent| parent.value().name());
                let is_in_rows = matches!(parent, Some("table" | "tbody" | "thead" | "tfoot" | "tr"));
                if let Some(table) = self.tables.last().filter(|_| is_in_rows && !element.node.has_children()) {
                    self.loose.retain(|(of, _)| of != table);
                    self.loose.push((*table, id));
                }
                self.open.push(id);
            }
            "table" => self.tables.push(id),
            "datalist" => self.disabled += 1,
            "fieldset" if element.attr("disabled").is_some() => self.disabled += 1,
            "legend" => {
                let disables = |parent: &ElementRef<'_>| parent.value().attr("disabled").is_some();
                let fieldset = element.node.parent().and_then(ElementRef::wrap).filter(disables);
                let fieldset = fieldset.filter(|parent| parent.value().name() == "fieldset");
                if fieldset.is_some_and(|fieldset| self.met.insert(fieldset.id())) {
                    self.excepted.push(id);
                    self.disabled -= 1;
                }
            }
            "input" | "button" | "select" | "textarea" if element.is_html() => {
                let own = element.attr("form").map(|form| self.by_id.get(form).copied());
                let around = || self.open.last().copied().or_else(|| self.loose.last().map(|(_, form)| *form));
                if let Some(form) = own.unwrap_or_else(around)
                    && self.disabled == 0
                    && element.attr("disabled").is_none()
                {
                    self.by_form.entry(form).or_default().push(element);
                }
            }
            _ => {}
        }
    }

    fn leave(&mut self, element: Element<'a>) {
        match element.name() {
            "form" => drop(self.open.pop()),
            "table" => {
                let table = self.tables.pop();
                self.loose.retain(|(of, _)| Some(*of) != table);
            }
            "datalist" => self.disabled -= 1,
            "fieldset" if element.attr("disabled").is_some() => self.disabled -= 1,
            "legend" if self.excepted.pop_if(|open| *open == element.node.id()).is_some() => self.disabled += 1,
            _ => {}
        }
    }
}
