//! `longreach score`

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use longreach_engine::{Bucket, Engine, Score, Windows};
use longreach_models::{check_writable, write_atomically};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::model::{ContextArgs, ModelArgs};
use crate::progress;

mod plot;

/// Measure how well a model predicts texts: perplexity, bits per byte, and loss by position
///
/// Perplexity is exp of the mean negative log-likelihood per token and depends on the tokenizer; bits per byte do not. The loss by the number of tokens before
/// shows whether the model uses a long context: it falls as long as more context helps. A text longer than the context of the model is read in overlapping
/// windows, each from an empty state, and every token is scored once. Models without a longest text, such as recurrent ones, read any text in one pass and in
/// constant memory. The first token of a text is not scored unless the tokenizer puts a special token before it.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach score README.md CHANGELOG.md
  longreach score --model HuggingFaceTB/SmolLM2-135M book.txt --context 2048 --stride 512
  longreach score --model state-spaces/mamba-130m-hf book.txt --plot positions.svg --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Texts; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Length of a window in tokens [default: the context of the model, or the whole text if it has no limit]
    #[arg(long = "context", value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    length: Option<u32>,
    /// Distance of two windows in tokens: small strides give every token much context and take long [default: half a window]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
    /// Print one JSON object per file, one per line, and for several files one with their sum
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values: a row per file, and one per file and range of positions
    #[arg(long)]
    csv: bool,
    /// Draw the loss by position
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// A text's name and its score.
struct Scored {
    name: String,
    score: Score,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let files = args.files.iter().filter(|file| file.as_os_str() != "-");
    for file in files.clone() {
        File::open(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    }
    if let Some(plot) = &args.plot {
        check_writable(plot, &files.map(|file| &**file).collect::<Vec<_>>())?;
    }
    let engine = args.model.load_for(&args.context)?;
    let windows = windows(&args, &engine)?;
    let mut all = Vec::new();
    let mut sum = Score::default();
    for file in &args.files {
        let (name, score) = score(&engine, file, windows)?;
        sum.add(&score);
        all.push(Scored { name, score });
    }
    let sum = (all.len() > 1).then_some(sum);
    if args.json {
        all.iter().for_each(|text| println!("{}", object(Some(&text.name), &text.score, all.len(), windows)));
        if let Some(sum) = &sum {
            println!("{}", object(None, sum, all.len(), windows));
        }
    } else if args.csv {
        csv(&all);
    } else {
        table(&all, sum.as_ref());
        let how = windows.map_or_else(
            || "read in one pass".into(),
            |w| format!("read in windows of {} tokens, {} apart", w.context, w.stride),
        );
        println!("\n{}, {how}", engine.name);
    }
    if let Some(file) = &args.plot {
        let title = format!("{}: loss by the number of tokens before", engine.name);
        let svg = plot::svg(&title, &all)?;
        write_atomically(file, |out| out.write_all(svg.as_bytes()))?;
    }
    Ok(())
}

/// The windows that were asked for, or those that the model needs.
fn windows(args: &Args, engine: &Engine) -> Result<Option<Windows>, Failure> {
    let Some(context) = args.length.map(|n| n as usize).or(engine.longest()) else {
        return match args.stride {
            Some(_) => Err(Failure::new("--stride: the model reads the text in one pass; --context sets windows")),
            None => Ok(None),
        };
    };
    Ok(Some(Windows { context, stride: args.stride.map_or((context / 2).max(1), |n| n as usize) }))
}

fn score(engine: &Engine, file: &PathBuf, windows: Option<Windows>) -> Result<(String, Score), Failure> {
    let (name, text, length): (_, Box<dyn Read>, _) = if file.as_os_str() == "-" {
        ("standard input".into(), Box::new(std::io::stdin().lock()), 0)
    } else {
        let name = file.display().to_string();
        let open = File::open(file).map_err(|e| Failure::new(format!("{name}: {e}")))?;
        let length = open.metadata().map_or(0, |about| about.len());
        (name, Box::new(open), length)
    };
    let bar = progress::bytes(&format!("scoring {name}"), length)?;
    let score = engine.score(text, &name, windows, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    Ok((name, score?))
}

fn table(all: &[Scored], sum: Option<&Score>) {
    let width = all.iter().map(|text| text.name.chars().count()).max().unwrap_or(0).max(16);
    println!("{:width$} {:>9} {:>10} {:>8} {:>11} {:>9}", "text", "tokens", "bytes", "loss", "perplexity", "bits/byte");
    let line = |name: &str, s: &Score| {
        let (loss, perplexity, bits) = (s.loss(), s.perplexity(), s.bits_per_byte());
        println!("{name:width$} {:>9} {:>10} {loss:>8.4} {perplexity:>11.4} {bits:>9.4}", s.tokens, s.bytes);
    };
    all.iter().for_each(|text| line(&text.name, &text.score));
    if let Some(sum) = sum {
        line("all", sum);
    }
    let buckets = &sum.or(all.first().map(|text| &text.score)).map_or(&[][..], |score| &score.buckets);
    println!("\n{:>16} {:>9} {:>8} {:>9} {:>11}", "tokens before", "tokens", "loss", "± error", "perplexity");
    for bucket in buckets.iter() {
        let (loss, error) = bucket.mean();
        println!("{:>16} {:>9} {loss:>8.4} {error:>9.4} {:>11.4}", range(bucket), bucket.tokens, loss.exp());
    }
}

fn range(bucket: &Bucket) -> String {
    format!("{}–{}", bucket.before.0, bucket.before.1)
}

fn object(name: Option<&str>, score: &Score, files: usize, windows: Option<Windows>) -> Value {
    let buckets = score.buckets.iter().map(|bucket| {
        let (loss, error) = bucket.mean();
        json!({"from": bucket.before.0, "to": bucket.before.1, "tokens": bucket.tokens, "loss": loss, "error": error})
    });
    let mut object = json!({
        "tokens": score.tokens, "bytes": score.bytes, "nats": score.nats, "loss": score.loss(), "perplexity": score.perplexity(),
        "bits_per_byte": score.bits_per_byte(), "context": windows.map(|w| w.context), "stride": windows.map(|w| w.stride),
        "positions": buckets.collect::<Vec<_>>(),
    });
    match name {
        Some(name) => object["file"] = json!(name),
        None => object["files"] = json!(files),
    }
    object
}

fn csv(all: &[Scored]) {
    println!("file,from,to,tokens,bytes,loss,error,perplexity,bits_per_byte");
    for Scored { name, score } in all {
        let name = format!("\"{}\"", name.replace('"', "\"\""));
        let (loss, bits) = (score.loss(), score.bits_per_byte());
        println!("{name},,,{},{},{loss},,{},{bits}", score.tokens, score.bytes, score.perplexity());
        for bucket in &score.buckets {
            let ((from, to), (loss, error)) = (bucket.before, bucket.mean());
            println!("{name},{from},{to},{},,{loss},{error},{},", bucket.tokens, loss.exp());
        }
    }
}
