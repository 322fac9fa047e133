//! `longreach bench encode`

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use longreach_models::{EncoderModel, Location, Progress};
use longreach_nn::Reading;
use ndarray::Array2;
use serde_json::json;

use crate::failure::Failure;
use crate::machine::device;
use crate::model::DTypeArg;

/// Measure the throughput and memory use of an encoder
///
/// The inputs are random tokens. Each length runs once as a warm-up and then --repeats times; the median tokens per second are printed with the slowest and
/// the fastest run. With --texts, tokenized texts {"ids": [[1, 2, …], …]} are encoded in packed batches instead.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach bench encode --model sentence-transformers/all-MiniLM-L6-v2 --tokens 128,256
  longreach bench encode --model DIR --dtype int8 --tokens 512,2048 --repeats 5
  longreach bench encode --model DIR --texts tokens.json --batch-tokens 4096 --json")]
pub(crate) struct Args {
    /// Encoder to load: a directory, weights file or Hugging Face Hub id
    #[arg(long, short, value_name = "MODEL")]
    model: OsString,
    /// Dtype of the weight matrices in memory [default: that of the checkpoint]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
    /// Input lengths in tokens
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [512, 2048])]
    tokens: Vec<usize>,
    /// Number of measurements per length
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
    /// Encode these tokenized texts instead of random tokens
    #[arg(long, value_name = "FILE.json")]
    texts: Option<PathBuf>,
    /// Size of a packed batch in tokens, with --texts
    #[arg(long, value_name = "N", default_value_t = 8192)]
    batch_tokens: usize,
    /// Mark the first token as global, for models with global attention
    #[arg(long)]
    first_global: bool,
    /// Print one JSON object per length, one per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let at = Location::find(&args.model, Progress::Shown)?;
    let model = EncoderModel::load_on(&at, args.dtype.map(Into::into), &device())?;
    let vocabulary = model.description.body.vocabulary() as u32;
    let report = |what: String, tokens: usize, seconds: Vec<f64>| {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let rate = |s: f64| tokens as f64 / s;
        let median = sorted[sorted.len() / 2];
        let peak = crate::machine::peak();
        if args.json {
            let line = json!({
                "model": args.model.to_string_lossy(), "dtype": model.dtype.name(), "what": what, "tokens": tokens, "seconds": seconds,
                "tokens_per_second": rate(median), "peak_bytes": peak,
            });
            println!("{line}");
        } else {
            let (least, most) = (rate(sorted[sorted.len() - 1]), rate(sorted[0]));
            let peak = peak.map_or_else(String::new, |peak| format!(", peak {:.0} MB", peak as f64 / 1e6));
            println!("{what}: {:.0} tok/s ({least:.0} to {most:.0}){peak}", rate(median));
        }
    };
    if let Some(file) = &args.texts {
        let texts = texts(file, vocabulary)?;
        let batches = batches(&texts, args.batch_tokens);
        let total = texts.iter().map(Vec::len).sum();
        let once = || batches.iter().for_each(|batch| packed(&model, batch, &texts, args.first_global));
        let Some(first) = batches.first() else {
            return Err(Failure::new(format!("{}: the file has no texts", file.display())));
        };
        packed(&model, first, &texts, args.first_global);
        let seconds = measured(args.repeats, once);
        report(format!("{} texts in {} batches", texts.len(), batches.len()), total, seconds);
        return Ok(());
    }
    for &n in &args.tokens {
        if let Some(longest) = model.description.longest.filter(|longest| n > *longest) {
            return Err(Failure::new(format!("--tokens {n}: the model reads at most {longest}")));
        }
        let ids: Vec<u32> =
            (0..n as u32).map(|i| 5 + i.wrapping_mul(2_654_435_761) % (vocabulary - 5).max(1)).collect();
        packed(&model, &[0], std::slice::from_ref(&ids), args.first_global);
        let seconds = measured(args.repeats, || packed(&model, &[0], std::slice::from_ref(&ids), args.first_global));
        report(format!("{n} tokens"), n, seconds);
    }
    Ok(())
}

fn measured(repeats: usize, run: impl Fn()) -> Vec<f64> {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..repeats.max(1)).map(time).collect()
}

fn texts(file: &std::path::Path, vocabulary: u32) -> Result<Vec<Vec<u32>>, Failure> {
    #[derive(serde::Deserialize)]
    struct Texts {
        ids: Vec<Vec<u32>>,
    }
    let wrong = |message: String| Failure::new(format!("{}: {message}", file.display()));
    let bytes = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
    let texts: Texts = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    match texts.ids.iter().flatten().find(|id| **id >= vocabulary) {
        Some(id) => Err(wrong(format!("token id {id} is out of range: the vocabulary has {vocabulary} tokens"))),
        None => Ok(texts.ids),
    }
}

/// Indices of the texts, longest first, in batches of at most `most` tokens; a longer text is a batch by itself.
fn batches(texts: &[Vec<u32>], most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).filter(|i| !texts[*i].is_empty()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(texts[*i].len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for i in order {
        let n = texts[i].len();
        match batches.last_mut() {
            Some(batch) if n <= room => batch.push(i),
            _ => {
                batches.push(vec![i]);
                room = most.max(n);
            }
        }
        room -= n;
    }
    batches
}

fn packed(model: &EncoderModel, batch: &[usize], texts: &[Vec<u32>], first_global: bool) {
    let mut bounds = vec![0];
    let mut ids = Vec::new();
    for i in batch {
        ids.extend_from_slice(&texts[*i]);
        bounds.push(ids.len());
    }
    let global = Array2::from_shape_fn((1, ids.len()), |(_, t)| first_global && bounds.contains(&t));
    let reading = Reading { packed: Some(&bounds), global: first_global.then_some(&global), ..Reading::one(&ids) };
    std::hint::black_box(model.encoder.forward(&reading).into_data());
}
