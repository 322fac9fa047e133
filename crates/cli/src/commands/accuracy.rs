//! `longreach accuracy`

use std::ffi::OsString;
use std::time::Instant;

use longreach_engine::{Long, Part, TextEncoder, batches};
use longreach_models::{EncoderModel, Location, Progress};
use longreach_search::documents::Input;
use serde_json::json;

use crate::agreement::Decoders;
use crate::documents::whole_text;
use crate::encoder::EncoderArgs;
use crate::failure::Failure;
use crate::model::DTypeArg;

/// Measure what fewer bits of a model cost
///
/// An encoder embeds each text twice, with f32 weights and with those of --dtype [default: int8]. The command prints the mean and the lowest cosine similarity
/// of the two vectors of a text, the relative root-mean-square difference, and the speedup.
///
/// A language model predicts the text. With --against, the command compares it with another one of the same vocabulary, such as the same model before it was
/// quantised; with --dtype alone, with itself in f32; otherwise it prints the perplexity. Perplexity and Kullback-Leibler divergence are those of the second
/// half of windows of --context tokens, as llama.cpp measures them.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach accuracy --model model-q4_k_m.gguf --against model-f16.gguf --input text.txt
  longreach accuracy --model sentence-transformers/all-MiniLM-L6-v2 --input texts.txt
  longreach accuracy --model DIR --dtype bf16 --input texts.jsonl --column body --texts 1000 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Texts: a .jsonl, .json, .csv, .tsv or .parquet file, a text file with one text per line, a folder with one text per file, or - for standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    /// Field or column that holds the text [default: text, or the only field that holds strings]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Number of texts to compare, from the start of the input
    #[arg(long, value_name = "N", default_value_t = 256)]
    texts: usize,
    /// Language model to compare with: a directory, weights file or Hugging Face Hub id
    #[arg(long, value_name = "MODEL")]
    against: Option<OsString>,
    /// Tokens of a window that a language model reads
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// Number of windows that a language model reads, from the start of the text [default: all]
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let at = Location::find(args.encoder.model(), Progress::Shown)?;
    if EncoderModel::is_at(&at)? {
        if args.against.is_some() {
            return Err(Failure::new("--against compares language models, but this model is an encoder: use --dtype"));
        }
        return of_encoder(args);
    }
    let text = whole_text(&args.input, args.column.as_deref())?;
    let run = Decoders {
        model: args.encoder.model(),
        dtype: args.encoder.dtype(),
        against: args.against.as_deref(),
        context: args.context,
        windows: args.windows,
        json: args.json,
    };
    run.measure(&text)
}

fn of_encoder(args: Args) -> Result<(), Failure> {
    let mut documents = Input::of(&args.input)?.documents(args.column.as_deref())?;
    let mut texts = Vec::new();
    while texts.len() < args.texts.max(1) {
        match documents.next()? {
            Some((document, _)) => texts.push(document.text),
            None => break,
        }
    }
    if texts.is_empty() {
        return Err(Failure::new(format!("{}: the input has no texts", args.input.to_string_lossy())));
    }
    let rounded = args.encoder.dtype().unwrap_or(DTypeArg::Int8);
    let (exact, slow, tokens) = vectors(&args.encoder.load_as(Some(DTypeArg::F32))?, &texts)?;
    let encoder = args.encoder.load_as(Some(rounded))?;
    let (found, fast, _) = vectors(&encoder, &texts)?;
    let width = encoder.width();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let cosines: Vec<f64> = exact.chunks(width).zip(found.chunks(width)).map(cosine).collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let least = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    let difference: Vec<f32> = exact.iter().zip(&found).map(|(a, b)| a - b).collect();
    let relative = (dot(&difference, &difference) / dot(&exact, &exact)).sqrt();
    let dtype = encoder.model.dtype.name();
    if args.json {
        let line = json!({
            "dtype": dtype, "texts": texts.len(), "tokens": tokens, "cosine": mean, "least_cosine": least,
            "relative_difference": relative, "times_as_fast": slow / fast,
        });
        println!("{line}");
    } else {
        println!("{dtype} against f32 on {} texts with {tokens} tokens in total", texts.len());
        println!("cosine       mean {mean:.5}, lowest {least:.5}");
        println!("difference   {:.3} % relative, root mean square", 100.0 * relative);
        println!("speed        {:.2} times that of f32", slow / fast);
    }
    Ok(())
}

/// The concatenated vectors of the texts, the seconds to compute them, and the number of tokens.
fn vectors(encoder: &TextEncoder, texts: &[String]) -> Result<(Vec<f32>, f64, usize), Failure> {
    let mut parts = Vec::new();
    for text in texts {
        if encoder.is_late() {
            parts.extend(encoder.late_parts(text, Long::Truncate)?);
        } else {
            parts.extend(encoder.parts(text, "", Long::Truncate)?);
        }
    }
    let mut vectors = vec![Vec::new(); parts.len()];
    let all = batches(&parts, longreach_engine::BATCH);
    // Warm-up: the first pass reads memory-mapped weights from disk.
    encoder.hidden(&[&parts[all[0][0]]]);
    let start = Instant::now();
    for batch in all {
        let chosen: Vec<&Part> = batch.iter().map(|i| &parts[*i]).collect();
        let made: Vec<Vec<f32>> = if encoder.is_late() {
            encoder.late_documents(&chosen)?
        } else {
            encoder.vectors(&chosen).chunks(encoder.width()).map(<[f32]>::to_vec).collect()
        };
        batch.iter().zip(made).for_each(|(i, vector)| vectors[*i] = vector);
    }
    let tokens = parts.iter().map(|part| part.ids.len()).sum();
    Ok((vectors.concat(), start.elapsed().as_secs_f64(), tokens))
}
