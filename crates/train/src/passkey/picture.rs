//! A heat map of passkey accuracy over length and depth.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Score;

/// Width and height of a cell.
const CELL: (i32, i32) = (86, 26);
/// Room to the left of the cells and above them.
const MARGIN: (i32, i32) = (64, 58);

/// An SVG with one column per length and one row per depth, shaded from white (no digit correct) to dark (all digits correct).
pub(crate) fn heat_map(name: &str, scores: &[Score], digits: usize, learnt: usize) -> String {
    let mut out = String::new();
    // Drawing into a string fails only if the plot area is too small, and it is not.
    let _ = draw(&mut out, name, scores, digits, learnt);
    out
}

/// A short form of a length.
fn short(length: usize) -> String {
    match length {
        n if n >= 1_000_000 && n.is_multiple_of(1_000_000) => format!("{} M", n / 1_000_000),
        n if n >= 1024 && n.is_multiple_of(1024) => format!("{} k", n / 1024),
        n => n.to_string(),
    }
}

fn draw(
    out: &mut String,
    name: &str,
    scores: &[Score],
    digits: usize,
    learnt: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut lengths: Vec<usize> = scores.iter().map(|s| s.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let rows = |length: usize| scores.iter().filter(move |s| s.length == length);
    let most = lengths.iter().map(|length| rows(*length).count()).max().unwrap_or(1) as i32;
    let height = most * CELL.1;
    let size = (MARGIN.0 + CELL.0 * lengths.len() as i32 + 16, MARGIN.1 + height + 34);
    let root = SVGBackend::with_string(out, (size.0.max(420) as u32, size.1 as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: i32, colour: RGBColor, h: HPos| {
        ("sans-serif", size).into_font().color(&colour).pos(Pos::new(h, VPos::Center))
    };
    let title = format!("{name}: passkey retrieval, trained on texts of up to {learnt} bytes");
    root.draw(&Text::new(title, (12, 16), text(15, BLACK, HPos::Left)))?;
    for (column, length) in lengths.iter().enumerate() {
        let x = MARGIN.0 + CELL.0 * column as i32;
        root.draw(&Text::new(short(*length), (x + CELL.0 / 2, MARGIN.1 - 14), text(13, BLACK, HPos::Center)))?;
        let mut of_length: Vec<&Score> = rows(*length).collect();
        of_length.sort_by(|a, b| a.depth.total_cmp(&b.depth));
        let n = of_length.len() as i32;
        for (row, score) in of_length.into_iter().enumerate() {
            let (top, bottom) = (MARGIN.1 + height * row as i32 / n, MARGIN.1 + height * (row as i32 + 1) / n);
            let share = score.digits as f64 / (score.texts * digits).max(1) as f64;
            let mix = |from: f64, to: f64| (from + (to - from) * share).round() as u8;
            let fill = RGBColor(mix(255.0, 0.0), mix(255.0, 90.0), mix(255.0, 140.0));
            let area = [(x + 1, top + 1), (x + CELL.0 - 1, bottom - 1)];
            root.draw(&Rectangle::new(area, fill.filled()))?;
            root.draw(&Rectangle::new(area, RGBColor(205, 205, 205).stroke_width(1)))?;
            let colour = if share > 0.55 { WHITE } else { BLACK };
            let label = format!("{}/{}", score.right, score.texts);
            root.draw(&Text::new(label, (x + CELL.0 / 2, (top + bottom) / 2), text(12, colour, HPos::Center)))?;
        }
    }
    for (y, label) in [(MARGIN.1 + 8, "start"), (MARGIN.1 + height - 8, "end")] {
        root.draw(&Text::new(label, (MARGIN.0 - 8, y), text(12, BLACK, HPos::Right)))?;
    }
    let legend = "numbers retrieved out of texts; shade: fraction of correct digits";
    root.draw(&Text::new(legend, (12, size.1 - 14), text(12, RGBColor(90, 90, 90), HPos::Left)))?;
    root.present()?;
    Ok(())
}
