//! `longreach sparsify`

use std::ffi::OsString;
use std::path::PathBuf;

use longreach_models::{Location, Progress, SparseTarget, sparsify};

use crate::failure::Failure;
use crate::parameters::parse;

/// Convert a dense model to sparse attention for longer inputs (bert, roberta, xlm-roberta, gpt2)
///
/// Use it to extend a model beyond the length it was trained for. Dense attention is replaced by a sparse pattern, learned position embeddings are tiled to
/// the new length, and Longformer's global projections are initialised from the ordinary ones. The tokenizer is copied. Longformer and BigBird checkpoints
/// also load in transformers; a DeepSpeed layout is stored in config.json as `sparse_attention`. Fine-tune the model on long texts afterwards, since positions
/// beyond the original length were never trained.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach sparsify --model bert-base-uncased --attention longformer --max-length 4096 --out bert-long
  longreach sparsify --model roberta-base --attention bigbird --block 64 --max-length 4096 --out roberta-long
  longreach sparsify --model DIR --attention '{\"mode\": \"fixed\", \"block\": 16}' --max-length 2048 --out DIR-sparse")]
pub(crate) struct Args {
    /// Model to convert: a directory, weights file or Hugging Face Hub id
    #[arg(long, short, value_name = "MODEL")]
    model: OsString,
    /// Sparse attention to use: longformer, bigbird, or the `sparse_attention` block of a DeepSpeed configuration as JSON
    #[arg(long, value_name = "NAME|JSON")]
    attention: String,
    /// Input limit of the new model, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=(1 << 24)))]
    max_length: u32,
    /// Longformer: window size in tokens, both sides together
    #[arg(long, value_name = "N", default_value_t = 512)]
    window: usize,
    /// BigBird: block size in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    block: usize,
    /// BigBird: number of random blocks per query block
    #[arg(long, value_name = "N", default_value_t = 3)]
    random_blocks: usize,
    /// Directory to write the new model to
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let target = match args.attention.trim() {
        "longformer" => SparseTarget::Longformer { window: args.window },
        "bigbird" | "big_bird" => SparseTarget::BigBird { block: args.block, random_blocks: args.random_blocks },
        json if json.starts_with('{') => SparseTarget::DeepSpeed(parse("--attention: not JSON", json)?),
        other => {
            let want = "want longformer, bigbird or a `sparse_attention` block of DeepSpeed as JSON";
            return Err(Failure::new(format!("--attention: {want}, found `{other}`")));
        }
    };
    let from = Location::find(&args.model, Progress::Shown)?;
    let done = sparsify(&from, &args.out, &target, args.max_length as usize)?;
    eprintln!("{}: {} model for inputs of up to {} tokens", args.out.display(), done.model_type, args.max_length);
    if !done.left_out.is_empty() {
        eprintln!("note: tensors that the new model has no place for were dropped: {}", done.left_out.join(", "));
    }
    if done.copied.is_empty() {
        eprintln!("note: {} has no tokenizer to copy", args.model.display());
    }
    Ok(())
}
