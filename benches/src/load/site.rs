//! [`Site`]: the pages of a folder, as answers.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::head;

/// Whole answers by their path; nothing where there is no folder.
#[derive(Debug, Default)]
pub(crate) struct Site(Option<HashMap<Box<str>, Page>>);

/// Head and body in one piece, and how long the head is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) answer: Bytes,
    pub(crate) head: usize,
}

impl Site {
    /// Reads all HTML files below a folder.
    pub(crate) fn read(folder: Option<&Path>) -> io::Result<Self> {
        let Some(root) = folder else { return Ok(Self(None)) };
        let (mut pages, mut folders) = (HashMap::new(), vec![root.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "html")
                    && let Ok(name) = path.strip_prefix(root)
                {
                    let name = format!("/{}", name.to_string_lossy().replace('\\', "/"));
                    pages.insert(name.into_boxed_str(), Page::new(&fs::read(&path)?));
                }
            }
        }
        Ok(Self(Some(pages)))
    }

    /// The answer to a path: `None` where there is no site, and 404 for what it does not have.
    pub(crate) fn answer(&self, path: &str) -> Option<Page> {
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        Some(self.0.as_ref()?.get(path).cloned().unwrap_or_else(Page::missing))
    }
}

impl Page {
    fn new(body: &[u8]) -> Self {
        let mut answer = head(body.len() as u64);
        let head = answer.len();
        answer.extend_from_slice(body);
        Self { answer: answer.into(), head }
    }

    fn missing() -> Self {
        let answer = Bytes::from_static(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        Self { head: answer.len(), answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_site() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("a")).expect("a folder");
        fs::write(folder.path().join("a/b.html"), "<p>").expect("a file");
        fs::write(folder.path().join("a/c.css"), "p {}").expect("a file");
        let site = Site::read(Some(folder.path())).expect("a folder");
        assert_eq!(site.answer("/a/b.html?x"), Some(Page::new(b"<p>")));
        assert_eq!(site.answer("/a/c.css"), Some(Page::missing()));
        assert_eq!(Site::default().answer("/a/b.html"), None);
    }
}
