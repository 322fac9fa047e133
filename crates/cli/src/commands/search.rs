//! `longreach search`

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::ValueEnum;
use longreach_engine::Similarity;
use longreach_search::documents::{Input, Kind, Options};
use longreach_search::index::{self, Found, Index, Passages};
use longreach_search::output;
use serde_json::{Value, json};

use crate::documents::{DocumentArgs, OverwriteArgs};
use crate::encoder::{Bar, EncoderArgs, VectorArgs, note_short};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::model::DTypeArg;

/// Search documents by meaning: build an index of passages and query it
///
/// `build` splits documents into passages, embeds them and stores the index in a folder; `query` prints the passages that match a query best. Every passage
/// is compared (exact search), so results do not depend on an approximation.
#[derive(clap::Subcommand)]
#[command(after_long_help = "\
Examples:
  longreach search build --model sentence-transformers/all-MiniLM-L6-v2 --input folder/ --out notes.index
  longreach search query --model sentence-transformers/all-MiniLM-L6-v2 --index notes.index \"how do I renew a passport?\"")]
pub(crate) enum Command {
    Build(Build),
    Query(Query),
}

/// Split documents into passages, embed them and store them in an index
///
/// An index is a folder with index.json and passages.arrow, an ordinary Arrow file that pyarrow, pandas, polars and DuckDB can read. Late-interaction models
/// (ColBERT) store one vector per token. Run the same command again after an interruption to resume.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach search build --model sentence-transformers/all-MiniLM-L6-v2 --input folder/ --out notes.index
  longreach search build --model DIR --input articles.jsonl --column body --fields id,title --out articles.index
  longreach search build --model DIR --input folder/ --passage 128 --overlap 16 --dtype int8 --out notes.index")]
pub(crate) struct Build {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    /// Documents: a folder of text files and tables, a .jsonl, .json, .csv, .tsv or .parquet file, a text file with one document per line, or - for
    /// standard input
    #[arg(long, short, value_name = "DIR|FILE|-")]
    input: OsString,
    #[command(flatten)]
    documents: DocumentArgs,
    /// Folder to write the index to
    #[arg(long, short, value_name = "INDEX")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: OverwriteArgs,
    /// Similarity of vectors: cosine, dot, euclidean or manhattan [default: that of the model, or cosine]
    #[arg(long, value_name = "NAME")]
    similarity: Option<Similarity>,
    /// Longest passage in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    passage: usize,
    /// Overlap of consecutive passages in tokens, at most half a passage
    #[arg(long, value_name = "N", default_value_t = 32)]
    overlap: usize,
    /// Size of a packed batch in tokens
    #[arg(long, value_name = "N", default_value_t = longreach_engine::BATCH)]
    batch_tokens: usize,
}

/// Print the passages that match a query best, with their scores and positions
///
/// --model must name the model that built the index; any other is an error. Pooling, normalisation and dtype are taken from the index.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach search query --model DIR --index notes.index \"how do I renew a passport?\"
  longreach search query --model DIR --index notes.index --number 10 --json \"first query\" \"second query\"
  longreach search query --model DIR --index notes.index --queries questions.csv --column question --json")]
pub(crate) struct Query {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    /// Folder of the index
    #[arg(long, value_name = "INDEX")]
    index: PathBuf,
    /// Number of passages to print for each query
    #[arg(long, short, value_name = "N", default_value_t = 5)]
    number: usize,
    /// Print one JSON object per passage, one per line
    #[arg(long)]
    json: bool,
    /// Read the queries from a file, in any format that `search build` reads, or - for standard input
    #[arg(long, value_name = "FILE|-")]
    queries: Option<String>,
    /// Field or column of the --queries file that holds the query [default: text, or the only field that holds strings]
    #[arg(long, value_name = "NAME", requires = "queries")]
    column: Option<String>,
    /// Format of the --queries file: lines, jsonl, json, csv, tsv or parquet [default: detected]
    #[arg(long, value_name = "FORMAT", requires = "queries")]
    format: Option<Kind>,
    /// Queries, answered in order
    #[arg(required_unless_present = "queries", conflicts_with = "queries")]
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
    let options = args.documents.options();
    let existing = args.overwrite.existing();
    output::check_index(&args.out, &input, existing)?;
    input.check(&options)?;
    args.overwrite.note(&args.out);
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
    let similarity = args.similarity;
    let what = index::Build { input: &input, options: &options, passages, similarity, existing };
    let done = index::build(&mut encoder, &what, &args.out, &mut progress)?;
    let split =
        format!("split into passages of at most {} tokens that overlap by at most {}", encoder.limit(), done.shared);
    bar.done(&done, &format!("passages in {}", args.out.display()), &split, "skipped");
    Ok(())
}

fn query(args: Query) -> Result<(), Failure> {
    let cx = &*longreach_burn::context();
    let index = Index::open(cx, &args.index)?;
    let about = index.about();
    let dtype = about.dtype().and_then(|name| DTypeArg::from_str(name, false).ok());
    let mut encoder = args.encoder.load_as(args.encoder.dtype().or(dtype))?;
    about.restore(&mut encoder);
    args.vectors.apply(&mut encoder);
    let questions = index.with(&encoder)?;
    let mut blank = 0;
    let mut answer = |number: u64, query: &str, several: bool| -> Result<(), Failure> {
        blank += u64::from(query.trim().is_empty());
        let found = questions.ask(cx, query, args.number)?;
        if args.json {
            found.iter().for_each(|found| println!("{}", line(number, query, &about.fields, found)));
            return Ok(());
        }
        if several {
            println!("{query}");
        }
        found.iter().for_each(|found| print(&index, found));
        Ok(())
    };
    match &args.queries {
        None => {
            for (number, query) in (0..).zip(&args.query) {
                answer(number, query, args.query.len() > 1)?;
            }
        }
        Some(name) => {
            let options = Options { column: args.column.clone(), format: args.format, ..Options::default() };
            let mut documents = Input::of(name)?.read(&options)?;
            let mut number = 0;
            while let Some((document, _)) = documents.next()? {
                answer(number, &document.text, true)?;
                number += 1;
            }
            if number == 0 {
                return Err(Failure::new(format!("{name}: the file has no queries")));
            }
        }
    }
    if blank > 0 {
        eprintln!("note: blank queries: {blank} (they match nothing)");
    }
    Ok(())
}

/// A match as a JSON object: the query and its number, counted from 0, and the passage with the copied fields of its document.
fn line(number: u64, query: &str, names: &[String], found: &Found) -> Value {
    let mut line = json!({
        "number": number, "query": query, "score": found.score, "file": found.file, "row": found.row,
        "start": found.bytes.start, "end": found.bytes.end, "text": found.text,
    });
    for (name, value) in names.iter().zip(&found.fields) {
        line[name] = json!(value);
    }
    line
}

fn print(index: &Index, found: &Found) {
    println!("{:.4}  {}", found.score, index.place(found));
    for (name, value) in index.about().fields.iter().zip(&found.fields) {
        println!("        {name}: {}", value.as_deref().unwrap_or("-"));
    }
    println!("        {}\n", found.text.split_whitespace().collect::<Vec<_>>().join(" "));
}
