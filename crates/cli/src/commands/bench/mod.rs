//! `longreach bench`

use crate::failure::Failure;

mod attention;
mod encode;
mod plot;
mod read;

/// Measure on this machine
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Attention(attention::Args),
    Encode(encode::Args),
    Read(read::Args),
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Attention(args) => attention::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Read(args) => read::run(args),
    }
}
