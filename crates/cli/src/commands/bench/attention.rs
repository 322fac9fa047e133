//! `longreach bench attention`

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_attention::Form;
use longreach_attention::operation::{Named, Sample, Tensors, named};
use longreach_models::write_atomically;
use longreach_simd::Cx;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plot;
use crate::commands::generate::megabytes;
use crate::failure::Failure;
use crate::lengths::lengths;
use crate::parameters::parse;

/// Measure time and memory of mechanisms over sequence lengths
///
/// Use it to find the length from which a mechanism is cheaper than dense attention. Each mechanism is first checked against its f64 definition on a short
/// sequence; a mismatch is an error. Each point runs in its own process, so that its peak memory, reported in excess of the inputs, is its own. Times are
/// medians. Inputs have shape `[1, T, heads, width]`.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach bench attention
  longreach bench attention --lengths 1k..64k --mechanisms 'dense,window={\"left\": 255},mamba2' --svg cost.svg
  longreach bench attention --mechanisms gla,mamba2 --form chunk --grad --csv cost.csv")]
pub(crate) struct Args {
    /// Mechanisms of `longreach list`; append `=` and a JSON object for parameters other than those of its example
    #[arg(long, value_name = "NAME[=JSON],…", default_value = DEFAULT)]
    mechanisms: String,
    /// Sequence lengths: a range that doubles, or a list; k is 1024 and M is 1024 squared
    #[arg(long, value_name = "A..B or A,B,…", default_value = "1k..16k")]
    lengths: String,
    /// Number of heads
    #[arg(long, default_value_t = 12, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    heads: u16,
    /// Channels per head
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    width: u16,
    /// Measure the backward pass, including what it recomputes of the forward pass: everything for softmax attention, the states for a scan
    #[arg(long)]
    grad: bool,
    /// Form to measure, for mechanisms that have both
    #[arg(long, value_enum, default_value_t = Fast::Recurrent)]
    form: Fast,
    /// Number of measurements per point
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Skip points whose single run is expected to take longer than this, extrapolated from shorter lengths
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
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

const DEFAULT: &str = r#"dense,window={"left": 255},longformer={"window": 128, "global": [0]},bigbird,deepspeed={"mode": "bslongformer", "block": 64, "num_sliding_window_blocks": 5},sparse_transformer,hierarchical,mamba2"#;

/// The forms that process many tokens in one call.
#[derive(Clone, Copy, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Fast {
    /// Token by token with the state in registers; models use this form
    Recurrent,
    /// Chunks of tokens as matrix products
    Chunk,
}

/// One measurement, sent to a child process as JSON.
#[derive(Deserialize, Serialize)]
struct Point {
    name: String,
    parameters: Value,
    tokens: usize,
    heads: usize,
    width: usize,
    grad: bool,
    form: Fast,
    repeat: usize,
}

/// The result that the child process prints as JSON.
#[derive(Clone, Deserialize, Serialize)]
struct Measured {
    /// Seconds, in ascending order.
    seconds: Vec<f64>,
    /// Peak memory in excess of the inputs, in bytes; `None` where `/proc` does not report it.
    bytes: Option<u64>,
}

impl Measured {
    fn median(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// A mechanism with parameters and its label in tables.
struct Chosen {
    label: String,
    operation: Named,
    parameters: Value,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let cx = &*longreach_burn::context();
    if let Some(point) = &args.point {
        let measured = measure(&serde_json::from_str(point)?, cx)?;
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    let (chosen, lengths) = (mechanisms(&args.mechanisms)?, lengths(&args.lengths)?);
    for one in &chosen {
        check(one, args.grad, args.form, cx)?;
    }
    let bar = ProgressBar::new((chosen.len() * lengths.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
    let mut table: Vec<Vec<Option<Measured>>> = vec![vec![None; lengths.len()]; chosen.len()];
    for (n, tokens) in lengths.iter().copied().enumerate() {
        for (one, row) in chosen.iter().zip(&mut table) {
            bar.set_message(format!("{} {tokens}", one.label));
            // Without two earlier points, assume that time grows with the square of the length.
            let before = n.checked_sub(1).map(|n| (lengths[n], row[n].as_ref().map(Measured::median)));
            let late = match before {
                Some((_, None)) => true,
                Some((shorter, Some(seconds))) => {
                    let ratio = tokens as f64 / shorter as f64;
                    let growth = if n > 1 { growth(&lengths[n - 2..n], &row[n - 2..n]) } else { 2.0 };
                    seconds * ratio.powf(growth) > args.limit
                }
                None => false,
            };
            if !late {
                row[n] = Some(point(one, tokens, &args, cx)?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let labels: Vec<&str> = chosen.iter().map(|one| one.label.as_str()).collect();
    print!("{}", text(&labels, &lengths, &table));
    if let Some(file) = &args.csv {
        let csv = csv(&chosen, &lengths, &table);
        write_atomically(file, |out| out.write_all(csv.as_bytes()))?;
    }
    if let Some(file) = &args.svg {
        let curves = |of: fn(&Measured) -> Option<f64>| -> Vec<plot::Curve> {
            let points = |row: &Vec<Option<Measured>>| {
                let each = lengths.iter().zip(row);
                each.filter_map(|(t, m)| Some((*t as f64, of(m.as_ref()?)?))).filter(|(_, y)| *y > 0.0).collect()
            };
            labels
                .iter()
                .zip(&table)
                .map(|(label, row)| plot::Curve { label: (*label).into(), points: points(row) })
                .collect()
        };
        let what = if args.grad { "gradient" } else { "forward" };
        let title = format!(
            "{what}, {} heads of {} channels, f32, {} threads ({})",
            args.heads,
            args.width,
            cx.team.threads(),
            cx.isa
        );
        let seconds = curves(|m| Some(m.median()));
        let bytes = curves(|m| m.bytes.map(|b| b as f64));
        let picture = plot::svg(&title, &seconds, &bytes)?;
        write_atomically(file, |out| out.write_all(picture.as_bytes()))?;
    }
    Ok(())
}

/// The exponent of growth between two points, clamped to [1, 2]; 2 if one is missing.
fn growth(lengths: &[usize], row: &[Option<Measured>]) -> f64 {
    match row {
        [Some(a), Some(b)] => {
            let ratio = (lengths[1] as f64 / lengths[0] as f64).ln();
            ((b.median() / a.median()).ln() / ratio).clamp(1.0, 2.0)
        }
        _ => 2.0,
    }
}

/// Parses `NAME[=JSON],…`; commas inside JSON do not separate mechanisms.
fn mechanisms(list: &str) -> Result<Vec<Chosen>, Failure> {
    let mut chosen = Vec::new();
    let mut rest = list;
    while !rest.trim_matches([',', ' ']).is_empty() {
        rest = rest.trim_start_matches([',', ' ']);
        let end = rest.find([',', '=']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let operation = named(name.trim())?;
        let (parameters, label) = match after.strip_prefix('=') {
            Some(json) => {
                let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
                let value = values.next().unwrap_or(Ok(Value::Null));
                let value = value.map_err(|e| Failure::new(format!("--mechanisms: {name}: {e}")))?;
                rest = &json[values.byte_offset()..];
                let label = format!("{} {}", name.trim(), brief(&value));
                (value, label.trim().to_string())
            }
            None => {
                rest = after;
                (parse(name, operation.signature().example)?, name.trim().to_string())
            }
        };
        chosen.push(Chosen { label, operation, parameters });
    }
    if chosen.is_empty() {
        return Err(Failure::new("--mechanisms: want at least one, found none"));
    }
    Ok(chosen)
}

/// A short form of parameters, for labels.
fn brief(parameters: &Value) -> String {
    let Value::Object(map) = parameters else { return String::new() };
    map.iter()
        .map(|(name, value)| format!("{name} {}", value.to_string().replace('"', "")))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The requested form, or the first fast form of a mechanism that lacks it.
fn fast(operation: &Named, asked: Fast) -> Form {
    let asked = match asked {
        Fast::Recurrent => Form::Recurrent,
        Fast::Chunk => Form::Chunk,
    };
    let forms = operation.signature().forms;
    let any = || forms.iter().copied().find(|form| *form != Form::Naive).unwrap_or(Form::Naive);
    if forms.contains(&asked) { asked } else { any() }
}

/// Checks a mechanism against its definition; an error if they differ.
fn check(one: &Chosen, grad: bool, form: Fast, cx: &Cx) -> Result<(), Failure> {
    // As in the tests: the largest difference, relative to the largest value or to 1.
    const TOLERANCE: f32 = 1e-5;
    let sample = one.operation.sample(&Sample { batch: 1, tokens: 1024, heads: 2, width: 8, seed: 1 });
    let want = one.operation.forward(&sample, &one.parameters, Form::Naive, cx)?;
    let found = one.operation.forward(&sample, &one.parameters, fast(&one.operation, form), cx)?;
    let (want, found) = (&want["o"], &found["o"]);
    let most = want.iter().fold(1.0f32, |most, x| most.max(x.abs()));
    let apart = want
        .iter()
        .zip(found)
        .fold(0.0f32, |apart, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { apart.max((a - b).abs()) });
    if apart / most > TOLERANCE {
        return Err(Failure::new(format!(
            "{}: the result differs from the definition by {apart:e}, so it is not measured",
            one.label
        )));
    }
    if grad {
        let mut inputs = sample;
        inputs.insert("do".into(), want.clone());
        one.operation.backward(&inputs, &one.parameters, cx)?;
    }
    Ok(())
}

/// Measures a point in a child process.
fn point(one: &Chosen, tokens: usize, args: &Args, cx: &Cx) -> Result<Measured, Failure> {
    let (name, parameters) = (one.operation.name().to_string(), one.parameters.clone());
    let (heads, width, repeat) = (usize::from(args.heads), usize::from(args.width), usize::from(args.repeat));
    let point = Point { name, parameters, tokens, heads, width, grad: args.grad, form: args.form, repeat };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "attention", "--point", &serde_json::to_string(&point)?]);
    command.args(["--threads", &cx.team.threads().to_string()]);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("longreach: ");
        let said = if said.is_empty() { output.status.to_string() } else { said.to_string() };
        return Err(Failure::new(format!("{} at {tokens} tokens: {said}", one.label)));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn measure(point: &Point, cx: &Cx) -> Result<Measured, Failure> {
    let operation = named(&point.name)?;
    let Point { tokens, heads, width, .. } = *point;
    let mut inputs = operation.sample(&Sample { batch: 1, tokens, heads, width, seed: 0 });
    let form = fast(&operation, point.form);
    if point.grad {
        let out = operation.forward(&inputs, &point.parameters, form, cx)?.remove("o");
        inputs.insert("do".into(), out.unwrap_or_default());
    }
    let run = |inputs: &Tensors| -> Result<f64, Failure> {
        let start = Instant::now();
        let outputs = match point.grad {
            true => operation.backward(inputs, &point.parameters, cx)?,
            false => operation.forward(inputs, &point.parameters, form, cx)?,
        };
        let seconds = start.elapsed().as_secs_f64();
        drop(outputs);
        Ok(seconds)
    };
    let before = memory::start();
    let first = run(&inputs)?;
    let bytes = before.and_then(memory::peak_beyond);
    // The first run is a warm-up; its time counts only if there is no other.
    let mut seconds = Vec::new();
    for _ in 0..point.repeat {
        seconds.push(run(&inputs)?);
    }
    if seconds.is_empty() {
        seconds.push(first);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Measured { seconds, bytes })
}

/// Memory of this process, from `/proc`.
mod memory {
    /// Resets the peak resident memory and returns the current value in bytes.
    pub(super) fn start() -> Option<u64> {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        field("VmRSS:")
    }

    /// The peak since then, in excess of `before`.
    pub(super) fn peak_beyond(before: u64) -> Option<u64> {
        Some(field("VmHWM:")?.saturating_sub(before))
    }

    fn field(name: &str) -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    }
}

fn text(labels: &[&str], lengths: &[usize], table: &[Vec<Option<Measured>>]) -> String {
    let wide = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let mut out = format!("{:wide$}", "");
    lengths.iter().for_each(|tokens| out += &format!(" {tokens:>18}"));
    for (label, row) in labels.iter().zip(table) {
        out += &format!("\n{label:wide$}");
        for measured in row {
            let cell = measured.as_ref().map_or("-".into(), |m| {
                let memory = m.bytes.map_or(String::new(), |bytes| format!(" {:>8}", megabytes(bytes)));
                format!("{}{memory}", duration(m.median()))
            });
            out += &format!(" {cell:>18}");
        }
    }
    out + "\n"
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

fn csv(chosen: &[Chosen], lengths: &[usize], table: &[Vec<Option<Measured>>]) -> String {
    let mut out = String::from("mechanism,parameters,tokens,seconds,fastest,slowest,bytes\n");
    for (one, row) in chosen.iter().zip(table) {
        for (tokens, measured) in lengths.iter().zip(row) {
            let Some(m) = measured else { continue };
            let parameters = one.parameters.to_string().replace('"', "\"\"");
            let (first, last) = (m.seconds.first().copied().unwrap_or(0.0), m.seconds.last().copied().unwrap_or(0.0));
            let bytes = m.bytes.map_or(String::new(), |bytes| bytes.to_string());
            out +=
                &format!("{},\"{parameters}\",{tokens},{},{first},{last},{bytes}\n", one.operation.name(), m.median());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(lengths("1k..5k").expect("a range"), [1024, 2048, 4096]);
        assert_eq!(lengths("1M,512, 4k").expect("a list"), [512, 4096, 1 << 20]);
        for wrong in ["", "0", "4k..1k", "x", "1..y", "99999999999M"] {
            assert!(lengths(wrong).is_err(), "{wrong}");
        }
        let chosen = mechanisms(r#"dense, window={"left": 3, "right": 1},bigbird={"block": 32}"#).expect("a list");
        let labels: Vec<&str> = chosen.iter().map(|one| one.label.as_str()).collect();
        assert_eq!(labels, ["dense", "window left 3, right 1", "bigbird block 32"]);
        assert_eq!(chosen[1].parameters, json!({"left": 3, "right": 1}));
        for wrong in ["", "window={", "windows", "window={}}"] {
            assert!(mechanisms(wrong).is_err(), "{wrong}");
        }
    }
}
