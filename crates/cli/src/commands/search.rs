//! `longreach search`

use std::ops::ControlFlow;
use std::path::PathBuf;

use longreach_search::documents::Input;
use longreach_search::index::{self, Found, Index, Passages};
use serde_json::json;

use crate::encoder::{Bar, EncoderArgs, VectorArgs, note_short};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Find passages of documents by what they say
///
///   longreach search build --model DIR --input folder/ --out notes.index
///   longreach search query --model DIR --index notes.index "what the question is"
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Command {
    Build(Build),
    Query(Query),
}

/// Cut documents into passages, embed them and keep both on disk
///
/// An index is a folder with index.json and passages.arrow, which is an Arrow file like any other: pyarrow, pandas, polars and DuckDB read it. With a model of
/// late interaction (ColBERT) there is a vector a token. Work that is interrupted goes on with the same command.
#[derive(clap::Args)]
pub(crate) struct Build {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    /// A folder, a .jsonl or .parquet file, or any other file a line a document
    #[arg(long, short, value_name = "DIR|FILE")]
    input: String,
    /// The field or column that holds the text [default: text, or the only one that holds texts]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Where the index goes
    #[arg(long, short, value_name = "INDEX")]
    out: PathBuf,
    /// The most tokens of a passage
    #[arg(long, value_name = "N", default_value_t = 256)]
    passage: usize,
    /// Tokens a passage shares with the one before
    #[arg(long, value_name = "N", default_value_t = 32)]
    overlap: usize,
    /// Tokens of a packed batch
    #[arg(long, value_name = "N", default_value_t = longreach_engine::BATCH)]
    batch_tokens: usize,
}

/// Print the passages that match a question best, with their scores and where they are
#[derive(clap::Args)]
pub(crate) struct Query {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    /// The index
    #[arg(long, value_name = "INDEX")]
    index: PathBuf,
    /// How many passages
    #[arg(long, short, value_name = "N", default_value_t = 5)]
    number: usize,
    /// An object a passage, a line each
    #[arg(long)]
    json: bool,
    /// What is asked; several questions are answered one after another
    #[arg(required = true)]
    query: Vec<String>,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Build(args) => build(args),
        Command::Query(args) => query(args),
    }
}

fn build(args: Build) -> Result<(), Failure> {
    let input = Input::of(&args.input)?;
    let mut encoder = args.encoder.load()?;
    args.vectors.apply(&mut encoder);
    note_short(&encoder);
    let interrupt = Interrupt::watched()?;
    let bar = Bar::over(input.bytes())?;
    let mut progress = |p: &longreach_search::job::Progress| -> ControlFlow<()> {
        bar.at(p);
        interrupt.flow()
    };
    let passages = Passages { tokens: args.passage, overlap: args.overlap, batch: args.batch_tokens.max(1) };
    let column = args.column.as_deref();
    let done = index::build(&mut encoder, &input, column, passages, &args.out, &mut progress)?;
    let split = format!("were cut into passages of at most {} tokens", encoder.limit());
    bar.done(&done, &format!("passages in {}", args.out.display()), &split);
    Ok(())
}

fn query(args: Query) -> Result<(), Failure> {
    let index = Index::open(&args.index)?;
    let mut encoder = args.encoder.load()?;
    args.vectors.apply(&mut encoder);
    for query in &args.query {
        let found = index.search(longreach_burn::context(), &encoder, query, args.number)?;
        if args.json {
            for f in found {
                let line = json!({
                    "query": query, "score": f.score, "file": f.file, "row": f.row, "start": f.bytes.start,
                    "end": f.bytes.end, "text": f.text,
                });
                println!("{line}");
            }
            continue;
        }
        if args.query.len() > 1 {
            println!("{query}");
        }
        found.iter().for_each(print);
    }
    Ok(())
}

fn print(found: &Found) {
    let place = match &found.file {
        Some(file) => format!("{file}, bytes {} to {}", found.bytes.start, found.bytes.end),
        None => format!("row {}", found.row),
    };
    println!("{:.4}  {place}", found.score);
    println!("        {}\n", found.text.split_whitespace().collect::<Vec<_>>().join(" "));
}
