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

/// Find passages of documents by what they say
///
///   longreach search build --model DIR --input folder/ --out notes.index
///   longreach search query --model DIR --index notes.index "what the question is"
///   longreach search query --model DIR --index notes.index --queries questions.txt --json
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
    /// A folder (a text file a document, a row of a table a document), a .jsonl, .json, .csv, .tsv or .parquet file, any other file a line a document, or -
    #[arg(long, short, value_name = "DIR|FILE|-")]
    input: OsString,
    #[command(flatten)]
    documents: DocumentArgs,
    /// Where the index goes
    #[arg(long, short, value_name = "INDEX")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: OverwriteArgs,
    /// How vectors are compared: cosine, dot, euclidean or manhattan [default: what the model says, or cosine]
    #[arg(long, value_name = "NAME")]
    similarity: Option<Similarity>,
    /// The most tokens of a passage
    #[arg(long, value_name = "N", default_value_t = 256)]
    passage: usize,
    /// Tokens a passage shares with the one before; at most half a passage
    #[arg(long, value_name = "N", default_value_t = 32)]
    overlap: usize,
    /// Tokens of a packed batch
    #[arg(long, value_name = "N", default_value_t = longreach_engine::BATCH)]
    batch_tokens: usize,
}

/// Print the passages that match a question best, with their scores and where they are
///
/// The model is the one that made the index, or it is refused; pooling, normalisation and precision are those that it was made with.
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
    /// Questions from a file, as `search build` reads documents, or - for standard input
    #[arg(long, value_name = "FILE|-")]
    queries: Option<String>,
    /// The field or column of that file that holds the question [default: text, or the only one that holds texts]
    #[arg(long, value_name = "NAME", requires = "queries")]
    column: Option<String>,
    /// What that file is: lines, jsonl, json, csv, tsv or parquet [default: by name and first bytes]
    #[arg(long, value_name = "FORMAT", requires = "queries")]
    format: Option<Kind>,
    /// What is asked; several questions are answered one after another
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
    let split = format!("passages of at most {} tokens, which share at most {}", encoder.limit(), done.shared);
    bar.done(&done, &format!("passages in {}", args.out.display()), &split, "left out");
    Ok(())
}

fn query(args: Query) -> Result<(), Failure> {
    let cx = longreach_burn::context();
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
                return Err(Failure::new(format!("{name}: holds no question")));
            }
        }
    }
    if blank > 0 {
        eprintln!("note: questions that are blank: {blank} (nothing matches them)");
    }
    Ok(())
}

/// A match as an object: the question's number, counted from 0, and itself, and the passage with what was carried of its document.
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
