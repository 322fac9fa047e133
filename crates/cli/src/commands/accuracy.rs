//! `longreach accuracy`

use std::ffi::OsString;
use std::time::Instant;

use longreach_engine::{Long, Part, TextEncoder, batches};
use longreach_search::documents::Input;
use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;
use crate::model::DTypeArg;

/// Measure what a precision loses: the vectors of texts in it against those in f32
///
/// Printed are the cosines between the two vectors of each text (mean and least), the root mean square of their difference over that of the vectors, and how
/// much faster one is than the other.
///
///   longreach accuracy --model DIR --dtype int8 --input texts.txt
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// A .jsonl or .parquet file, any other file a line a text, a folder a file a text, or - for lines of standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    /// The field or column that holds the text [default: text, or the only one that holds texts]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Read at most N texts
    #[arg(long, value_name = "N", default_value_t = 256)]
    texts: usize,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut documents = Input::of(&args.input)?.documents(args.column.as_deref())?;
    let mut texts = Vec::new();
    while texts.len() < args.texts.max(1) {
        match documents.next()? {
            Some((document, _)) => texts.push(document.text),
            None => break,
        }
    }
    if texts.is_empty() {
        return Err(Failure::new(format!("{}: there is no text to compare with", args.input.to_string_lossy())));
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
        println!("{dtype} against f32 over {} texts of {tokens} tokens", texts.len());
        println!("cosine       {mean:.5}, at least {least:.5}");
        println!("difference   {:.3} % of the vectors, root mean square", 100.0 * relative);
        println!("speed        {:.2} times f32's", slow / fast);
    }
    Ok(())
}

/// The vectors of texts, the seconds they took, and how many tokens were read.
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
    // Once for warmth: weights come from the disk.
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
