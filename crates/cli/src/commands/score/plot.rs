//! Loss by position, as SVG.

use plotters::prelude::*;

use super::Scored;
use crate::commands::bench::COLOURS;
use crate::failure::Failure;

/// An SVG with one curve per text over the number of tokens before, on a logarithmic axis, with standard errors.
pub(super) fn svg(title: &str, texts: &[Scored]) -> Result<String, Failure> {
    let mut out = String::new();
    draw(&mut out, title, texts).map_err(|e| Failure::new(format!("cannot draw the plot: {e}")))?;
    Ok(out)
}

/// The points of a text: the middle of a range, its loss and the error of that.
fn points(text: &Scored) -> Vec<(f64, f64, f64)> {
    let point = |bucket: &longreach_engine::Bucket| {
        let (loss, error) = bucket.mean();
        (((bucket.before.0 * bucket.before.1) as f64).sqrt(), loss, error)
    };
    text.score.buckets.iter().map(point).collect()
}

fn draw(out: &mut String, title: &str, texts: &[Scored]) -> Result<(), Box<dyn std::error::Error>> {
    let height = 400 + 20 * texts.len() as u32;
    let root = SVGBackend::with_string(out, (640, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(30);
    head.draw(&Text::new(title.to_owned(), (16, 10), ("sans-serif", 16)))?;
    let (panel, legend) = body.split_vertically(360);
    let all: Vec<_> = texts.iter().flat_map(points).collect();
    let span = |low: f64, high: f64| if low < high { (low, high) } else { (low - 0.5, low + 0.5) };
    let most = all.iter().fold(8.0f64, |most, p| most.max(p.0));
    let (low, high) = span(
        all.iter().fold(f64::INFINITY, |low, p| low.min(p.1 - p.2)),
        all.iter().fold(f64::NEG_INFINITY, |high, p| high.max(p.1 + p.2)),
    );
    let x = (3.0..most * 1.2).log_scale().base(2.0);
    let mut chart = ChartBuilder::on(&panel)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(x, low..high)?;
    chart
        .configure_mesh()
        .x_desc("tokens before")
        .y_desc("loss in nats per token")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .bold_line_style(RGBColor(232, 232, 232))
        .light_line_style(WHITE)
        .draw()?;
    for (n, text) in texts.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points = points(text);
        chart.draw_series(LineSeries::new(points.iter().map(|p| (p.0, p.1)), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|p| Circle::new((p.0, p.1), 3, colour.filled())))?;
        let bars = points.iter().map(|p| PathElement::new(vec![(p.0, p.1 - p.2), (p.0, p.1 + p.2)], colour));
        chart.draw_series(bars)?;
        let y = 8 + 20 * n as i32;
        legend.draw(&PathElement::new(vec![(16, y), (40, y)], colour.stroke_width(3)))?;
        legend.draw(&Text::new(text.name.clone(), (48, y - 6), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}
