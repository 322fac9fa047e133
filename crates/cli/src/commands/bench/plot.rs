//! Log-log plots of time and memory, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::failure::Failure;

/// A labelled curve of (tokens, value) points.
pub(super) struct Curve {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A colour-blind-safe palette (Okabe and Ito 2008); further curves reuse it with larger dots.
pub(crate) const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(150, 140, 0),
];

/// Draws time on the left, memory on the right if it was measured, and the legend below.
pub(super) fn svg(title: &str, seconds: &[Curve], bytes: &[Curve]) -> Result<String, Failure> {
    svg_of(title, ["seconds", "peak memory beyond the inputs"], seconds, bytes)
}

/// As [`svg`], with the names of the two axes.
pub(super) fn svg_of(title: &str, axes: [&str; 2], seconds: &[Curve], bytes: &[Curve]) -> Result<String, Failure> {
    let mut out = String::new();
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("cannot draw the plot: {e}"));
    draw(&mut out, title, axes, [seconds, bytes]).map_err(|e| failed(&e))?;
    Ok(out)
}

fn draw(
    out: &mut String,
    title: &str,
    axes: [&str; 2],
    [seconds, bytes]: [&[Curve]; 2],
) -> Result<(), Box<dyn std::error::Error>> {
    let rows = seconds.len().div_ceil(2) as u32;
    let with_memory = bytes.iter().any(|curve| !curve.points.is_empty());
    let root = SVGBackend::with_string(out, (960, 440 + 20 * rows)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(30);
    head.draw(&Text::new(title.to_string(), (16, 10), ("sans-serif", 16)))?;
    let (panels, legend) = body.split_vertically(400);
    if with_memory {
        let (left, right) = panels.split_horizontally(480);
        panel(&left, axes[0], seconds, duration)?;
        panel(&right, axes[1], bytes, size)?;
    } else {
        panel(&panels, axes[0], seconds, duration)?;
    }
    for (n, curve) in seconds.iter().enumerate() {
        let (x, y) = (16 + 470 * (n as i32 % 2), 10 + 20 * (n as i32 / 2));
        let colour = COLOURS[n % COLOURS.len()];
        legend.draw(&PathElement::new(vec![(x, y), (x + 24, y)], colour.stroke_width(3)))?;
        legend.draw(&Text::new(curve.label.clone(), (x + 32, y - 6), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    what: &str,
    curves: &[Curve],
    label: fn(f64) -> String,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let span = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = all().map(of).fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        if low <= high { (low, high) } else { (1.0, 2.0) }
    };
    let ((first, last), (low, high)) = (span(|p| p.0), span(|p| p.1));
    let x = (first / 1.1..last * 1.1).log_scale().base(2.0);
    let y = (low / 1.5..high * 1.5).log_scale();
    let mut chart =
        ChartBuilder::on(area).margin(12).x_label_area_size(36).y_label_area_size(64).build_cartesian_2d(x, y)?;
    let light = RGBColor(232, 232, 232);
    chart
        .configure_mesh()
        .x_desc("tokens")
        .y_desc(what)
        .x_label_formatter(&|t| tokens(*t))
        .y_label_formatter(&|y| label(*y))
        .bold_line_style(light)
        .light_line_style(WHITE)
        .draw()?;
    for (n, curve) in curves.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))?;
        let size = if n < COLOURS.len() { 3 } else { 5 };
        chart.draw_series(curve.points.iter().map(|p| Circle::new(*p, size, colour.filled())))?;
    }
    Ok(())
}

fn tokens(t: f64) -> String {
    match t.round() as u64 {
        t if t >= 1 << 20 && t.is_multiple_of(1 << 20) => format!("{}M", t >> 20),
        t if t >= 1 << 10 && t.is_multiple_of(1 << 10) => format!("{}k", t >> 10),
        t => t.to_string(),
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 0.999e-3 {
        format!("{:.0} us", seconds * 1e6)
    } else if seconds < 0.999 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.0} s")
    }
}

fn size(bytes: f64) -> String {
    if bytes < 0.999e9 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.0} GB", bytes / 1e9) }
}
