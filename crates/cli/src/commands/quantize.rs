//! `longreach quantize`

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use longreach_gguf::TensorType;
use longreach_models::check_writable;
use longreach_models::gguf::{MIXES, Mix, Quantising, importances};

use super::convert::size;
use crate::failure::Failure;
use crate::weights::{contents, find, write};

/// Make a model smaller: a GGUF file of 4 to 8 bits a weight
///
/// Reads a Hugging Face directory, a model of the Hub, or a GGUF file. The mixtures of types are those of llama.cpp, which reads the result as well. Norms, routers and other small tensors stay in f32, and the embedding
/// table of a tied model gets more bits. At the end, the size and what each type loses are shown.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach quantize model-f32.gguf model-q4_k_m.gguf --type q4_k_m
  longreach quantize model-bf16.gguf model-q8_0.gguf --type q8_0
  longreach quantize HuggingFaceTB/SmolLM2-135M smollm2-q4_k_m.gguf
  longreach quantize DIR small.gguf --type q4_k_s --importance importance.gguf --keep ffn_down=q6_K --head q8_0")]
pub(crate) struct Args {
    /// Directory, Hugging Face Hub id or GGUF file to read, in f32, f16 or bf16
    #[arg(value_name = "IN")]
    from: OsString,
    /// GGUF file to write
    #[arg(value_name = "OUT")]
    to: PathBuf,
    /// Mixture of types: q4_k_m is usual, q8_0 loses hardly anything
    #[arg(long = "type", short = 't', value_name = "NAME", default_value = "q4_k_m", value_parser = mix)]
    mix: Mix,
    /// Use one type for all matrices, but for the embedding table and the output layer
    #[arg(long)]
    pure: bool,
    /// Give tensors whose name contains PATTERN another type, such as ffn_down=q6_K; may be repeated
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = kept)]
    keep: Vec<(String, TensorType)>,
    /// Type of the output layer, or of the embedding table where it is one [default: that of the mixture]
    #[arg(long, value_name = "TYPE", value_parser = kind)]
    head: Option<TensorType>,
    /// File with what each input channel carries on some text, as `longreach importance` and llama.cpp's llama-imatrix write it
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,
    /// Quantise tensors that are quantised already, which loses twice
    #[arg(long)]
    requantize: bool,
    /// Split the file into files of at most this many bytes: 2G, 500M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split_size: Option<u64>,
    /// llama.cpp's name of the pre-tokenizer, for one that is not recognised: llama-bpe, qwen2, gpt-2, smollm and so on
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,
}

fn mix(name: &str) -> Result<Mix, String> {
    let known = || MIXES.iter().map(|mix| mix.name).collect::<Vec<_>>().join(", ");
    Mix::named(name).ok_or_else(|| format!("want one of {}", known()))
}

fn kind(name: &str) -> Result<TensorType, String> {
    let named = TensorType::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(name));
    named.copied().ok_or_else(|| format!("`{name}` is no type of tensors"))
}

fn kept(text: &str) -> Result<(String, TensorType), String> {
    let (pattern, name) = text.split_once('=').ok_or("want PATTERN=TYPE")?;
    let kind = kind(name)?;
    if pattern.is_empty() {
        return Err("the pattern is empty".into());
    }
    Ok((String::from_str(pattern).unwrap_or_default(), kind))
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let at = find(&args.from)?;
    check_writable(&args.to, at.gguf().as_deref().as_slice())?;
    let importance = match args.importance {
        Some(file) => importances(file)?,
        None => Default::default(),
    };
    let from = contents(&args.from, &at, args.pre.as_deref())?;
    let how = Quantising {
        mix: args.mix,
        pure: args.pure,
        head: args.head,
        keep: args.keep,
        requantise: args.requantize,
        importance,
        split: args.split_size,
    };
    write(&from, &args.to, &how)
}
