//! `longreach answer`

use std::path::PathBuf;

use serde_json::json;

use crate::encoder::EncoderArgs;
use crate::failure::Failure;

/// Answer a question with a span of a text (extractive question answering)
///
/// The model must have a question-answering head. Each answer is a span of the text, printed with its score and its byte offsets. Texts longer than the
/// input limit of the model are split into overlapping windows.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach answer --model deepset/roberta-base-squad2 --file report.txt \"Who signed it?\"
  longreach answer --model deepset/roberta-base-squad2 --text \"Ada was born in London.\" \"Where was Ada born?\"
  longreach answer --model DIR --file report.txt --number 3 --json \"Who signed it?\"")]
pub(crate) struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Question to answer
    question: String,
    /// Text to search
    #[arg(long, value_name = "TEXT", conflicts_with = "file", required_unless_present = "file")]
    text: Option<String>,
    /// Read the text from a file
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Number of answers, which do not overlap
    #[arg(long, short, value_name = "N", default_value_t = 1)]
    number: usize,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 30)]
    longest: usize,
    /// Overlap of the windows of a long text, in tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    overlap: usize,
    /// Print one JSON object per answer, one per line
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
            // A byte order mark is skipped.
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
