//! [`Report`]: all runs of all cases, as a page of Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use tidegate::Machine;
use tidegate_benches::median;

use crate::case::Case;
use crate::client::Client;
use crate::measured::Measured;
use crate::summary::Spread;

/// What is kept in the JSON file: every run, so that other questions can be asked later.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Cores, and who had which.
    pub(crate) machine: String,
    pub(crate) cases: Vec<Told>,
}

/// A case as it was run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) scenario: String,
    pub(crate) title: String,
    pub(crate) concurrency: u32,
    pub(crate) processes: u32,
    pub(crate) requests: u64,
    /// Memory that [`Demand::plan`](tidegate::Demand::plan) has for the connections of a crawl, in KB.
    pub(crate) planned_kb: Option<f64>,
    pub(crate) clients: BTreeMap<String, Vec<Measured>>,
    /// Clients whose runs count for nothing, and why.
    pub(crate) void: BTreeMap<String, String>,
}

impl Told {
    pub(crate) fn new(case: &Case) -> Self {
        Self {
            scenario: case.scenario.into(),
            title: case.title.clone(),
            concurrency: case.work.concurrency,
            processes: case.processes,
            requests: case.work.requests,
            planned_kb: case.demand.as_ref().map(|demand| {
                let one = demand.plan(&Machine::default()).bytes as f64 / 1024.0;
                one * f64::from(case.processes)
            }),
            ..Self::default()
        }
    }

    /// A run of a client; one that failed, or lost a request, is void and makes the client's others so.
    pub(crate) fn add(&mut self, client: Client, run: Result<Measured, crate::Failure>) {
        let name = client.name();
        match run {
            Ok(run) => {
                if run.errors > 0 || run.requests < self.wanted(client) {
                    let why = run.error.as_deref().unwrap_or("no error");
                    let (lost, all) =
                        (run.errors.max(self.wanted(client).saturating_sub(run.requests)), self.wanted(client));
                    self.void.insert(name.clone(), format!("{lost} of {all} requests were not answered: {why}"));
                }
                self.clients.entry(name).or_default().push(run);
            }
            Err(e) => drop(self.void.insert(name, crate::chain(&*e))),
        }
    }

    pub(crate) fn is_void(&self, client: Client) -> bool {
        self.void.contains_key(&client.name())
    }

    /// Answers that a run must have.
    fn wanted(&self, client: Client) -> u64 {
        if client.is_idle() { 0 } else { self.requests * u64::from(self.processes) }
    }

    /// Its table: medians with their spread, and the first figure as a multiple of the floor's.
    pub(crate) fn table(&self, case: &Case) -> String {
        let mut out = format!("### {}: {}\n\n", self.scenario, self.title);
        let floor = case.clients.first().filter(|&&client| client == Client::Raw);
        let least = floor.map(|client| self.values(client.name(), case, 0));
        let shown: Vec<usize> = (0..case.figures.len())
            .filter(|&n| case.clients.iter().any(|client| !self.values(client.name(), case, n).is_empty()))
            .collect();
        let mut heads = vec!["client".to_owned()];
        for &n in &shown {
            heads.push(case.figures[n].title().to_owned());
            heads.extend(floor.filter(|_| n == 0).map(|floor| format!("x {}", floor.name())));
        }
        row(&mut out, &heads);
        row(&mut out, &heads.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
        for client in &case.clients {
            let name = client.name();
            if let Some(why) = self.void.get(&name) {
                row(&mut out, &[format!("{name}: void, {why}")]);
                continue;
            }
            if !self.clients.contains_key(&name) {
                continue;
            }
            let mut cells = vec![name.clone()];
            let text = |spread: Option<Spread>| spread.map_or_else(String::new, |spread| spread.text());
            for &n in &shown {
                let values = self.values(name.clone(), case, n);
                cells.push(text(Spread::of(&values)));
                cells.extend(least.iter().filter(|_| n == 0).map(|least| text(Spread::of_ratios(&values, least))));
            }
            row(&mut out, &cells);
        }
        out.extend(self.planned(case));
        out.extend(self.unequal_pages(case));
        out
    }

    /// What the connections of a crawl were planned to take, beside what they took.
    fn planned(&self, case: &Case) -> Option<String> {
        let planned = self.planned_kb?;
        let crawls = case.clients.iter().filter(|client| client.is_crawl()).filter_map(|client| {
            let name = client.name();
            let taken: Vec<_> = self.clients.get(&name)?.iter().filter_map(Measured::waiting_kb).collect();
            (!taken.is_empty() && !self.is_void(*client)).then(|| {
                let taken = median(taken);
                format!("{name} {:.1} MB, {:+.1} %", taken / 1024.0, (planned / taken - 1.0) * 100.0)
            })
        });
        let crawls = crawls.collect::<Vec<_>>().join("; ");
        (!crawls.is_empty())
            .then(|| format!("\nplanned {:.1} MB; taken, and the plan beside it: {crawls}\n", planned / 1024.0))
    }

    /// What crawls of a site found, where that is not the same for all.
    fn unequal_pages(&self, case: &Case) -> Option<String> {
        let counted =
            case.clients.iter().filter(|client| case.work.follow && !self.is_void(**client)).filter_map(|client| {
                let name = client.name();
                let runs = self.clients.get(&name)?;
                Some((name, median(runs.iter().map(|run| run.requests as f64))))
            });
        let counted: Vec<_> = counted.collect();
        let (_, first) = counted.first()?;
        if counted.iter().all(|(_, pages)| pages == first) {
            return None;
        }
        let all: Vec<_> = counted.iter().map(|(name, pages)| format!("{name} {pages}")).collect();
        Some(format!("\nnot the same pages: {}\n", all.join(", ")))
    }

    fn values(&self, client: String, case: &Case, figure: usize) -> Vec<f64> {
        let runs = self.clients.get(&client).into_iter().flatten();
        runs.filter_map(|run| case.figures.get(figure)?.of(run, case)).collect()
    }
}

fn row(out: &mut String, cells: &[String]) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Figure;
    use crate::scenario::{Scenario, Size};

    fn run(cpu_seconds: f64) -> Measured {
        Measured { requests: 100, seconds: 1.0, cpu_seconds, ..Measured::default() }
    }

    #[test]
    fn a_table_has_medians_ratios_and_what_is_void() {
        let mut case = Scenario::Keepalive.cases(Size { part: 0.0 }).remove(0);
        case.clients = vec![Client::Raw, Client::Hyper, Client::Reqwest, Client::Aiohttp];
        case.figures = vec![Figure::CpuUs, Figure::LagP50];
        let mut told = Told { requests: 100, ..Told::new(&case) };
        for cpu in [0.001, 0.002, 0.003] {
            told.add(Client::Raw, Ok(run(cpu)));
            told.add(Client::Hyper, Ok(run(2.0 * cpu)));
        }
        told.add(Client::Reqwest, Ok(Measured { errors: 1, error: Some("reset".into()), ..run(0.1) }));
        let table = told.table(&case);
        let lines: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| client | CPU us/request | x raw |",
                "| --- | --- | --- |",
                "| raw | 20.0 [10.0 .. 30.0] | 1.00 |",
                "| hyper | 40.0 [20.0 .. 60.0] | 2.00 |",
                "| reqwest: void, 1 of 100 requests were not answered: reset |",
            ]
        );
    }

    #[test]
    fn a_plan_stands_beside_what_was_taken() {
        let mut case = Scenario::Sockets.cases(Size { part: 0.0 }).remove(0);
        case.clients = vec![Client::Raw, Client::TidegateCrawl, Client::TidegateCrawlSmol];
        let mut told = Told { requests: 100, planned_kb: Some(1100.0), ..Told::new(&case) };
        let waiting = |kb| Measured { seen: [("waiting_kb".to_owned(), kb)].into(), ..run(0.1) };
        told.add(Client::Raw, Ok(waiting(100.0)));
        told.add(Client::TidegateCrawl, Ok(waiting(1000.0)));
        told.add(Client::TidegateCrawlSmol, Ok(waiting(2000.0)));
        let table = told.table(&case);
        let expected = "planned 1.1 MB; taken, and the plan beside it: tidegate-crawl 1.0 MB, +10.0 %; \
                        tidegate-crawl-smol 2.0 MB, -45.0 %";
        assert_eq!(table.lines().last(), Some(expected));
        told.planned_kb = None;
        assert!(!told.table(&case).contains("planned"));
    }

    #[test]
    fn crawls_that_found_other_pages_are_told() {
        let mut case = Scenario::Pages.cases(Size { part: 1.0 }).remove(0);
        case.clients = vec![Client::ReqwestScraper, Client::TidegatePages, Client::Spider];
        let mut told = Told::new(&case);
        told.add(Client::ReqwestScraper, Ok(run(0.1)));
        told.add(Client::TidegatePages, Ok(run(0.1)));
        assert!(!told.table(&case).contains("not the same"));
        told.add(Client::Spider, Ok(Measured { requests: 99, ..run(0.1) }));
        let table = told.table(&case);
        assert_eq!(
            table.lines().last(),
            Some("not the same pages: reqwest-scraper 100, tidegate-pages 100, spider 99"),
        );
    }

    #[test]
    fn processes_are_planned_each() {
        let planned = |scenario: Scenario| Told::new(&scenario.cases(Size { part: 1.0 })[0]).planned_kb;
        let one = tidegate::Demand::new(16_667.0, std::time::Duration::from_secs(1)).plan(&Machine::default()).bytes;
        assert_eq!(planned(Scenario::Fifty), Some(3.0 * one as f64 / 1024.0));
        assert_eq!(planned(Scenario::Keepalive), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let case = Scenario::Keepalive.cases(Size { part: 0.0 }).remove(0);
        let mut told = Told::new(&case);
        told.add(Client::Raw, Ok(run(0.5)));
        told.add(Client::Hyper, Err("it did not end".into()));
        let report = Report { machine: "two cores".into(), cases: vec![told] };
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).expect("JSON")).expect("JSON");
        assert_eq!(again.cases[0].clients["raw"], [run(0.5)]);
        assert_eq!(again.cases[0].void["hyper"], "it did not end");
    }
}
