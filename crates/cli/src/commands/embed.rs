//! `longreach embed`

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::ValueEnum;
use longreach_search::documents::Input;
use longreach_search::job::{Job, LongDocument};
use longreach_search::vectors::Format;

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
    /// A .jsonl or .parquet file, any other file a line a text, a folder a file a text, or - for lines of standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: String,
    /// The field or column that holds the text [default: text, or the only one that holds texts]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Where vectors go: .parquet, .arrow, .npy or .jsonl
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Keep the first N numbers of each vector (Matryoshka), and divide by their length where the model divides
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    matryoshka: Option<u32>,
    /// What becomes of a text longer than the model reads
    #[arg(long, value_enum, default_value_t = LongArg::Mean)]
    long: LongArg,
    /// Tokens that the parts of a long text share
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
    let format = Format::of(&args.out)?;
    let input = Input::of(&args.input)?;
    let mut encoder = args.encoder.load()?;
    args.vectors.apply(&mut encoder);
    let prompt = encoder.prompt(args.prompt.of())?.to_owned();
    if let Some(n) = args.matryoshka
        && n as usize > encoder.width()
    {
        return Err(Failure::new(format!("--matryoshka {n}: the model's vectors have {} numbers", encoder.width())));
    }
    let overlap = args.overlap;
    let (long, split) = match args.long {
        LongArg::Mean => {
            (LongDocument::Mean { overlap }, format!("have the mean of their parts, which share {overlap} tokens"))
        }
        LongArg::Parts => (LongDocument::Parts { overlap }, format!("have a row a part; parts share {overlap} tokens")),
        LongArg::Truncate => (LongDocument::Truncate, format!("were cut off behind {} tokens", encoder.limit())),
    };
    note_short(&encoder);
    let job = Job {
        input: &input,
        column: args.column.as_deref(),
        prompt: &prompt,
        long,
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
    let done = job.run(&encoder, &args.out, format, &mut progress)?;
    bar.done(&done, &format!("rows of {}", args.out.display()), &split);
    Ok(())
}
