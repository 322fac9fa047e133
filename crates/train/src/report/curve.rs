//! A plot of the training loss.

use plotters::prelude::*;

/// An SVG of loss over steps, in bits per token: single steps in a light colour, their running mean, and held-out measurements as dots.
pub(crate) fn svg(losses: &[(usize, f32)], measured: &[(usize, f32)]) -> String {
    let mut out = String::new();
    // Drawing into a string fails only if the plot area is too small, and it is not.
    let _ = draw(&mut out, losses, measured);
    out
}

fn draw(
    out: &mut String,
    losses: &[(usize, f32)],
    measured: &[(usize, f32)],
) -> Result<(), Box<dyn std::error::Error>> {
    let bits = std::f32::consts::LOG2_E;
    let last = losses.last().map_or(1, |(step, _)| (*step).max(1));
    let top = losses.iter().map(|(_, l)| l * bits).fold(1.0f32, f32::max);
    let low = losses.iter().chain(measured).map(|(_, l)| l * bits).fold(top, f32::min);
    let root = SVGBackend::with_string(out, (800, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0..last, (low - 0.3).max(0.0)..top)?;
    chart.configure_mesh().x_desc("step").y_desc("bits per token").light_line_style(RGBColor(238, 238, 238)).draw()?;
    let stride = losses.len().div_ceil(2000).max(1);
    chart.draw_series(LineSeries::new(
        losses.iter().step_by(stride).map(|(step, l)| (*step, l * bits)),
        RGBColor(190, 205, 235),
    ))?;
    let window = (losses.len() / 50).max(1);
    let means = losses
        .windows(window)
        .step_by(stride)
        .map(|w| (w[window - 1].0, w.iter().map(|(_, l)| l * bits).sum::<f32>() / window as f32));
    chart.draw_series(LineSeries::new(means, RGBColor(30, 70, 160).stroke_width(2)))?;
    chart.draw_series(
        measured.iter().map(|(step, l)| Circle::new((*step, l * bits), 4, RGBColor(200, 60, 30).filled())),
    )?;
    root.present()?;
    Ok(())
}
