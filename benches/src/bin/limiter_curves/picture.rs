//! The curves of a scenario as SVG: pages a second above, the slowest hundredth of the latencies below.

use std::path::Path;
use std::time::Duration;

use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::{
    DrawingArea, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement, SVGBackend, Text,
};
use plotters::style::{Color as _, RGBColor, ShapeStyle, WHITE};

use crate::Failure;
use crate::measure::Bucket;
use crate::model::Run;
use crate::policy::Policy;
use crate::scenario::Scenario;

const SIZE: (u32, u32) = (860, 640);
/// Heights of the upper pane and of both.
const UPPER: u32 = 330;
const PANES: u32 = 610;
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(150, 150, 150);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A line of a pane; a gap where there is no value.
struct Line {
    label: String,
    style: ShapeStyle,
    pieces: Vec<Vec<(f64, f64)>>,
}

/// Of Okabe and Ito's palette, which people with any kind of colour blindness can tell apart.
fn colour(policy: Policy) -> RGBColor {
    match policy {
        Policy::Tidegate => RGBColor(0, 114, 178),
        Policy::Fixed(..100) => RGBColor(230, 159, 0),
        Policy::Fixed(..1_000) => RGBColor(0, 158, 115),
        Policy::Fixed(_) => RGBColor(213, 94, 0),
        Policy::Crawlee => RGBColor(204, 121, 167),
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
    rates.insert(0, Line { label: "best possible".into(), style: GREY.stroke_width(1), pieces: vec![best] });
    let highest = points(&rates).fold(1.0, f64::max) * 1.05;
    let title = format!("{}: {}", scenario.name.text(), scenario.title);
    legend(&row, &rates)?;
    pane(&upper, Some(&title), "pages/s", end, 0.0..highest, rates)?;

    let seconds = |time: Duration| time.as_secs_f64();
    let slow: Vec<_> = runs.iter().map(|run| line(run, time, |bucket| bucket.p99.map(seconds))).collect();
    let lowest = points(&slow).fold(0.1, f64::min) * 0.8;
    let highest = points(&slow).fold(1.0, f64::max) * 1.2;
    pane(&lower, None, "p99 of the latency, s", end, (lowest..highest).log_scale(), slow)?;
    root.present()?;
    Ok(())
}

fn line(run: &Run, time: impl Fn(usize) -> f64, value: impl Fn(&Bucket) -> Option<f64>) -> Line {
    let values: Vec<_> = run.buckets.iter().enumerate().map(|(n, bucket)| (time(n), value(bucket))).collect();
    let is_gap = |(_, value): &(f64, Option<f64>)| value.is_none();
    let piece = |piece: &[(f64, Option<f64>)]| piece.iter().filter_map(|(x, y)| Some((*x, (*y)?))).collect();
    let pieces = values.split(is_gap).filter(|piece| !piece.is_empty()).map(piece).collect();
    let width = if run.policy == Policy::Tidegate { 3 } else { 2 };
    Line { label: run.policy.text(), style: colour(run.policy).stroke_width(width), pieces }
}

fn points(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.pieces.iter().flatten()).map(|(_, y)| *y)
}

fn pane<Y>(
    area: &Area<'_>,
    title: Option<&str>,
    unit: &str,
    end: f64,
    range: Y,
    lines: Vec<Line>,
) -> Result<(), Failure>
where
    Y: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
{
    let mut builder = ChartBuilder::on(area);
    builder.margin(8).margin_right(16).x_label_area_size(38).y_label_area_size(70);
    if let Some(title) = title {
        builder.caption(title, (FONT, 17));
    }
    let mut chart = builder.build_cartesian_2d(0.0..end, range)?;
    chart
        .configure_mesh()
        .x_labels(8)
        .y_labels(6)
        .max_light_lines(0)
        .x_desc("time, s")
        .y_desc(unit)
        .axis_desc_style((FONT, 14))
        .label_style((FONT, 13))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if *y >= 10.0 || *y == 0.0 { format!("{y:.0}") } else { format!("{y:.1}") })
        .draw()?;
    // The thick line of the first policy lies on top.
    for line in lines.into_iter().rev() {
        for piece in line.pieces {
            chart.draw_series(LineSeries::new(piece, line.style))?;
        }
    }
    Ok(())
}

/// A row of names below the panes.
fn legend(area: &Area<'_>, lines: &[Line]) -> Result<(), Failure> {
    let step = SIZE.0 as i32 / lines.len().max(1) as i32;
    for (line, x) in lines.iter().zip((12..).step_by(step.max(1) as usize)) {
        area.draw(&PathElement::new(vec![(x, 12), (x + 24, 12)], line.style))?;
        area.draw(&Text::new(line.label.clone(), (x + 30, 5), (FONT, 14)))?;
    }
    Ok(())
}
