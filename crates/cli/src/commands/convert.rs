//! `longreach convert`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use longreach_gguf::Gguf;
use longreach_models::gguf::{AS_STORED, Floats, Mix, Quantising, write_directory};
use longreach_models::{Error, check_writable};

use crate::failure::Failure;
use crate::weights::{bar, contents, find, write};

/// Convert between Hugging Face directories and GGUF files
///
/// A directory or a model of the Hub becomes a GGUF file, with its tokenizer and its chat template, if OUT ends in .gguf. A GGUF file becomes a directory
/// with config.json, model.safetensors and tokenizer.json otherwise. Weights keep their bits unless --dtype says else; blocks of a few bits become floats in
/// a directory. `longreach quantize` makes files of fewer bits.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach convert HuggingFaceTB/SmolLM2-135M smollm2.gguf
  longreach convert DIR model-f16.gguf --dtype f16
  longreach convert model-q8_0.gguf DIR --dtype bf16")]
pub(crate) struct Args {
    /// Directory, weights file, Hugging Face Hub id or GGUF file to read
    #[arg(value_name = "IN")]
    from: OsString,
    /// GGUF file, or directory, to write
    #[arg(value_name = "OUT")]
    to: PathBuf,
    /// Type of the weights [default: as stored]
    #[arg(long, value_enum)]
    dtype: Option<Type>,
    /// llama.cpp's name of the pre-tokenizer, for one that is not recognised: llama-bpe, qwen2, gpt-2, smollm and so on
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,
    /// Split a GGUF file into files of at most this many bytes: 2G, 500M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split_size: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// 32-bit floats
    F32,
    /// 16-bit floats of IEEE 754
    F16,
    /// bfloat16
    Bf16,
}

/// A number of bytes with a unit: KB, MB and GB are powers of 1000, KiB, MiB and GiB of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000u64,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err("want a number of bytes, such as 500M or 2G".into()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| "want a number of bytes, such as 500M or 2G".into())
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let at = find(&args.from)?;
    if args.to.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
        check_writable(&args.to, at.gguf().as_deref().as_slice())?;
        let mix = match args.dtype {
            None => AS_STORED,
            Some(of) => Mix::named(of.to_possible_value().as_ref().map_or("", |of| of.get_name())).unwrap_or(AS_STORED),
        };
        let contents = contents(&args.from, &at, args.pre.as_deref())?;
        return write(&contents, &args.to, &Quantising { split: args.split_size, ..Quantising::new(mix) });
    }
    let Some(file) = at.gguf() else {
        let message = format!("{}: want a name that ends in .gguf, since IN is a directory", args.to.display());
        return Err(Failure::new(message));
    };
    if args.to.join("config.json").exists() {
        let message = format!("{}: has a model already: choose another directory", args.to.display());
        return Err(Failure::new(message));
    }
    let floats = args.dtype.map(|of| match of {
        Type::F32 => Floats::F32,
        Type::F16 => Floats::F16,
        Type::Bf16 => Floats::Bf16,
    });
    let gguf = Gguf::open(&file).map_err(Error::from)?;
    let bar = bar();
    let notes = write_directory(&gguf, &args.to, floats, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    eprintln!("{}: a model in Hugging Face's form", args.to.display());
    Ok(())
}
