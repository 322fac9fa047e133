//! `longreach classify`

use std::ffi::OsString;

use longreach_models::Task;
use longreach_search::documents::{Input, Options};
use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Classify texts, pairs of texts, or the tokens of texts
///
/// A sequence-classification model prints the labels of each text, most probable first. A token-classification model (such as named-entity recognition)
/// prints the labelled spans with their byte offsets. Texts longer than the input limit of the model are split into windows.
///
/// For models of text pairs, such as natural-language inference (premise and hypothesis) and rerankers (query and passage), give the second text with --pair,
/// the same for all texts, or with --pair-column. A pair longer than the input limit is truncated, the longer text first.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach classify --model DIR --input texts.jsonl --column body
  longreach classify --model dslim/bert-base-NER \"Ada Lovelace was born in London.\"
  longreach classify --model DIR \"A soccer game with many players.\" --pair \"People are playing.\"
  longreach classify --model DIR --input pairs.jsonl --column premise --pair-column hypothesis")]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Text to classify [default: those of --input]
    #[arg(conflicts_with = "input")]
    text: Option<String>,
    /// Second text of each pair, the same for all texts
    #[arg(long, value_name = "TEXT", conflicts_with = "pair_column")]
    pair: Option<String>,
    /// Field or column that holds the second text of each pair
    #[arg(long, value_name = "NAME", conflicts_with = "text")]
    pair_column: Option<String>,
    /// Texts: a .jsonl, .json, .csv, .tsv or .parquet file, a text file with one text per line, a folder with one text per file, or - for standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    /// Field or column that holds the text [default: text, or the only field that holds strings]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Number of labels to print for each text
    #[arg(long, short, value_name = "N", default_value_t = 3)]
    number: usize,
    /// Print one JSON object per text, one per line
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
                // A null second text counts as empty.
                (Some(_), _) => Some(""),
                (None, _) => args.pair.as_deref(),
            };
            each(row, &document.text, second)?;
            row += 1;
        }
        if row == 0 {
            return Err(Failure::new(format!("{}: the input has no texts", args.input.to_string_lossy())));
        }
    }
    if cut > 0 {
        eprintln!(
            "note: {cut} pairs were longer than the input limit of {} tokens and were truncated",
            encoder.limit()
        );
    }
    Ok(())
}
