//! `longreach bench`

use crate::failure::Failure;

mod attention;
mod plot;

/// Measure on this machine
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Attention(attention::Args),
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Attention(args) => attention::run(args),
    }
}
