//! `longreach importance`

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use longreach_engine::Engine;
use longreach_models::{Progress, check_writable};

use crate::agreement::{bar_of_windows, windows};
use crate::documents::whole_text;
use crate::failure::Failure;

/// Measure on a text how much each input channel of each matrix matters
///
/// The model reads the text in windows, and the mean squares of what its matrices are multiplied by are written in the form of llama.cpp's llama-imatrix.
/// `longreach quantize --importance` weighs the errors of rounding by them, which lowers what few bits cost. The text should be like what the model is used
/// for; a few hundred kilobytes are enough.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach importance --model HuggingFaceTB/SmolLM2-135M --input text.txt importance.gguf
  longreach quantize HuggingFaceTB/SmolLM2-135M small.gguf --type q4_k_m --importance importance.gguf")]
pub(crate) struct Args {
    /// Directory, weights file or Hugging Face Hub id
    #[arg(long, short, value_name = "MODEL")]
    model: OsString,
    /// Text: a text file, a .jsonl, .json, .csv, .tsv or .parquet file, a folder with one text per file, or - for standard input
    #[arg(long, short, value_name = "FILE|DIR|-", default_value = "-")]
    input: OsString,
    /// Field or column that holds the text [default: text, or the only field that holds strings]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// Number of windows, from the start of the text [default: all]
    #[arg(long, value_name = "N")]
    windows: Option<usize>,
    /// File to write
    #[arg(value_name = "OUT")]
    to: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    check_writable(&args.to, &[Path::new(&args.model), Path::new(&args.input)])?;
    let text = whole_text(&args.input, args.column.as_deref())?;
    let (engine, observed) = Engine::observed(&args.model, Progress::Shown)?;
    let windows = windows(&engine, &text, args.context, args.windows)?;
    let bar = bar_of_windows(windows.len());
    for window in &windows {
        engine.each_logits(window, 0, |_, _| ());
        bar.inc(1);
    }
    bar.finish_and_clear();
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let length = windows.first().map_or(0, Vec::len);
    let name = Path::new(&args.input).file_name().unwrap_or(&args.input).to_string_lossy();
    let matrices = observed.write(&args.to, &name, size(windows.len()), size(length))?;
    eprintln!("{}: {matrices} matrices, {} windows of {length} tokens", args.to.display(), windows.len());
    Ok(())
}
