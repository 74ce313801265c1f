//! Words, sentences and the frame that every HTML page of the demo site shares.

use std::fmt::Write as _;

use fastrand::Rng;

const WORDS: [&str; 64] = [
    "amber",
    "anchor",
    "barley",
    "basin",
    "beacon",
    "birch",
    "bridge",
    "brine",
    "canal",
    "cedar",
    "channel",
    "clay",
    "cliff",
    "cobalt",
    "copper",
    "coral",
    "current",
    "delta",
    "driftwood",
    "dune",
    "ebb",
    "estuary",
    "falcon",
    "ferry",
    "flint",
    "foam",
    "gale",
    "gravel",
    "harbour",
    "heather",
    "heron",
    "inlet",
    "island",
    "jetty",
    "kelp",
    "lagoon",
    "lantern",
    "ledge",
    "lighthouse",
    "marsh",
    "meadow",
    "mist",
    "mooring",
    "moss",
    "oak",
    "osprey",
    "pebble",
    "pier",
    "quay",
    "reed",
    "reef",
    "ripple",
    "salt",
    "sand",
    "shore",
    "silt",
    "sluice",
    "spray",
    "stone",
    "swell",
    "tide",
    "tern",
    "wharf",
    "willow",
];

pub(super) fn word(rng: &mut Rng) -> &'static str {
    WORDS[rng.usize(..WORDS.len())]
}

/// A word with a capital.
pub(super) fn title_word(rng: &mut Rng) -> String {
    let word = word(rng);
    word[..1].to_ascii_uppercase() + &word[1..]
}

/// Appends a sentence of 6 to 16 words.
pub(super) fn sentence(out: &mut String, rng: &mut Rng) {
    out.push_str(&title_word(rng));
    for _ in 0..rng.usize(5..=15) {
        out.push(' ');
        out.push_str(word(rng));
    }
    out.push_str(". ");
}

pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// An HTML page under construction. Text that is given to it is escaped, markup that is given to `raw` is not.
pub(super) struct Html {
    out: String,
}

impl Html {
    pub(super) fn new(title: &str) -> Self {
        Self::with_head(title, "<meta charset=\"utf-8\">")
    }

    /// A page with its own elements at the start of the head, such as `<base>`.
    pub(super) fn with_head(title: &str, head: &str) -> Self {
        let title = escape(title);
        let mut out = String::with_capacity(4096);
        let _ = write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>{head}<title>{title}</title></head>\n<body>\n\
             <nav class=\"main\"><a href=\"/\">Home</a> <a href=\"/articles/\">Articles</a> \
             <a href=\"/catalogue/\">Catalogue</a> <a href=\"/corners/\">Corners</a></nav>\n<h1>{title}</h1>\n"
        );
        Self { out }
    }

    pub(super) fn raw(&mut self, markup: &str) {
        self.out.push_str(markup);
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.out, "<p>{}</p>", escape(text));
    }

    pub(super) fn link(&mut self, href: &str, text: &str) {
        let _ = writeln!(self.out, "<a href=\"{}\">{}</a>", escape(href), escape(text));
    }

    pub(super) fn links(&mut self, class: &str, links: impl IntoIterator<Item = (String, String)>) {
        let _ = writeln!(self.out, "<ul class=\"{class}\">");
        for (href, text) in links {
            self.out.push_str("<li>");
            self.link(&href, &text);
        }
        self.out.push_str("</ul>\n");
    }

    /// Paragraphs of made-up text until the page is about `bytes` long.
    pub(super) fn fill(&mut self, bytes: usize, rng: &mut Rng) {
        self.out.reserve(bytes.saturating_sub(self.out.len()));
        while self.out.len() < bytes {
            self.out.push_str("<p>");
            for _ in 0..4 {
                sentence(&mut self.out, rng);
            }
            self.out.push_str("</p>\n");
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.out.push_str("<footer><a href=\"#top\">Top</a></footer>\n</body>\n</html>\n");
        self.out
    }
}
