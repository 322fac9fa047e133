//! `longreach tokenize`

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;

use longreach_engine::Tokenizer;
use longreach_models::{Location, Progress};

use crate::failure::Failure;

/// Print the tokens of a text
///
/// The ids are a JSON array, with the special tokens that the model puts around a text, as `generate` would read it. Special tokens in the text are recognised.
/// The weights are not read.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach tokenize --model HuggingFaceTB/SmolLM2-135M-Instruct \"Hello, world\"
  longreach tokenize --model model.gguf --pieces --file README.md")]
pub(crate) struct Args {
    /// Directory, GGUF file or Hugging Face Hub id
    #[arg(long, short, value_name = "MODEL")]
    model: OsString,
    /// Text to tokenise; `-` reads standard input
    #[arg(value_name = "TEXT", required_unless_present = "file")]
    text: Option<String>,
    /// File to tokenise
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Print one line per token instead: its id and its entry in the vocabulary, as JSON
    #[arg(long)]
    pieces: bool,
    /// Do not add the special tokens around the text
    #[arg(long)]
    no_special: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let text = match (&args.text, &args.file) {
        (_, Some(file)) => {
            std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?
        }
        (Some(text), None) if text == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|e| Failure::new(format!("standard input: {e}")))?;
            text
        }
        (text, None) => text.clone().unwrap_or_default(),
    };
    let at = Location::find(&args.model, Progress::Shown)?;
    let found = Tokenizer::of(&at)?;
    let tokenizer =
        found.ok_or_else(|| Failure::new(format!("{}: the model has no tokenizer", args.model.display())))?;
    let ids = if args.no_special {
        tokenizer.encode(&text)?
    } else {
        let around = tokenizer.encode_around(&text)?;
        [around.ids, around.behind].concat()
    };
    if args.pieces {
        for id in ids {
            let piece = tokenizer.token(id).unwrap_or_default();
            println!("{id}\t{}", serde_json::Value::from(piece));
        }
    } else {
        println!("{}", serde_json::Value::from(ids));
    }
    Ok(())
}
