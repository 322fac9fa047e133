//! `longreach bench train`

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_models::write_atomically;
use longreach_train::Trial;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plot;
use crate::commands::generate::megabytes;
use crate::failure::Failure;
use crate::lengths::lengths;

/// Measure a step of pre-training with dense and sparse attention over sequence lengths
///
/// A step is one text of masked-language pre-training of a BERT with random weights: forward pass, backward pass and AdamW, in f32. Each length is measured with
/// activations stored and with activations recomputed block by block (Chen et al. 2016). Each point runs in its own process, whose peak memory is reported. Times
/// are medians. The ratios are to dense attention with stored activations at the same length.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach bench train --model tiny --lengths 512,1k
  longreach bench train --lengths 512..16k --csv steps.csv --svg steps.svg
  longreach bench train --model bert-large --attention dense,bslongformer --recompute on")]
pub(crate) struct Args {
    /// Sizes of the model
    #[arg(long, value_enum, default_value_t = Size::BertBase)]
    model: Size,
    /// Attention: dense, or a layout of DeepSpeed
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Attention::ALL)]
    attention: Vec<Attention>,
    /// Whether activations are recomputed
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Recompute::Off, Recompute::On])]
    recompute: Vec<Recompute>,
    /// Sequence lengths: a range that doubles, or a list; k is 1024 and M is 1024 squared
    #[arg(long, value_name = "A..B or A,B,…", default_value = "512..4k")]
    lengths: String,
    /// Tokens of a block of the sparse layouts
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(16..=1024))]
    block: u16,
    /// Tokens of the window of the sparse layouts, both sides together
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u16).range(16..))]
    window: u16,
    /// Number of measured steps per point, after one that is not counted
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Skip points whose single step is expected to take longer than this, extrapolated from shorter lengths
    #[arg(long, default_value_t = 120.0, value_name = "SECONDS")]
    limit: f64,
    /// Write the results as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a log-log plot as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The point to measure, as JSON; passed by the parent process
    #[arg(long, hide = true)]
    point: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Size {
    /// 2 layers of width 64, a vocabulary of 1,000
    Tiny,
    /// 12 layers of width 768, a vocabulary of 30,522
    BertBase,
    /// 24 layers of width 1024, a vocabulary of 30,522
    BertLarge,
}

impl Size {
    /// Layers, heads of 64 channels (32 in the tiny one), and the vocabulary.
    fn sizes(self) -> [usize; 4] {
        match self {
            Size::Tiny => [2, 2, 32, 1000],
            Size::BertBase => [12, 12, 64, 30_522],
            Size::BertLarge => [24, 16, 64, 30_522],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Attention {
    /// All keys
    Dense,
    /// Blocks of a local window, and global columns
    Fixed,
    /// A sliding window, and a global first block
    Bslongformer,
    /// A sliding window, random blocks, and a global first block
    Bigbird,
}

impl Attention {
    const ALL: [Self; 4] = [Self::Dense, Self::Fixed, Self::Bslongformer, Self::Bigbird];

    fn name(self) -> &'static str {
        match self {
            Attention::Dense => "dense",
            Attention::Fixed => "fixed",
            Attention::Bslongformer => "bslongformer",
            Attention::Bigbird => "bigbird",
        }
    }

    /// The block `sparse_attention` of a DeepSpeed configuration for texts of `tokens` tokens, which may be shorter than the
    /// window.
    fn layout(self, [block, window]: [usize; 2], tokens: usize) -> Option<Value> {
        let there = tokens.div_ceil(block).max(1);
        let blocks = (window / block).clamp(1, there);
        // A sliding window has as many blocks on either side.
        let sliding = if (blocks | 1) <= there { blocks | 1 } else { blocks - 1 };
        match self {
            Attention::Dense => None,
            Attention::Fixed => Some(json!({"mode": "fixed", "block": block, "num_local_blocks": blocks})),
            Attention::Bslongformer => {
                Some(json!({"mode": "bslongformer", "block": block, "num_sliding_window_blocks": sliding}))
            }
            Attention::Bigbird => {
                Some(json!({"mode": "bigbird", "block": block, "num_sliding_window_blocks": sliding}))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Recompute {
    /// Activations are stored
    Off,
    /// The inputs of blocks are stored, and each block is run again on the way back
    On,
}

/// One measurement, sent to a child process as JSON.
#[derive(Deserialize, Serialize)]
struct Point {
    config: Value,
    recompute: bool,
    tokens: usize,
    repeat: usize,
}

/// What the child process prints as JSON.
#[derive(Clone, Deserialize, Serialize)]
struct Measured {
    /// Seconds of each step, in ascending order.
    seconds: Vec<f64>,
    /// Peak memory of the process in bytes; `None` where `/proc` does not report it.
    bytes: Option<u64>,
}

impl Measured {
    fn median(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The measurements of one way of training, by length.
struct Row {
    attention: Attention,
    recompute: bool,
    points: Vec<Option<Measured>>,
}

impl Row {
    fn label(&self) -> String {
        format!("{}{}", self.attention.name(), if self.recompute { ", recomputed" } else { "" })
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if let Some(point) = &args.point {
        let measured = measure(&serde_json::from_str(point)?)?;
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    let lengths = lengths(&args.lengths)?;
    let recompute = |on: &Recompute| *on == Recompute::On;
    let mut rows: Vec<Row> = Vec::new();
    for attention in &args.attention {
        for on in &args.recompute {
            rows.push(Row { attention: *attention, recompute: recompute(on), points: vec![None; lengths.len()] });
        }
    }
    let bar = ProgressBar::new((rows.len() * lengths.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    for (n, tokens) in lengths.iter().copied().enumerate() {
        for row in &mut rows {
            bar.set_message(format!("{} {tokens}", row.label()));
            // Attention may grow with the square of the length.
            let late = n > 0
                && row.points[n - 1].as_ref().is_none_or(|shorter| {
                    shorter.median() * (tokens as f64 / lengths[n - 1] as f64).powi(2) > args.limit
                });
            if !late {
                row.points[n] = Some(point(&args, row, tokens)?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    print!("{}", text(&rows, &lengths));
    print!("{}", longest(&rows, &lengths));
    if let Some(file) = &args.csv {
        write_atomically(file, |out| out.write_all(csv(&rows, &lengths).as_bytes()))?;
    }
    if let Some(file) = &args.svg {
        let picture = picture(&rows, &lengths)?;
        write_atomically(file, |out| out.write_all(picture.as_bytes()))?;
    }
    Ok(())
}

/// The `config.json` of a BERT for texts of `tokens` tokens.
fn config(args: &Args, attention: Attention, tokens: usize) -> Value {
    let [layers, heads, width, vocabulary] = args.model.sizes();
    let block = usize::from(args.block);
    let mut config = json!({
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "num_hidden_layers": layers,
        "num_attention_heads": heads, "hidden_size": heads * width, "intermediate_size": 4 * heads * width,
        "vocab_size": vocabulary, "max_position_embeddings": tokens.next_multiple_of(block), "type_vocab_size": 2,
    });
    if let Some(layout) = attention.layout([block, usize::from(args.window)], tokens) {
        config["sparse_attention"] = layout;
    }
    config
}

/// Measures a point in a child process.
fn point(args: &Args, row: &Row, tokens: usize) -> Result<Measured, Failure> {
    let config = config(args, row.attention, tokens);
    let point = Point { config, recompute: row.recompute, tokens, repeat: usize::from(args.repeat) };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "train", "--point", &serde_json::to_string(&point)?]);
    command.args(["--threads", &longreach_burn::context().team.threads().to_string()]);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("longreach: ");
        let said = if said.is_empty() { output.status.to_string() } else { said.to_string() };
        return Err(Failure::new(format!("{} at {tokens} tokens: {said}", row.label())));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn measure(point: &Point) -> Result<Measured, Failure> {
    let mut trial = Trial::new(&point.config.to_string(), point.recompute)?;
    // Not counted: memory is touched for the first time, and the optimiser makes its state.
    trial.step(point.tokens)?;
    let mut seconds = Vec::new();
    for _ in 0..point.repeat {
        let start = Instant::now();
        trial.step(point.tokens)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Measured { seconds, bytes: crate::machine::peak() })
}

/// Dense attention with stored activations, which the others are compared with.
fn reference(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.attention == Attention::Dense && !row.recompute)
}

fn text(rows: &[Row], lengths: &[usize]) -> String {
    let wide = rows.iter().map(|row| row.label().chars().count()).max().unwrap_or(0);
    let mut out = format!("{:wide$}", "tokens");
    lengths.iter().for_each(|tokens| out += &format!(" {tokens:>26}"));
    for row in rows {
        out += &format!("\n{:wide$}", row.label());
        for (n, measured) in row.points.iter().enumerate() {
            let dense = reference(rows).and_then(|dense| dense.points[n].as_ref());
            let cell = measured.as_ref().map_or("-".into(), |m| {
                let ratio = dense.map_or(String::new(), |dense| format!(" {:>5.2}x", dense.median() / m.median()));
                let memory = m.bytes.map_or(String::new(), |bytes| format!(" {:>8}", megabytes(bytes)));
                format!("{:.2} s{ratio}{memory}", m.median())
            });
            out += &format!(" {cell:>26}");
        }
    }
    out + "\n"
}

/// The longest measured text within some sizes of memory.
fn longest(rows: &[Row], lengths: &[usize]) -> String {
    let mut out = String::new();
    for gib in [4u64, 8, 16] {
        let cells = rows.iter().map(|row| {
            let fits = |m: &Option<Measured>| m.as_ref().and_then(|m| m.bytes).is_some_and(|b| b <= gib << 30);
            let most = lengths.iter().zip(&row.points).filter(|(_, m)| fits(m)).map(|(tokens, _)| *tokens).max();
            format!("{} {}", row.label(), most.map_or("-".into(), |tokens| tokens.to_string()))
        });
        out += &format!("longest measured text within {gib} GiB: {}\n", cells.collect::<Vec<_>>().join("; "));
    }
    out
}

fn csv(rows: &[Row], lengths: &[usize]) -> String {
    let mut out = String::from("attention,recompute,tokens,seconds,fastest,slowest,bytes\n");
    for row in rows {
        for (tokens, measured) in lengths.iter().zip(&row.points) {
            let Some(m) = measured else { continue };
            let (first, last) = (m.seconds.first().copied().unwrap_or(0.0), m.seconds.last().copied().unwrap_or(0.0));
            let bytes = m.bytes.map_or(String::new(), |bytes| bytes.to_string());
            let recompute = if row.recompute { "on" } else { "off" };
            out += &format!("{},{recompute},{tokens},{},{first},{last},{bytes}\n", row.attention.name(), m.median());
        }
    }
    out
}

fn picture(rows: &[Row], lengths: &[usize]) -> Result<String, Failure> {
    let curves = |of: fn(&Measured) -> Option<f64>| -> Vec<plot::Curve> {
        let points = |row: &Row| {
            let each = lengths.iter().zip(&row.points);
            each.filter_map(|(t, m)| Some((*t as f64, of(m.as_ref()?)?))).filter(|(_, y)| *y > 0.0).collect()
        };
        rows.iter().map(|row| plot::Curve { label: row.label(), points: points(row) }).collect()
    };
    let cx = longreach_burn::context();
    let title = format!("step of masked pre-training, one text, f32, {} threads ({})", cx.team.threads(), cx.isa);
    let (seconds, bytes) = (curves(|m| Some(m.median())), curves(|m| m.bytes.map(|b| b as f64)));
    plot::svg_of(&title, ["seconds", "peak memory"], &seconds, &bytes)
}
