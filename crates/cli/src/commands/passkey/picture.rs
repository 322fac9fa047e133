//! Heat maps of grades over length and depth, as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::probe::{Cell, axes};
use super::task::Task;
use crate::failure::Failure;

/// Width and height of a cell, and the room to the left of the cells and above them.
const CELL: (i32, i32) = (64, 26);
const MARGIN: (i32, i32) = (64, 60);

/// An SVG with a map of each task below the other: one column per length, one row per depth, from white (nothing found) to dark (all found).
pub(super) fn heat_maps(model: &str, cells: &[Cell]) -> Result<String, Failure> {
    let mut out = String::new();
    draw(&mut out, model, cells).map_err(|e| Failure::new(format!("cannot draw the plot: {e}")))?;
    Ok(out)
}

fn draw(out: &mut String, model: &str, cells: &[Cell]) -> Result<(), Box<dyn std::error::Error>> {
    let mut tasks: Vec<Task> = cells.iter().map(|cell| cell.task).collect();
    tasks.dedup();
    let maps: Vec<(Task, Vec<&Cell>)> =
        tasks.into_iter().map(|task| (task, cells.iter().filter(|cell| cell.task == task).collect())).collect();
    let height = |cells: &[&Cell]| MARGIN.1 + CELL.1 * axes(cells).1.len() as i32;
    let columns = maps.iter().map(|(_, cells)| axes(cells).0.len()).max().unwrap_or(0) as i32;
    let size = (
        (MARGIN.0 + CELL.0 * columns + 16).max(420) as u32,
        (40 + maps.iter().map(|(_, cells)| height(cells)).sum::<i32>() + 16) as u32,
    );
    let root = SVGBackend::with_string(out, size).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: i32, colour: RGBColor, h: HPos| {
        ("sans-serif", size).into_font().color(&colour).pos(Pos::new(h, VPos::Center))
    };
    let title = format!("{model}: percent of what was wanted");
    root.draw(&Text::new(title, (12, 18), text(15, BLACK, HPos::Left)))?;
    let mut top = 32;
    for (task, cells) in &maps {
        let (lengths, depths) = axes(cells);
        root.draw(&Text::new(task.name(), (12, top + 16), text(14, BLACK, HPos::Left)))?;
        for (column, length) in lengths.iter().enumerate() {
            let x = MARGIN.0 + CELL.0 * column as i32 + CELL.0 / 2;
            root.draw(&Text::new(length.to_string(), (x, top + MARGIN.1 - 12), text(12, BLACK, HPos::Center)))?;
        }
        for (row, depth) in depths.iter().enumerate() {
            let y = top + MARGIN.1 + CELL.1 * row as i32 + CELL.1 / 2;
            root.draw(&Text::new(depth.to_string(), (MARGIN.0 - 8, y), text(12, BLACK, HPos::Right)))?;
        }
        for cell in cells {
            let column = lengths.partition_point(|length| *length < cell.length) as i32;
            let row = depths.partition_point(|depth| *depth < cell.depth) as i32;
            let (x, y) = (MARGIN.0 + CELL.0 * column, top + MARGIN.1 + CELL.1 * row);
            let mix = |from: f64, to: f64| (from + (to - from) * cell.grade).round() as u8;
            let fill = RGBColor(mix(255.0, 0.0), mix(255.0, 90.0), mix(255.0, 140.0));
            let area = [(x + 1, y + 1), (x + CELL.0 - 1, y + CELL.1 - 1)];
            root.draw(&Rectangle::new(area, fill.filled()))?;
            root.draw(&Rectangle::new(area, RGBColor(205, 205, 205).stroke_width(1)))?;
            let colour = if cell.grade > 0.55 { WHITE } else { BLACK };
            let label = format!("{:.0}", 100.0 * cell.grade);
            root.draw(&Text::new(label, (x + CELL.0 / 2, y + CELL.1 / 2), text(12, colour, HPos::Center)))?;
        }
        top += height(cells);
    }
    root.present()?;
    Ok(())
}
