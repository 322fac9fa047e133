//! `longreach bench`

use crate::failure::Failure;

mod attention;
mod encode;
mod generate;
mod plot;
mod read;
mod train;

pub(crate) use plot::COLOURS;

/// Measure the speed and memory use of mechanisms and models on this machine
///
/// `attention` compares mechanisms over sequence lengths, `encode` measures the throughput of an encoder, `generate` that of a language model
/// beside the limits of the machine, `read` shows whether its cost per token grows with the text, and `train` measures
/// steps of pre-training with dense and sparse attention.
#[derive(clap::Subcommand)]
#[command(after_long_help = "\
Examples:
  longreach bench attention --lengths 1k..64k --svg cost.svg
  longreach bench encode --model sentence-transformers/all-MiniLM-L6-v2 --tokens 128,256
  longreach bench generate --model FILE.gguf --prompt 1024 --depth 0,8192
  longreach bench read --at 8192,65536
  longreach bench train --lengths 512..4k --svg steps.svg")]
pub(crate) enum Command {
    Attention(attention::Args),
    Encode(encode::Args),
    Generate(generate::Args),
    Read(read::Args),
    Train(train::Args),
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Attention(args) => attention::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Read(args) => read::run(args),
        Command::Train(args) => train::run(args),
    }
}
