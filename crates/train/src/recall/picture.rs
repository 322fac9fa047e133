//! A plot of recall accuracy over state size.

use plotters::prelude::*;

use super::study::Verdict;

/// A colour-blind-safe palette (Okabe and Ito 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(150, 140, 0),
];

/// An SVG with one curve per name.
pub(crate) fn recall(title: &str, standings: &[Verdict]) -> String {
    let mut out = String::new();
    // Drawing into a string fails only if the plot area is too small, and it is not.
    let _ = draw(&mut out, title, standings);
    out
}

fn draw(out: &mut String, title: &str, standings: &[Verdict]) -> Result<(), Box<dyn std::error::Error>> {
    let states = || standings.iter().map(|s| s.state.max(1) as f64);
    let (low, high) = (states().fold(f64::INFINITY, f64::min) / 1.3, states().fold(1.0, f64::max) * 1.3);
    let mut names: Vec<&str> = Vec::new();
    standings.iter().for_each(|s| {
        if !names.contains(&&s.name[..]) {
            names.push(&s.name)
        }
    });
    let root = SVGBackend::with_string(out, (900, 440)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(30);
    head.draw(&Text::new(title.to_owned(), (16, 10), ("sans-serif", 16)))?;
    let (panel, legend) = body.split_horizontally(680);
    let mut chart = ChartBuilder::on(&panel)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d((low..high.max(low * 2.0)).log_scale(), 0.0..1.0f64)?;
    chart
        .configure_mesh()
        .x_desc("state size (numbers)")
        .y_desc("accuracy")
        .y_label_formatter(&|y| format!("{:.0} %", 100.0 * y))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(RGBColor(238, 238, 238))
        .draw()?;
    for (n, name) in names.iter().enumerate() {
        let (colour, hollow) = (COLOURS[n % COLOURS.len()], n >= COLOURS.len());
        let points: Vec<(f64, f64)> =
            standings.iter().filter(|s| s.name == **name).map(|s| (s.state.max(1) as f64, s.median())).collect();
        // The range over several seeds.
        for s in standings.iter().filter(|s| s.name == **name && s.accuracies.len() > 1) {
            let (x, (least, most)) = (s.state.max(1) as f64, s.spread());
            chart.draw_series(LineSeries::new([(x, least), (x, most)], colour.mix(0.4).stroke_width(2)))?;
        }
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        let style = if hollow { colour.stroke_width(2) } else { colour.filled() };
        chart.draw_series(points.iter().map(|p| Circle::new(*p, 4, style)))?;
        let y = 20 + 22 * n as i32;
        legend.draw(&Circle::new((16, y), 5, style))?;
        legend.draw(&Text::new((*name).to_owned(), (28, y - 6), ("sans-serif", 14)))?;
    }
    root.present()?;
    Ok(())
}
