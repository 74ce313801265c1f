//! [`Attributes`]: those of one tag, one after the other.

use memchr::memchr;

use super::{is_end_of_name, is_space};

/// Gives names and values as they were written; afterwards it knows where the tag ends.
pub(crate) struct Attributes<'a> {
    text: &'a str,
    at: usize,
    end: Option<usize>,
    is_self_closing: bool,
}

impl<'a> Attributes<'a> {
    /// From the end of the tag's name.
    pub(super) fn new(text: &'a str, at: usize) -> Self {
        Self { text, at, end: None, is_self_closing: false }
    }

    /// Where the next thing behind the tag begins, where the tag has an end; known when all attributes were given.
    pub(super) fn end(&self) -> Option<usize> {
        self.end
    }

    pub(super) fn is_self_closing(&self) -> bool {
        self.is_self_closing
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// What lies between `from` and the next byte that ends it, of those from here on.
    fn take_until(&mut self, from: usize, is_end: impl Fn(u8) -> bool) -> Option<&'a str> {
        self.at += self.text.as_bytes()[self.at..].iter().position(|b| is_end(*b))?;
        Some(&self.text[from..self.at])
    }

    fn value(&mut self) -> Option<&'a str> {
        self.skip_space();
        match self.peek()? {
            quote @ (b'"' | b'\'') => {
                let from = self.at + 1;
                let to = from + memchr(quote, &self.text.as_bytes()[from..])?;
                self.at = to + 1;
                Some(&self.text[from..to])
            }
            _ => self.take_until(self.at, |b| is_space(b) || b == b'>'),
        }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        loop {
            match self.peek()? {
                b'>' => {
                    self.end = Some(self.at + 1);
                    return None;
                }
                b'/' => {
                    self.is_self_closing = self.text.as_bytes().get(self.at + 1) == Some(&b'>');
                    self.at += 1;
                }
                byte if is_space(byte) => self.at += 1,
                _ => break,
            }
        }
        let from = self.at;
        // An equals sign that begins a name belongs to it.
        self.at += 1;
        let name = self.take_until(from, |b| is_end_of_name(b) || b == b'=')?;
        self.skip_space();
        if self.peek()? != b'=' {
            return Some((name, ""));
        }
        self.at += 1;
        self.value().map(|value| (name, value))
    }
}
