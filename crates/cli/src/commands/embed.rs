//! `longreach embed`

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::ValueEnum;
use longreach_search::documents::Input;
use longreach_search::job::{Blank, Job, LongDocument};
use longreach_search::output;

use crate::documents::{DocumentArgs, OverwriteArgs};
use crate::encoder::{Bar, EncoderArgs, PromptArgs, VectorArgs, note_short};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Make vectors of texts, a row each, with an encoder
///
/// Texts are sorted by length and read packed, so that nothing is computed for padding. Work that is interrupted is kept in OUT.partial: the same command
/// goes on where it was, and no row is lost or made twice.
///
///   longreach embed --model DIR --input texts.jsonl --column body --out vectors.parquet
///   longreach embed --model DIR --input folder/ --out vectors.npy
///   cat lines.txt | longreach embed --model DIR --out vectors.jsonl
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// A .jsonl, .json, .csv, .tsv or .parquet file, any other file a line a text, a folder (a text file a text, a row of a table a text), or - for standard
    /// input: JSON lines if it begins with an object, else lines
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    #[command(flatten)]
    documents: DocumentArgs,
    /// Where vectors go: .parquet, .arrow, .npy or .jsonl
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: OverwriteArgs,
    /// Keep the first N numbers of each vector (Matryoshka), and divide by their length where the model divides
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    matryoshka: Option<u32>,
    /// What becomes of a text longer than the model reads
    #[arg(long, value_enum, default_value_t = LongArg::Mean)]
    long: LongArg,
    /// Tokens that the parts of a long text share; at most half a part
    #[arg(long, value_name = "N", default_value_t = 64)]
    overlap: usize,
    /// Tokens of a packed batch
    #[arg(long, value_name = "N", default_value_t = longreach_engine::BATCH)]
    batch_tokens: usize,
    /// Write the text beside its vector
    #[arg(long)]
    with_text: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LongArg {
    /// It is split; its vector is the mean of its parts', by their tokens
    Mean,
    /// It is split; each part is a row
    Parts,
    /// It is cut off, as sentence-transformers do
    Truncate,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let input = Input::of(&args.input)?;
    let options = args.documents.options();
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
        return Err(Failure::new(format!("--matryoshka {n}: the model's vectors have {} numbers", encoder.width())));
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
            format!("their vectors are the mean of their parts, which share at most {} tokens", done.shared)
        }
        LongArg::Parts => format!("each part is a row; parts share at most {} tokens", done.shared),
        LongArg::Truncate => format!("cut off behind {} tokens", encoder.limit()),
    };
    bar.done(&done, &format!("rows of {}", args.out.display()), &split, "their rows are kept");
    Ok(())
}
