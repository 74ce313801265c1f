//! What README, the book and the manifests say of each other.

use tidegate::{ErrorKind, RetryTime};

const README: &str = include_str!("../../README.md");
const MAKEFILE: &str = include_str!("../../Makefile");
const ERRORS: &str = include_str!("../src/errors.md");
const SUMMARY: &str = include_str!("../src/SUMMARY.md");
const BOOK: &str = include_str!("../lib.rs");

#[test]
fn readme_names_the_rust_version_of_the_manifests() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(README.contains(&format!("\n{version} or newer.")), "README must say {version}");
}

#[test]
fn readme_names_the_commands_that_are_run() {
    let line = |text: &str, line: &str| text.lines().any(|l| l.trim() == line);
    assert!(line(README, "cargo run --release --bin tidegate -- crawl --demo"));
    assert!(line(README, "cargo test --workspace"));
    assert!(line(MAKEFILE, "$(CARGO) test --workspace"));
}

/// The rows of the table of errors, the only one of three columns: code, when another try makes sense, cause.
/// The pages, without the folder of pictures.
fn pages() -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("the book has pages");
    folder.map(|page| page.expect("readable").path()).filter(|page| page.is_file()).collect()
}

fn rows() -> Vec<[&'static str; 3]> {
    let row = |line: &'static str| {
        let mut cells = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ");
        Some([cells.next()?.strip_suffix('`')?, cells.next()?, cells.next()?])
    };
    ERRORS.lines().filter_map(row).collect()
}

/// The keys in the first column of the tables of records, and the fields that are serialised, both in their order.
#[test]
fn the_book_lists_every_key_of_a_record() {
    let (_, tables) = ERRORS.split_once("## The record of the program").expect("a section of the page");
    let first_column =
        tables.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split(" | ").next());
    let listed: Vec<_> = first_column.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();

    let source = include_str!("../../examples/src/cli/record.rs");
    let mut fields = Vec::new();
    for name in ["Record", "CrawlKeys", "MonitorKeys"] {
        let start = source.find(&format!("struct {name}")).unwrap_or_else(|| panic!("a struct {name}"));
        let (body, _) = source[start..].split_once("\n}").expect("a struct ends");
        let names =
            body.lines().skip(1).filter_map(|line| line.trim().trim_start_matches("pub(super) ").split_once(": "));
        // What is flattened into the record are the further keys.
        fields.extend(names.map(|(field, _)| field).filter(|field| *field != "more" && !field.starts_with("//")));
    }
    assert_eq!(listed, fields);
}

#[test]
fn the_book_explains_every_bound_in_order() {
    let (_, table) = include_str!("../src/why.md").split_once("|---|---|---|\n").expect("a table");
    let rows = table.lines().take_while(|line| line.starts_with("| "));
    let listed: Vec<_> = rows.filter_map(|row| row.strip_prefix("| ")?.split(" | ").next()).collect();
    assert_eq!(listed, tidegate::engine::Bound::ALL.map(tidegate::engine::Bound::name));
}

#[test]
fn the_book_lists_every_error_kind_in_order() {
    let expected: Vec<_> = ErrorKind::all()
        .iter()
        .map(|kind| {
            let retry = match kind.retry_time() {
                RetryTime::Never => "never",
                RetryTime::AfterBackoff => "after back-off",
                RetryTime::WhenRoom => "when there is room",
                _ => "after the time that the server said",
            };
            (kind.code(), retry)
        })
        .collect();
    let listed: Vec<_> = rows().into_iter().map(|[code, retry, _]| (code, retry)).collect();
    assert_eq!(listed, expected);
}

/// The table says what the documentation of the kinds says.
#[test]
fn the_book_explains_every_error_kind_as_its_documentation_does() {
    let source = include_str!("../../core/src/error.rs");
    for [code, _, cause] in rows() {
        let end = source.find(&format!("= \"{code}\", ")).unwrap_or_else(|| panic!("{code} is a kind"));
        let mut lines: Vec<_> = source[..end].lines().rev().skip(1).map(str::trim).collect();
        lines.truncate(lines.iter().position(|line| !line.starts_with("///")).expect("the first kind has one before"));
        let documented: Vec<_> = lines.iter().rev().map(|line| line.trim_start_matches("///").trim()).collect();
        assert_eq!(cause, documented.join(" "), "{code}");
    }
}

#[test]
fn every_page_of_the_book_is_in_its_summary_and_is_compiled() {
    for page in pages() {
        let name = page.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        if name != "SUMMARY.md" {
            assert!(SUMMARY.contains(&format!("({name})")), "{name} is not in SUMMARY.md");
            assert!(BOOK.contains(&format!("\"src/{name}\"")), "{name} is not in lib.rs");
        }
    }
}

/// The methods that a crawl, its fetcher and a running crawl are steered by: each has an example of its own.
#[test]
fn every_method_of_the_builders_and_of_the_handle_has_an_example() {
    for source in [
        include_str!("../../core/src/drive/builder.rs"),
        include_str!("../../core/src/drive/builder/start.rs"),
        include_str!("../../core/src/drive/handle.rs"),
        include_str!("../../core/src/http/builder.rs"),
    ] {
        let mut has_example = false;
        for line in source.lines().map(str::trim) {
            match line {
                _ if line.starts_with("///") => has_example |= line == "/// ```" || line == "/// ```no_run",
                _ if line.starts_with("#[") => {}
                _ => {
                    let method = line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub async fn "));
                    assert!(method.is_none() || has_example, "{line} has no example");
                    has_example = false;
                }
            }
        }
    }
}

/// Pages include code by the names of anchors: each is there, begun and ended once.
#[test]
fn included_anchors_are_there() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut includes = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("UTF-8");
        for include in text.split("{{#include ").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(it, _)| it) {
            let (file, anchor) = include.split_once(':').unwrap_or_else(|| panic!("{include} names no anchor"));
            let code = std::fs::read_to_string(src.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let at = |mark: &str| {
                let mut lines =
                    code.lines().enumerate().filter(|(_, line)| line.trim() == format!("// {mark}: {anchor}"));
                let found = lines.next().unwrap_or_else(|| panic!("{file} has no {mark}: {anchor}")).0;
                assert!(lines.next().is_none(), "{file} has {mark}: {anchor} twice");
                found
            };
            assert!(at("ANCHOR") + 1 < at("ANCHOR_END"), "{anchor} in {file} is empty");
            includes += 1;
        }
    }
    assert!(includes > 0);
}

/// Links of README and the root files to files of this repository.
#[test]
fn links_lead_somewhere() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of the workspace");
    for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "book/src/SUMMARY.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect("a root file");
        let folder = root.join(page).parent().expect("a file").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            assert!(link.starts_with("https://") || folder.join(link).exists(), "{page} links to {link}");
        }
    }
}
