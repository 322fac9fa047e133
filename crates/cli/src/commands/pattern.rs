//! `longreach pattern`

use std::io::Write;
use std::path::{Path, PathBuf};

use longreach_attention::softmax::{STATIC, Sizes, named, picture};
use longreach_models::write_atomically;

use crate::failure::Failure;
use crate::parameters::{ParameterArgs, parse};

/// Draw a sparse-attention pattern and print its cost
///
/// Use it to check which keys each query attends to before you train or sparsify a model. Rows are queries and columns are keys; the darker a cell, the more
/// of its query-key pairs are attended to. The picture goes to the terminal unless a file is given. Without a name, all patterns are listed with example
/// parameters, which are also the defaults.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach pattern
  longreach pattern bigbird --length 4096 --png bigbird.png
  longreach pattern window --params '{\"left\": 128, \"right\": 0}' --length 2048
  longreach pattern deepspeed --params-file ds_config.json --svg layout.svg")]
pub(crate) struct Args {
    /// Pattern to draw [default: list all patterns]
    name: Option<String>,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// Sequence length in tokens
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    length: u32,
    /// Number of heads
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    heads: u32,
    /// Head to draw, counted from 0
    #[arg(long, default_value_t = 0, value_name = "N")]
    head: u32,
    /// Channels per head, for the cost
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    width: u32,
    /// Write the picture as PNG
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Write the picture as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        for (name, parameters) in STATIC {
            println!("longreach pattern {name:18} --params '{parameters}'");
        }
        return Ok(());
    };
    if args.head >= args.heads {
        return Err(Failure::new(format!("--head {}: there are {} heads, counted from 0", args.head, args.heads)));
    }
    let known = STATIC.iter().find(|(known, _)| known == name);
    let example = || parse("parameters", known.map_or("null", |(_, parameters)| *parameters));
    let parameters = args.parameters.read()?.map_or_else(example, Ok)?;
    let (length, heads) = (args.length as usize, args.heads as usize);
    let of = Sizes { batch: 1, heads, queries: 0..length, keys: length };
    let pattern = named(name, &parameters, &of)?;
    let at = |cells: usize| picture(&*pattern, &of, (0, args.head as usize), (cells.min(length), cells.min(length)));
    if let Some(file) = &args.png {
        png(file, &at(512)?, length)?;
    }
    if let Some(file) = &args.svg {
        svg(file, &at(128)?, length)?;
    }
    if args.png.is_none() && args.svg.is_none() {
        print!("{}", text(&at(64)?, length));
    }
    let shown = if pattern.differs().1 { heads } else { 1 };
    let mut pairs = 0;
    for h in 0..shown {
        pairs += picture(&*pattern, &of, (0, h), (1, 1))?[[0, 0]];
    }
    let pairs = pairs * (heads / shown) as u64;
    let (all, width) = ((heads * length * length) as u64, u64::from(args.width));
    println!("{name} {parameters}");
    println!("density  {:.3} %: {pairs} of {all} pairs in {heads} heads", 100.0 * pairs as f64 / all as f64);
    println!("forward  {} FLOP, dense {}; backward 2.5 times that", si(4 * pairs * width), si(4 * all * width));
    let bytes = 4 * 4 * (heads * length) as u64 * width;
    println!(
        "memory   {}B for queries, keys, values and outputs in f32; all scores at once would be {}B",
        si(bytes),
        si(4 * all)
    );
    Ok(())
}

/// Formats a number with an SI prefix.
fn si(x: u64) -> String {
    let (mut x, mut prefix) = (x as f64, " ");
    for next in [" k", " M", " G", " T", " P"] {
        if x < 1000.0 {
            break;
        }
        (x, prefix) = (x / 1000.0, next);
    }
    format!("{x:.3}{prefix}")
}

/// The fraction of each cell's pairs that are attended to.
fn shares(cells: &ndarray::Array2<u64>, length: usize) -> ndarray::Array2<f64> {
    let n = cells.dim().0;
    let tokens = |cell: usize| ((cell + 1) * length).div_ceil(n) - (cell * length).div_ceil(n);
    ndarray::Array2::from_shape_fn(cells.dim(), |(r, c)| cells[[r, c]] as f64 / (tokens(r) * tokens(c)) as f64)
}

/// Draws the cells as text, each two characters wide.
fn text(cells: &ndarray::Array2<u64>, length: usize) -> String {
    const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
    let mut out = String::new();
    for row in shares(cells, length).rows() {
        for share in row {
            // Rounded up, so that a cell with a single pair is visible.
            let shade = SHADES[(share * 4.0).ceil().clamp(0.0, 4.0) as usize];
            out.extend([shade, shade]);
        }
        out.push('\n');
    }
    out
}

fn png(file: &Path, cells: &ndarray::Array2<u64>, length: usize) -> Result<(), Failure> {
    let (rows, columns) = cells.dim();
    let shades: Vec<u8> = shares(cells, length).iter().map(|share| shade(*share)).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, columns as u32, rows as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&shades)?;
    writer.finish()?;
    Ok(write_atomically(file, |out| out.write_all(&bytes))?)
}

/// A grey level: white for no pair, black for all pairs, and visibly grey for very few.
fn shade(share: f64) -> u8 {
    if share == 0.0 { 255 } else { (215.0 * (1.0 - share.min(1.0))) as u8 }
}

fn svg(file: &Path, cells: &ndarray::Array2<u64>, length: usize) -> Result<(), Failure> {
    let (rows, columns) = cells.dim();
    let mut out = Vec::new();
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns} {rows}" shape-rendering="crispEdges">"#
    )?;
    writeln!(out, r##"<rect width="{columns}" height="{rows}" fill="#fff"/>"##)?;
    for (r, row) in shares(cells, length).rows().into_iter().enumerate() {
        let shades: Vec<u8> = row.iter().map(|share| shade(*share)).collect();
        let mut c = 0;
        for same in shades.chunk_by(|a, b| a == b) {
            if same[0] < 255 {
                let (x, width) = (same[0], same.len());
                writeln!(out, r##"<rect x="{c}" y="{r}" width="{width}" height="1" fill="#{x:02x}{x:02x}{x:02x}"/>"##)?;
            }
            c += same.len();
        }
    }
    writeln!(out, "</svg>")?;
    Ok(write_atomically(file, |to| to.write_all(&out))?)
}
