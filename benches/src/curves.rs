//! Curves as SVG: panes over one axis, and a row of names below them.

use std::error::Error;

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::{DrawingArea, LineSeries, PathElement, SVGBackend, Text};
use plotters::style::{RGBColor, ShapeStyle};

const FONT: &str = "sans-serif";

/// Of Okabe and Ito's palette, which people with any kind of colour blindness can tell apart.
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Where something is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a pane; a gap between its pieces, where there is no value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Line {
    label: String,
    style: ShapeStyle,
    pieces: Vec<Vec<(f64, f64)>>,
}

impl Line {
    /// A line through these points.
    pub fn new(label: impl Into<String>, style: ShapeStyle, pieces: Vec<Vec<(f64, f64)>>) -> Self {
        Self { label: label.into(), style, pieces }
    }

    /// The values of all points of all lines.
    ///
    /// ```
    /// use plotters::style::Color as _;
    /// use tidegate_benches::{COLOURS, Line};
    /// let line = Line::new("up", COLOURS[0].stroke_width(1), vec![vec![(0.0, 1.0), (1.0, 2.0)]]);
    /// assert_eq!(Line::values(&[line]).fold(0.0, f64::max), 2.0);
    /// ```
    pub fn values(lines: &[Self]) -> impl Iterator<Item = f64> {
        lines.iter().flat_map(|line| line.pieces.iter().flatten()).map(|(_, y)| *y)
    }
}

/// Draws lines over an axis `x`, from 0 to its end; the first of them on top.
///
/// # Errors
/// Where the picture cannot be written.
pub fn pane<Y>(
    area: &Area<'_>,
    title: Option<&str>,
    (x, end): (&str, f64),
    (y, range): (&str, Y),
    lines: Vec<Line>,
) -> Result<(), Box<dyn Error + Send + Sync>>
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
        .x_desc(x)
        .y_desc(y)
        .axis_desc_style((FONT, 14))
        .label_style((FONT, 13))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if *y >= 10.0 || *y == 0.0 { format!("{y:.0}") } else { format!("{y:.1}") })
        .draw()?;
    for line in lines.into_iter().rev() {
        for piece in line.pieces {
            chart.draw_series(LineSeries::new(piece, line.style))?;
        }
    }
    Ok(())
}

/// A row of names, so wide.
///
/// # Errors
/// Where the picture cannot be written.
pub fn legend(area: &Area<'_>, width: u32, lines: &[Line]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let step = width as i32 / lines.len().max(1) as i32;
    for (line, x) in lines.iter().zip((12..).step_by(step.max(1) as usize)) {
        area.draw(&PathElement::new(vec![(x, 12), (x + 24, 12)], line.style))?;
        area.draw(&Text::new(line.label.clone(), (x + 30, 5), (FONT, 14)))?;
    }
    Ok(())
}
