//! Puts the tables of a file of runs into a page of the book, so that what it says is what was measured.

use std::fmt::Write as _;

use clap::ValueEnum as _;

use crate::Failure;
use crate::report::{Report, Told};
use crate::scenario::{Scenario, Size};

/// What ends a part that is filled in.
const END: &str = "<!-- end -->";

/// Replaces what stands between `<!-- SCENARIO -->` and `<!-- end -->` where `report` has runs of it.
pub(crate) fn fill(report: &Report, page: &str) -> Result<String, Failure> {
    let mut filled = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        writeln!(filled, "{line}")?;
        let Some(name) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let scenario =
            Scenario::from_str(name, false).map_err(|_| format!("the page asks for {name:?}: no scenario"))?;
        let mut before = Vec::new();
        loop {
            match lines.next() {
                Some(END) => break,
                Some(line) => before.push(line),
                None => return Err(format!("the part {name:?} of the page has no {END:?}").into()),
            }
        }
        let told: Vec<_> = report.cases.iter().filter(|told| told.scenario == name).collect();
        if told.is_empty() {
            before.iter().try_for_each(|line| writeln!(filled, "{line}"))?;
        } else {
            tables(&mut filled, scenario, &told)?;
        }
        writeln!(filled, "{END}")?;
    }
    Ok(filled)
}

fn tables(out: &mut String, scenario: Scenario, told: &[&Told]) -> Result<(), Failure> {
    let cases = scenario.cases(Size { part: 1.0 });
    for told in told {
        let is_of = |case: &&crate::case::Case| {
            (&*case.title, case.work.concurrency, case.processes) == (&*told.title, told.concurrency, told.processes)
        };
        let case = cases.iter().find(is_of).ok_or_else(|| format!("{}: no such case today", told.title))?;
        write!(out, "\n{}\n", told.table(case))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::measured::Measured;

    #[test]
    fn a_part_is_replaced_where_there_are_runs_of_it() {
        let case = Scenario::Keepalive.cases(Size { part: 1.0 }).remove(0);
        let mut told = Told { requests: 1, ..Told::new(&case) };
        told.add(Client::Raw, Ok(Measured { requests: 1, seconds: 1.0, cpu_seconds: 1e-5, ..Measured::default() }));
        let report = Report { machine: String::new(), cases: vec![told] };
        let page = "a\n<!-- keepalive -->\nold\n<!-- end -->\n<!-- node -->\nkept\n<!-- end -->\nb\n";
        let filled = fill(&report, page).expect("a page");
        assert!(filled.contains("| raw | 10.0 |") && !filled.contains("old"), "{filled}");
        assert!(filled.ends_with("<!-- end -->\n<!-- node -->\nkept\n<!-- end -->\nb\n"), "{filled}");
        assert_eq!(fill(&report, &filled).expect("a page"), filled, "again");
        for broken in ["<!-- nothing -->\n<!-- end -->\n", "<!-- node -->\n"] {
            assert!(fill(&report, broken).is_err(), "{broken}");
        }
    }
}
