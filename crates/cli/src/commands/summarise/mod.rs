//! `longreach summarise`

use std::ffi::OsString;
use std::path::PathBuf;

use longreach_models::check_writable;

use crate::failure::Failure;
use crate::model::{ContextArgs, ModelArgs};
use crate::sampling::SamplingArgs;
use crate::texts::{self, TextArgs};

mod extract;
mod reduce;
mod work;

/// Summarise a book, an article or a folder of them
///
/// With a chat model: the texts are divided into pieces at the borders of chapters, paragraphs or sentences, each piece is summarised, and summaries are merged
/// level by level until one is left. Each finished piece is saved; run the same command again after an interruption to continue, with the same result.
///
/// With --encoder: the sentences that are most central (LexRank) and repeat each other least are chosen, and printed in the order of the texts with their
/// places. Nothing is generated, so nothing is made up.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach summarise --model HuggingFaceTB/SmolLM2-1.7B-Instruct book.txt --words 300
  longreach summarise --model Qwen/Qwen3-0.6B notes/ --prompt \"List the decisions in these notes in {words} words.\"
  longreach summarise --encoder sentence-transformers/all-MiniLM-L6-v2 book.txt --words 200")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Texts: files, folders, tables (.jsonl, .json, .csv, .tsv, .parquet) or - for standard input
    #[arg(required = true, value_name = "FILE|FOLDER|-")]
    input: Vec<OsString>,
    #[command(flatten)]
    texts: TextArgs,
    /// Length of the summary in words: about that with a model, at most that with an encoder
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    words: u32,
    /// Choose sentences by the vectors of this encoder instead of generating: a directory, weights file or Hub id (sentence-transformers)
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["model", "prompt", "piece", "work"])]
    encoder: Option<OsString>,
    /// With --encoder: how much weight a sentence loses that repeats another, from 0 to 1
    #[arg(long, value_name = "D", default_value_t = 0.3)]
    diversity: f64,
    /// Instruction for each piece; {words} stands for the number of words
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Longest piece in tokens [default: 2048, or what the context of the model has room for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    piece: Option<u32>,
    /// File for the finished pieces of an interrupted run; removed at the end [default: OUT.partial, or the name of the input with .summary.partial in the
    /// working directory]
    #[arg(long, value_name = "FILE")]
    work: Option<PathBuf>,
    /// Write the summary to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print a JSON object: the summaries of all levels, or one object per sentence
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if !(0.0..=1.0).contains(&args.diversity) {
        return Err(Failure::new(format!("--diversity: want 0 to 1, found {}", args.diversity)));
    }
    if let Some(out) = &args.out {
        check_writable(out, &texts::paths(&args.input))?;
    }
    let texts = texts::read(&args.input, &args.texts)?;
    let summary = match &args.encoder {
        Some(encoder) => extract::run(&args, encoder, &texts)?,
        None => match reduce::run(&args, &texts)? {
            Some(summary) => summary,
            None => return Ok(()),
        },
    };
    match &args.out {
        Some(out) => longreach_models::write_atomically(out, |file| file.write_all(summary.as_bytes()))?,
        None => print!("{summary}"),
    }
    Ok(())
}
