//! `longreach embed`

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::ValueEnum;
use longreach_search::documents::{Input, Options, Shard};
use longreach_search::job::{Blank, Job, LongDocument};
use longreach_search::output;

use crate::documents::{DocumentArgs, OverwriteArgs};
use crate::encoder::{Bar, EncoderArgs, PromptArgs, VectorArgs, note_short};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Embed texts with an encoder: one vector per text
///
/// Use it to compute embeddings in bulk; `longreach search` embeds and queries in one place. Texts are sorted by length and packed into batches, so no time is
/// spent on padding. Finished work is kept in OUT.partial: run the same command again after an interruption to resume without losing or repeating rows.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach embed --model sentence-transformers/all-MiniLM-L6-v2 --input texts.jsonl --column body --out vectors.parquet
  longreach embed --model DIR --input folder/ --long parts --overlap 32 --out vectors.npy
  cat lines.txt | longreach embed --model DIR --out vectors.jsonl
  longreach embed --model DIR --input texts.parquet --shard 3/16 --out part-03.arrow
  longreach vectors join part-*.arrow --out vectors.parquet")]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Texts: a .jsonl, .json, .csv, .tsv or .parquet file, a text file with one text per line, a folder of such tables and of text files with one text each,
    /// or - for standard input (JSON Lines if it begins with an object, otherwise one text per line)
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    #[command(flatten)]
    documents: DocumentArgs,
    /// Output file: .parquet, .arrow, .npy or .jsonl
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: OverwriteArgs,
    /// Truncate vectors to their first N dimensions (Matryoshka), and normalise them again if the model normalises
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    matryoshka: Option<u32>,
    /// How to treat texts longer than the input limit of the model
    #[arg(long, value_enum, default_value_t = LongArg::Mean)]
    long: LongArg,
    /// Overlap of the windows of a long text in tokens, at most half a window
    #[arg(long, value_name = "N", default_value_t = 64)]
    overlap: usize,
    /// Size of a packed batch in tokens
    #[arg(long, value_name = "N", default_value_t = longreach_engine::BATCH)]
    batch_tokens: usize,
    /// Embed every N-th text only, beginning with text I, so that N machines share the work; `longreach vectors join` puts their outputs together. OUT ends in
    /// .arrow
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Write each text to the output along with its vector
    #[arg(long)]
    with_text: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LongArg {
    /// Split into windows; the vector is the mean of theirs, weighted by token count
    Mean,
    /// Split into windows; each window is a row
    Parts,
    /// Truncate, as sentence-transformers does
    Truncate,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let input = Input::of(&args.input)?;
    let options = Options { shard: args.shard, ..args.documents.options() };
    let existing = args.overwrite.existing();
    output::check_file(&args.out, &input, existing)?;
    input.check(&options)?;
    args.overwrite.note(&args.out);
    let mut encoder = args.encoder.load()?;
    args.vectors.apply(&mut encoder);
    let prompt = encoder.prompt(args.prompt.of())?.to_owned();
    if let Some(n) = args.matryoshka
        && n as usize > encoder.width()
    {
        return Err(Failure::new(format!(
            "--matryoshka {n}: the vectors of the model have {} dimensions",
            encoder.width()
        )));
    }
    let overlap = args.overlap;
    let long = match args.long {
        LongArg::Mean => LongDocument::Mean { overlap },
        LongArg::Parts => LongDocument::Parts { overlap },
        LongArg::Truncate => LongDocument::Truncate,
    };
    note_short(&encoder);
    let job = Job {
        input: &input,
        options: &options,
        prompt: &prompt,
        long,
        blank: Blank::Keep,
        keep: args.matryoshka.map(|n| n as usize),
        batch: args.batch_tokens.max(1),
        text: args.with_text,
    };
    let interrupt = Interrupt::watched()?;
    let bar = Bar::over(input.bytes())?;
    let mut progress = |p: &longreach_search::job::Progress| -> ControlFlow<()> {
        bar.at(p);
        interrupt.flow()
    };
    let done = job.run(&encoder, &args.out, existing, &mut progress)?;
    let split = match args.long {
        LongArg::Mean => {
            format!("split into windows that overlap by at most {} tokens, whose vectors are averaged", done.shared)
        }
        LongArg::Parts => format!("split into windows that overlap by at most {} tokens, one row each", done.shared),
        LongArg::Truncate => format!("truncated to {} tokens", encoder.limit()),
    };
    bar.done(&done, &format!("rows of {}", args.out.display()), &split, "kept as rows");
    Ok(())
}
