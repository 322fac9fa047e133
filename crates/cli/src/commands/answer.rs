//! `longreach answer`

use std::path::PathBuf;

use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Find the answer to a question in a text, with an encoder that has a head for it
///
/// The answer is a stretch of the text. A text longer than the model reads is read in parts that overlap.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// The question
    question: String,
    /// The text
    #[arg(long, value_name = "TEXT", conflicts_with = "file", required_unless_present = "file")]
    text: Option<String>,
    /// The file that holds the text
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How many answers
    #[arg(long, short, value_name = "N", default_value_t = 1)]
    number: usize,
    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 30)]
    longest: usize,
    /// Tokens that the parts of a long text share
    #[arg(long, value_name = "N", default_value_t = 128)]
    overlap: usize,
    /// An object an answer, a line each
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let encoder = args.encoder.load()?;
    let text = match (&args.text, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => {
            let wrong = |e: &dyn std::fmt::Display| Failure::new(format!("{}: {e}", file.display()));
            let bytes = std::fs::read(file).map_err(|e| wrong(&e))?;
            let text = String::from_utf8(bytes)
                .map_err(|e| wrong(&format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to())))?;
            // A byte order mark is no part of the text.
            text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)
        }
        (None, None) => String::new(),
    };
    for a in encoder.answer(&args.question, &text, args.number, args.longest, args.overlap)? {
        let (start, end) = (a.bytes.start, a.bytes.end);
        if args.json {
            let line = json!({"answer": &text[a.bytes], "score": a.score, "start": start, "end": end});
            println!("{line}");
        } else {
            println!("{}  ({:.4}, bytes {start} to {end})", &text[a.bytes], a.score);
        }
    }
    Ok(())
}
