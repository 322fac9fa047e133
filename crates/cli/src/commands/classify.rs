//! `longreach classify`

use longreach_models::Task;
use longreach_search::documents::Input;
use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Label texts, or the words in them, with an encoder that has a head for it
///
/// A head that classifies texts gives each text's labels, the likeliest first; one that classifies tokens gives the stretches that have a label, with their
/// places in bytes. What is longer than the model reads is read in parts.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The text [default: those of --input]
    #[arg(conflicts_with = "input")]
    text: Option<String>,
    /// A .jsonl or .parquet file, any other file a line a text, a folder a file a text, or - for lines of standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: String,
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
    let each = |row: u64, text: &str| -> Result<(), Failure> {
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
        let mut scored = encoder.classify(text)?;
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
        return each(0, text);
    }
    let mut documents = Input::of(&args.input)?.documents(args.column.as_deref())?;
    let mut row = 0;
    while let Some((document, _)) = documents.next()? {
        each(row, &document.text)?;
        row += 1;
    }
    Ok(())
}
