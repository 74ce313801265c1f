//! The curves of a scenario as SVG: pages a second above, the slowest hundredth of the latencies below.

use std::path::Path;
use std::time::Duration;

use plotters::prelude::{IntoDrawingArea as _, IntoLogRange as _, SVGBackend};
use plotters::style::{Color as _, RGBColor, WHITE};
use tidegate_benches::{COLOURS, Line, legend, pane};

use crate::Failure;
use crate::measure::Bucket;
use crate::model::Run;
use crate::policy::Policy;
use crate::scenario::Scenario;

const SIZE: (u32, u32) = (860, 640);
/// Heights of the upper pane and of both.
const UPPER: u32 = 330;
const PANES: u32 = 610;
const GREY: RGBColor = RGBColor(150, 150, 150);

fn colour(policy: Policy) -> RGBColor {
    match policy {
        Policy::Tidegate => COLOURS[0],
        Policy::Fixed(..100) => COLOURS[1],
        Policy::Fixed(..1_000) => COLOURS[2],
        Policy::Fixed(_) => COLOURS[3],
        Policy::Crawlee => COLOURS[4],
    }
}

/// Writes the picture.
pub(crate) fn draw(file: &Path, scenario: &Scenario, runs: &[Run]) -> Result<(), Failure> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (panes, row) = root.split_vertically(PANES);
    let (upper, lower) = panes.split_vertically(UPPER);
    let width = scenario.bucket.as_secs_f64();
    let end = scenario.length.as_secs_f64();
    let time = |n: usize| (n as f64 + 0.5) * width;

    let mut rates: Vec<_> =
        runs.iter().map(|run| line(run, time, |bucket| Some(bucket.pages as f64 / width))).collect();
    let buckets = runs.first().map_or(0, |run| run.buckets.len());
    let best: Vec<_> = (0..buckets).map(|n| (time(n), scenario.best(scenario.bucket * n as u32))).collect();
    rates.insert(0, Line::new("best possible", GREY.stroke_width(1), vec![best]));
    let highest = Line::values(&rates).fold(1.0, f64::max) * 1.05;
    let title = format!("{}: {}", scenario.name.text(), scenario.title);
    legend(&row, SIZE.0, &rates)?;
    pane(&upper, Some(&title), ("time, s", end), ("pages/s", 0.0..highest), rates)?;

    let seconds = |time: Duration| time.as_secs_f64();
    let slow: Vec<_> = runs.iter().map(|run| line(run, time, |bucket| bucket.p99.map(seconds))).collect();
    let lowest = Line::values(&slow).fold(0.1, f64::min) * 0.8;
    let highest = Line::values(&slow).fold(1.0, f64::max) * 1.2;
    pane(&lower, None, ("time, s", end), ("p99 of the latency, s", (lowest..highest).log_scale()), slow)?;
    root.present()?;
    Ok(())
}

fn line(run: &Run, time: impl Fn(usize) -> f64, value: impl Fn(&Bucket) -> Option<f64>) -> Line {
    let values: Vec<_> = run.buckets.iter().enumerate().map(|(n, bucket)| (time(n), value(bucket))).collect();
    let is_gap = |(_, value): &(f64, Option<f64>)| value.is_none();
    let piece = |piece: &[(f64, Option<f64>)]| piece.iter().filter_map(|(x, y)| Some((*x, (*y)?))).collect();
    let pieces = values.split(is_gap).filter(|piece| !piece.is_empty()).map(piece).collect();
    let width = if run.policy == Policy::Tidegate { 3 } else { 2 };
    Line::new(run.policy.text(), colour(run.policy).stroke_width(width), pieces)
}
