//! `longreach classify`

use std::ffi::OsString;

use longreach_models::Task;
use longreach_search::documents::{Input, Options};
use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Label texts, or the words in them, with an encoder that has a head for it
///
/// A head that classifies texts gives each text's labels, the likeliest first; one that classifies tokens gives the stretches that have a label, with their
/// places in bytes. What is longer than the model reads is read in parts.
///
/// A model that judges pairs of texts, of inference (premise and hypothesis) or a reranker (query and passage), gets the second text by --pair, the same for
/// all, or by --pair-column. A pair that is longer than the model reads is cut off, the longer text first.
///
///   longreach classify --model DIR "A soccer game with many players." --pair "People are playing."
///   longreach classify --model DIR --input pairs.jsonl --column premise --pair-column hypothesis
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The text [default: those of --input]
    #[arg(conflicts_with = "input")]
    text: Option<String>,
    /// The second text of a pair, for all texts
    #[arg(long, value_name = "TEXT", conflicts_with = "pair_column")]
    pair: Option<String>,
    /// The field or column that holds the second text of each pair
    #[arg(long, value_name = "NAME", conflicts_with = "text")]
    pair_column: Option<String>,
    /// A .jsonl, .json, .csv, .tsv or .parquet file, any other file a line a text, a folder a file a text, or - for standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    /// The field or column that holds the text [default: text, or the only one that holds texts]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// The most labels of a text that are printed
    #[arg(long, short, value_name = "N", default_value_t = 3)]
    number: usize,
    /// An object a text, a line each
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let encoder = args.encoder.load()?;
    let tokens = matches!(encoder.model.description.head, Some((Task::Token, _)));
    if tokens && (args.pair.is_some() || args.pair_column.is_some()) {
        return Err(Failure::new("--pair: the model classifies the tokens of one text, not pairs of texts"));
    }
    let mut cut = 0;
    let mut each = |row: u64, text: &str, second: Option<&str>| -> Result<(), Failure> {
        if tokens {
            let found = encoder.entities(text)?;
            if args.json {
                let entity = |e: &longreach_engine::Entity| {
                    json!({"label": e.label, "score": e.score, "start": e.bytes.start, "end": e.bytes.end,
                        "text": &text[e.bytes.clone()]})
                };
                println!("{}", json!({"row": row, "entities": found.iter().map(entity).collect::<Vec<_>>()}));
                return Ok(());
            }
            for e in found {
                let (start, end) = (e.bytes.start, e.bytes.end);
                println!("{row}  {:16} {:.4}  bytes {start} to {end}: {}", e.label, e.score, &text[e.bytes]);
            }
            return Ok(());
        }
        let mut scored = match second {
            None => encoder.classify(text)?,
            Some(second) => {
                let (scored, short) = encoder.classify_pair(text, second)?;
                cut += u64::from(short);
                scored
            }
        };
        scored.truncate(args.number.max(1));
        if args.json {
            let label = |s: &longreach_engine::Scored| json!({"label": s.label, "score": s.score});
            println!("{}", json!({"row": row, "labels": scored.iter().map(label).collect::<Vec<_>>()}));
        } else {
            let labels = scored.iter().map(|s| format!("{} {:.4}", s.label, s.score)).collect::<Vec<_>>().join("  ");
            println!("{row}  {labels}");
        }
        Ok(())
    };
    if let Some(text) = &args.text {
        each(0, text, args.pair.as_deref())?;
    } else {
        let fields = args.pair_column.iter().cloned().collect();
        let options = Options { column: args.column.clone(), fields, ..Options::default() };
        let mut documents = Input::of(&args.input)?.read(&options)?;
        let mut row = 0;
        while let Some((document, _)) = documents.next()? {
            let second = match (&args.pair_column, document.fields.first()) {
                (Some(_), Some(Some(second))) => Some(&second[..]),
                // A second text that is null is an empty one.
                (Some(_), _) => Some(""),
                (None, _) => args.pair.as_deref(),
            };
            each(row, &document.text, second)?;
            row += 1;
        }
        if row == 0 {
            return Err(Failure::new(format!("{}: no texts were found", args.input.to_string_lossy())));
        }
    }
    if cut > 0 {
        eprintln!(
            "note: {cut} pairs were longer than the {} tokens the model reads, and were cut off",
            encoder.limit()
        );
    }
    Ok(())
}
