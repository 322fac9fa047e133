//! `longreach quantize`

use std::path::PathBuf;
use std::str::FromStr;

use indicatif::{ProgressBar, ProgressStyle};
use longreach_gguf::{Gguf, TensorType};
use longreach_models::check_writable;
use longreach_models::gguf::{Contents, MIXES, Mix, Quantising, importances, quantise};

use crate::failure::Failure;

/// Make a GGUF file smaller: 2 to 8 bits a weight
///
/// The mixtures of types are those of llama.cpp, which reads the result as well. Norms, routers and other small tensors stay in f32, and the embedding
/// table of a tied model gets more bits. At the end, the size and what each type loses are shown.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach quantize model-f32.gguf model-q4_k_m.gguf --type q4_k_m
  longreach quantize model-bf16.gguf model-q8_0.gguf --type q8_0
  longreach quantize model-f32.gguf small.gguf --type q4_k_s --importance imatrix.gguf --keep ffn_down=q6_K")]
pub(crate) struct Args {
    /// GGUF file to read, in f32, f16 or bf16
    #[arg(value_name = "IN")]
    from: PathBuf,
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
    /// File with what each input channel carries on some text, as llama.cpp's llama-imatrix writes it
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,
    /// Quantise tensors that are quantised already, which loses twice
    #[arg(long)]
    requantize: bool,
}

fn mix(name: &str) -> Result<Mix, String> {
    let known = || MIXES.iter().map(|mix| mix.name).collect::<Vec<_>>().join(", ");
    Mix::named(name).ok_or_else(|| format!("want one of {}", known()))
}

fn kept(text: &str) -> Result<(String, TensorType), String> {
    let (pattern, kind) = text.split_once('=').ok_or("want PATTERN=TYPE")?;
    let named = TensorType::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(kind));
    let kind = named.ok_or_else(|| format!("`{kind}` is no type of tensors"))?;
    if pattern.is_empty() {
        return Err("the pattern is empty".into());
    }
    Ok((String::from_str(pattern).unwrap_or_default(), *kind))
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    check_writable(&args.to, &[&args.from])?;
    let importance = match args.importance {
        Some(file) => importances(file)?,
        None => Default::default(),
    };
    let from = Contents::of_gguf(Gguf::open(&args.from).map_err(longreach_models::Error::from)?)?;
    let (pure, keep, requantise) = (args.pure, args.keep, args.requantize);
    let how = Quantising { pure, keep, requantise, importance, ..Quantising::new(args.mix) };
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left").expect("a template"));
    let done = quantise(&from, &args.to, &how, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    eprintln!("{}: {:.1} MB, {:.2} bits a weight", args.to.display(), done.bytes as f64 / 1e6, done.bits);
    for (kind, weights, error) in done.types {
        let error = error.map_or_else(String::new, |error| format!(", relative error {error:.4}"));
        eprintln!("  {:8} {:.1} M weights{error}", kind.name(), weights as f64 / 1e6);
    }
    Ok(())
}
