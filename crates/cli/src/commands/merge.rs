//! `longreach merge`

use std::path::PathBuf;

use crate::failure::Failure;

/// Merge a LoRA adapter into the weights of its model
///
/// The adapter is a directory in the layout of PEFT: adapter_config.json and adapter_model.safetensors. The merged model is written in the Hugging Face
/// layout, with matrices in the precision of the model; one from a GGUF file in f32.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach merge --model HuggingFaceTB/SmolLM2-135M --adapter out/adapter --out merged")]
pub(crate) struct Args {
    /// Model: a directory, a GGUF file or a Hub id
    #[arg(long)]
    model: String,
    /// Directory of the adapter
    #[arg(long)]
    adapter: PathBuf,
    /// Directory to write the merged model to
    #[arg(long)]
    out: PathBuf,
    /// config.json of the merged model, for an encoder whose adapter brings a head
    #[arg(long)]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.out.join("model.safetensors").exists() {
        let message = format!("{}: already holds a model: choose another directory", args.out.display());
        return Err(Failure::new(message));
    }
    let config = args
        .config
        .as_ref()
        .map(|file| std::fs::read_to_string(file).map_err(|e| Failure::new(format!("{}: {e}", file.display()))));
    longreach_train::merge(&args.model, &args.adapter, &args.out, config.transpose()?.as_deref())?;
    eprintln!("{}: merged", args.out.display());
    Ok(())
}
