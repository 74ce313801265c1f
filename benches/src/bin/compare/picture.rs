//! The curves over the number of sockets as SVG: memory of each above, CPU time of a request below.

use std::path::Path;

use plotters::prelude::{IntoDrawingArea as _, SVGBackend};
use plotters::style::{Color as _, WHITE};
use tidegate_benches::{COLOURS, Line, legend, median, pane};

use crate::Failure;
use crate::measured::Measured;
use crate::report::{Report, Told};

const SIZE: (u32, u32) = (860, 640);
/// Heights of the upper pane and of both.
const UPPER: u32 = 315;
const PANES: u32 = 610;

/// Draws the cases of a scenario that differ in the number of connections.
pub(crate) fn draw(report: &Report, scenario: &str, file: &Path) -> Result<(), Failure> {
    let mut cases: Vec<_> = report.cases.iter().filter(|told| told.scenario == scenario).collect();
    cases.sort_by_key(|told| told.concurrency);
    let end = cases.last().map(|told| f64::from(told.concurrency)).ok_or("the file has nothing of it")?;
    let memory = lines(&cases, |told, run| run.waiting_kb().map(|kb| kb / f64::from(told.concurrency)));
    let cpu = lines(&cases, |_, run| Some(run.cpu_us()));

    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (panes, row) = root.split_vertically(PANES);
    let (upper, lower) = panes.split_vertically(UPPER);
    legend(&row, SIZE.0, &cpu)?;
    let axis = ("connections", end);
    for (area, title, unit, lines) in [
        (upper, Some("What a connection that waits costs, and what its request costs"), "KB each, waiting", memory),
        (lower, None, "CPU us a request", cpu),
    ] {
        let most = Line::values(&lines).fold(1.0, f64::max) * 1.1;
        pane(&area, title, axis, (unit, 0.0..most), lines)?;
    }
    root.present()?;
    Ok(())
}

/// A line for each client that has a value everywhere, in the order of their names.
fn lines(cases: &[&Told], value: impl Fn(&Told, &Measured) -> Option<f64>) -> Vec<Line> {
    let clients = cases.first().into_iter().flat_map(|told| told.clients.keys());
    let drawn = clients.zip(COLOURS.iter().cycle()).map(|(client, colour)| {
        let points = cases.iter().filter_map(|told| {
            let runs: Vec<_> = told.clients.get(client)?.iter().filter_map(|run| value(told, run)).collect();
            (!runs.is_empty()).then(|| (f64::from(told.concurrency), median(runs)))
        });
        Line::new(client, colour.stroke_width(2), vec![points.collect()])
    });
    drawn.collect()
}
