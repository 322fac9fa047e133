//! `longreach sparsify`

use std::path::PathBuf;

use longreach_models::{Location, Progress, SparseTarget, sparsify};

use crate::failure::Failure;
use crate::parameters::parse;

/// Make a dense model sparse, for longer texts: bert, roberta, xlm-roberta, gpt2
///
/// Attention is replaced, learned positions are tiled, and Longformer's global projections are copies of the ordinary ones. The new folder has the tokenizer as
/// well. A Longformer or BigBird is one of Hugging Face and loads there too; a layout of DeepSpeed stands in config.json as `sparse_attention`. Train it a little on long
/// texts afterwards: positions beyond the old ones were never learned.
///
///   longreach sparsify --model bert-base-uncased --attention longformer --max-length 4096 --out bert-long
///   longreach sparsify --model DIR --attention '{"mode": "fixed", "block": 16}' --max-length 2048 --out DIR-sparse
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Directory, .safetensors file or Hub id (owner/name)
    #[arg(long, short, value_name = "MODEL")]
    model: String,
    /// What replaces dense attention: longformer, bigbird, or the `sparse_attention` block of a DeepSpeed configuration as JSON
    #[arg(long, value_name = "NAME|JSON")]
    attention: String,
    /// The longest text the model is to read, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=(1 << 24)))]
    max_length: u32,
    /// Longformer's window: tokens on both sides together
    #[arg(long, value_name = "N", default_value_t = 512)]
    window: usize,
    /// BigBird's blocks, in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    block: usize,
    /// BigBird's random blocks
    #[arg(long, value_name = "N", default_value_t = 3)]
    random_blocks: usize,
    /// Where the model goes
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
    eprintln!("{}: a {} for texts of {} tokens", args.out.display(), done.model_type, args.max_length);
    if !done.left_out.is_empty() {
        eprintln!("note: left out, for want of a place in it: {}", done.left_out.join(", "));
    }
    if done.copied.is_empty() {
        eprintln!("note: {} has no tokenizer to be copied", args.model);
    }
    Ok(())
}
